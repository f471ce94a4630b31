//! Who may do what.

use serde_json::json;

use super::client::owners;
use super::world::{NAMESPACE, TENANT, World};

#[tokio::test]
async fn without_a_name_or_with_a_wrong_token_nothing_opens() {
    let world = World::start().await;
    let status = world
        .admin
        .with_token(None)
        .get("/api/v1/namespaces")
        .await
        .fails(403, "Forbidden");
    let wanted = r#"namespaces is forbidden: User "system:anonymous" cannot list resource "namespaces" in API group "" at the cluster scope"#;
    assert_eq!(status["message"], wanted);
    assert_eq!(status["details"], json!({"kind": "namespaces"}));
    let wrong = world.admin.with_token(Some("wrong"));
    assert_eq!(
        wrong.get("/api/v1/namespaces").await.fails(401, "Unauthorized")["message"],
        "Unauthorized"
    );
}

#[tokio::test]
async fn a_role_opens_what_it_names_and_nothing_else() {
    let world = World::start().await;
    let tenant = world.tenant();
    let status = tenant.get("/api/v1/namespaces").await.fails(403, "Forbidden");
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .contains(&format!("User \"{TENANT}\" cannot list"))
    );
    let service =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"ports": [{"port": 80}]}});
    let status = tenant
        .post(&format!("/api/v1/namespaces/{NAMESPACE}/services"), service)
        .await
        .fails(403, "Forbidden");
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .ends_with(r#"in the namespace "rec""#)
    );

    let (role, binding) = world.allow_tenant().await;
    assert_eq!(role["rules"][0]["verbs"], json!(["get", "list", "watch"]));
    assert_eq!(
        owners(&role),
        [("unknown".to_owned(), "Update".to_owned(), json!({"f:rules": {}}))]
    );
    assert_eq!(binding["roleRef"]["name"], "r");

    let list = tenant
        .get(&format!("/api/v1/namespaces/{NAMESPACE}/configmaps"))
        .await
        .ok(200);
    assert_eq!(
        (&list["kind"], &list["apiVersion"]),
        (&json!("ConfigMapList"), &json!("v1"))
    );
    let path = format!("/api/v1/namespaces/{NAMESPACE}/configmaps/a");
    let status = tenant.delete(&path).await.fails(403, "Forbidden");
    let wanted = r#"configmaps "a" is forbidden: User "tenant-a" cannot delete resource "configmaps" in API group "" in the namespace "rec""#;
    assert_eq!(status["message"], wanted);
    assert_eq!(status["details"], json!({"name": "a", "kind": "configmaps"}));
}

#[tokio::test]
async fn no_one_gives_away_what_they_do_not_have() {
    let world = World::start().await;
    let group = "rbac.authorization.k8s.io";
    let path = format!("/apis/{group}/v1/namespaces/{NAMESPACE}");
    let role = |name: &str, groups: &str, resources: &[&str], verbs: &[&str]| {
        json!({
            "apiVersion": format!("{group}/v1"), "kind": "Role", "metadata": {"name": name},
            "rules": [{"apiGroups": [groups], "resources": resources, "verbs": verbs}],
        })
    };
    let binding = |name: &str, role: &str| {
        json!({
            "apiVersion": format!("{group}/v1"), "kind": "RoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": group, "kind": "Role", "name": role},
            "subjects": [{"kind": "User", "name": TENANT, "apiGroup": group}],
        })
    };
    // The tenant may read ConfigMaps, and write roles and bindings.
    world.allow_tenant().await;
    let writes = role("writes", group, &["roles", "rolebindings"], &["create", "update"]);
    let secrets = role("secrets", "", &["secrets"], &["get"]);
    for object in [writes, secrets] {
        world.admin.post(&format!("{path}/roles"), object).await.ok(201);
    }
    world
        .admin
        .post(&format!("{path}/rolebindings"), binding("writes", "writes"))
        .await
        .ok(201);
    let tenant = world.tenant();
    let less = role("less", "", &["configmaps"], &["get"]);
    tenant.post(&format!("{path}/roles"), less).await.ok(201);
    let more = role("more", "", &["configmaps"], &["get", "delete"]);
    let status = tenant
        .post(&format!("{path}/roles"), more)
        .await
        .fails(403, "Forbidden");
    let message = status["message"].as_str().unwrap();
    assert!(message.starts_with("roles.rbac.authorization.k8s.io \"more\" is forbidden: user \"tenant-a\""));
    assert!(message.contains("is attempting to grant RBAC permissions not currently held:"));
    let bindings = format!("{path}/rolebindings");
    tenant.post(&bindings, binding("less", "less")).await.ok(201);
    tenant
        .post(&bindings, binding("secrets", "secrets"))
        .await
        .fails(403, "Forbidden");

    // Who may bind a role may do so without having it.
    let bind = json!({
        "apiVersion": format!("{group}/v1"), "kind": "Role", "metadata": {"name": "bind"},
        "rules": [{"apiGroups": [group], "resources": ["roles"], "verbs": ["bind"], "resourceNames": ["secrets"]}],
    });
    world.admin.post(&format!("{path}/roles"), bind).await.ok(201);
    world.admin.post(&bindings, binding("bind", "bind")).await.ok(201);
    tenant.post(&bindings, binding("secrets", "secrets")).await.ok(201);
}

#[tokio::test]
async fn who_may_see_one_object_may_list_it_alone() {
    let world = World::start().await;
    let group = "rbac.authorization.k8s.io";
    let role = json!({
        "apiVersion": format!("{group}/v1"), "kind": "Role", "metadata": {"name": "one"},
        "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["list"], "resourceNames": ["mine"]}],
    });
    let path = format!("/apis/{group}/v1/namespaces/{NAMESPACE}");
    world.admin.post(&format!("{path}/roles"), role).await.ok(201);
    let binding = json!({
        "apiVersion": format!("{group}/v1"), "kind": "RoleBinding", "metadata": {"name": "one"},
        "subjects": [{"kind": "User", "apiGroup": group, "name": TENANT}],
        "roleRef": {"apiGroup": group, "kind": "Role", "name": "one"},
    });
    world.admin.post(&format!("{path}/rolebindings"), binding).await.ok(201);
    let tenant = world.tenant();
    let maps = format!("/api/v1/namespaces/{NAMESPACE}/secrets");
    tenant
        .get(&format!("{maps}?fieldSelector=metadata.name%3Dmine"))
        .await
        .ok(200);
    tenant
        .get(&format!("{maps}?fieldSelector=metadata.name%3Dother"))
        .await
        .fails(403, "Forbidden");
    tenant.get(&maps).await.fails(403, "Forbidden");
}
