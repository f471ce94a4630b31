//! Which names differ between two snapshots. Owns the comparison; must not know what a session does with it.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::resource::Resource;
use crate::resource_type::{PerType, ResourceType};
use crate::snapshot::{Snapshot, Table};

/// Names that were added, changed or removed between two snapshots.
#[derive(Clone, Debug, Default)]
pub struct Diff {
    names: PerType<BTreeSet<Arc<str>>>,
}

impl Diff {
    pub(super) fn between(old: &Snapshot, new: &Snapshot) -> Self {
        let mut diff = Self::default();
        for kind in ResourceType::ALL {
            if !old.shares_table(new, kind) {
                compare(old.table(kind), new.table(kind), diff.names.get_mut(kind));
            }
        }
        diff.add_referrers(old, new);
        diff
    }

    /// What needs a secret or routes comes and goes with them.
    pub(super) fn add_referrers(&mut self, old: &Snapshot, new: &Snapshot) {
        let required = ResourceType::ALL.into_iter().filter(|kind| kind.is_required());
        for kind in required {
            let appears = |name: &&Arc<str>| match (old.get(kind, name), new.get(kind, name)) {
                (Some(before), Some(after)) => before.owner() != after.owner() || before.audience() != after.audience(),
                (None, None) => false,
                _ => true,
            };
            let names: BTreeSet<Arc<str>> = self.names(kind).iter().filter(appears).cloned().collect();
            if names.is_empty() {
                continue;
            }
            for referrer in kind.referrers() {
                let leads = |resource: &&Arc<Resource>| {
                    let mut references = resource.references().iter();
                    references.any(|needs| needs.kind == kind && names.contains(&needs.name))
                };
                let table = new.table(*referrer).values().filter(leads);
                let into = self.names.get_mut(*referrer);
                into.extend(table.map(|resource| Arc::clone(resource.name())));
            }
        }
    }

    pub(super) fn insert(&mut self, kind: ResourceType, name: Arc<str>) {
        self.names.get_mut(kind).insert(name);
    }

    /// Names of one type.
    #[must_use]
    pub fn names(&self, kind: ResourceType) -> &BTreeSet<Arc<str>> {
        self.names.get(kind)
    }

    /// Whether nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        ResourceType::ALL.into_iter().all(|kind| self.names(kind).is_empty())
    }
}

/// One walk along both tables, in the order of names.
fn compare(old: &Table, new: &Table, into: &mut BTreeSet<Arc<str>>) {
    let (mut old, mut new) = (old.values().peekable(), new.values().peekable());
    loop {
        let (before, after) = (old.peek(), new.peek());
        let order = match (before, after) {
            (None, None) => return,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(before), Some(after)) => before.name().cmp(after.name()),
        };
        let (before, after) = (old.next_if(|_| order.is_le()), new.next_if(|_| order.is_ge()));
        if let Some(either) = after.or(before)
            && !same(before, after)
        {
            into.insert(Arc::clone(either.name()));
        }
    }
}

fn same(before: Option<&Arc<Resource>>, after: Option<&Arc<Resource>>) -> bool {
    match (before, after) {
        (Some(before), Some(after)) => Arc::ptr_eq(before, after) || before.is_same(after),
        _ => false,
    }
}
