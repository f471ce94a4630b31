//! What a tenant has in the management cluster once it is registered. No I/O, no clock.
//!
//! Owns what a tenant's CCM may do there: the rules of its Role. Nothing else grants it anything.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};
use kube::core::ObjectMeta;
use kubelb_api::GROUP;
use kubelb_api::labels::{Label, MANAGED_BY_KUBELB};
use kubelb_api::names::{CCM_ACCOUNT, CCM_KUBECONFIG_SECRET, LEGACY_CCM_TOKEN_SECRET, TenantName};
use kubelb_api::v1alpha1::{ConfigSpec, LoadBalancerState, TenantSpec, Version};

const RBAC: &str = "rbac.authorization.k8s.io";
/// What a CCM writes.
pub(crate) const WRITTEN: [&str; 4] = ["addresses", "loadbalancers", "routes", "syncsecrets"];
/// What it may do with that.
pub(crate) const WRITE_VERBS: [&str; 7] = ["create", "delete", "get", "list", "patch", "update", "watch"];
/// Label on which API servers say when a token of a Secret was last used.
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
/// Which product a version is of.
const EDITION: &str = "CE";

/// Whose a namespace with the name of a tenant's is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Made by a manager, KubeLB's or this one; it goes with the tenant.
    Made,
    /// Made by somebody who then gave it to the tenant; it stays when the tenant goes.
    Given,
    /// Somebody else's.
    Foreign,
}

/// Whose `namespace` is.
pub(crate) fn standing(namespace: &ObjectMeta, tenant: &TenantName) -> Standing {
    match (Label::TENANT.get(namespace), Label::MANAGED_BY.get(namespace)) {
        (Some(other), _) if other != tenant.as_str() => Standing::Foreign,
        (_, Some(MANAGED_BY_KUBELB)) => Standing::Made,
        (Some(_), _) => Standing::Given,
        (None, _) => Standing::Foreign,
    }
}

/// What to do about a namespace that is somebody else's.
pub(crate) fn namespace_taken(tenant: &TenantName) -> String {
    let (namespace, key) = (tenant.namespace(), Label::TENANT.key());
    format!(
        "namespace {namespace} exists and is not this tenant's: set its metadata.labels[{key}] to {tenant} to have it used, or delete it \
         (kubectl label namespace {namespace} {key}={tenant})"
    )
}

/// What to do about a token that KubeLB made.
pub(crate) fn token_never_ends(tenant: &TenantName, secret: &ObjectMeta) -> String {
    let namespace = tenant.namespace();
    let last_used = secret.labels.as_ref().and_then(|labels| labels.get(LAST_USED));
    let used = last_used.map_or(String::new(), |day| format!(", last used on {day}"));
    format!(
        "Secret {namespace}/{LEGACY_CCM_TOKEN_SECRET}, from KubeLB, has a token that never ends{used}. When the tenant's CCM has the kubeconfig of \
         Secret {CCM_KUBECONFIG_SECRET}, delete it (kubectl delete secret -n {namespace} {LEGACY_CCM_TOKEN_SECRET})"
    )
}

fn metadata(tenant: &TenantName, namespace: Option<String>, name: &str) -> ObjectMeta {
    let mut metadata = ObjectMeta {
        name: Some(name.to_owned()),
        namespace,
        ..ObjectMeta::default()
    };
    Label::MANAGED_BY.set(&mut metadata, MANAGED_BY_KUBELB);
    Label::TENANT.set(&mut metadata, tenant.as_str());
    metadata
}

/// Metadata of what is made in a tenant's namespace.
pub(crate) fn inside(tenant: &TenantName, name: &str) -> ObjectMeta {
    metadata(tenant, Some(tenant.namespace()), name)
}

/// The namespace.
pub(crate) fn namespace(tenant: &TenantName) -> Namespace {
    Namespace {
        metadata: metadata(tenant, None, &tenant.namespace()),
        ..Namespace::default()
    }
}

/// The account.
pub(crate) fn account(tenant: &TenantName) -> ServiceAccount {
    ServiceAccount {
        metadata: inside(tenant, CCM_ACCOUNT),
        // No Pod runs as it.
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

/// What the account may do. A manager has to have all of it, or the API server refuses the Role as an escalation.
pub(crate) fn rules() -> Vec<PolicyRule> {
    let texts = |texts: &[&str]| Some(texts.iter().map(ToString::to_string).collect::<Vec<_>>());
    let rule = |group: &str, resources: Vec<String>, verbs: &[&str]| PolicyRule {
        api_groups: texts(&[group]),
        resources: Some(resources),
        verbs: texts(verbs).unwrap_or_default(),
        ..PolicyRule::default()
    };
    let written: Vec<String> = WRITTEN.iter().map(ToString::to_string).collect();
    let statuses = WRITTEN.iter().map(|resource| format!("{resource}/status")).collect();
    vec![
        rule(GROUP, written, &WRITE_VERBS),
        // What the manager says is the manager's to say.
        rule(GROUP, statuses, &["get"]),
        rule(GROUP, vec!["tenantstates".to_owned()], &["get", "list", "watch"]),
        PolicyRule {
            resource_names: texts(&[CCM_ACCOUNT]),
            ..rule("", vec!["serviceaccounts/token".to_owned()], &["create"])
        },
    ]
}

/// The Role.
pub(crate) fn role(tenant: &TenantName) -> Role {
    Role {
        metadata: inside(tenant, CCM_ACCOUNT),
        rules: Some(rules()),
    }
}

/// Gives the Role to the account, and to nobody else.
pub(crate) fn binding(tenant: &TenantName) -> RoleBinding {
    RoleBinding {
        metadata: inside(tenant, CCM_ACCOUNT),
        role_ref: RoleRef {
            api_group: Some(RBAC.to_owned()),
            kind: "Role".to_owned(),
            name: CCM_ACCOUNT.to_owned(),
        },
        subjects: Some(vec![Subject {
            api_group: None,
            kind: "ServiceAccount".to_owned(),
            name: CCM_ACCOUNT.to_owned(),
            namespace: Some(tenant.namespace()),
        }]),
    }
}

/// Whether every label that is wanted is there.
pub(crate) fn is_labelled(present: &ObjectMeta, wanted: &ObjectMeta) -> bool {
    let none = BTreeMap::new();
    let labels = present.labels.as_ref().unwrap_or(&none);
    wanted
        .labels
        .iter()
        .flatten()
        .all(|(key, value)| labels.get(key) == Some(value))
}

/// Whether nothing has to be written.
pub(crate) fn account_is_right(present: &ServiceAccount, wanted: &ServiceAccount) -> bool {
    present.automount_service_account_token == wanted.automount_service_account_token
        && is_labelled(&present.metadata, &wanted.metadata)
}

/// Whether nothing has to be written.
pub(crate) fn role_is_right(present: &Role, wanted: &Role) -> bool {
    present.rules == wanted.rules && is_labelled(&present.metadata, &wanted.metadata)
}

/// Whether it names the Role; the API server never lets that be changed.
pub(crate) fn names_the_role(present: &RoleBinding, wanted: &RoleBinding) -> bool {
    (&present.role_ref.kind, &present.role_ref.name) == (&wanted.role_ref.kind, &wanted.role_ref.name)
}

/// Whether nothing has to be written.
pub(crate) fn binding_is_right(present: &RoleBinding, wanted: &RoleBinding) -> bool {
    let who = |subjects: &Option<Vec<Subject>>| -> Vec<(String, String, Option<String>)> {
        let all = subjects.iter().flatten();
        all.map(|subject| (subject.kind.clone(), subject.name.clone(), subject.namespace.clone()))
            .collect()
    };
    names_the_role(present, wanted)
        && who(&present.subjects) == who(&wanted.subjects)
        && is_labelled(&present.metadata, &wanted.metadata)
}

/// What the tenant's limits come to: what its Tenant says, else what the Config says.
pub(crate) fn load_balancer_state(tenant: &TenantSpec, config: Option<&ConfigSpec>) -> LoadBalancerState {
    let own = tenant.load_balancer.as_ref().and_then(|settings| settings.disable);
    let general = config.and_then(|config| config.load_balancer.as_ref()?.disable);
    LoadBalancerState {
        disable: Some(own.or(general).unwrap_or(false)),
    }
}

/// Which manager this is.
pub(crate) fn version() -> Version {
    Version {
        git_version: Some(format!("v{}", env!("CARGO_PKG_VERSION"))),
        edition: Some(EDITION.to_owned()),
        ..Version::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tenant() -> TenantName {
        TenantName::new("x").unwrap()
    }

    fn labelled(labels: serde_json::Value) -> ObjectMeta {
        serde_json::from_value(json!({"name": "tenant-x", "labels": labels})).unwrap()
    }

    #[test]
    fn a_namespace_is_taken_from_nobody() {
        let cases = [
            (json!({}), Standing::Foreign),
            (json!({"kubelb.k8c.io/tenant": "x"}), Standing::Given),
            (json!({"kubelb.k8c.io/tenant": "y"}), Standing::Foreign),
            (
                json!({"kubelb.k8c.io/managed-by": "kubelb", "kubelb.k8c.io/tenant": "y"}),
                Standing::Foreign,
            ),
            // As KubeLB makes them.
            (json!({"kubelb.k8c.io/managed-by": "kubelb"}), Standing::Made),
            (
                json!({"kubelb.k8c.io/managed-by": "kubelb", "kubelb.k8c.io/tenant": "x"}),
                Standing::Made,
            ),
            (json!({"kubelb.k8c.io/managed-by": "somebody"}), Standing::Foreign),
        ];
        for (labels, expected) in cases {
            assert_eq!(standing(&labelled(labels.clone()), &tenant()), expected, "{labels}");
        }
        assert_eq!(standing(&namespace(&tenant()).metadata, &tenant()), Standing::Made);
        assert!(namespace_taken(&tenant()).contains("metadata.labels[kubelb.k8c.io/tenant]"));
    }

    #[test]
    fn a_ccm_writes_its_objects_and_no_status() {
        for rule in rules() {
            let statuses = rule
                .resources
                .iter()
                .flatten()
                .any(|resource| resource.ends_with("/status"));
            assert!(!statuses || rule.verbs == ["get"], "{rule:?}");
            assert!(rule.verbs.iter().all(|verb| verb != "*"), "{rule:?}");
        }
    }

    #[test]
    fn what_somebody_changed_is_seen() {
        let wanted = role(&tenant());
        assert!(role_is_right(&wanted, &wanted));
        let mut kubelbs = wanted.clone();
        kubelbs.rules.as_mut().unwrap()[1].verbs.push("update".to_owned());
        assert!(!role_is_right(&kubelbs, &wanted));

        let wanted = binding(&tenant());
        let mut wider = wanted.clone();
        wider.subjects.as_mut().unwrap().push(Subject {
            kind: "Group".to_owned(),
            name: "system:authenticated".to_owned(),
            ..Subject::default()
        });
        assert!(!binding_is_right(&wider, &wanted) && names_the_role(&wider, &wanted));
        let mut other = wanted.clone();
        other.role_ref.kind = "ClusterRole".to_owned();
        assert!(!names_the_role(&other, &wanted));
        // What an API server fills in is no change.
        let mut stored = wanted.clone();
        stored.subjects.as_mut().unwrap()[0].api_group = Some(String::new());
        stored.metadata.uid = Some("u".to_owned());
        assert!(binding_is_right(&stored, &wanted));
    }

    #[test]
    fn the_tenant_wins_over_the_config() {
        let config: ConfigSpec = serde_json::from_value(json!({"loadBalancer": {"disable": true}})).unwrap();
        let says = |tenant: serde_json::Value, config: Option<&ConfigSpec>| {
            load_balancer_state(&serde_json::from_value(tenant).unwrap(), config).disable
        };
        assert_eq!(says(json!({}), None), Some(false));
        assert_eq!(says(json!({}), Some(&config)), Some(true));
        assert_eq!(
            says(json!({"loadBalancer": {"disable": false}}), Some(&config)),
            Some(false)
        );
    }
}
