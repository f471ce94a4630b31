//! What a cluster has before anyone made anything: namespaces, the first roles, the server's own Service.

use serde_json::{Value, json};

use super::call::Target;
use super::identity::MASTERS;
use super::resource::Resource;
use super::server::Server;
use super::status::ApiError;
use super::write::{self, Ownership};

const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];

/// Makes what is missing; answers the revision to wait for.
///
/// # Errors
/// When one of the objects is refused, which a test would show.
pub(crate) fn run(server: &Server) -> Result<u64, ApiError> {
    let registry = server.registry();
    for object in objects() {
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
    if txn
        .get(resource, &target.namespace, super::object::name(&object))
        .is_some()
    {
        return Ok(());
    }
    write::create(&mut txn, &target, object, &ownership).map(drop)
}

fn objects() -> Vec<Value> {
    let namespace = |name: &&str| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    let account = |name: &&str| json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name}});
    let mut objects: Vec<Value> = NAMESPACES.iter().map(namespace).collect();
    objects.extend(NAMESPACES.iter().map(account));
    objects.push(json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "clusterIP": "10.96.0.1",
            "ipFamilyPolicy": "SingleStack",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443}],
        },
    }));
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
    use super::super::resource::Registry;
    use super::*;

    #[test]
    fn everything_made_at_first_is_of_a_kind_that_is_served() {
        let registry = Registry::builtin();
        for object in objects() {
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
