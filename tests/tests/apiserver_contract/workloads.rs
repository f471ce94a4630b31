//! Pods and what makes them, as schedulers, kubelets and controllers meet them.

use serde_json::{Value, json};

use super::client::{Client, blamed, owners, revision};
use super::world::{NAMESPACE, World};

const PODS: &str = "/api/v1/namespaces/rec/pods";
const BUDGETS: &str = "/apis/policy/v1/namespaces/rec/poddisruptionbudgets";

fn pod(name: &str, spec: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "a"}},
        "spec": {"containers": [{"name": "c", "image": "busybox:1.36"}]},
    });
    for (key, value) in spec.as_object().unwrap() {
        pod["spec"][key] = value.clone();
    }
    pod
}

async fn bind(client: &Client, name: &str) -> super::client::Reply {
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
        "target": {"apiVersion": "v1", "kind": "Node", "name": "n1"},
    });
    client.post(&format!("{PODS}/{name}/binding"), binding).await
}

#[tokio::test]
async fn a_new_pod_has_an_account_tolerations_priority_and_defaults() {
    let world = World::start().await;
    let made = world.admin.post(PODS, pod("p", json!({}))).await.ok(201);
    let spec = &made["spec"];
    for (key, value) in [
        ("serviceAccountName", json!("default")),
        ("serviceAccount", json!("default")),
        ("restartPolicy", json!("Always")),
        ("dnsPolicy", json!("ClusterFirst")),
        ("schedulerName", json!("default-scheduler")),
        ("terminationGracePeriodSeconds", json!(30)),
        ("enableServiceLinks", json!(true)),
        ("priority", json!(0)),
        ("preemptionPolicy", json!("PreemptLowerPriority")),
        ("securityContext", json!({})),
    ] {
        assert_eq!(spec[key], value, "{key}");
    }
    let tolerated =
        |taint: &str| json!({"key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
    assert_eq!(
        spec["tolerations"],
        json!([
            tolerated("node.kubernetes.io/not-ready"),
            tolerated("node.kubernetes.io/unreachable")
        ])
    );
    let volume = &spec["volumes"][0];
    assert!(volume["name"].as_str().unwrap().starts_with("kube-api-access-"));
    let sources = &volume["projected"]["sources"];
    assert_eq!(sources[0]["serviceAccountToken"]["path"], "token");
    assert_eq!(sources[1]["configMap"]["name"], "kube-root-ca.crt");
    assert_eq!(
        sources[2]["downwardAPI"]["items"][0]["fieldRef"]["fieldPath"],
        "metadata.namespace"
    );
    let container = &spec["containers"][0];
    let mount = json!({
        "name": volume["name"], "readOnly": true, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
    });
    assert_eq!(container["volumeMounts"], json!([mount]));
    assert_eq!(container["imagePullPolicy"], "IfNotPresent");
    assert_eq!(
        (&made["status"]["phase"], &made["status"]["qosClass"]),
        (&json!("Pending"), &json!("BestEffort"))
    );

    let bare = pod("bare", json!({"automountServiceAccountToken": false}));
    let bare = world.admin.post(PODS, bare).await.ok(201);
    assert!(bare["spec"].get("volumes").is_none());
    assert!(bare["spec"]["containers"][0].get("volumeMounts").is_none());
}

#[tokio::test]
async fn a_pod_whose_account_or_class_is_missing_is_refused() {
    let world = World::start().await;
    let none = pod("p", json!({"serviceAccountName": "none"}));
    let status = world.admin.post(PODS, none).await.fails(403, "Forbidden");
    let wanted =
        "pods \"p\" is forbidden: error looking up service account rec/none: serviceaccount \"none\" not found";
    assert_eq!(status["message"], wanted);
    assert_eq!(status["details"], json!({"name": "p", "kind": "pods"}));

    let none = pod("p", json!({"priorityClassName": "none"}));
    let status = world.admin.post(PODS, none).await.fails(403, "Forbidden");
    let wanted = "pods \"p\" is forbidden: no PriorityClass with name none was found";
    assert_eq!(status["message"], wanted);
    let critical = pod("p", json!({"priorityClassName": "system-node-critical"}));
    let made = world.admin.post(PODS, critical).await.ok(201);
    assert_eq!(made["spec"]["priority"], 2_000_001_000);
}

#[tokio::test]
async fn a_pod_waits_a_moment_for_the_account_of_a_new_namespace() {
    let world = World::start().await;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "fresh"}});
    world.admin.post("/api/v1/namespaces", namespace).await.ok(201);
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    let (made, _) = tokio::join!(
        world.admin.post("/api/v1/namespaces/fresh/pods", pod("p", json!({}))),
        world.admin.post("/api/v1/namespaces/fresh/serviceaccounts", account),
    );
    made.ok(201);
}

#[tokio::test]
async fn a_pod_is_bound_to_a_node_once() {
    let world = World::start().await;
    world.admin.post(PODS, pod("p", json!({}))).await.ok(201);
    let status = bind(&world.admin, "p").await.ok(201);
    assert_eq!(
        (&status["kind"], &status["status"]),
        (&json!("Status"), &json!("Success"))
    );
    let bound = world.admin.get(&format!("{PODS}/p")).await.ok(200);
    assert_eq!(bound["spec"]["nodeName"], "n1");
    let condition = &bound["status"]["conditions"][0];
    assert_eq!(
        (&condition["type"], &condition["status"]),
        (&json!("PodScheduled"), &json!("True"))
    );
    let status = bind(&world.admin, "p").await.fails(409, "Conflict");
    let wanted = r#"Operation cannot be fulfilled on pods/binding "p": pod p is already assigned to node "n1""#;
    assert_eq!(status["message"], wanted);
    bind(&world.admin, "none").await.fails(404, "NotFound");

    let elsewhere = json!({"spec": {"nodeName": "n2"}});
    let status = world
        .admin
        .merge(&format!("{PODS}/p"), elsewhere)
        .await
        .fails(422, "Invalid");
    assert_eq!(blamed(&status), [("spec".to_owned(), "FieldValueForbidden".to_owned())]);
}

#[tokio::test]
async fn a_bound_pod_goes_when_its_kubelet_says_so() {
    let world = World::start().await;
    let path = format!("{PODS}/p");
    world.admin.post(PODS, pod("p", json!({}))).await.ok(201);
    bind(&world.admin, "p").await.ok(201);
    let leaving = world.admin.delete(&path).await.ok(200);
    assert_eq!(leaving["metadata"]["deletionGracePeriodSeconds"], 30);
    assert!(leaving["metadata"]["deletionTimestamp"].is_string());
    let sooner = world
        .admin
        .delete(&format!("{path}?gracePeriodSeconds=1"))
        .await
        .ok(200);
    assert_eq!(sooner["metadata"]["deletionGracePeriodSeconds"], 1);
    let later = world
        .admin
        .delete(&format!("{path}?gracePeriodSeconds=60"))
        .await
        .ok(200);
    assert_eq!(later["metadata"]["deletionGracePeriodSeconds"], 1);
    // The status of one that is on its way can still be written.
    let phase = json!({"status": {"phase": "Succeeded"}});
    world.admin.merge(&format!("{path}/status"), phase).await.ok(200);
    let options = json!({
        "apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0,
        "preconditions": {"uid": leaving["metadata"]["uid"]},
    });
    let json = [("content-type", "application/json")];
    world
        .admin
        .send("DELETE", &path, &json, options.to_string())
        .await
        .ok(200);
    world.admin.get(&path).await.fails(404, "NotFound");

    // One that no node has goes at once.
    world.admin.post(PODS, pod("q", json!({}))).await.ok(201);
    world.admin.delete(&format!("{PODS}/q")).await.ok(200);
    world.admin.get(&format!("{PODS}/q")).await.fails(404, "NotFound");
}

#[tokio::test]
async fn a_budget_keeps_pods_from_being_evicted() {
    let world = World::start().await;
    for name in ["p", "q"] {
        world.admin.post(PODS, pod(name, json!({}))).await.ok(201);
        bind(&world.admin, name).await.ok(201);
        let ready = json!({"type": "Ready", "status": "True"});
        let running = json!({"status": {"phase": "Running", "conditions": [ready]}});
        world
            .admin
            .merge(&format!("{PODS}/{name}/status"), running)
            .await
            .ok(200);
    }
    let budget = json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "a"}}},
    });
    world.admin.post(BUDGETS, budget).await.ok(201);
    let status = json!({"status": {
        "observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2,
    }});
    world.admin.merge(&format!("{BUDGETS}/b/status"), status).await.ok(200);
    let evict = |name: &str| {
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
        (format!("{PODS}/{name}/eviction"), eviction)
    };
    let (path, eviction) = evict("p");
    world.admin.post(&path, eviction).await.ok(201);
    let budget = world.admin.get(&format!("{BUDGETS}/b")).await.ok(200);
    assert_eq!(budget["status"]["disruptionsAllowed"], 0);
    let (path, eviction) = evict("q");
    let status = world.admin.post(&path, eviction).await.fails(429, "TooManyRequests");
    let wanted = "Cannot evict pod as it would violate the pod's disruption budget.";
    assert_eq!(status["message"], wanted);
    assert_eq!(status["details"]["causes"][0]["reason"], "DisruptionBudget");
}

#[tokio::test]
async fn containers_for_a_closer_look_join_by_a_path_of_their_own() {
    let world = World::start().await;
    world.admin.post(PODS, pod("p", json!({}))).await.ok(201);
    let path = format!("{PODS}/p/ephemeralcontainers");
    let look = json!({"spec": {"ephemeralContainers": [{"name": "look", "image": "busybox"}]}});
    let patched = world
        .admin
        .patch(&path, "strategic-merge-patch+json", look)
        .await
        .ok(200);
    assert_eq!(patched["spec"]["ephemeralContainers"][0]["name"], "look");
    assert_eq!(patched["spec"]["ephemeralContainers"][0]["imagePullPolicy"], "Always");
}

#[tokio::test]
async fn a_job_finds_its_pods_by_labels_that_it_is_given() {
    let world = World::start().await;
    let jobs = format!("/apis/batch/v1/namespaces/{NAMESPACE}/jobs");
    let job = |policy: &str| {
        let template = json!({"spec": {"restartPolicy": policy, "containers": [{"name": "c", "image": "busybox"}]}});
        json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"}, "spec": {"template": template}})
    };
    let status = world.admin.post(&jobs, job("Always")).await.fails(422, "Invalid");
    assert_eq!(blamed(&status)[0].0, "spec.template.spec.restartPolicy");
    let made = world.admin.post(&jobs, job("Never")).await.ok(201);
    let uid = &made["metadata"]["uid"];
    assert_eq!(
        made["spec"]["selector"]["matchLabels"],
        json!({"batch.kubernetes.io/controller-uid": uid})
    );
    let labels = &made["spec"]["template"]["metadata"]["labels"];
    assert_eq!(
        (&labels["batch.kubernetes.io/job-name"], &labels["controller-uid"]),
        (&json!("j"), uid)
    );
    for (key, value) in [
        ("completions", json!(1)),
        ("parallelism", json!(1)),
        ("backoffLimit", json!(6)),
        ("completionMode", json!("NonIndexed")),
    ] {
        assert_eq!(made["spec"][key], value, "{key}");
    }
    assert_eq!(
        &made["metadata"]["labels"], labels,
        "a Job without labels has those of its Pods"
    );
}

#[tokio::test]
async fn a_new_node_takes_no_pods_before_it_is_ready() {
    let world = World::start().await;
    let node =
        |name: &str, spec: Value| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": spec});
    let taint = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
    let made = world.admin.post("/api/v1/nodes", node("n", json!({}))).await.ok(201);
    assert_eq!(made["spec"]["taints"], json!([taint]));
    assert!(owners(&made).is_empty(), "admission owns nothing");
    let mine = json!({"key": "mine", "effect": "NoExecute"});
    let given = json!({"taints": [taint, mine]});
    let made = world
        .admin
        .post("/api/v1/nodes", node("m", given.clone()))
        .await
        .ok(201);
    assert_eq!(made["spec"]["taints"], given["taints"]);
}

#[tokio::test]
async fn how_dependents_go_is_left_to_a_controller() {
    let world = World::start().await;
    let maps = format!("/api/v1/namespaces/{NAMESPACE}/configmaps");
    for (name, policy, finalizer) in [("f", "Foreground", "foregroundDeletion"), ("o", "Orphan", "orphan")] {
        world.admin.config_map(NAMESPACE, name, json!({})).await;
        let path = format!("{maps}/{name}");
        let leaving = world
            .admin
            .delete(&format!("{path}?propagationPolicy={policy}"))
            .await
            .ok(200);
        assert_eq!(leaving["metadata"]["finalizers"], json!([finalizer]));
        world
            .admin
            .merge(&path, json!({"metadata": {"finalizers": null}}))
            .await
            .ok(200);
        world.admin.get(&path).await.fails(404, "NotFound");
    }
}

#[tokio::test]
async fn a_namespace_ends_when_it_is_finalized() {
    let world = World::start().await;
    let path = "/api/v1/namespaces/rec";
    let leaving = world.admin.delete(path).await.ok(200);
    assert_eq!(leaving["status"]["phase"], "Terminating");
    assert_eq!(leaving["spec"]["finalizers"], json!(["kubernetes"]));
    let status = world
        .admin
        .post(PODS, pod("p", json!({})))
        .await
        .fails(403, "Forbidden");
    assert_eq!(status["details"]["causes"][0]["reason"], "NamespaceTerminating");
    let mut end = leaving.clone();
    end["spec"]["finalizers"] = json!([]);
    let mut stale = end.clone();
    stale["metadata"]["resourceVersion"] = json!("1");
    world
        .admin
        .put(&format!("{path}/finalize"), &stale)
        .await
        .fails(409, "Conflict");
    assert!(!revision(&leaving).is_empty());
    world.admin.put(&format!("{path}/finalize"), &end).await.ok(200);
    world.admin.get(path).await.fails(404, "NotFound");
}
