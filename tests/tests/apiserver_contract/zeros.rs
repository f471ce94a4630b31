//! Zero values: what is kept of those that clients write, and which are there without being written.

use serde_json::{Value, json};

use super::client::owners;
use super::world::{NAMESPACE, World};

fn specification(container: Value) -> Value {
    json!({"containers": [container]})
}

#[tokio::test]
async fn a_zero_value_is_kept_where_it_can_be_told_from_none() {
    let world = World::start().await;
    let mut spec = specification(json!({
        "name": "c",
        "image": "i",
        "stdin": false,
        "args": [],
        "workingDir": "",
        "env": [{"name": "a", "value": ""}, {"name": "b", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}],
        "livenessProbe": {"httpGet": {"port": 80, "host": ""}, "initialDelaySeconds": 0, "periodSeconds": 0},
        "ports": [{"containerPort": 80, "hostPort": 0, "name": ""}],
        "securityContext": {"privileged": false, "runAsUser": 0},
    }));
    for (key, value) in [
        ("automountServiceAccountToken", json!(false)),
        ("hostNetwork", json!(false)),
        ("nodeSelector", json!({})),
        ("restartPolicy", json!("")),
        ("subdomain", json!("")),
        ("tolerations", json!([])),
    ] {
        spec[key] = value;
    }
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {}}, "spec": spec});
    let pods = format!("/api/v1/namespaces/{NAMESPACE}/pods");
    let made = world.admin.post(&pods, pod).await.ok(201);
    let container = json!({
        "name": "c",
        "image": "i",
        "imagePullPolicy": "Always",
        "resources": {},
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "env": [
            {"name": "a"},
            {"name": "b", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "0"}}},
        ],
        "livenessProbe": {
            "httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
            "periodSeconds": 10, "timeoutSeconds": 1, "successThreshold": 1, "failureThreshold": 3,
        },
        "ports": [{"containerPort": 80, "protocol": "TCP"}],
        "securityContext": {"privileged": false, "runAsUser": 0},
    });
    let spec = &made["spec"];
    assert_eq!(spec["containers"], json!([container]));
    assert_eq!(spec["automountServiceAccountToken"], false);
    assert_eq!(spec["restartPolicy"], "Always");
    for gone in ["hostNetwork", "nodeSelector", "subdomain"] {
        assert!(spec.get(gone).is_none(), "{gone}: {spec}");
    }
    assert!(made["metadata"].get("labels").is_none());
    // What is not kept is no one's.
    let fields = &owners(&made)[0].2["f:spec"];
    for gone in ["f:hostNetwork", "f:nodeSelector", "f:tolerations"] {
        assert!(fields.get(gone).is_none(), "{gone}: {fields}");
    }
    let own = &fields["f:containers"][r#"k:{"name":"c"}"#];
    assert_eq!(own["f:env"][r#"k:{"name":"a"}"#], json!({".": {}, "f:name": {}}));
    assert!(own.get("f:stdin").is_none(), "{own}");
}

#[tokio::test]
async fn what_has_no_way_to_be_absent_is_there_and_no_one_s() {
    let world = World::start().await;
    let template =
        json!({"metadata": {"labels": {"a": "b"}}, "spec": specification(json!({"name": "c", "image": "i"}))});
    let of = |kind: &str, spec: Value| json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "x"}, "spec": spec});
    let spec = || json!({"selector": {"matchLabels": {"a": "b"}}, "template": template});
    let apps = format!("/apis/apps/v1/namespaces/{NAMESPACE}");
    let deployment = of("Deployment", spec());
    let deployment = world
        .admin
        .post(&format!("{apps}/deployments"), deployment)
        .await
        .ok(201);
    assert_eq!(deployment["status"], json!({}));
    let sets = world
        .admin
        .post(&format!("{apps}/daemonsets"), of("DaemonSet", spec()))
        .await
        .ok(201);
    let counts =
        json!({"currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0});
    assert_eq!(sets["status"], counts);
    let path = format!("{apps}/statefulsets");
    let sets = world.admin.post(&path, of("StatefulSet", spec())).await.ok(201);
    assert_eq!(
        (&sets["spec"]["serviceName"], &sets["status"]["replicas"]),
        (&json!(""), &json!(0))
    );
    for object in [&deployment, &sets] {
        let fields = &owners(object)[0].2["f:spec"];
        assert_eq!(
            fields["f:template"]["f:metadata"],
            json!({"f:labels": {".": {}, "f:a": {}}})
        );
        let containers = &fields["f:template"]["f:spec"]["f:containers"];
        assert!(containers.get(".").is_none(), "{containers}");
        assert_eq!(containers[r#"k:{"name":"c"}"#]["f:resources"], json!({}));
    }
    // Writing what is there changes nothing.
    let path = format!("{apps}/deployments/x");
    let same = world.admin.put(&path, &deployment).await.ok(200);
    assert_eq!(same["metadata"], deployment["metadata"]);
    let same = world
        .admin
        .merge(&path, json!({"spec": {"paused": false, "minReadySeconds": 0}}))
        .await
        .ok(200);
    assert_eq!(same, deployment);
}

#[tokio::test]
async fn who_applies_a_zero_value_owns_it_all_the_same() {
    let world = World::start().await;
    let path = format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments/d?fieldManager=m");
    let template =
        json!({"metadata": {"labels": {"a": "b"}}, "spec": specification(json!({"name": "c", "image": "i"}))});
    let spec = json!({"paused": false, "selector": {"matchLabels": {"a": "b"}}, "template": template});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": spec});
    let made = world.admin.apply(&path, deployment.clone()).await.ok(201);
    assert!(made["spec"].get("paused").is_none());
    assert_eq!(owners(&made)[0].2["f:spec"]["f:paused"], json!({}));
    let again = world.admin.apply(&path, deployment).await.ok(200);
    assert_eq!(again, made);
}
