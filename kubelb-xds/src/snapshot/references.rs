//! Whether a snapshot is complete. Owns the check; must not know why something is missing.

use std::sync::Arc;

use crate::resource::{Audience, Owner, Reference, Resource};
use crate::resource_type::ResourceType;
use crate::snapshot::{Scope, Snapshot, Tenants};

/// A resource needs another one that is not there, or that some peer who sees the first may not see.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {name:?} needs {} {:?}, which {}", .needs.kind, .needs.name, if *.hidden { "is not for all who see it" } else { "does not exist" })]
pub struct DanglingReference {
    /// Type of the resource that refers.
    pub kind: ResourceType,
    /// Its name.
    pub name: Arc<str>,
    /// Whose it is.
    pub owner: Owner,
    /// What it refers to.
    pub needs: Reference,
    /// It exists, for others.
    pub hidden: bool,
}

impl Snapshot {
    /// Whether everything that is referenced exists, and is visible to whoever sees what refers to it. A snapshot that fails is not to be
    /// published: peers would wait for what never comes.
    ///
    /// # Errors
    /// With every such reference.
    pub fn check_references(&self) -> Result<(), Vec<DanglingReference>> {
        let resources = ResourceType::ALL.into_iter().flat_map(|kind| self.table(kind).values());
        let dangling: Vec<DanglingReference> = resources
            .flat_map(|resource| resource.references().iter().map(move |needs| (resource, needs)))
            .filter_map(|(resource, needs)| self.dangling(resource, needs))
            .collect();
        if dangling.is_empty() { Ok(()) } else { Err(dangling) }
    }

    fn dangling(&self, resource: &Resource, needs: &Reference) -> Option<DanglingReference> {
        let found = self.get(needs.kind, &needs.name);
        if found.is_some_and(|found| covers(found, resource)) {
            return None;
        }
        Some(DanglingReference {
            kind: resource.kind(),
            name: Arc::clone(resource.name()),
            owner: resource.owner().clone(),
            needs: needs.clone(),
            hidden: found.is_some(),
        })
    }
}

/// Whether everybody who sees `referrer` sees `needed`.
fn covers(needed: &Resource, referrer: &Resource) -> bool {
    let audience = needed.audience() == Audience::Everyone || needed.audience() == referrer.audience();
    let owner = match referrer.audience() {
        // Agents see every tenant's.
        Audience::Agents => true,
        Audience::Fleets | Audience::Everyone => *needed.owner() == Owner::Shared || needed.owner() == referrer.owner(),
    };
    audience && owner
}

impl Scope {
    /// A fleet of one tenant.
    #[must_use]
    pub fn tenant(name: impl Into<Arc<str>>) -> Self {
        Self::Fleet(Tenants::Only([name.into()].into()))
    }
}
