//! What each LoadBalancer wants of the pools: families, addresses that are asked for, and whom it shares with.
//!
//! Must not know: claims and free addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use kubelb_api::annotations::Annotation;
use kubelb_api::names::TenantName;
use kubelb_api::v1alpha1 as api;

use super::{Given, IpFamily, Pools, gateway};
use crate::object::{Kind, ObjectKey, ObjectName};
use crate::problem::{Problem, Reason};
use crate::store::Store;

/// A port that is dialled.
pub(super) type Port = (&'static str, i32);

/// The order in which wants are served: by age, those without a date last, then by name.
pub(super) type Rank = (bool, Option<jiff::Timestamp>, ObjectKey);

/// What one object wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// The object.
    pub object: ObjectKey,
    /// Its uid, empty where there are none.
    pub uid: String,
    /// Its tenant.
    pub tenant: TenantName,
    /// Families, the more important one first.
    pub families: Vec<IpFamily>,
    /// How many of them it cannot do without.
    pub at_least: usize,
    /// Addresses that it asks for.
    pub requested: BTreeMap<IpFamily, IpAddr>,
    /// The only pool that it takes addresses from.
    pub pool: Option<String>,
    /// Those of the tenant with the same word may have the same address.
    pub sharing: Option<String>,
    /// What it is dialled on.
    pub(super) ports: BTreeSet<Port>,
    /// Addresses that its status has.
    pub unclaimed: BTreeSet<IpAddr>,
    /// The fields that ask for addresses.
    pub(super) asks_by: BTreeMap<IpFamily, String>,
    /// It keeps what it has, and gets nothing else.
    pub(super) only_keeps: bool,
}

impl Want {
    /// The field to blame when there is no such address.
    pub(super) fn field(&self, family: IpFamily) -> String {
        self.asks_by.get(&family).cloned().unwrap_or_default()
    }
}

/// What all objects want that get their addresses from pools. One that was given an address outside of the pools keeps that.
#[must_use]
pub(super) fn wants(store: &Store, pools: &Pools, given: Given) -> (BTreeMap<Rank, Want>, Vec<Problem>) {
    let mut problems = Vec::new();
    let mut wants = BTreeMap::new();
    for (name, object) in store.load_balancers() {
        let Some(tenant) = TenantName::from_namespace(&name.namespace) else {
            continue;
        };
        let is_served = object.metadata.deletion_timestamp.is_none()
            && object.spec.type_ == "LoadBalancer"
            && store.tenants().contains_key(&ObjectName::new("", tenant.as_str()));
        if !is_served {
            continue;
        }
        let mut want = read(name, object, tenant, pools, &mut problems);
        let (allowed, others): (BTreeSet<IpAddr>, BTreeSet<IpAddr>) =
            want.unclaimed.iter().partition(|address| pools.allow(&want, **address));
        if !others.is_empty() && given == Given::Held {
            continue;
        }
        want.unclaimed = allowed;
        let created = object.metadata.creation_timestamp.as_ref().map(|time| time.0);
        wants.insert((created.is_none(), created, want.object.clone()), want);
    }
    for want in gateway::wants(store, pools, &mut problems) {
        let created = want.0;
        wants.insert((created.is_none(), created, want.1.object.clone()), want.1);
    }
    (wants, problems)
}

/// Whether two versions of an object want the same of the pools.
#[must_use]
pub fn wants_the_same(old: &api::LoadBalancer, new: &api::LoadBalancer) -> bool {
    let words = |object: &api::LoadBalancer| {
        [
            Annotation::LOAD_BALANCER_IPS,
            Annotation::ADDRESS_POOL,
            Annotation::ALLOW_SHARED_IP,
        ]
        .map(|annotation| annotation.get(&object.metadata).map(str::to_owned))
    };
    let given = |object: &api::LoadBalancer| object.status.as_ref().and_then(|status| status.load_balancer.clone());
    old.metadata.uid == new.metadata.uid
        && old.metadata.creation_timestamp == new.metadata.creation_timestamp
        && old.metadata.deletion_timestamp == new.metadata.deletion_timestamp
        && old.spec.type_ == new.spec.type_
        && old.spec.ports == new.spec.ports
        && old.spec.ip_families == new.spec.ip_families
        && old.spec.ip_family_policy == new.spec.ip_family_policy
        && old.spec.load_balancer_ip == new.spec.load_balancer_ip
        && words(old) == words(new)
        && given(old) == given(new)
}

fn read(
    name: &ObjectName,
    object: &api::LoadBalancer,
    tenant: TenantName,
    pools: &Pools,
    problems: &mut Vec<Problem>,
) -> Want {
    let spec = &object.spec;
    let text = |annotation: Annotation| {
        annotation
            .get(&object.metadata)
            .map(str::trim)
            .filter(|text| !text.is_empty())
    };
    let ingress = object
        .status
        .iter()
        .filter_map(|status| status.load_balancer.as_ref()?.ingress.as_ref())
        .flatten();
    let mut want = Want {
        object: ObjectKey {
            kind: Kind::LoadBalancer,
            name: name.clone(),
        },
        uid: object.metadata.uid.clone().unwrap_or_default(),
        tenant,
        families: Vec::new(),
        at_least: 1,
        requested: BTreeMap::new(),
        pool: text(Annotation::ADDRESS_POOL).map(str::to_owned),
        sharing: text(Annotation::ALLOW_SHARED_IP).map(str::to_owned),
        ports: spec
            .ports
            .iter()
            .map(|port| (port.protocol.unwrap_or_default().as_str(), port.port))
            .collect(),
        unclaimed: ingress.filter_map(|entry| entry.ip.as_deref()?.parse().ok()).collect(),
        asks_by: BTreeMap::new(),
        only_keeps: false,
    };
    let asked: Vec<(String, &str)> = match text(Annotation::LOAD_BALANCER_IPS) {
        Some(list) => list
            .split(',')
            .map(|one| (requested_annotation(), one.trim()))
            .collect(),
        None => {
            let one = spec.load_balancer_ip.as_deref().filter(|ip| !ip.is_empty());
            one.map(|ip| ("spec.loadBalancerIP".to_owned(), ip))
                .into_iter()
                .collect()
        }
    };
    for (field, text) in asked {
        let reason = match text.parse::<IpAddr>() {
            Ok(address) if !want.requested.contains_key(&IpFamily::of(address)) => {
                want.requested.insert(IpFamily::of(address), address);
                want.asks_by.insert(IpFamily::of(address), field);
                continue;
            }
            Ok(address) => format!("{address} is the second of its family; one of each can be asked for"),
            Err(_) => format!("{text:?} is not an IP address"),
        };
        problems.push(Problem::new(&want.object, field, Reason::InvalidValue, reason));
    }
    (want.families, want.at_least) = families(spec, &want, pools);
    want
}

/// As a Service's fields say it: listed families, else those of the addresses that are asked for, else what the pools have, IPv4 first.
fn families(spec: &api::LoadBalancerSpec, want: &Want, pools: &Pools) -> (Vec<IpFamily>, usize) {
    let listed = spec.ip_families.iter().filter_map(|family| match family.as_str() {
        "IPv4" => Some(IpFamily::V4),
        "IPv6" => Some(IpFamily::V6),
        _ => None,
    });
    let mut families: Vec<IpFamily> = listed.collect();
    families.dedup();
    let said = !families.is_empty();
    if !said {
        families.extend(want.requested.keys());
    }
    let asked = families.len();
    for family in [IpFamily::V4, IpFamily::V6] {
        if !families.contains(&family) && pools.ranges(want, family).next().is_some() {
            families.push(family);
        }
    }
    match spec.ip_family_policy.as_deref() {
        Some("RequireDualStack") => {
            let missing = [IpFamily::V4, IpFamily::V6]
                .into_iter()
                .filter(|family| !families.contains(family));
            let missing: Vec<IpFamily> = missing.collect();
            families.extend(missing);
            (families, 2)
        }
        Some("PreferDualStack") => (families, 1),
        _ if said || asked > 1 => {
            families.truncate(asked);
            (families, asked)
        }
        // Without a word about families, one address: of the family that is asked for, else the first that there is.
        _ => {
            families.truncate(1);
            if families.is_empty() {
                families.push(IpFamily::V4);
            }
            (families, 1)
        }
    }
}

pub(super) fn requested_annotation() -> String {
    format!("metadata.annotations[{}]", Annotation::LOAD_BALANCER_IPS.key())
}
