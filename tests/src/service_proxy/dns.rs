//! Names of Services and pods under the cluster's domain (kubernetes/dns, "DNS-Based Service Discovery" 1.1.0), and the
//! answers to questions about them. All other names do not exist: the testbed has no internet.

mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, PTR, SOA, SRV};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use super::state::{Objects, Readiness, cluster_addresses, service_of};

pub(super) use server::serve;

/// The cluster's domain.
pub(crate) const DOMAIN: &str = "cluster.local";
/// Seconds that an answer may be kept.
const TTL: u32 = 5;
/// Bytes that an answer over UDP may have when the client says nothing (RFC 1035, 2.3.4), and when it says too much.
const SMALL: u16 = 512;
const LARGE: u16 = 1232;

/// All names, in lower case and without the last dot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Zone {
    records: BTreeMap<String, BTreeSet<Data>>,
    /// Names that exist although they have no record (RFC 8020): what other names are under.
    inner: BTreeSet<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Data {
    Address(IpAddr),
    Service { port: u16, target: String },
    Alias(String),
    Pointer(String),
}

impl Data {
    fn kind(&self) -> RecordType {
        match self {
            Self::Address(IpAddr::V4(_)) => RecordType::A,
            Self::Address(IpAddr::V6(_)) => RecordType::AAAA,
            Self::Service { .. } => RecordType::SRV,
            Self::Alias(_) => RecordType::CNAME,
            Self::Pointer(_) => RecordType::PTR,
        }
    }

    fn encoded(&self) -> Option<RData> {
        let name = |text: &str| Name::from_ascii(format!("{text}.")).ok();
        Some(match self {
            Self::Address(IpAddr::V4(address)) => RData::A(A(*address)),
            Self::Address(IpAddr::V6(address)) => RData::AAAA(AAAA(*address)),
            Self::Service { port, target } => RData::SRV(SRV::new(0, 100, *port, name(target)?)),
            Self::Alias(target) => RData::CNAME(CNAME(name(target)?)),
            Self::Pointer(target) => RData::PTR(PTR(name(target)?)),
        })
    }
}

/// The names that the objects give.
#[must_use]
pub(crate) fn zone(objects: &Objects) -> Zone {
    let mut zone = Zone::default();
    let text = format!("dns-version.{DOMAIN}");
    zone.inner.insert(text);
    for service in &objects.services {
        zone.service(service, &objects.slices);
    }
    let names: Vec<String> = zone.records.keys().cloned().collect();
    for name in names {
        let mut rest = name.as_str();
        while let Some((_, parent)) = rest.split_once('.') {
            zone.inner.insert(parent.to_owned());
            rest = parent;
        }
    }
    zone
}

impl Zone {
    fn service(&mut self, service: &Service, slices: &[std::sync::Arc<EndpointSlice>]) {
        let (Some(namespace), Some(name), Some(spec)) =
            (&service.metadata.namespace, &service.metadata.name, &service.spec)
        else {
            return;
        };
        let own = format!("{name}.{namespace}.svc.{DOMAIN}");
        if spec.type_.as_deref() == Some("ExternalName") {
            if let Some(target) = &spec.external_name {
                self.add(&own, Data::Alias(target.trim_end_matches('.').to_ascii_lowercase()));
            }
            return;
        }
        let addresses = cluster_addresses(spec);
        if addresses.is_empty() {
            let key = (namespace.as_str(), name.as_str());
            for slice in slices.iter().filter(|slice| service_of(slice) == Some(key)) {
                let endpoints = slice.endpoints.iter().flatten();
                for endpoint in endpoints.filter(|endpoint| Readiness::of(endpoint).ready) {
                    self.headless(&own, slice, endpoint);
                }
            }
            return;
        }
        for address in addresses {
            self.add(&own, Data::Address(address));
            self.add(&reverse(address), Data::Pointer(own.clone()));
        }
        for port in spec.ports.iter().flatten() {
            let target = own.clone();
            self.port(&own, port.name.as_deref(), port.protocol.as_deref(), port.port, target);
        }
    }

    fn headless(&mut self, own: &str, slice: &EndpointSlice, endpoint: &Endpoint) {
        let addresses = endpoint.addresses.iter().filter_map(|text| text.parse::<IpAddr>().ok());
        for address in addresses {
            let host = endpoint.hostname.clone().unwrap_or_else(|| dashed(address));
            let full = format!("{host}.{own}");
            self.add(own, Data::Address(address));
            self.add(&full, Data::Address(address));
            self.add(&reverse(address), Data::Pointer(full.clone()));
            for port in slice.ports.iter().flatten() {
                let number = port.port.unwrap_or_default();
                self.port(
                    own,
                    port.name.as_deref(),
                    port.protocol.as_deref(),
                    number,
                    full.clone(),
                );
            }
        }
    }

    fn port(&mut self, own: &str, name: Option<&str>, protocol: Option<&str>, port: i32, target: String) {
        let protocol = protocol.unwrap_or("TCP").to_ascii_lowercase();
        if let (Some(name), Ok(port)) = (name.filter(|name| !name.is_empty()), u16::try_from(port)) {
            self.add(&format!("_{name}._{protocol}.{own}"), Data::Service { port, target });
        }
    }

    fn add(&mut self, name: &str, data: Data) {
        self.records.entry(name.to_ascii_lowercase()).or_default().insert(data);
    }

    /// A pod's address is in its name: `10-101-0-2.<namespace>.pod`, for any address.
    fn pod(name: &str) -> Option<Data> {
        let (host, rest) = name.split_once('.')?;
        let (namespace, rest) = rest.split_once('.')?;
        if namespace.is_empty() || rest != format!("pod.{DOMAIN}") {
            return None;
        }
        let v4 = host.replace('-', ".").parse::<IpAddr>();
        let address = v4.or_else(|_| host.replace('-', ":").parse::<IpAddr>());
        Some(Data::Address(address.ok()?))
    }

    /// Whether a name exists, and what it has.
    fn find(&self, name: &str) -> Option<BTreeSet<Data>> {
        if let Some(found) = self.records.get(name) {
            return Some(found.clone());
        }
        if let Some(pod) = Self::pod(name) {
            return Some(BTreeSet::from([pod]));
        }
        (self.inner.contains(name) || name == DOMAIN).then(BTreeSet::new)
    }
}

fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

/// The name that a reverse lookup asks for.
fn reverse(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(address) => {
            let nibbles = (0..32).map(|at| format!("{:x}.", (address.to_bits() >> (4 * at)) & 0xf));
            nibbles.collect::<String>() + "ip6.arpa"
        }
    }
}

/// The answer to a question as bytes; `None` for what is no question. `limit` is what the transport carries.
#[must_use]
pub(crate) fn answer(zone: &Zone, question: &[u8], over_udp: bool) -> Option<Vec<u8>> {
    let request = Message::from_vec(question).ok()?;
    if request.metadata.message_type != MessageType::Query {
        return None;
    }
    let mut response = Message::response(request.metadata.id, request.metadata.op_code);
    response.metadata.recursion_desired = request.metadata.recursion_desired;
    response.metadata.recursion_available = true;
    if let Some(edns) = &request.edns {
        let mut own = Edns::new();
        own.set_max_payload(LARGE).set_version(0);
        own.set_dnssec_ok(edns.flags().dnssec_ok);
        response.edns = Some(own);
    }
    match (request.metadata.op_code, request.queries.as_slice()) {
        (OpCode::Query, [query]) => {
            response.add_query(query.clone());
            resolve(zone, query, &mut response);
        }
        (OpCode::Query, _) => response.metadata.response_code = ResponseCode::FormErr,
        _ => response.metadata.response_code = ResponseCode::NotImp,
    }
    let bytes = response.to_vec().ok()?;
    let limit = request
        .edns
        .as_ref()
        .map_or(SMALL, |edns| edns.max_payload().clamp(SMALL, LARGE));
    if over_udp && bytes.len() > usize::from(limit) {
        return response.truncate().to_vec().ok();
    }
    Some(bytes)
}

fn resolve(zone: &Zone, query: &Query, response: &mut Message) {
    response.metadata.authoritative = true;
    let name = query.name().to_lowercase().to_ascii();
    let name = name.trim_end_matches('.');
    let wanted = query.query_type();
    let Some(found) = zone.find(name).filter(|_| query.query_class() == DNSClass::IN) else {
        response.metadata.response_code = ResponseCode::NXDomain;
        response.authorities.extend(authority());
        return;
    };
    let record = |name: &Name, data: &Data| Some(Record::from_rdata(name.clone(), TTL, data.encoded()?));
    let fits = |data: &&Data| wanted == RecordType::ANY || data.kind() == wanted || data.kind() == RecordType::CNAME;
    let mut answers: Vec<Record> = found
        .iter()
        .filter(fits)
        .filter_map(|data| record(query.name(), data))
        .collect();
    // Clients take the first: it is another one each time.
    let turn = usize::from(response.metadata.id)
        .checked_rem(answers.len())
        .unwrap_or(0);
    answers.rotate_left(turn);
    for data in found.iter().filter(fits) {
        let (Data::Alias(target) | Data::Service { target, .. }) = data else {
            continue;
        };
        let Ok(target_name) = Name::from_ascii(format!("{target}.")) else {
            continue;
        };
        let more = zone.find(target).unwrap_or_default();
        let of_kind = |more: &&Data| match data {
            Data::Alias(_) => more.kind() == wanted,
            Data::Address(_) | Data::Service { .. } | Data::Pointer(_) => matches!(more, Data::Address(_)),
        };
        let more = more
            .iter()
            .filter(of_kind)
            .filter_map(|data| record(&target_name, data));
        if matches!(data, Data::Alias(_)) {
            answers.extend(more);
        } else {
            response.additionals.extend(more);
        }
    }
    if answers.is_empty() {
        response.authorities.extend(authority());
    }
    response.answers = answers;
}

/// How long a client may remember that there is nothing (RFC 2308).
fn authority() -> Option<Record> {
    let domain = Name::from_ascii(format!("{DOMAIN}.")).ok()?;
    let (server, contact) = (
        Name::from_ascii(format!("ns.dns.{DOMAIN}.")).ok()?,
        Name::from_ascii(format!("hostmaster.{DOMAIN}.")).ok()?,
    );
    let data = SOA::new(server, contact, 1, 7200, 1800, 86_400, TTL);
    Some(Record::from_rdata(domain, TTL, RData::SOA(data)))
}

#[cfg(test)]
mod tests;
