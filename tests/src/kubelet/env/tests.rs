use serde_json::{Value, json};

use super::*;

fn objects() -> Objects {
    let service = |name: &str, ip: &str| {
        let spec = json!({"clusterIP": ip, "ports": [{"name": "https", "port": 443, "protocol": "TCP"}]});
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
    };
    let config_map = serde_json::from_value(json!({"data": {"k": "v", "other": "o"}})).unwrap();
    let secret = serde_json::from_value(json!({"data": {"password": "c2VjcmV0"}})).unwrap();
    Objects {
        config_maps: [("cm".to_owned(), Some(config_map)), ("gone".to_owned(), None)].into(),
        secrets: [("s".to_owned(), Some(secret))].into(),
        services: vec![service("my-db", "10.96.0.7")],
        kubernetes: Some(service("kubernetes", "10.96.0.1")),
    }
}

fn env_of(container: Value) -> Result<BTreeMap<String, String>, String> {
    let pod: Pod =
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"containers": []}}))
            .unwrap();
    let container: Container = serde_json::from_value(container).unwrap();
    let env = environment(&pod, &container, &Image::default(), "p", &Facts::default(), &objects())?;
    Ok(env.into_iter().collect())
}

#[test]
fn values_come_from_everywhere_and_refer_to_each_other() {
    let env = env_of(json!({"name": "c",
        "envFrom": [{"configMapRef": {"name": "cm"}, "prefix": "P_"}, {"secretRef": {"name": "none", "optional": true}}],
        "env": [
            {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "s", "key": "password"}}},
            {"name": "URL", "value": "$(NAME):$(PASSWORD)@$(MY_DB_SERVICE_HOST)/$(UNKNOWN)/$$(NAME)/$(P_k)"},
            {"name": "MAYBE", "valueFrom": {"configMapKeyRef": {"name": "gone", "key": "k", "optional": true}}},
        ],
    }))
    .unwrap();
    assert_eq!(env["URL"], "p:secret@10.96.0.7/$(UNKNOWN)/$(NAME)/v");
    assert_eq!(env["P_other"], "o");
    assert_eq!(env["KUBERNETES_SERVICE_HOST"], "10.96.0.1");
    assert_eq!(env["KUBERNETES_SERVICE_PORT_HTTPS"], "443");
    assert_eq!(env["MY_DB_PORT_443_TCP"], "tcp://10.96.0.7:443");
    assert!(!env.contains_key("MAYBE"));
}

#[test]
fn what_is_missing_is_named() {
    let of = |source: Value| env_of(json!({"name": "c", "env": [{"name": "X", "valueFrom": source}]})).unwrap_err();
    assert_eq!(
        of(json!({"secretKeyRef": {"name": "absent", "key": "k"}})),
        "secret \"absent\" not found"
    );
    assert_eq!(
        of(json!({"configMapKeyRef": {"name": "cm", "key": "x"}})),
        "couldn't find key x in ConfigMap n/cm"
    );
    let from = env_of(json!({"name": "c", "envFrom": [{"configMapRef": {"name": "gone"}}]})).unwrap_err();
    assert_eq!(from, "configmap \"gone\" not found");
}

#[test]
fn command_and_args_replace_those_of_the_image() {
    let image = Image {
        command: vec!["entry".to_owned()],
        args: vec!["default".to_owned()],
        ..Image::default()
    };
    let of = |container: Value| {
        let env = [("A".to_owned(), "1".to_owned())];
        command(&serde_json::from_value(container).unwrap(), &image, &env).join(" ")
    };
    assert_eq!(of(json!({"name": "c"})), "entry default");
    assert_eq!(of(json!({"name": "c", "args": ["x$(A)"]})), "entry x1");
    assert_eq!(of(json!({"name": "c", "command": ["own"]})), "own");
    assert_eq!(of(json!({"name": "c", "command": ["own"], "args": ["y"]})), "own y");
}

#[test]
fn dollars_that_mean_nothing_stay() {
    let known = [("A".to_owned(), "1".to_owned())].into();
    assert_eq!(expand("$A $(A $(A) $$A $", &known), "$A $(A $(A) $A $");
}
