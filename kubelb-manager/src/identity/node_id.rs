//! What a peer calls itself, held against what it has proved. Owns when a node id is somebody else's; a name that is nobody's says nothing.

use kubelb_xds::contract::NodeId;
use kubelb_xds::{Scope, Tenants};

use super::Identity;
use super::spiffe::JOINT;

impl Identity {
    /// Whether a peer that has proved this may call itself so. It gets what its proof is for either way; but who claims a node, a tenant or all of them
    /// that the proof is not for is not configured as it was meant to be, or tries something. A claim of less is none, and neither is an id that is not of
    /// the form of [`NodeId`].
    #[must_use]
    pub fn may_be_called(&self, node_id: &str) -> bool {
        match (node_id.parse(), &self.scope) {
            (Err(_foreign), _) => true,
            // A token that is not bound to a Pod says nothing of nodes.
            (Ok(NodeId::Agent(claimed)), Scope::Agent) => self.node.as_ref().is_none_or(|proven| *proven == claimed),
            (Ok(NodeId::Fleet(_)), Scope::Fleet(Tenants::All)) => true,
            (Ok(NodeId::Fleet(claimed)), Scope::Fleet(Tenants::Only(proven))) => {
                let fleet = claimed.split('/').next().unwrap_or_default();
                fleet.split(JOINT).all(|tenant| proven.contains(tenant))
            }
            (Ok(NodeId::Agent(_)), Scope::Fleet(_)) | (Ok(NodeId::Fleet(_)), Scope::Agent) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::identity::SpiffeId;

    fn identity(id: &str) -> Identity {
        let id: SpiffeId = format!("spiffe://kubelb/{id}").parse().unwrap();
        let node = if let SpiffeId::Agent(node) = &id {
            Some(node.clone())
        } else {
            None
        };
        Identity {
            subject: id.to_string(),
            scope: id.scope().unwrap(),
            node,
            expires: SystemTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_peer_may_have_its_own_name_less_than_that_or_one_of_another_form() {
        for (proven, called) in [
            ("agent/n1", "agent/n1"),
            ("agent/n1", ""),
            ("agent/n1", "n2"),
            ("agent/n1", "agent/"),
            ("fleet/a_b", "fleet/a_b"),
            ("fleet/a_b", "fleet/b"),
            ("fleet/a_b", "fleet/a/pod-7"),
            ("fleet/a_b", "envoy-7f9"),
            ("fleet/_all", "fleet/_all"),
            ("fleet/_all", "fleet/edge"),
        ] {
            assert!(identity(proven).may_be_called(called), "{proven} as {called}");
        }
        let unbound = Identity {
            node: None,
            ..identity("agent/n1")
        };
        assert!(unbound.may_be_called("agent/n2"));
    }

    #[test]
    fn nobody_may_have_anothers_name() {
        for (proven, called) in [
            ("agent/n1", "agent/n2"),
            ("agent/n1", "fleet/a"),
            ("fleet/a", "fleet/b"),
            ("fleet/a", "fleet/a_b"),
            ("fleet/a", "fleet/_all"),
            ("fleet/a", "fleet/b/a"),
            ("fleet/a", "fleet/_"),
            ("fleet/a", "agent/n1"),
            ("fleet/_all", "agent/n1"),
        ] {
            assert!(!identity(proven).may_be_called(called), "{proven} as {called}");
        }
    }
}
