//! The schema of the file: from a tree to [`Desired`], and what must hold between its parts.
//!
//! Owns the keys, their order of checking and uniqueness across frontends. Goes on after an error, so that one pass
//! finds them all; what is returned counts only when there were none.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU16, NonZeroU32};

use ipnet::IpNet;

use super::address::{address, network};
use super::check::{health_check, timeouts};
use super::node::{Errors, Field, duration, list, map, number, shown, text, word};
use super::tree::Node;
use super::{MAX_BACKENDS, MAX_FRONTENDS, MAX_NAME, MAX_SNAT_ADDRESSES, MAX_WEIGHT};
use crate::model::{
    Algorithm, Backend, Desired, Frontend, HealthCheck, OnUnhealthy, Owner, PortRange, Protocol, Snat, Timeouts,
    VirtualAddress,
};
use crate::source::limits::{AFFINITY, MAX_HALF_OPEN, MAX_SOURCE_RANGES};

const FRONTEND_KEYS: [&str; 13] = [
    "name",
    "vip",
    "port",
    "protocol",
    "algorithm",
    "affinityTimeout",
    "sourceRanges",
    "healthCheck",
    "timeouts",
    "halfOpenBudget",
    "onUnhealthy",
    "snatAddress",
    "backends",
];

/// Reads the whole file.
pub(super) fn desired(root: &Node, errors: &mut Errors) -> Option<Desired> {
    let keys = map(root, &Field::Root, &["snat", "announce", "frontends"], errors)?;
    let mut desired = Desired {
        addresses: Some(BTreeMap::new()),
        ..Desired::default()
    };
    if let Some(node) = keys.optional("announce", &Field::Root, errors) {
        desired.addresses = announce(node, errors);
    }
    let mut snat_lines = BTreeMap::new();
    if let Some(node) = keys.optional("snat", &Field::Root, errors) {
        desired.snat = snat(node, &mut snat_lines, errors).unwrap_or_default();
    }
    let node = keys.required("frontends", "[]", &Field::Root, errors)?;
    let field = Field::Root.key("frontends");
    let mut seen = Seen::default();
    for (index, node) in list(node, &field, MAX_FRONTENDS, errors)?.iter().enumerate() {
        if let Some((name, frontend)) = frontend(node, &field.index(index), index, &mut seen, errors) {
            desired.frontends.insert(name, frontend);
        }
    }
    for (address, frontend, line) in &seen.snat {
        if !desired.snat.addresses.contains(address) {
            let field = Field::Root.key("frontends");
            let reason =
                format!("{address} is not in snat.addresses; add it there, so that replies come back to this node");
            errors.push(*line, &field.index(*frontend).key("snatAddress"), reason);
        }
    }
    for (address, (index, line)) in snat_lines {
        if let Some(frontend) = seen.vips.get(&address) {
            let reason = format!(
                "{address} is also the VIP of frontends[{frontend}]; replies to it could not be told from clients"
            );
            errors.push(line, &Field::Root.key("snat").key("addresses").index(index), reason);
        }
    }
    Some(desired)
}

/// A node that has its configuration from a file knows of no other: what it announces is its own.
fn announce(node: &Node, errors: &mut Errors) -> Option<BTreeMap<IpAddr, VirtualAddress>> {
    let field = Field::Root.key("announce");
    let mut addresses = BTreeMap::new();
    for (index, node) in list(node, &field, MAX_FRONTENDS, errors)?.iter().enumerate() {
        let field = field.index(index);
        let Some(address) = address(node, &field, errors) else {
            continue;
        };
        let announced = VirtualAddress {
            owner: Owner::This,
            epoch: 1,
            interfaces: Vec::new(),
            tenant: String::new(),
            local_ports: BTreeSet::new(),
        };
        if addresses.insert(address, announced).is_some() {
            errors.push(node.line, &field, format!("{address} is there already; keep one"));
        }
    }
    Some(addresses)
}

/// What must be unique across frontends, with the index and line where it was first seen.
#[derive(Default)]
struct Seen {
    names: BTreeMap<String, (usize, usize)>,
    listeners: BTreeMap<(IpAddr, NonZeroU16, Protocol), (usize, usize)>,
    vips: BTreeMap<IpAddr, usize>,
    /// SNAT addresses of frontends, with the frontend's index and the line.
    snat: Vec<(IpAddr, usize, usize)>,
}

fn snat(node: &Node, lines: &mut BTreeMap<IpAddr, (usize, usize)>, errors: &mut Errors) -> Option<Snat> {
    let field = Field::Root.key("snat");
    let keys = map(node, &field, &["addresses", "portRange"], errors)?;
    let mut snat = Snat::default();
    if let Some(node) = keys.optional("addresses", &field, errors) {
        let field = field.key("addresses");
        for (index, node) in list(node, &field, MAX_SNAT_ADDRESSES, errors)
            .unwrap_or_default()
            .iter()
            .enumerate()
        {
            let field = field.index(index);
            let Some(address) = address(node, &field, errors) else {
                continue;
            };
            if let Some((first, line)) = lines.get(&address) {
                errors.push(
                    node.line,
                    &field,
                    format!("{address} is snat.addresses[{first}] on line {line} already; keep one"),
                );
                continue;
            }
            lines.insert(address, (index, node.line));
            snat.addresses.push(address);
        }
    }
    if let Some(node) = keys.optional("portRange", &field, errors) {
        snat.ports = port_range(node, &field.key("portRange"), errors)?;
    }
    Some(snat)
}

fn port_range(node: &Node, field: &Field<'_>, errors: &mut Errors) -> Option<PortRange> {
    let text = word(node, field, "a range of ports such as 10000-29999", errors)?;
    let parse = |part: &str| part.trim().parse::<u16>().ok();
    let ends = text
        .split_once('-')
        .and_then(|(first, last)| Some((parse(first)?, parse(last)?)));
    let reason = match ends {
        None => format!(
            "{} is not a range of ports; write it like 10000-29999, within 1 to 65535",
            shown(text)
        ),
        Some((0, _) | (_, 0)) => format!("{} holds port 0, which is no port; start at 1 or above", shown(text)),
        Some((first, last)) => match PortRange::new(first, last) {
            Some(range) => return Some(range),
            None => format!("{} is backwards; write {last}-{first}", shown(text)),
        },
    };
    errors.push(node.line, field, reason);
    None
}

fn frontend(
    node: &Node,
    field: &Field<'_>,
    index: usize,
    seen: &mut Seen,
    errors: &mut Errors,
) -> Option<(String, Frontend)> {
    let keys = map(node, field, &FRONTEND_KEYS, errors)?;
    let name = keys.required("name", "default/web", field, errors);
    let name = name.and_then(|node| unique_name(node, &field.key("name"), index, seen, errors));
    let vip_node = keys.required("vip", "203.0.113.10", field, errors);
    let vip_line = vip_node.map_or(keys.line(), |node| node.line);
    let vip = vip_node.and_then(|node| address(node, &field.key("vip"), errors));
    let port = keys
        .required("port", "80", field, errors)
        .and_then(|node| port(node, &field.key("port"), errors));
    let protocol = keys.required("protocol", "TCP", field, errors);
    let protocol = protocol.and_then(|node| self::protocol(node, &field.key("protocol"), errors));
    if let Some(vip) = vip {
        seen.vips.entry(vip).or_insert(index);
    }
    if let (Some(vip), Some(port), Some(protocol)) = (vip, port, protocol) {
        if let Some((first, line)) = seen.listeners.get(&(vip, port, protocol)) {
            let reason = format!(
                "{} {} is taken by frontends[{first}] on line {line}; give one of them another VIP, port or protocol",
                SocketAddr::new(vip, port.get()),
                protocol_name(protocol),
            );
            errors.push(vip_line, &field.key("vip"), reason);
        } else {
            seen.listeners.insert((vip, port, protocol), (index, vip_line));
        }
    }
    let algorithm = keys.optional("algorithm", field, errors);
    let algorithm = algorithm.and_then(|node| self::algorithm(node, &field.key("algorithm"), errors));
    let affinity = keys.optional("affinityTimeout", field, errors);
    let affinity = affinity.and_then(|node| duration(node, &field.key("affinityTimeout"), AFFINITY, errors));
    let source_ranges = keys.optional("sourceRanges", field, errors);
    let source_ranges =
        source_ranges.and_then(|node| self::source_ranges(node, &field.key("sourceRanges"), vip, errors));
    let health_check = match keys.optional("healthCheck", field, errors) {
        Some(node) => health_check(node, &field.key("healthCheck"), protocol, errors).flatten(),
        None => (protocol == Some(Protocol::Tcp)).then(HealthCheck::tcp),
    };
    let timeouts = match keys.optional("timeouts", field, errors) {
        Some(node) => timeouts(node, &field.key("timeouts"), errors).unwrap_or_default(),
        None => Timeouts::default(),
    };
    let half_open_budget = keys
        .optional("halfOpenBudget", field, errors)
        .and_then(|node| half_open_budget(node, &field.key("halfOpenBudget"), protocol, errors));
    let on_unhealthy = match keys.optional("onUnhealthy", field, errors) {
        Some(node) => on_unhealthy(node, &field.key("onUnhealthy"), errors).unwrap_or_default(),
        None => OnUnhealthy::default(),
    };
    let snat = keys.optional("snatAddress", field, errors).and_then(|node| {
        let address = address_of_family(node, &field.key("snatAddress"), vip, errors)?;
        seen.snat.push((address, index, node.line));
        Some(address)
    });
    let node = keys.required("backends", "[]", field, errors);
    let mut backends = node.and_then(|node| backends(node, &field.key("backends"), vip, errors));
    for backend in backends.iter_mut().flatten() {
        backend.on_unhealthy = on_unhealthy;
        backend.snat = snat;
    }
    let frontend = Frontend {
        vip: vip?,
        port: port?,
        protocol: protocol?,
        algorithm: algorithm.unwrap_or_default(),
        affinity,
        source_ranges,
        health_check,
        timeouts,
        half_open_budget,
        backends: backends?,
    };
    Some((name?, frontend))
}

fn unique_name(node: &Node, field: &Field<'_>, index: usize, seen: &mut Seen, errors: &mut Errors) -> Option<String> {
    let name = text(node, field, errors)?;
    let reason = if name.is_empty() {
        "is empty; name the frontend like default/web".to_owned()
    } else if name.len() > MAX_NAME {
        format!("is {} bytes long; use at most {MAX_NAME}", name.len())
    } else if name.chars().any(char::is_control) {
        format!(
            "{} has control characters; use letters, digits and / - . _",
            shown(name)
        )
    } else if let Some((first, line)) = seen.names.get(name) {
        format!(
            "{} is the name of frontends[{first}] on line {line}; names are unique",
            shown(name)
        )
    } else {
        seen.names.insert(name.to_owned(), (index, node.line));
        return Some(name.to_owned());
    };
    errors.push(node.line, field, reason);
    None
}

/// Reads a port, 1 to 65535.
pub(super) fn port(node: &Node, field: &Field<'_>, errors: &mut Errors) -> Option<NonZeroU16> {
    let number = number(node, field, "a port", (1, u32::from(u16::MAX)), errors)?;
    u16::try_from(number).ok().and_then(NonZeroU16::new)
}

fn protocol(node: &Node, field: &Field<'_>, errors: &mut Errors) -> Option<Protocol> {
    match word(node, field, "TCP or UDP", errors)? {
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        other => {
            errors.push(
                node.line,
                field,
                format!("{} is not a protocol; use TCP or UDP", shown(other)),
            );
            None
        }
    }
}

fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
    }
}

fn algorithm(node: &Node, field: &Field<'_>, errors: &mut Errors) -> Option<Algorithm> {
    match word(node, field, "RoundRobin", errors)? {
        "RoundRobin" => Some(Algorithm::RoundRobin),
        "Maglev" => Some(Algorithm::Maglev),
        "MaglevBySource" => Some(Algorithm::MaglevBySource),
        other => {
            let reason = format!(
                "{} is not an algorithm; use RoundRobin, Maglev or MaglevBySource",
                shown(other)
            );
            errors.push(node.line, field, reason);
            None
        }
    }
}

fn source_ranges(node: &Node, field: &Field<'_>, vip: Option<IpAddr>, errors: &mut Errors) -> Option<Vec<IpNet>> {
    let nodes = list(node, field, MAX_SOURCE_RANGES, errors)?;
    if nodes.is_empty() {
        errors.push(
            node.line,
            field,
            "is empty; name who may come, or leave it out to let everybody in",
        );
    }
    let mut networks = Vec::with_capacity(nodes.len());
    for (index, node) in nodes.iter().enumerate() {
        let field = field.index(index);
        let Some(network) = network(node, &field, errors) else {
            continue;
        };
        let ip = network.addr();
        if let Some(vip) = vip.filter(|vip| vip.is_ipv4() != ip.is_ipv4()) {
            let reason = format!(
                "{network} is {} but the VIP {vip} is {}; no client of that kind can come",
                family(ip),
                family(vip)
            );
            errors.push(node.line, &field, reason);
            continue;
        }
        networks.push(network);
    }
    Some(networks)
}

fn half_open_budget(
    node: &Node,
    field: &Field<'_>,
    protocol: Option<Protocol>,
    errors: &mut Errors,
) -> Option<NonZeroU32> {
    if protocol == Some(Protocol::Udp) {
        errors.push(node.line, field, "is for TCP: UDP has no handshake; remove it");
        return None;
    }
    number(
        node,
        field,
        "a budget of half-open connections",
        (1, MAX_HALF_OPEN),
        errors,
    )
    .and_then(NonZeroU32::new)
}

fn on_unhealthy(node: &Node, field: &Field<'_>, errors: &mut Errors) -> Option<OnUnhealthy> {
    match word(node, field, "Drain or Reset", errors)? {
        "Drain" => Some(OnUnhealthy::Drain),
        "Reset" => Some(OnUnhealthy::Reset),
        other => {
            errors.push(
                node.line,
                field,
                format!("{} is not known; use Drain or Reset", shown(other)),
            );
            None
        }
    }
}

fn address_of_family(node: &Node, field: &Field<'_>, vip: Option<IpAddr>, errors: &mut Errors) -> Option<IpAddr> {
    let ip = address(node, field, errors)?;
    if let Some(vip) = vip.filter(|vip| vip.is_ipv4() != ip.is_ipv4()) {
        let reason = format!(
            "{ip} is {} but the VIP {vip} is {}; use one family in a frontend",
            family(ip),
            family(vip)
        );
        errors.push(node.line, field, reason);
        return None;
    }
    Some(ip)
}

fn backends(node: &Node, field: &Field<'_>, vip: Option<IpAddr>, errors: &mut Errors) -> Option<Vec<Backend>> {
    let nodes = list(node, field, MAX_BACKENDS, errors)?;
    let mut backends = Vec::with_capacity(nodes.len());
    let mut seen = BTreeMap::new();
    for (index, node) in nodes.iter().enumerate() {
        let field = field.index(index);
        let Some(backend) = backend(node, &field, vip, errors) else {
            continue;
        };
        if let Some((first, line)) = seen.get(&backend.address) {
            let reason = format!(
                "{} is backends[{first}] on line {line} already; keep one, with a weight",
                backend.address
            );
            errors.push(node.line, &field.key("address"), reason);
            continue;
        }
        seen.insert(backend.address, (index, node.line));
        backends.push(backend);
    }
    let whole = backends.len() == nodes.len();
    if whole && !backends.is_empty() && backends.iter().all(|backend| backend.weight == 0) {
        errors.push(
            node.line,
            field,
            "all weights are 0, so that no backend takes a flow; raise one",
        );
    }
    Some(backends)
}

fn backend(node: &Node, field: &Field<'_>, vip: Option<IpAddr>, errors: &mut Errors) -> Option<Backend> {
    let keys = map(node, field, &["address", "port", "weight"], errors)?;
    let ip = keys
        .required("address", "10.0.1.11", field, errors)
        .and_then(|node| address_of_family(node, &field.key("address"), vip, errors));
    let port = keys
        .required("port", "30080", field, errors)
        .and_then(|node| port(node, &field.key("port"), errors));
    let weight = match keys.optional("weight", field, errors) {
        Some(node) => number(
            node,
            &field.key("weight"),
            "a weight",
            (0, u32::from(MAX_WEIGHT)),
            errors,
        )
        .and_then(|weight| u16::try_from(weight).ok()),
        None => Some(1),
    };
    Some(Backend::new(SocketAddr::new(ip?, port?.get()), weight?))
}

fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}
