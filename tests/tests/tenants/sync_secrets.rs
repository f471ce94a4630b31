//! Secrets that tenants send.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use kubelb_api::v1alpha1::{SyncSecret, SyncSecretPhase};
use serde_json::{Value, json};

use crate::world::{World, merge, until};

fn sync_secret(name: &str, content: Value) -> SyncSecret {
    let mut object = json!({
        "apiVersion": "kubelb.k8c.io/v1alpha1", "kind": "SyncSecret",
        "metadata": {"name": name, "labels": {"kubelb.k8c.io/origin-ns": "shop", "kubelb.k8c.io/origin-name": name}},
    });
    for (key, value) in content.as_object().unwrap() {
        object[key] = value.clone();
    }
    serde_json::from_value(object).unwrap()
}

/// Waits until it is told about the object as it is: phase, reason, message.
async fn told(api: &Api<SyncSecret>, name: &str, reason: &str) -> (SyncSecretPhase, String) {
    let condition = |sync: Option<&SyncSecret>| {
        let sync = sync?;
        let status = sync.status.as_ref()?;
        let condition = status.conditions.first()?.clone();
        let is_current = status.observed_generation == sync.metadata.generation && condition.reason == reason;
        is_current.then_some((status.phase?, condition.message))
    };
    let sync = until(api, name, reason, |sync| condition(sync).is_some()).await;
    condition(sync.as_ref()).unwrap()
}

fn value(secret: Option<&Secret>, key: &str) -> Option<ByteString> {
    secret?.data.as_ref()?.get(key).cloned()
}

#[tokio::test]
async fn a_tenants_secret_gets_there_and_keeps_up() {
    let world = World::start().await;
    let tenant = world.register("a").await;
    let mine: Api<SyncSecret> = Api::namespaced(tenant, "tenant-a");
    let secrets = world.api::<Secret>("tenant-a");
    let content = json!({"type": "kubernetes.io/tls", "data": {"tls.crt": "QQ==", "tls.key": "Qg=="}});
    mine.create(&PostParams::default(), &sync_secret("cert", content))
        .await
        .unwrap();
    let (phase, _) = told(&mine, "cert", "Synced").await;
    assert_eq!(phase, SyncSecretPhase::Synced);
    let secret = secrets.get("cert").await.unwrap();
    assert_eq!(secret.type_.as_deref(), Some("kubernetes.io/tls"));
    assert_eq!(secret.metadata.labels.unwrap()["kubelb.k8c.io/origin-ns"], "shop");

    merge(&mine, "cert", json!({"stringData": {"tls.crt": "new"}})).await;
    until(&secrets, "cert", "the new value", |secret| {
        value(secret, "tls.crt").is_some_and(|value| value.0 == b"new")
    })
    .await;
    // Somebody's change is put right, and one that nobody may change is made anew.
    merge(&secrets, "cert", json!({"data": {"tls.crt": "QQ==", "more": "QQ=="}})).await;
    until(&secrets, "cert", "put right", |secret| {
        value(secret, "tls.crt").is_some_and(|value| value.0 == b"new") && value(secret, "more").is_none()
    })
    .await;
    merge(&mine, "cert", json!({"immutable": true})).await;
    until(&secrets, "cert", "immutable", |secret| {
        secret.is_some_and(|secret| secret.immutable == Some(true))
    })
    .await;
    merge(&mine, "cert", json!({"stringData": {"tls.crt": "newer"}})).await;
    until(&secrets, "cert", "made anew", |secret| {
        value(secret, "tls.crt").is_some_and(|value| value.0 == b"newer")
    })
    .await;

    mine.delete("cert", &DeleteParams::background()).await.unwrap();
    until(&secrets, "cert", "the Secret is gone", |secret| secret.is_none()).await;
}

#[tokio::test]
async fn what_would_give_power_is_refused_with_a_reason() {
    let world = World::start().await;
    let tenant = world.register("a").await;
    let mine: Api<SyncSecret> = Api::namespaced(tenant, "tenant-a");
    let secrets = world.api::<Secret>("tenant-a");
    world
        .create_in::<Secret>(
            "tenant-a",
            json!({"metadata": {"name": "theirs"}, "stringData": {"a": "b"}}),
        )
        .await;
    let annotations = json!({"kubernetes.io/service-account.name": "kubelb-ccm"});
    let mut token = sync_secret("token", json!({"type": "kubernetes.io/service-account-token"}));
    token.metadata.annotations = serde_json::from_value(annotations).unwrap();
    for (object, reason) in [
        (token, "TypeRefused"),
        (
            sync_secret("boot", json!({"type": "bootstrap.kubernetes.io/token"})),
            "TypeRefused",
        ),
        (sync_secret("theirs", json!({"stringData": {"a": "mine"}})), "NameTaken"),
        (
            sync_secret("kubelb-ccm-kubeconfig", json!({"stringData": {"kubelb": "mine"}})),
            "NameReserved",
        ),
    ] {
        let name = object.metadata.name.clone().unwrap();
        mine.create(&PostParams::default(), &object).await.unwrap();
        let (phase, message) = told(&mine, &name, reason).await;
        assert_eq!(phase, SyncSecretPhase::Failed, "{name}");
        assert!(!message.is_empty(), "{name}");
    }
    if world.server().is_real() {
        // The API server's own word; the testbed's takes any content.
        let incomplete = sync_secret("incomplete", json!({"type": "kubernetes.io/tls"}));
        mine.create(&PostParams::default(), &incomplete).await.unwrap();
        told(&mine, "incomplete", "Refused").await;
    }
    let theirs = secrets.get("theirs").await.unwrap();
    assert_eq!(value(Some(&theirs), "a").unwrap().0, b"b");
    assert!(world.kubeconfig("a").await.contains("token:"));
    assert!(secrets.get_opt("token").await.unwrap().is_none());
    // When the name is free, it is given.
    secrets.delete("theirs", &DeleteParams::default()).await.unwrap();
    merge(&mine, "theirs", json!({"stringData": {"a": "again"}})).await;
    told(&mine, "theirs", "Synced").await;
}
