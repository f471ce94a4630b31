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
