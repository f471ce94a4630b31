//! Whether the management cluster still has the tenant.
//!
//! It says in TenantState `default` that the tenant is being deleted, and takes the tenant's rights away afterwards. What was said holds until a
//! TenantState says otherwise: one that is gone, or can no longer be read, says nothing.

use kubelb_api::conditions::{ConditionType, TENANT_DELETED, get};
use kubelb_api::v1alpha1::TenantState;
use tokio::sync::watch;

/// What was last heard.
#[derive(Clone, Debug)]
pub(crate) struct Tenancy(watch::Sender<bool>);

impl Tenancy {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    /// Whether the tenant is deleted.
    pub(crate) fn is_over(&self) -> bool {
        *self.0.borrow()
    }

    /// Takes up what a TenantState says, as it is or as it was when it was deleted: whether that is news.
    pub(crate) fn hear(&self, state: &TenantState) -> bool {
        let is_over = says_it_is_over(state);
        self.0.send_if_modified(|known| {
            let is_news = *known != is_over;
            *known = is_over;
            is_news
        })
    }
}

fn says_it_is_over(state: &TenantState) -> bool {
    let conditions = state.status.iter().flat_map(|status| &status.conditions);
    let conditions: Vec<_> = conditions.cloned().collect();
    get(&conditions, ConditionType::Ready)
        .is_some_and(|ready| ready.status == "False" && ready.reason == TENANT_DELETED)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn state(status: &str, reason: &str) -> TenantState {
        serde_json::from_value(json!({
            "apiVersion": "kubelb.k8c.io/v1alpha1", "kind": "TenantState", "metadata": {"name": "default"}, "spec": {},
            "status": {"conditions": [{"type": "Ready", "status": status, "reason": reason, "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
        }))
        .unwrap()
    }

    #[test]
    fn a_tenant_is_over_when_that_is_said_and_until_another_is_registered() {
        let tenancy = Tenancy::new();
        assert!(!tenancy.hear(&state("True", "Registered")));
        assert!(!tenancy.hear(&state("False", "NamespaceTaken")) && !tenancy.is_over());
        assert!(tenancy.hear(&state("False", "TenantDeleted")) && tenancy.is_over());
        assert!(!tenancy.hear(&state("False", "TenantDeleted")));
        assert!(tenancy.hear(&state("True", "Registered")) && !tenancy.is_over());
    }
}
