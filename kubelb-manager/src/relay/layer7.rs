//! Resources of layer 7 among what managers tell each other. Routes of many objects are in one of them, so each counts by itself: where an object
//! is named, one of these is, `http` (nobody's namespace) being the first part of its name.
//!
//! Owns which of them count: those that statuses are about. Clusters and endpoints change with every Pod, and are not.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use kubelb_api::names::TenantName;
use kubelb_xds::{ResourceType, Snapshot, Version};

use super::Digests;
use crate::object::ObjectName;
use crate::xds::LAYER7;

const KINDS: [ResourceType; 3] = [ResourceType::Listener, ResourceType::Route, ResourceType::Secret];

/// Whether it counts what peers have taken of resources of this type.
#[must_use]
pub fn counts(kind: ResourceType) -> bool {
    KINDS.contains(&kind)
}

/// Brings digests up with layer 7 of a tenant; what differs from before.
pub fn follow(digests: &mut Digests, snapshot: &Snapshot, tenant: &TenantName) -> BTreeSet<ObjectName> {
    let mut changed = BTreeSet::new();
    let mut new = of(snapshot, tenant);
    let known: Vec<(ObjectName, u64)> = within(digests.range(first(tenant)..), tenant)
        .map(|(name, digest)| (name.clone(), *digest))
        .collect();
    for (name, before) in known {
        match new.remove(&name) {
            Some(after) if after == before => {}
            Some(after) => {
                digests.insert(name.clone(), after);
                changed.insert(name);
            }
            None => {
                digests.remove(&name);
                changed.insert(name);
            }
        }
    }
    changed.extend(new.keys().cloned());
    digests.append(&mut new);
    changed
}

/// Those of a tenant among names of objects and resources.
pub(crate) fn among<'a>(
    names: &'a BTreeSet<ObjectName>,
    tenant: &TenantName,
) -> impl Iterator<Item = &'a ObjectName> + 'a {
    let prefix = prefix(tenant);
    let from = names.range(first(tenant)..);
    from.take_while(move |name| is_within(name, &prefix))
}

/// Of each resource of a tenant, by its name. A listener may have the name of its routes: then it is of both.
fn of(snapshot: &Snapshot, tenant: &TenantName) -> Digests {
    let prefix = format!("{LAYER7}/{tenant}/");
    let mut texts: BTreeMap<Arc<str>, String> = BTreeMap::new();
    for kind in KINDS {
        let from = snapshot
            .table(kind)
            .range::<str, _>((Bound::Included(prefix.as_str()), Bound::Unbounded));
        for (name, resource) in from.take_while(|(name, _)| name.starts_with(&prefix)) {
            let text = texts.entry(Arc::clone(name)).or_default();
            text.push_str(&format!("{} {}\n", kind.label(), resource.version()));
        }
    }
    let digests = texts.iter().filter_map(|(name, text)| {
        let name = name.split_once('/').map(|(first, rest)| ObjectName::new(first, rest))?;
        Some((name, Version::of(text.as_bytes()).number().max(1)))
    });
    digests.collect()
}

fn prefix(tenant: &TenantName) -> String {
    format!("{tenant}/")
}

fn first(tenant: &TenantName) -> ObjectName {
    ObjectName::new(LAYER7, &prefix(tenant))
}

fn is_within(name: &ObjectName, prefix: &str) -> bool {
    &*name.namespace == LAYER7 && name.name.starts_with(prefix)
}

fn within<'a, T>(
    all: impl Iterator<Item = (&'a ObjectName, T)>,
    tenant: &TenantName,
) -> impl Iterator<Item = (&'a ObjectName, T)> {
    let prefix = prefix(tenant);
    all.take_while(move |(name, _)| is_within(name, &prefix))
}
