//! What KubeLB has registered goes on, with less power.

use k8s_openapi::api::core::v1::{Namespace, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kubelb_api::v1alpha1::{LoadBalancer, SyncSecret, Tenant};
use serde_json::json;

use crate::world::{World, client, code, kubeconfig_of, load_balancer, merge, revoked, until};

#[tokio::test]
async fn a_tenant_that_kubelb_registered_is_taken_over() {
    let mut world = World::new().await;
    let tenant = world.create_tenant("a").await;
    merge::<Tenant>(
        &world.tenants(),
        "a",
        json!({"metadata": {"finalizers": ["kubelb.k8c.io/cleanup"]}}),
    )
    .await;
    let owner =
        json!([{"apiVersion": "kubelb.k8c.io/v1alpha1", "kind": "Tenant", "name": "a", "uid": tenant.metadata.uid}]);
    let labels = json!({"kubelb.k8c.io/managed-by": "kubelb"});
    world
        .create_all::<Namespace>(json!({"metadata": {"name": "tenant-a", "labels": labels, "ownerReferences": owner}}))
        .await;
    world
        .create_in::<ServiceAccount>("tenant-a", json!({"metadata": {"name": "kubelb-ccm"}}))
        .await;
    let (written, statuses) = (
        ["loadbalancers", "routes", "addresses", "syncsecrets", "tunnels"],
        ["loadbalancers/status", "routes/status"],
    );
    let role = json!({"metadata": {"name": "kubelb-ccm"}, "rules": [
        {"apiGroups": ["kubelb.k8c.io"], "resources": written, "verbs": ["create", "update", "get", "list", "delete", "patch", "watch"]},
        {"apiGroups": ["kubelb.k8c.io"], "resources": statuses, "verbs": ["update", "get", "patch"]},
    ]});
    world.create_in::<Role>("tenant-a", role).await;
    let binding = json!({
        "metadata": {"name": "kubelb-ccm"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "kubelb-ccm"},
        "subjects": [{"kind": "ServiceAccount", "name": "kubelb-ccm", "namespace": "tenant-a"}],
    });
    world.create_in::<RoleBinding>("tenant-a", binding).await;
    let token = json!({"metadata": {"name": "kubelb-ccm", "annotations": {"kubernetes.io/service-account.name": "kubelb-ccm"}},
        "type": "kubernetes.io/service-account-token"});
    world.create_in::<Secret>("tenant-a", token).await;
    let secrets = world.api::<Secret>("tenant-a");
    let filled = until(&secrets, "kubelb-ccm", "the token", |secret| {
        secret.is_some_and(|secret| secret.data.as_ref().is_some_and(|data| data.contains_key("token")))
    })
    .await;
    let token = String::from_utf8(filled.unwrap().data.unwrap()["token"].0.clone()).unwrap();
    let url = format!("https://{}", world.server().address());
    let kubeconfig = world.server().kubeconfig_with(&url, &token).unwrap();
    let secret = json!({"metadata": {"name": "kubelb-ccm-kubeconfig"}, "stringData": {"kubelb": kubeconfig}});
    world.create_in::<Secret>("tenant-a", secret).await;
    let kubelbs = client(&kubeconfig).await;
    let mine: Api<LoadBalancer> = Api::namespaced(kubelbs, "tenant-a");
    mine.create(&PostParams::default(), &load_balancer("web"))
        .await
        .unwrap();

    world.start_manager(|_| {});
    let message = world.told("a", "LegacyToken").await;
    assert!(
        message.contains("kubectl delete secret -n tenant-a kubelb-ccm"),
        "{message}"
    );
    world.ready("a").await;
    // The CCM that runs goes on; what it never should have been allowed it is no more.
    mine.list(&ListParams::default()).await.unwrap();
    let status = Patch::Merge(json!({"status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}}}));
    assert_eq!(
        code(mine.patch_status("web", &PatchParams::default(), &status).await),
        403
    );
    let after = until(&secrets, "kubelb-ccm-kubeconfig", "a token that ends", |secret| {
        secret.is_some_and(|secret| !kubeconfig_of(secret).contains(&token))
    })
    .await;
    let new = client(&kubeconfig_of(&after.unwrap())).await;
    let with_new: Api<LoadBalancer> = Api::namespaced(new, "tenant-a");
    with_new.list(&ListParams::default()).await.unwrap();

    secrets.delete("kubelb-ccm", &DeleteParams::default()).await.unwrap();
    world.told("a", "Registered").await;
    revoked(&mine).await;

    world.delete_tenant("a").await;
    world.gone("a").await;
}

#[tokio::test]
async fn a_secret_that_kubelb_copied_is_replaced_by_ours() {
    let mut world = World::start().await;
    world.register("a").await;
    world.stop_manager().await;
    let sync = json!({"apiVersion": "kubelb.k8c.io/v1alpha1", "kind": "SyncSecret", "stringData": {"a": "b"},
        "metadata": {"name": "cert", "finalizers": ["kubelb.k8c.io/cleanup"], "labels": {"kubelb.k8c.io/origin-name": "cert"}}});
    let sync = world.create_in::<SyncSecret>("tenant-a", sync).await;
    let uid = sync.metadata.uid.unwrap();
    let owner = json!([{"apiVersion": "kubelb.k8c.io/v1alpha1", "kind": "SyncSecret", "name": "cert", "uid": uid}]);
    let copy = json!({"metadata": {"name": uid, "ownerReferences": owner}, "stringData": {"a": "b"}});
    world.create_in::<Secret>("tenant-a", copy).await;
    world.start_manager(|_| {});
    let secrets = world.api::<Secret>("tenant-a");
    until(&secrets, "cert", "ours", |secret| secret.is_some()).await;
    until(&secrets, &uid, "KubeLB's is gone", |secret| secret.is_none()).await;
    until(&world.api::<SyncSecret>("tenant-a"), "cert", "held by nobody", |sync| {
        sync.is_some_and(|sync| sync.metadata.finalizers.as_ref().is_none_or(Vec::is_empty))
    })
    .await;
}
