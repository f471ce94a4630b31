//! What every namespace has: the ServiceAccount `default` and the ConfigMap `kube-root-ca.crt`; and tokens in Secrets. Pure.

use serde_json::json;

use super::action::{Action, Plan};
use super::world::{Kind, World};

const ACCOUNT: &str = "default";
const ROOT_CA: &str = "kube-root-ca.crt";
const CA_KEY: &str = "ca.crt";
const TOKEN_TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";

/// Makes what a namespace lacks.
pub(super) fn reconcile(world: &World, namespace: &str) -> Plan {
    let mut plan = Plan::default();
    let Some(object) = world.namespaces.get("", namespace) else {
        return plan;
    };
    if object.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    if world.service_accounts.get(namespace, ACCOUNT).is_none() {
        plan.act(Action::Create {
            kind: Kind::ServiceAccount,
            namespace: namespace.to_owned(),
            object: json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT}}),
        });
    }
    let data = json!({CA_KEY: world.api_ca});
    match world.config_maps.get(namespace, ROOT_CA) {
        None => plan.act(Action::Create {
            kind: Kind::ConfigMap,
            namespace: namespace.to_owned(),
            object: json!({
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": ROOT_CA},
                "data": data,
            }),
        }),
        Some(known) => {
            let right = known.data.as_ref().and_then(|data| data.get(CA_KEY)) == Some(&world.api_ca);
            if !right && known.metadata.deletion_timestamp.is_none() {
                plan.patch(Kind::ConfigMap, known, json!({"data": data}));
            }
        }
    }
    plan
}

/// Names of the Secrets that hold tokens of a ServiceAccount.
pub(super) fn tokens_of(world: &World, namespace: &str, account: &str) -> Vec<String> {
    let secrets = world.secrets.within(namespace);
    let of_account = secrets.filter(|secret| {
        let annotations = secret.metadata.annotations.as_ref();
        secret.type_.as_deref() == Some(TOKEN_TYPE)
            && annotations
                .and_then(|annotations| annotations.get(ACCOUNT_NAME))
                .is_some_and(|name| name == account)
    });
    of_account.filter_map(|secret| secret.metadata.name.clone()).collect()
}

/// Fills in a Secret that shall hold a token, or deletes one whose ServiceAccount is gone.
pub(super) fn token(world: &World, namespace: &str, name: &str) -> Plan {
    let mut plan = Plan::default();
    let Some(secret) = world.secrets.get(namespace, name) else {
        return plan;
    };
    if secret.type_.as_deref() != Some(TOKEN_TYPE) || secret.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let annotation = |key: &str| secret.metadata.annotations.as_ref()?.get(key);
    let Some(account) = annotation(ACCOUNT_NAME) else {
        return plan;
    };
    let uid = annotation(ACCOUNT_UID);
    let known = world.service_accounts.get(namespace, account);
    let known_uid = known.and_then(|known| known.metadata.uid.as_ref());
    match (known_uid, uid) {
        // Another account of the same name, or none any more. Before the account is there the Secret waits.
        (known, Some(uid)) if known != Some(uid) => plan.delete(Kind::Secret, secret),
        (None, _) => {}
        (Some(_), _) => {
            let data = secret.data.as_ref();
            let has = |key: &str| data.is_some_and(|data| data.get(key).is_some_and(|value| !value.0.is_empty()));
            if !["token", CA_KEY, "namespace"].into_iter().all(has) || uid.is_none() {
                plan.act(Action::FillToken {
                    secret: (namespace.to_owned(), name.to_owned()),
                    account: account.clone(),
                    uid: secret.metadata.uid.clone().unwrap_or_default(),
                });
            }
        }
    }
    plan
}

/// What to merge into the Secret when the server has made a token.
pub(super) fn filled(world_ca: &str, namespace: &str, account_uid: &str, token: &str) -> serde_json::Value {
    use base64::Engine as _;
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    json!({
        "metadata": {"annotations": {ACCOUNT_UID: account_uid}},
        "data": {CA_KEY: encode(world_ca), "namespace": encode(namespace), "token": encode(token)},
    })
}
