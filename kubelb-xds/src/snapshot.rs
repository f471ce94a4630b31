//! The whole configuration at one moment: immutable, shared by all sessions, with the difference to the one before it.
//!
//! Owns consistency (every name that is referenced exists) and visibility ([`Scope`]). Must not know: sessions, and where resources come from.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use crate::resource::Resource;
use crate::resource_type::{PerType, ResourceType};

mod diff;
mod references;
mod scope;

pub use diff::Diff;
pub use references::DanglingReference;
pub use scope::{Scope, Tenants};

/// Resources of one type by name.
pub type Table = BTreeMap<Arc<str>, Arc<Resource>>;

/// Everything that is served. Cheap to clone; compare with [`Snapshot::is_same`].
#[derive(Clone, Debug)]
pub struct Snapshot {
    tables: PerType<Arc<Table>>,
    id: Identity,
    change: Option<Arc<Change>>,
}

/// A snapshot's own mark: two are the same snapshot when they share it.
#[derive(Clone, Debug)]
struct Identity(Arc<u8>);

#[derive(Debug)]
struct Change {
    since: Identity,
    diff: Diff,
}

/// Two resources of one type have one name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("two resources of type {kind} are called {name:?}")]
pub struct DuplicateName {
    /// Their type.
    pub kind: ResourceType,
    /// Their name.
    pub name: Arc<str>,
}

impl Identity {
    fn new() -> Self {
        Self(Arc::new(0))
    }

    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Default for Snapshot {
    /// With no resource at all.
    fn default() -> Self {
        Self {
            tables: PerType::default(),
            id: Identity::new(),
            change: None,
        }
    }
}

impl Snapshot {
    /// A snapshot of exactly these resources. What equals a resource of `previous` is taken over from there, and the difference is computed
    /// once, for all sessions that have `previous`.
    ///
    /// # Errors
    /// When a name comes twice: the caller keeps the previous snapshot.
    pub fn build(
        resources: impl IntoIterator<Item = Resource>,
        previous: Option<&Self>,
    ) -> Result<Self, DuplicateName> {
        let mut tables: PerType<Table> = PerType::default();
        for resource in resources {
            let old = previous.and_then(|previous| previous.get(resource.kind(), resource.name()));
            let shared = match old {
                Some(old) if old.is_same(&resource) => Arc::clone(old),
                _ => Arc::new(resource),
            };
            match tables.get_mut(shared.kind()).entry(Arc::clone(shared.name())) {
                Entry::Vacant(entry) => {
                    entry.insert(shared);
                }
                Entry::Occupied(entry) => {
                    return Err(DuplicateName {
                        kind: shared.kind(),
                        name: Arc::clone(entry.key()),
                    });
                }
            }
        }
        let mut snapshot = Self::default();
        for kind in ResourceType::ALL {
            *snapshot.tables.get_mut(kind) = Arc::new(std::mem::take(tables.get_mut(kind)));
        }
        if let Some(previous) = previous {
            let diff = Diff::between(previous, &snapshot);
            snapshot.follows(previous, diff);
        }
        Ok(snapshot)
    }

    /// This snapshot with some resources added or replaced, and some removed. Costs a copy of the tables that change.
    #[must_use]
    pub fn update(&self, changed: impl IntoIterator<Item = Resource>, removed: &[(ResourceType, Arc<str>)]) -> Self {
        let mut next = Self {
            tables: self.tables.clone(),
            id: Identity::new(),
            change: None,
        };
        let mut diff = Diff::default();
        for (kind, name) in removed {
            if next.get(*kind, name).is_some() {
                Arc::make_mut(next.tables.get_mut(*kind)).remove(name);
                diff.insert(*kind, Arc::clone(name));
            }
        }
        for resource in changed {
            let (kind, name) = (resource.kind(), Arc::clone(resource.name()));
            if !next.get(kind, &name).is_some_and(|old| old.is_same(&resource)) {
                Arc::make_mut(next.tables.get_mut(kind)).insert(Arc::clone(&name), Arc::new(resource));
                diff.insert(kind, name);
            }
        }
        diff.add_referrers(self, &next);
        next.follows(self, diff);
        next
    }

    fn follows(&mut self, previous: &Self, diff: Diff) {
        self.change = Some(Arc::new(Change {
            since: previous.id.clone(),
            diff,
        }));
    }

    /// The resource of this type and name.
    #[must_use]
    pub fn get(&self, kind: ResourceType, name: &str) -> Option<&Arc<Resource>> {
        self.tables.get(kind).get(name)
    }

    /// All resources of a type.
    #[must_use]
    pub fn table(&self, kind: ResourceType) -> &Table {
        self.tables.get(kind)
    }

    /// The resource of this type and name if a peer of this scope may see it: what it may not see does not exist for it, and neither does
    /// what it could not use because it lacks a secret or routes ([`ResourceType::is_required`]).
    #[must_use]
    pub fn visible(&self, scope: &Scope, kind: ResourceType, name: &str) -> Option<&Arc<Resource>> {
        self.get(kind, name)
            .filter(|resource| scope.sees(resource) && self.is_complete(resource, scope))
    }

    /// All that a peer of this scope may see of a type.
    pub fn view<'a>(&'a self, scope: &'a Scope, kind: ResourceType) -> impl Iterator<Item = &'a Arc<Resource>> + 'a {
        let sees = |resource: &&Arc<Resource>| scope.sees(resource) && self.is_complete(resource, scope);
        self.table(kind).values().filter(sees)
    }

    /// Whether everything is there without which a peer would wait for it.
    fn is_complete(&self, resource: &Resource, scope: &Scope) -> bool {
        let mut required = resource.references().iter().filter(|needs| needs.kind.is_required());
        required.all(|needs| self.get(needs.kind, &needs.name).is_some_and(|found| scope.sees(found)))
    }

    /// Whether this is the very same snapshot (not one with equal contents).
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.id.is(&other.id)
    }

    /// What differs from `older`: the difference that was computed with this snapshot when `older` is the one before it, else by comparing.
    #[must_use]
    pub fn diff_since(&self, older: &Self) -> std::borrow::Cow<'_, Diff> {
        use std::borrow::Cow;
        match &self.change {
            _ if self.is_same(older) => Cow::Owned(Diff::default()),
            Some(change) if change.since.is(&older.id) => Cow::Borrowed(&change.diff),
            _ => Cow::Owned(Diff::between(older, self)),
        }
    }

    /// What differs from `older` when that is the one before this; where it is another one, nothing is compared.
    #[must_use]
    pub fn change_since(&self, older: &Self) -> Option<&Diff> {
        let change = self.change.as_ref().filter(|change| change.since.is(&older.id));
        change.map(|change| &change.diff)
    }

    /// Whether both have the same table of a type in memory.
    fn shares_table(&self, other: &Self, kind: ResourceType) -> bool {
        Arc::ptr_eq(self.tables.get(kind), other.tables.get(kind))
    }
}

#[cfg(test)]
mod tests;
