//! One object seen in two versions, and a part of an object at a path of its own.

use serde_json::json;

use super::world::World;

const V1: &str = "/apis/autoscaling/v1/namespaces/rec/horizontalpodautoscalers";
const V2: &str = "/apis/autoscaling/v2/namespaces/rec/horizontalpodautoscalers";

#[tokio::test]
async fn an_autoscaler_is_the_same_in_both_of_its_versions() {
    let world = World::start().await;
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"});
    let older = json!({
        "apiVersion": "autoscaling/v1",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "h"},
        "spec": {"scaleTargetRef": deployment, "maxReplicas": 3, "targetCPUUtilizationPercentage": 50},
    });
    let created = world.admin.post(V1, older).await.ok(201);
    assert_eq!(created["apiVersion"], "autoscaling/v1");
    assert_eq!(
        (
            &created["spec"]["minReplicas"],
            &created["spec"]["targetCPUUtilizationPercentage"]
        ),
        (&json!(1), &json!(50))
    );

    let newer = world.admin.get(&format!("{V2}/h")).await.ok(200);
    assert_eq!(newer["apiVersion"], "autoscaling/v2");
    let target = json!({"type": "Utilization", "averageUtilization": 50});
    let metric = json!({"type": "Resource", "resource": {"name": "cpu", "target": target}});
    assert_eq!(newer["spec"]["metrics"], json!([metric]));

    let change = json!({"spec": {"targetCPUUtilizationPercentage": 60}});
    let patched = world.admin.merge(&format!("{V1}/h"), change).await.ok(200);
    assert_eq!(patched["spec"]["targetCPUUtilizationPercentage"], 60);
    let newer = world.admin.get(&format!("{V2}/h")).await.ok(200);
    assert_eq!(
        newer["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"],
        60
    );
    let list = world.admin.get(V1).await.ok(200);
    assert_eq!(
        (&list["kind"], &list["apiVersion"]),
        (&json!("HorizontalPodAutoscalerList"), &json!("autoscaling/v1"))
    );
    assert_eq!(list["items"][0]["spec"]["targetCPUUtilizationPercentage"], 60);

    // Who says nothing of metrics gets one.
    let bare = json!({
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "bare"},
        "spec": {"scaleTargetRef": deployment, "maxReplicas": 3},
    });
    let bare = world.admin.post(V2, bare).await.ok(201);
    assert_eq!(
        bare["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"],
        80
    );
}

#[tokio::test]
async fn a_pod_is_resized_at_a_path_of_its_own() {
    let world = World::start().await;
    let uses = |cpu: &str| json!({"requests": {"cpu": cpu}});
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "busybox", "resources": uses("100m")}]},
    });
    world.admin.post("/api/v1/namespaces/rec/pods", pod).await.ok(201);
    let change = json!({
        "metadata": {"labels": {"no": "label"}},
        "spec": {"containers": [{"name": "c", "resources": uses("200m")}]},
    });
    let path = "/api/v1/namespaces/rec/pods/p/resize";
    let resized = world
        .admin
        .patch(path, "strategic-merge-patch+json", change)
        .await
        .ok(200);
    assert_eq!(resized["spec"]["containers"][0]["resources"], uses("200m"));
    assert_eq!(resized["spec"]["containers"][0]["image"], "busybox");
    assert_eq!(resized["metadata"]["generation"], 2);
}
