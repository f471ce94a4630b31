//! kubectl brings objects to the server: apply from both sides, diff, replace, prune, kustomize.

use super::running::{Running, finish, start};

pub(crate) const SERVICE: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: ap}
spec: {type: LoadBalancer, ports: [{name: http, port: 80, targetPort: 8080}], selector: {app: x}}
"#;

const APPLY: &str = "apply -f -";

pub(crate) fn config_map(name: &str, label: &str, value: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, labels: {{app: \"{label}\"}}}}\ndata: {{k: \"{value}\"}}\n"
    )
}

#[test]
fn apply_creates_leaves_alone_and_changes() {
    let running = Running::start();
    assert_eq!(running.says_of(APPLY, SERVICE), "service/ap created\n");
    assert_eq!(running.says_of(APPLY, SERVICE), "service/ap unchanged\n");
    let moved = SERVICE.replace("port: 80,", "port: 81,");
    assert_eq!(running.says_of(APPLY, &moved), "service/ap configured\n");
    assert_eq!(running.field("svc/ap", ".spec.ports[*].port"), "81");
    let last = running.says("apply view-last-applied svc/ap -o json");
    assert!(last.contains("\"port\": 81"), "{last}");
    let wrong = SERVICE.replace("selector", "selectr");
    let refused = running.refuses(APPLY, &wrong);
    assert!(refused.contains("unknown field \"spec.selectr\""), "{refused}");
    let refused = running.refuses(APPLY, &SERVICE.replace("port: 80,", "port: 80000,"));
    assert!(
        refused.contains("spec.ports[0].port: Invalid value: 80000"),
        "{refused}"
    );
}

#[test]
fn apply_takes_away_what_is_no_longer_said() {
    let running = Running::start();
    running.says_of(APPLY, &config_map("c", "x", "v"));
    running.says("annotate cm c mine=kept");
    running.says_of(
        APPLY,
        "---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: c}, data: {other: v}}",
    );
    assert_eq!(running.field("cm/c", ".data"), r#"{"other":"v"}"#);
    assert_eq!(running.field("cm/c", ".metadata.labels"), "");
    assert_eq!(running.field("cm/c", ".metadata.annotations.mine"), "kept");
}

#[test]
fn fields_move_from_one_way_of_applying_to_the_other() {
    let running = Running::start();
    running.says_of(APPLY, SERVICE);
    // The second time they have moved.
    for _ in 0..2 {
        let said = running.says_of("apply --server-side -f -", SERVICE);
        assert_eq!(said, "service/ap serverside-applied\n");
    }
    let moved = SERVICE.replace("8080", "8081");
    let other = "apply --server-side --field-manager=other -f -";
    let conflict = running.refuses(other, &moved);
    assert!(conflict.contains("conflict"), "{conflict}");
    assert!(conflict.contains(".spec.ports"), "{conflict}");
    let said = running.says_of(&format!("{other} --force-conflicts"), &moved);
    assert_eq!(said, "service/ap serverside-applied\n");
    let managers = running.says("get svc ap --show-managed-fields -o jsonpath={.metadata.managedFields[*].manager}");
    assert!(managers.contains("kubectl") && managers.contains("other"), "{managers}");
}

#[test]
fn a_dry_run_changes_nothing() {
    let running = Running::start();
    let said = running.says_of("apply --dry-run=server -f -", SERVICE);
    assert_eq!(said, "service/ap created (server dry run)\n");
    let said = running.says_of("create --dry-run=server -o yaml -f -", SERVICE);
    assert!(said.contains("clusterIP: ") && said.contains("nodePort: "), "{said}");
    assert!(running.refuses("get svc ap", "").contains("NotFound"));
}

#[test]
fn diff_shows_what_apply_would_change() {
    let running = Running::start();
    running.says_of(APPLY, SERVICE);
    assert_eq!(running.says_of("diff -f -", SERVICE), "");
    let moved = SERVICE.replace("8080", "8081");
    for way in ["diff -f -", "diff --server-side --force-conflicts -f -"] {
        let output = finish(start(&mut running.kubectl(way), &moved));
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{way}: {output:?}");
        assert!(
            text.contains("-    targetPort: 8080\n") && text.contains("+    targetPort: 8081\n"),
            "{way}: {text}"
        );
    }
}

#[test]
fn prune_deletes_what_is_no_longer_in_the_set() {
    let running = Running::start();
    let apply = "apply -l app=x --prune --prune-allowlist=core/v1/ConfigMap -f -";
    running.says_of(apply, &(config_map("a", "x", "1") + &config_map("b", "x", "1")));
    running.says_of(APPLY, &config_map("other", "y", "1"));
    let said = running.says_of(apply, &config_map("a", "x", "2"));
    assert_eq!(said, "configmap/a configured\nconfigmap/b pruned\n");
    assert_eq!(running.says("get cm -l app -o name"), "configmap/a\nconfigmap/other\n");
}

#[test]
fn an_apply_set_prunes_by_its_parent() {
    let running = Running::start();
    let apply = |input: &str| {
        let mut command = running.kubectl("apply --prune --applyset=secret/parent -f - -n default");
        super::running::says(command.env("KUBECTL_APPLYSET", "true"), input)
    };
    apply(&(config_map("a", "x", "1") + &config_map("b", "x", "1")));
    let said = apply(&config_map("a", "x", "1"));
    assert!(said.contains("configmap/b pruned"), "{said}");
    assert!(running.refuses("get cm b", "").contains("NotFound"));
}

#[test]
fn replace_needs_what_is_there() {
    let running = Running::start();
    assert!(
        running
            .refuses("replace -f -", &config_map("c", "x", "1"))
            .contains("NotFound")
    );
    running.says_of("create -f -", &config_map("c", "x", "1"));
    assert!(
        running
            .refuses("create -f -", &config_map("c", "x", "1"))
            .contains("AlreadyExists")
    );
    let said = running.says_of("replace -f -", &config_map("c", "y", "2"));
    assert_eq!(said, "configmap/c replaced\n");
    let old = running.says("get cm c -o yaml");
    running.says("label cm c a=b");
    assert!(running.refuses("replace -f -", &old).contains("Conflict"));
    let said = running.says_of("replace --force -f -", &config_map("c", "z", "3"));
    assert!(said.ends_with("configmap/c replaced\n"), "{said}");
}

#[test]
fn a_directory_with_a_kustomization_is_applied() {
    let running = Running::start();
    running.write("k/kustomization.yaml", "resources: [c.yaml]\nnamePrefix: pre-\n");
    running.write("k/c.yaml", &config_map("c", "x", "1"));
    assert_eq!(running.says("apply -k k"), "configmap/pre-c created\n");
}
