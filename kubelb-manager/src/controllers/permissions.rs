//! What the controllers need to be allowed: no more, no less. The chart's roles say the same, and the tests run with exactly this.

use k8s_openapi::api::rbac::v1::PolicyRule;
use kubelb_api::GROUP;

use super::api_servers::{CLUSTER_INFO, ROOT_CA, SERVICE};
use super::registration;

/// Where something is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everywhere (a ClusterRole).
    Cluster,
    /// In the manager's own namespace (a Role).
    Manager,
    /// In this namespace (a Role).
    Namespace(&'static str),
}

/// One thing that is needed.
#[derive(Clone, Copy, Debug)]
pub struct Permission {
    /// Where.
    pub scope: Scope,
    /// API group.
    pub group: &'static str,
    /// Resources and subresources.
    pub resources: &'static [&'static str],
    /// Names of objects; empty: all.
    pub names: &'static [&'static str],
    /// What is done with them.
    pub verbs: &'static [&'static str],
    /// Why.
    pub why: &'static str,
}

const RBAC: &str = "rbac.authorization.k8s.io";

/// What the controllers need. What tenants are granted has to be held besides: [`rules`] has both.
pub const PERMISSIONS: &[Permission] = &[
    Permission {
        scope: Scope::Cluster,
        group: GROUP,
        resources: &["tenants"],
        names: &[],
        verbs: &["list", "patch", "watch"],
        why: "to register them; patch: the finalizer",
    },
    Permission {
        scope: Scope::Cluster,
        group: GROUP,
        resources: &["syncsecrets/status", "tenants/status", "tenantstates/status"],
        names: &[],
        verbs: &["patch"],
        why: "to say what became of them",
    },
    Permission {
        scope: Scope::Cluster,
        group: GROUP,
        resources: &["tenantstates"],
        names: &[],
        verbs: &["create", "delete", "get", "patch"],
        why: "one for each tenant",
    },
    Permission {
        scope: Scope::Cluster,
        group: GROUP,
        resources: &registration::WRITTEN,
        names: &[],
        verbs: &["deletecollection", "list", "patch", "watch"],
        why: "to remove what a tenant made when it goes; patch: finalizers",
    },
    Permission {
        scope: Scope::Cluster,
        group: "",
        resources: &["namespaces"],
        names: &[],
        verbs: &["create", "delete", "get", "list", "patch", "watch"],
        why: "one for each tenant; patch: labels of those that KubeLB made",
    },
    Permission {
        scope: Scope::Cluster,
        group: "",
        resources: &["serviceaccounts"],
        names: &[],
        verbs: &["create", "delete", "get", "list", "patch", "watch"],
        why: "the account of each tenant's CCM",
    },
    Permission {
        scope: Scope::Cluster,
        group: RBAC,
        resources: &["rolebindings", "roles"],
        names: &[],
        verbs: &["create", "delete", "get", "list", "patch", "watch"],
        why: "what that account may do; neither bind nor escalate is needed, because the manager may do all of it itself",
    },
    Permission {
        scope: Scope::Cluster,
        group: "",
        resources: &["secrets"],
        names: &[],
        verbs: &["create", "delete", "get", "list", "update", "watch"],
        why: "kubeconfigs of CCMs, and the Secrets of SyncSecrets; list and watch: metadata of those with the label kubelb.k8c.io/managed-by",
    },
    Permission {
        scope: Scope::Cluster,
        group: "events.k8s.io",
        resources: &["events"],
        names: &[],
        verbs: &["create", "patch"],
        why: "what an administrator can fix",
    },
    Permission {
        scope: Scope::Manager,
        group: GROUP,
        resources: &["configs"],
        names: &[],
        verbs: &["list", "watch"],
        why: "what holds for all tenants",
    },
    Permission {
        scope: Scope::Manager,
        group: GROUP,
        resources: &["configs/status"],
        names: &[],
        verbs: &["patch"],
        why: "which manager reads it",
    },
    Permission {
        scope: Scope::Manager,
        group: "",
        resources: &["configmaps"],
        names: &[ROOT_CA],
        verbs: &["list", "watch"],
        why: "the authority in kubeconfigs",
    },
    Permission {
        scope: Scope::Namespace(CLUSTER_INFO.0),
        group: "",
        resources: &["configmaps"],
        names: &[CLUSTER_INFO.1],
        verbs: &["list", "watch"],
        why: "address and authority in kubeconfigs",
    },
    Permission {
        scope: Scope::Namespace(SERVICE.0),
        group: "discovery.k8s.io",
        resources: &["endpointslices"],
        names: &[],
        verbs: &["list", "watch"],
        why: "addresses in kubeconfigs",
    },
];

/// The rules of the role for `scope`.
#[must_use]
pub fn rules(scope: Scope) -> Vec<PolicyRule> {
    let texts =
        |texts: &[&str]| Some(texts.iter().map(ToString::to_string).collect::<Vec<_>>()).filter(|all| !all.is_empty());
    let own = PERMISSIONS.iter().filter(|permission| permission.scope == scope);
    let own = own.map(|permission| PolicyRule {
        api_groups: texts(&[permission.group]),
        resources: texts(permission.resources),
        resource_names: texts(permission.names),
        verbs: texts(permission.verbs).unwrap_or_default(),
        ..PolicyRule::default()
    });
    // Nobody can grant what he does not have. That is also how tokens can be asked for: of these accounts only.
    let granted = (scope == Scope::Cluster)
        .then(registration::rules)
        .into_iter()
        .flatten();
    own.chain(granted).collect()
}

#[cfg(test)]
mod tests {
    use kubelb_api::names::CCM_ACCOUNT;

    use super::*;

    #[test]
    fn nothing_is_asked_for_that_would_be_everything() {
        for scope in [Scope::Cluster, Scope::Manager] {
            for rule in rules(scope) {
                let words = rule
                    .verbs
                    .iter()
                    .chain(rule.resources.iter().flatten())
                    .chain(rule.api_groups.iter().flatten());
                for word in words {
                    assert!(!["*", "escalate", "bind", "impersonate"].contains(&&**word), "{rule:?}");
                }
            }
        }
    }

    #[test]
    fn tokens_are_made_of_the_accounts_of_ccms_only() {
        for rule in rules(Scope::Cluster) {
            let makes_tokens = rule
                .resources
                .iter()
                .flatten()
                .any(|resource| resource == "serviceaccounts/token");
            assert!(
                !makes_tokens || rule.resource_names.as_deref() == Some(&[CCM_ACCOUNT.to_owned()]),
                "{rule:?}"
            );
        }
    }
}
