//! What a cluster has before anyone made anything: namespaces, the first roles, priority classes, the server's own
//! Service and where it leads.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::call::Target;
use super::identity::MASTERS;
use super::ranges::family_of;
use super::resource::{Registry, Resource};
use super::server::Server;
use super::status::ApiError;
use super::write::{self, Ownership};

const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];

/// Makes what is missing; answers the revision to wait for.
///
/// # Errors
/// When one of the objects is refused, which a test would show.
pub(crate) fn run(server: &Server, advertised: SocketAddr) -> Result<u64, ApiError> {
    let registry = server.registry();
    let mut objects = objects();
    objects.push(service(server, advertised));
    objects.extend(api_services(&registry));
    for object in objects.into_iter().chain(endpoints(advertised)) {
        let group_version = object.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
        let (group, version) = group_version.split_once('/').unwrap_or(("", group_version));
        let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default();
        let Some(resource) = registry.by_kind(group, version, kind) else {
            continue;
        };
        create(server, resource, object)?;
    }
    Ok(server.store().revision())
}

fn create(server: &Server, resource: &std::sync::Arc<Resource>, object: Value) -> Result<(), ApiError> {
    let target = Target {
        resource: std::sync::Arc::clone(resource),
        namespace: super::object::meta(&object, "namespace").to_owned(),
        name: String::new(),
        subresource: String::new(),
        verb: "create",
    };
    let ownership = Ownership {
        manager: "kube-apiserver".to_owned(),
        applied: false,
    };
    let mut txn = server.begin(false);
    let named = super::object::name(&object).to_owned();
    let Some(live) = txn.get(resource, &target.namespace, &named) else {
        return write::create(&mut txn, &target, object, &ownership).map(drop);
    };
    // Where the server is reached may be another place than the last time; all else is as its users left it.
    if resource.kind.starts_with("Endpoint") {
        let target = Target {
            name: named,
            verb: "update",
            ..target
        };
        write::update(&mut txn, &target, &live, object, &ownership)?;
    }
    Ok(())
}

/// The Service by which Pods reach the server.
fn service(server: &Server, advertised: SocketAddr) -> Value {
    let address = server.ranges.addresses.first().map(|range| range.host(1).to_string());
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "clusterIP": address,
            "ipFamilyPolicy": "SingleStack",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": advertised.port()}],
        },
    })
}

/// Where that Service leads, in both forms.
fn endpoints(advertised: SocketAddr) -> [Value; 2] {
    let address = advertised.ip().to_string();
    let port = json!({"name": "https", "port": advertised.port(), "protocol": "TCP"});
    [
        json!({
            "apiVersion": "v1",
            "kind": "Endpoints",
            "metadata": {
                "name": "kubernetes",
                "namespace": "default",
                "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
            },
            "subsets": [{"addresses": [{"ip": address}], "ports": [port]}],
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "kubernetes",
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": "kubernetes"},
            },
            "addressType": family_of(advertised.ip()),
            "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
            "ports": [port],
        }),
    ]
}

/// What tells an aggregator that the server itself serves a group.
fn api_services(registry: &Registry) -> Vec<Value> {
    let mut services = Vec::new();
    for group in registry.groups() {
        for version in registry.versions(group) {
            services.push(json!({
                "apiVersion": "apiregistration.k8s.io/v1",
                "kind": "APIService",
                "metadata": {
                    "name": format!("{version}.{group}"),
                    "labels": {"kube-aggregator.kubernetes.io/automanaged": "onstart"},
                },
                "spec": {"group": group, "version": version, "groupPriorityMinimum": 17_000, "versionPriority": 15},
            }));
        }
    }
    services
}

fn objects() -> Vec<Value> {
    let namespace = |name: &&str| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    let account = |name: &&str| json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name}});
    let mut objects: Vec<Value> = NAMESPACES.iter().map(namespace).collect();
    objects.extend(NAMESPACES.iter().map(account));
    for (name, value, about) in [
        (
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
        (
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
    ] {
        objects.push(json!({
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": name},
            "value": value,
            "description": about,
        }));
    }
    let all = json!([
        {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
        {"nonResourceURLs": ["*"], "verbs": ["*"]},
    ]);
    let read = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list", "watch"]}]);
    let write = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]);
    for (name, rules) in [
        ("cluster-admin", all),
        ("admin", write.clone()),
        ("edit", write),
        ("view", read),
    ] {
        objects.push(role(name, rules));
    }
    objects.push(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "cluster-admin"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": MASTERS}],
    }));
    // Reviews about oneself are everyone's.
    objects.push(role("system:basic-user", json!([
        {"apiGroups": ["authorization.k8s.io"], "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
            "verbs": ["create"]},
        {"apiGroups": ["authentication.k8s.io"], "resources": ["selfsubjectreviews"], "verbs": ["create"]},
    ])));
    objects.push(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "system:basic-user"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:basic-user"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:authenticated"}],
    }));
    objects
}

fn role(name: &str, rules: Value) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": name},
        "rules": rules,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_made_at_first_is_of_a_kind_that_is_served() {
        let registry = Registry::builtin(std::sync::Arc::new(super::super::schema::Definitions::builtin()));
        let own = endpoints(SocketAddr::from(([127, 0, 0, 1], 1)));
        for object in objects().into_iter().chain(own).chain(api_services(&registry)) {
            let group_version = object["apiVersion"].as_str().unwrap();
            let (group, version) = group_version.split_once('/').unwrap_or(("", group_version));
            assert!(
                registry
                    .by_kind(group, version, object["kind"].as_str().unwrap())
                    .is_some()
            );
        }
    }
}
