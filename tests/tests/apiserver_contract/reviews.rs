//! Who is this token, may this user do that, and tokens for service accounts.

use serde_json::{Value, json};

use super::client::owners;
use super::world::{TENANT, TENANT_TOKEN, World};

const TOKEN_REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

fn review(spec: Value) -> Value {
    json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec})
}

#[tokio::test]
async fn a_token_is_recognised_or_not() {
    let world = World::start().await;
    let good = world
        .admin
        .post(TOKEN_REVIEWS, review(json!({"token": TENANT_TOKEN})))
        .await
        .ok(201);
    assert_eq!(good["status"]["authenticated"], true);
    assert_eq!(good["status"]["user"]["username"], TENANT);
    assert_eq!(good["status"]["user"]["groups"], json!(["system:authenticated"]));
    assert_eq!(good["status"]["audiences"], json!(["https://kubernetes.default.svc"]));
    let bad = world
        .admin
        .post(TOKEN_REVIEWS, review(json!({"token": "x"})))
        .await
        .ok(201);
    assert_eq!(bad["status"], json!({"user": {}, "error": "invalid bearer token"}));
}

#[tokio::test]
async fn a_service_account_s_token_is_for_its_audience_only() {
    let world = World::start().await;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "sa"}});
    let made = world
        .admin
        .post("/api/v1/namespaces/rec/serviceaccounts", account)
        .await
        .ok(201);
    assert!(owners(&made).is_empty());
    let wanted = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"expirationSeconds": 3600, "audiences": ["kubelb"]},
    });
    let made = world
        .admin
        .post("/api/v1/namespaces/rec/serviceaccounts/sa/token", wanted)
        .await
        .ok(201);
    assert_eq!(
        made["spec"],
        json!({"audiences": ["kubelb"], "boundObjectRef": null, "expirationSeconds": 3600})
    );
    assert_eq!(made["metadata"]["name"], "sa");
    assert!(made["status"]["expirationTimestamp"].is_string());
    let token = made["status"]["token"].as_str().unwrap();

    let spec = json!({"token": token, "audiences": ["kubelb"]});
    let good = world.admin.post(TOKEN_REVIEWS, review(spec)).await.ok(201);
    let user = &good["status"]["user"];
    assert_eq!(user["username"], "system:serviceaccount:rec:sa");
    let groups = json!([
        "system:serviceaccounts",
        "system:serviceaccounts:rec",
        "system:authenticated"
    ]);
    assert_eq!(user["groups"], groups);
    let id = user["extra"]["authentication.kubernetes.io/credential-id"][0]
        .as_str()
        .unwrap();
    assert!(id.starts_with("JTI="));
    assert_eq!(good["status"]["audiences"], json!(["kubelb"]));

    let spec = json!({"token": token, "audiences": ["other"]});
    let wrong = world.admin.post(TOKEN_REVIEWS, review(spec)).await.ok(201);
    assert_eq!(wrong["status"]["user"], json!({}));
    let error = wrong["status"]["error"].as_str().unwrap();
    assert!(error.contains(r#"token audiences ["kubelb"] is invalid for the target audiences ["other"]"#));
    // A token for others does not open this server.
    let stranger = world.admin.with_token(Some(token));
    stranger.get("/api/v1/namespaces").await.fails(401, "Unauthorized");
}

#[tokio::test]
async fn one_may_ask_what_one_may() {
    let world = World::start().await;
    world.allow_tenant().await;
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let ask = |verb: &str| {
        json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {"namespace": "rec", "verb": verb, "resource": "configmaps"}},
        })
    };
    let may = world.tenant().post(path, ask("list")).await.ok(201);
    let reason = r#"RBAC: allowed by RoleBinding "r/rec" of Role "r" to User "tenant-a""#;
    assert_eq!(may["status"], json!({"allowed": true, "reason": reason}));
    let may_not = world.tenant().post(path, ask("delete")).await.ok(201);
    assert_eq!(may_not["status"]["allowed"], false);
}
