//! What each Gateway wants of the pools.
//!
//! One address, unless it asks for others: by `spec.addresses`, or by the annotations that Services have. Must not know: claims, routes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::Timestamp;
use kube::core::ObjectMeta;
use kubelb_api::annotations::Annotation;
use kubelb_api::gateway_api as gateway;
use kubelb_api::names::TenantName;
use kubelb_api::raw_object::RawFields;
use kubelb_api::v1alpha1::Route;
use serde_json::Value;

use super::want::{Port, Want, requested_annotation};
use super::{IpFamily, Pools};
use crate::object::{Kind, ObjectKey, ObjectName};
use crate::problem::{Problem, Reason};
use crate::store::Store;

/// Where the tenant's object is in a Route.
pub(crate) const RESOURCE: &str = "spec.source.kubernetes.resource";

/// What decides which address a Gateway gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayWant {
    uid: String,
    created: Option<Timestamp>,
    ports: BTreeSet<Port>,
    /// Texts, with the field that they are from.
    asked: Vec<(String, String)>,
    /// It asks for something that is no address.
    asks_for_others: bool,
    pool: Option<String>,
    sharing: Option<String>,
    /// Addresses that its status has.
    given: BTreeSet<IpAddr>,
}

/// What a Route wants, if it is about a Gateway that is to be served.
#[must_use]
pub fn gateway_want(route: &Route) -> Option<GatewayWant> {
    let resource = route.spec.source.as_ref()?.kubernetes.as_ref()?.resource.as_ref()?;
    let is_gateway = resource.group() == gateway::GROUP && resource.kind() == "Gateway";
    if !is_gateway || route.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let view: gateway::Viewed<gateway::GatewaySpec> = resource.read().ok()?;
    let text = |annotation: Annotation| of(&view.metadata, annotation);
    let mut asked: Vec<(String, String)> = Vec::new();
    match text(Annotation::LOAD_BALANCER_IPS) {
        Some(list) => asked.extend(
            list.split(',')
                .map(|one| (requested_annotation(), one.trim().to_owned())),
        ),
        None => {
            for (index, address) in view.spec.addresses.iter().enumerate() {
                if address.is_ip() && !address.value.is_empty() {
                    asked.push((
                        format!("{RESOURCE}.spec.addresses[{index}].value"),
                        address.value.clone(),
                    ));
                }
            }
        }
    }
    let status = route
        .status
        .as_ref()
        .and_then(|status| status.resources.as_ref()?.route.as_ref()?.status.as_ref())
        .map(RawFields::fields);
    let given = status
        .as_ref()
        .and_then(|status| status.get("addresses")?.as_array())
        .into_iter()
        .flatten();
    let given = given.filter_map(|address| address.get("value").and_then(Value::as_str)?.parse().ok());
    Some(GatewayWant {
        uid: route.metadata.uid.clone().unwrap_or_default(),
        created: route.metadata.creation_timestamp.as_ref().map(|time| time.0),
        ports: view.spec.listeners.iter().flat_map(ports).collect(),
        asked,
        asks_for_others: !view.spec.addresses.iter().all(gateway::GatewayAddress::is_ip),
        pool: text(Annotation::ADDRESS_POOL),
        sharing: text(Annotation::ALLOW_SHARED_IP),
        given: given.collect(),
    })
}

/// HTTPS is to be had over QUIC too.
fn ports(listener: &gateway::Listener) -> Vec<Port> {
    let protocols: &[&'static str] = if listener.protocol == "HTTPS" {
        &["TCP", "UDP"]
    } else {
        &["TCP"]
    };
    let port = i32::try_from(listener.port).ok();
    let ports = port
        .into_iter()
        .flat_map(|port| protocols.iter().map(move |protocol| (*protocol, port)));
    ports.collect()
}

fn of(meta: &ObjectMeta, annotation: Annotation) -> Option<String> {
    let text = annotation.get(meta).map(str::trim).filter(|text| !text.is_empty());
    text.map(str::to_owned)
}

/// What all Gateways want, with the time of their creation.
pub(super) fn wants(store: &Store, pools: &Pools, problems: &mut Vec<Problem>) -> Vec<(Option<Timestamp>, Want)> {
    let mut wants = Vec::new();
    for (name, route) in store.routes() {
        let Some(tenant) = TenantName::from_namespace(&name.namespace) else {
            continue;
        };
        if !store.tenants().contains_key(&ObjectName::new("", tenant.as_str())) {
            continue;
        }
        let Some(found) = gateway_want(route) else { continue };
        let created = found.created;
        wants.push((created, want(name, found, tenant, pools, problems)));
    }
    wants
}

fn want(name: &ObjectName, found: GatewayWant, tenant: TenantName, pools: &Pools, problems: &mut Vec<Problem>) -> Want {
    let object = ObjectKey {
        kind: Kind::Route,
        name: name.clone(),
    };
    let mut requested = BTreeMap::new();
    let mut asks_by = BTreeMap::new();
    for (field, text) in found.asked {
        let reason = match text.parse::<IpAddr>() {
            Ok(address) if !requested.contains_key(&IpFamily::of(address)) => {
                requested.insert(IpFamily::of(address), address);
                asks_by.insert(IpFamily::of(address), field);
                continue;
            }
            Ok(address) => format!("{address} is the second of its family; one of each can be asked for"),
            Err(_) => format!("{text:?} is not an IP address"),
        };
        problems.push(Problem::new(&object, field, Reason::AddressNotInPool, reason));
    }
    let mut want = Want {
        object,
        uid: found.uid,
        tenant,
        families: requested.keys().copied().collect(),
        at_least: requested.len().max(1),
        requested,
        pool: found.pool,
        sharing: found.sharing,
        ports: found.ports,
        unclaimed: BTreeSet::new(),
        asks_by,
        only_keeps: found.asks_for_others,
    };
    want.unclaimed = found
        .given
        .into_iter()
        .filter(|address| pools.allow(&want, *address))
        .collect();
    if want.families.is_empty() {
        let has = |family: &IpFamily| pools.ranges(&want, *family).next().is_some();
        let first = [IpFamily::V4, IpFamily::V6].into_iter().find(has);
        want.families.push(first.unwrap_or(IpFamily::V4));
    }
    want
}
