//! What a peer may see. Owns the rule; must not know how a peer proves its scope.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::resource::{Audience, Owner, Resource};

/// What a peer may see, by its credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// A node agent: everything for agents, of all tenants.
    Agent,
    /// An Envoy: everything for fleets that is shared or of these tenants.
    Fleet(Tenants),
}

/// The tenants that a fleet serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tenants {
    /// Every tenant, later ones too.
    All,
    /// These.
    Only(BTreeSet<Arc<str>>),
}

impl Scope {
    /// Whether a peer of this scope may see `resource`.
    #[must_use]
    pub fn sees(&self, resource: &Resource) -> bool {
        match (self, resource.audience()) {
            (Self::Agent, audience) => audience != Audience::Fleets,
            (Self::Fleet(_), Audience::Agents) => false,
            (Self::Fleet(tenants), Audience::Fleets | Audience::Everyone) => tenants.own(resource.owner()),
        }
    }
}

impl Tenants {
    fn own(&self, owner: &Owner) -> bool {
        match (self, owner) {
            (Self::All, _) | (_, Owner::Shared) => true,
            (Self::Only(names), Owner::Tenant(name)) => names.contains(name),
        }
    }
}
