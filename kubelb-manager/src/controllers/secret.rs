//! What Secret a SyncSecret asks for, and whether it gets it. No I/O, no clock.
//!
//! A tenant writes SyncSecrets, the manager writes Secrets with rights that the tenant does not have: so nothing goes along but the content, and
//! no kind of Secret that an API server acts upon.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::core::ObjectMeta;
use kubelb_api::labels::{Label, MANAGED_BY_KUBELB};
use kubelb_api::names::{CCM_KUBECONFIG_SECRET, LEGACY_CCM_TOKEN_SECRET, TenantName};
use kubelb_api::v1alpha1::SyncSecret;
use kubelb_api::{API_VERSION, GROUP};

const KIND: &str = "SyncSecret";
const OPAQUE: &str = "Opaque";
/// The types below kubernetes.io that are content and nothing else.
const HARMLESS: [&str; 5] = [
    "kubernetes.io/basic-auth",
    "kubernetes.io/dockercfg",
    "kubernetes.io/dockerconfigjson",
    "kubernetes.io/ssh-auth",
    "kubernetes.io/tls",
];
/// Names that the manager needs itself.
const RESERVED: [&str; 2] = [CCM_KUBECONFIG_SECRET, LEGACY_CCM_TOKEN_SECRET];

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Plan {
    /// It gets none: a reason, and what to do about it.
    Refuse(&'static str, String),
    /// It has it.
    Keep,
    /// There is none.
    Create(Secret),
    /// It differs.
    Update(Secret),
    /// It differs in what cannot be changed.
    Replace(Secret),
}

/// What to do about a SyncSecret, where `present` is the Secret of its name.
pub(crate) fn plan(sync: &SyncSecret, present: Option<&Secret>) -> Plan {
    let name = sync.metadata.name.as_deref().unwrap_or_default();
    let type_ = sync
        .content
        .type_
        .as_deref()
        .filter(|type_| !type_.is_empty())
        .unwrap_or(OPAQUE);
    let namespace = sync.metadata.namespace.as_deref().unwrap_or_default();
    let Some(tenant) = TenantName::from_namespace(namespace) else {
        return Plan::Refuse("NotATenant", format!("metadata.namespace: {namespace} is no tenant's"));
    };
    if RESERVED.contains(&name) {
        return Plan::Refuse(
            "NameReserved",
            format!("metadata.name: {name} is the name of a Secret of the manager's own"),
        );
    }
    if gives_power(type_) {
        let message = format!(
            "type: Secrets of type {type_} mean something to the management cluster and are not taken from tenants"
        );
        return Plan::Refuse("TypeRefused", message);
    }
    let mut wanted = secret(sync, &tenant, type_);
    let Some(present) = present else {
        return Plan::Create(wanted);
    };
    if !is_owned(&present.metadata, sync) {
        let message = format!(
            "metadata.name: there is a Secret {namespace}/{name} that was not made from this object; it is left as it is"
        );
        return Plan::Refuse("NameTaken", message);
    }
    wanted.metadata.resource_version = present.metadata.resource_version.clone();
    if is_same(present, &wanted) {
        return Plan::Keep;
    }
    let immutable = present.immutable == Some(true);
    if immutable || present.type_ != wanted.type_ {
        wanted.metadata.resource_version = None;
        return Plan::Replace(wanted);
    }
    Plan::Update(wanted)
}

fn gives_power(type_: &str) -> bool {
    let Some((domain, _)) = type_.split_once('/') else {
        return false;
    };
    let is_kubernetes = domain == "kubernetes.io" || domain.ends_with(".kubernetes.io");
    is_kubernetes && !HARMLESS.contains(&type_)
}

fn secret(sync: &SyncSecret, tenant: &TenantName, type_: &str) -> Secret {
    let mut metadata = ObjectMeta {
        name: sync.metadata.name.clone(),
        namespace: sync.metadata.namespace.clone(),
        owner_references: Some(vec![OwnerReference {
            api_version: API_VERSION.to_owned(),
            kind: KIND.to_owned(),
            name: sync.metadata.name.clone().unwrap_or_default(),
            uid: sync.metadata.uid.clone().unwrap_or_default(),
            controller: Some(true),
            block_owner_deletion: None,
        }]),
        ..ObjectMeta::default()
    };
    // By these it is found; no other label or annotation of a tenant's gets here.
    for label in [Label::ORIGIN_NAMESPACE, Label::ORIGIN_NAME] {
        if let Some(value) = label.get(&sync.metadata) {
            label.set(&mut metadata, value);
        }
    }
    Label::MANAGED_BY.set(&mut metadata, MANAGED_BY_KUBELB);
    Label::TENANT.set(&mut metadata, tenant.as_str());
    let mut data = sync.content.data.clone();
    for (key, value) in &sync.content.string_data {
        data.insert(key.clone(), ByteString(value.clone().into_bytes()));
    }
    Secret {
        metadata,
        data: Some(data).filter(|data| !data.is_empty()),
        immutable: sync.content.immutable,
        type_: Some(type_.to_owned()),
        ..Secret::default()
    }
}

/// Whether a Secret was made from a SyncSecret of this name: this one, or one that was deleted before.
pub(crate) fn is_owned(secret: &ObjectMeta, sync: &SyncSecret) -> bool {
    secret.owner_references.iter().flatten().any(|owner| {
        owner.kind == KIND
            && owner.api_version.split('/').next() == Some(GROUP)
            && Some(&owner.name) == sync.metadata.name.as_ref()
    })
}

fn is_same(present: &Secret, wanted: &Secret) -> bool {
    let data = |secret: &Secret| secret.data.clone().unwrap_or_default();
    let labels = |secret: &Secret| secret.metadata.labels.clone();
    let owners = |secret: &Secret| -> Vec<String> {
        let all = secret.metadata.owner_references.iter().flatten();
        all.map(|owner| owner.uid.clone()).collect()
    };
    data(present) == data(wanted)
        && present.type_ == wanted.type_
        && present.immutable.unwrap_or(false) == wanted.immutable.unwrap_or(false)
        && labels(present) == labels(wanted)
        && owners(present) == owners(wanted)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn sync(content: Value) -> SyncSecret {
        let mut object = json!({
            "apiVersion": API_VERSION, "kind": KIND,
            "metadata": {"name": "cert", "namespace": "tenant-x", "uid": "u", "annotations": {"a/b": "c"}, "labels": {
                "kubelb.k8c.io/origin-ns": "shop", "kubelb.k8c.io/origin-name": "cert", "example.com/power": "yes",
                "kubelb.k8c.io/tenant": "other",
            }},
        });
        for (key, value) in content.as_object().unwrap() {
            object[key] = value.clone();
        }
        serde_json::from_value(object).unwrap()
    }

    fn created(sync: &SyncSecret) -> Secret {
        let made = plan(sync, None);
        let Plan::Create(secret) = made else {
            panic!("{made:?}");
        };
        secret
    }

    #[test]
    fn content_goes_along_and_nothing_else() {
        let secret = created(&sync(
            json!({"data": {"a": "QQ==", "b": "Qg=="}, "stringData": {"b": "C"}}),
        ));
        assert_eq!(secret.data.as_ref().unwrap()["b"].0, b"C");
        assert_eq!(secret.data.as_ref().unwrap()["a"].0, b"A");
        assert_eq!(secret.metadata.annotations, None);
        let labels: Vec<(&str, &str)> = secret
            .metadata
            .labels
            .iter()
            .flatten()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        assert_eq!(
            labels,
            [
                ("kubelb.k8c.io/managed-by", "kubelb"),
                ("kubelb.k8c.io/origin-name", "cert"),
                ("kubelb.k8c.io/origin-ns", "shop"),
                ("kubelb.k8c.io/tenant", "x"),
            ]
        );
        assert_eq!(secret.type_.as_deref(), Some("Opaque"));
    }

    #[test]
    fn types_that_an_api_server_acts_upon_are_refused() {
        for type_ in [
            "kubernetes.io/service-account-token",
            "bootstrap.kubernetes.io/token",
            "kubernetes.io/anything-new",
            "x.kubernetes.io/y",
        ] {
            let refused = plan(&sync(json!({"type": type_})), None);
            assert!(
                matches!(refused, Plan::Refuse("TypeRefused", _)),
                "{type_}: {refused:?}"
            );
        }
        for type_ in ["kubernetes.io/tls", "Opaque", "", "example.com/own"] {
            let taken = plan(&sync(json!({"type": type_})), None);
            assert!(matches!(taken, Plan::Create(_)), "{type_}: {taken:?}");
        }
    }

    #[test]
    fn nobody_elses_secret_is_written() {
        let wanted = sync(json!({"stringData": {"a": "b"}}));
        let mut present = created(&wanted);
        assert_eq!(plan(&wanted, Some(&present)), Plan::Keep);
        present.metadata.owner_references = None;
        assert!(matches!(plan(&wanted, Some(&present)), Plan::Refuse("NameTaken", _)));
        let mut reserved = wanted;
        reserved.metadata.name = Some("kubelb-ccm-kubeconfig".to_owned());
        assert!(matches!(plan(&reserved, None), Plan::Refuse("NameReserved", _)));
        reserved.metadata.namespace = Some("kube-system".to_owned());
        assert!(matches!(plan(&reserved, None), Plan::Refuse("NotATenant", _)));
    }

    #[test]
    fn what_cannot_be_changed_is_made_anew() {
        let before = created(&sync(json!({"stringData": {"a": "b"}})));
        let after = sync(json!({"stringData": {"a": "c"}}));
        assert!(matches!(plan(&after, Some(&before)), Plan::Update(_)));
        let other_type = sync(json!({"stringData": {"a": "b"}, "type": "example.com/own"}));
        assert!(matches!(plan(&other_type, Some(&before)), Plan::Replace(_)));
        let immutable = Secret {
            immutable: Some(true),
            ..before.clone()
        };
        assert!(matches!(plan(&after, Some(&immutable)), Plan::Replace(_)));
        // One that was made from an object that was deleted and made again gets its new owner.
        let mut again = sync(json!({"stringData": {"a": "b"}}));
        again.metadata.uid = Some("v".to_owned());
        assert!(matches!(plan(&again, Some(&before)), Plan::Update(_)));
    }
}
