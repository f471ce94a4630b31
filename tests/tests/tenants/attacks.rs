//! What a tenant's credential must not open: each attempt is answered with 403.

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, Service, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, Role, RoleBinding};
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use kube::{Client, Config};
use kubelb_api::v1alpha1::{Addresses, LoadBalancer, Route, SyncSecret, TenantState};
use serde_json::json;

use crate::world::{World, code, load_balancer};

fn dynamic(group: &str, version: &str, kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
}

fn ours(kind: &str, plural: &str) -> ApiResource {
    dynamic("kubelb.k8c.io", "v1alpha1", kind, plural)
}

/// Tries everything with a kind; what goes through is named.
async fn attempts(api: &Api<DynamicObject>, resource: &ApiResource) {
    let what = &resource.plural;
    let object: DynamicObject = serde_json::from_value(json!({
        "apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": "x"},
    }))
    .unwrap();
    let patch = Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}));
    let parameters = PatchParams::default();
    let results = [
        ("list", code(api.list(&ListParams::default()).await)),
        ("get", code(api.get("x").await)),
        ("create", code(api.create(&PostParams::default(), &object).await)),
        ("patch", code(api.patch("x", &parameters, &patch).await)),
        (
            "delete",
            code(api.delete("x", &DeleteParams::default()).await.map(|_| ())),
        ),
        (
            "deletecollection",
            code(
                api.delete_collection(&DeleteParams::default(), &ListParams::default())
                    .await
                    .map(|_| ()),
            ),
        ),
        ("status", code(api.patch_status("x", &parameters, &patch).await)),
    ];
    for (verb, code) in results {
        // Not every kind has a status.
        let is_refused = code == 403 || (verb == "status" && code == 404);
        assert!(is_refused, "{verb} {what}: {code}");
    }
}

#[tokio::test]
async fn nothing_of_others_and_nothing_of_the_cluster_is_seen_or_written() {
    let world = World::start().await;
    let tenant = world.register("a").await;
    let other: Api<LoadBalancer> = Api::namespaced(world.register("b").await, "tenant-b");
    other.create(&PostParams::default(), &load_balancer("x")).await.unwrap();
    let namespaced = [
        ours("LoadBalancer", "loadbalancers"),
        ours("Route", "routes"),
        ours("Addresses", "addresses"),
        ours("SyncSecret", "syncsecrets"),
        ours("TenantState", "tenantstates"),
        ours("Config", "configs"),
        dynamic("", "v1", "Secret", "secrets"),
        dynamic("", "v1", "ConfigMap", "configmaps"),
        dynamic("", "v1", "Service", "services"),
        dynamic("", "v1", "ServiceAccount", "serviceaccounts"),
        dynamic("", "v1", "Pod", "pods"),
        dynamic("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices"),
        dynamic("rbac.authorization.k8s.io", "v1", "Role", "roles"),
        dynamic("coordination.k8s.io", "v1", "Lease", "leases"),
    ];
    for resource in &namespaced {
        for namespace in ["tenant-b", "kubelb", "kube-system"] {
            attempts(&Api::namespaced_with(tenant.clone(), namespace, resource), resource).await;
        }
        let everywhere: Api<DynamicObject> = Api::all_with(tenant.clone(), resource);
        assert_eq!(
            code(everywhere.list(&ListParams::default()).await),
            403,
            "all {}",
            resource.plural
        );
    }
    for resource in [
        ours("Tenant", "tenants"),
        ours("AddressClaim", "addressclaims"),
        ours("VirtualAddressOwner", "virtualaddressowners"),
        dynamic("", "v1", "Namespace", "namespaces"),
        dynamic("", "v1", "Node", "nodes"),
        dynamic("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles"),
        dynamic(
            "apiextensions.k8s.io",
            "v1",
            "CustomResourceDefinition",
            "customresourcedefinitions",
        ),
        dynamic(
            "admissionregistration.k8s.io",
            "v1",
            "ValidatingWebhookConfiguration",
            "validatingwebhookconfigurations",
        ),
    ] {
        attempts(&Api::all_with(tenant.clone(), &resource), &resource).await;
    }
}

#[tokio::test]
async fn in_its_own_namespace_a_tenant_writes_its_objects_only() {
    let world = World::start().await;
    let tenant = world.register("a").await;
    let namespace = "tenant-a";
    let mine: Api<LoadBalancer> = Api::namespaced(tenant.clone(), namespace);
    mine.create(&PostParams::default(), &load_balancer("x")).await.unwrap();
    mine.get_status("x").await.unwrap();
    let states: Api<TenantState> = Api::namespaced(tenant.clone(), namespace);
    states.get("default").await.unwrap();

    let parameters = PatchParams::default();
    let patch = Patch::Merge(json!({"status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}}}));
    assert_eq!(code(mine.patch_status("x", &parameters, &patch).await), 403);
    let written = mine.get("x").await.unwrap();
    assert_eq!(
        code(mine.replace_status("x", &PostParams::default(), &written).await),
        403
    );
    for code in [
        code(
            Api::<Route>::namespaced(tenant.clone(), namespace)
                .patch_status("x", &parameters, &patch)
                .await,
        ),
        code(
            Api::<Addresses>::namespaced(tenant.clone(), namespace)
                .patch_status("x", &parameters, &patch)
                .await,
        ),
        code(
            Api::<SyncSecret>::namespaced(tenant.clone(), namespace)
                .patch_status("x", &parameters, &patch)
                .await,
        ),
        code(states.patch_status("default", &parameters, &patch).await),
        code(states.patch("default", &parameters, &patch).await),
        code(
            Api::<Secret>::namespaced(tenant.clone(), namespace)
                .get("kubelb-ccm-kubeconfig")
                .await,
        ),
        code(
            Api::<Secret>::namespaced(tenant.clone(), namespace)
                .list(&ListParams::default())
                .await,
        ),
        code(
            Api::<ConfigMap>::namespaced(tenant.clone(), namespace)
                .list(&ListParams::default())
                .await,
        ),
        code(
            Api::<Service>::namespaced(tenant.clone(), namespace)
                .list(&ListParams::default())
                .await,
        ),
    ] {
        assert_eq!(code, 403);
    }
    // A status that comes along with an object is not taken.
    let mut forged = load_balancer("forged");
    forged.status = serde_json::from_value(json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}})).unwrap();
    let created = mine.create(&PostParams::default(), &forged).await.unwrap();
    assert_eq!(created.status, None);
}

#[tokio::test]
async fn a_tenant_cannot_become_somebody_else() {
    let world = World::start().await;
    let tenant = world.register("a").await;
    let rules = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]);
    let post = PostParams::default();
    let role: Role = serde_json::from_value(json!({"metadata": {"name": "x"}, "rules": rules})).unwrap();
    let roles: Api<Role> = Api::namespaced(tenant.clone(), "tenant-a");
    assert_eq!(code(roles.create(&post, &role).await), 403);
    assert_eq!(
        code(
            roles
                .patch(
                    "kubelb-ccm",
                    &PatchParams::default(),
                    &Patch::Merge(json!({"rules": rules}))
                )
                .await
        ),
        403
    );
    let subjects = json!([{"kind": "ServiceAccount", "name": "kubelb-ccm", "namespace": "tenant-a"}]);
    let binding = json!({"metadata": {"name": "x"}, "subjects": subjects,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}});
    let bindings: Api<RoleBinding> = Api::namespaced(tenant.clone(), "tenant-a");
    assert_eq!(
        code(
            bindings
                .create(&post, &serde_json::from_value(binding.clone()).unwrap())
                .await
        ),
        403
    );
    let everywhere: Api<ClusterRoleBinding> = Api::all(tenant.clone());
    assert_eq!(
        code(
            everywhere
                .create(&post, &serde_json::from_value(binding).unwrap())
                .await
        ),
        403
    );

    let request = TokenRequest {
        spec: Some(TokenRequestSpec::default()),
        ..TokenRequest::default()
    };
    let own: Api<ServiceAccount> = Api::namespaced(tenant.clone(), "tenant-a");
    own.create_token_request("kubelb-ccm", &post, &request).await.unwrap();
    for (namespace, account) in [
        ("tenant-a", "default"),
        ("tenant-b", "kubelb-ccm"),
        ("kubelb", "manager"),
        ("kube-system", "default"),
    ] {
        let accounts: Api<ServiceAccount> = Api::namespaced(tenant.clone(), namespace);
        let answer = accounts.create_token_request(account, &post, &request).await;
        assert_eq!(code(answer), 403, "token of {namespace}/{account}");
    }
    for who in ["admin", "system:serviceaccount:kubelb:manager"] {
        let mut kubeconfig = Kubeconfig::from_yaml(&world.kubeconfig("a").await).unwrap();
        for user in &mut kubeconfig.auth_infos {
            if let Some(user) = &mut user.auth_info {
                user.impersonate = Some(who.to_owned());
            }
        }
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
        let impersonator = Client::try_from(config.unwrap()).unwrap();
        let namespaces: Api<Namespace> = Api::all(impersonator);
        assert_eq!(code(namespaces.list(&ListParams::default()).await), 403, "as {who}");
    }
}
