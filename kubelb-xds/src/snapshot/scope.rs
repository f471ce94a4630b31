//! What a peer may see. Owns the rule; must not know how a peer proves its scope.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::resource::{Audience, Owner, Resource};
use crate::resource_type::ResourceType;

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
    /// Whether there can be anything of this type for a peer of this scope. Certificates and routes are for proxies alone, and who announces an
    /// address for agents, whatever the audience of a resource says.
    #[must_use]
    pub const fn opens(&self, kind: ResourceType) -> bool {
        match self {
            Self::Agent => !matches!(kind, ResourceType::Secret | ResourceType::Route),
            Self::Fleet(_) => !matches!(kind, ResourceType::VirtualAddress),
        }
    }

    /// Whether a peer of this scope may see `resource`.
    #[must_use]
    pub fn sees(&self, resource: &Resource) -> bool {
        if !self.opens(resource.kind()) {
            return false;
        }
        match (self, resource.audience()) {
            (Self::Agent, audience) => audience != Audience::Fleets,
            (Self::Fleet(_), Audience::Agents) => false,
            (Self::Fleet(tenants), Audience::Fleets | Audience::Everyone) => tenants.own(resource.owner()),
        }
    }
}

/// For logs and status: `agent`, `fleet(*)` or `fleet(a,b)`.
impl fmt::Display for Scope {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent => formatter.write_str("agent"),
            Self::Fleet(Tenants::All) => formatter.write_str("fleet(*)"),
            Self::Fleet(Tenants::Only(names)) => {
                let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
                write!(formatter, "fleet({})", names.join(","))
            }
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
