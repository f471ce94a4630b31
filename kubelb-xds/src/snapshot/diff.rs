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
        diff
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
