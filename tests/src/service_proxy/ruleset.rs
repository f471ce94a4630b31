//! The state as nftables: chains, maps and sets, and the transaction that brings the kernel from one to the next.
//!
//! A connection's first packet is looked up by destination in one map, goes to the chain of its Service's port, and from
//! there to the chain of one endpoint. Only what changed is written, so that the clients' affinities, which the kernel
//! keeps in sets of ours, live through changes. Knows no client and runs nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::state::{Family, Policy, Protocol, ServicePort, State};

/// The table that is all ours.
pub(super) const TABLE: &str = "inet kubelb-service-proxy";
/// Bit of a packet's mark that says that its source becomes the node's address; the one that kube-proxy uses.
const MASQUERADE: &str = "meta mark set meta mark or 0x4000";
/// Clients that an affinity set remembers.
const CLIENTS: u32 = 65_535;

/// A chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Chain {
    /// Where the kernel calls it; empty for chains that others go to.
    hook: &'static str,
    rules: Vec<String>,
}

/// A set, or a map when its elements have values.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Set {
    is_map: bool,
    declaration: String,
    /// Ours, by key, with the value if it is a map; those that the kernel adds itself are not here.
    elements: BTreeMap<String, String>,
}

/// All of the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ruleset {
    chains: BTreeMap<String, Chain>,
    sets: BTreeMap<String, Set>,
}

/// What the kernel shall have.
#[must_use]
pub(crate) fn ruleset(state: &State) -> Ruleset {
    let mut rules = Ruleset::default();
    rules.base();
    for family in [Family::V4, Family::V6] {
        rules.family(family);
    }
    for address in &state.node_addresses {
        let word = words(Family::of(*address));
        rules.element(&format!("node-{}", word.short), address.to_string(), String::new());
    }
    for port in &state.ports {
        rules.port(port, state);
    }
    rules
}

/// How a family is called in rules.
struct Words {
    short: &'static str,
    ip: &'static str,
    address: &'static str,
}

fn words(family: Family) -> Words {
    match family {
        Family::V4 => Words {
            short: "v4",
            ip: "ip",
            address: "ipv4_addr",
        },
        Family::V6 => Words {
            short: "v6",
            ip: "ip6",
            address: "ipv6_addr",
        },
    }
}

/// A name of a chain or set that says whose it is; letters that names can't have are replaced.
fn named(kind: &str, port: &ServicePort) -> String {
    format!(
        "{kind}/{}/{}/{}/{}/{}",
        words(port.family).short,
        port.namespace,
        port.service,
        port.protocol.name(),
        port.port_name
    )
}

fn endpoint_name(port: &ServicePort, endpoint: &SocketAddr) -> String {
    let address = endpoint.ip().to_string().replace(':', "_");
    named("endpoint", port) + &format!("/{address}/{}", endpoint.port())
}

fn destination(address: IpAddr, protocol: Protocol, port: u16) -> String {
    format!("{address} . {} . {port}", protocol.name())
}

impl Ruleset {
    /// The commands that make the whole table anew, whatever is there.
    #[must_use]
    pub(crate) fn whole(&self) -> String {
        let mut text = format!("add table {TABLE}\ndelete table {TABLE}\nadd table {TABLE}\n");
        text.push_str(&self.after(&Self::default()));
        text
    }

    /// The commands that make this out of `before`; empty when there is nothing to do.
    #[must_use]
    pub(crate) fn after(&self, before: &Self) -> String {
        let mut text = String::new();
        // Sets come first because rules name them, chains next because elements and rules go to them.
        for (name, set) in self.sets.iter().filter(|(name, _)| !before.sets.contains_key(*name)) {
            let kind = if set.is_map { "map" } else { "set" };
            line(
                &mut text,
                format_args!("add {kind} {TABLE} {name} {{ {} }}", set.declaration),
            );
        }
        for (name, chain) in self
            .chains
            .iter()
            .filter(|(name, _)| !before.chains.contains_key(*name))
        {
            let hook = if chain.hook.is_empty() {
                String::new()
            } else {
                format!(" {{ {} }}", chain.hook)
            };
            line(&mut text, format_args!("add chain {TABLE} {name}{hook}"));
        }
        for (name, chain) in &self.chains {
            let old = before.chains.get(name);
            if old.is_some_and(|old| old.rules == chain.rules) {
                continue;
            }
            if old.is_some() {
                line(&mut text, format_args!("flush chain {TABLE} {name}"));
            }
            for rule in &chain.rules {
                line(&mut text, format_args!("add rule {TABLE} {name} {rule}"));
            }
        }
        for (name, set) in &self.sets {
            set.elements_after(name, before.sets.get(name), &mut text);
        }
        self.remove_stale(before, &mut text);
        text
    }

    fn remove_stale(&self, before: &Self, text: &mut String) {
        let stale: Vec<&String> = before
            .chains
            .keys()
            .filter(|name| !self.chains.contains_key(*name))
            .collect();
        // Chains go to each other: all are emptied before any is deleted.
        for name in &stale {
            line(text, format_args!("flush chain {TABLE} {name}"));
        }
        for name in &stale {
            line(text, format_args!("delete chain {TABLE} {name}"));
        }
        for (name, set) in before.sets.iter().filter(|(name, _)| !self.sets.contains_key(*name)) {
            let kind = if set.is_map { "map" } else { "set" };
            line(text, format_args!("delete {kind} {TABLE} {name}"));
        }
    }

    fn base(&mut self) {
        let mut hooked = |name: &str, hook: &'static str, rules: &[&str]| {
            let rules = rules.iter().map(|rule| (*rule).to_owned()).collect();
            self.chains.insert(name.to_owned(), Chain { hook, rules });
        };
        // Source ranges are checked before the destination is rewritten.
        for (name, hook) in [
            ("early-prerouting", "type filter hook prerouting priority -110;"),
            ("early-output", "type filter hook output priority -110;"),
        ] {
            hooked(name, hook, &["ct state new jump source-ranges"]);
        }
        for (name, hook) in [
            ("nat-prerouting", "type nat hook prerouting priority -100;"),
            ("nat-output", "type nat hook output priority -100;"),
        ] {
            hooked(name, hook, &["jump services"]);
        }
        for (name, hook) in [
            ("filter-input", "type filter hook input priority 0;"),
            ("filter-forward", "type filter hook forward priority 0;"),
            ("filter-output", "type filter hook output priority 0;"),
        ] {
            hooked(name, hook, &["ct state new jump unserved"]);
        }
        hooked(
            "nat-postrouting",
            "type nat hook postrouting priority 100;",
            &[
                "meta mark and 0x4000 == 0 return",
                "meta mark set meta mark xor 0x4000",
                "masquerade fully-random",
            ],
        );
        // A reset ends a connection attempt at once; ICMP errors are rated.
        hooked("refuse", "", &["meta l4proto tcp reject with tcp reset", "reject"]);
    }

    /// Maps of one family, and the rules that look them up.
    fn family(&mut self, family: Family) {
        let Words { short, ip, address } = words(family);
        let to_address = format!("type {address} . inet_proto . inet_service : verdict;");
        let to_node = "type inet_proto . inet_service : verdict;".to_owned();
        for (name, declaration) in [
            ("services", &to_address),
            ("node-ports", &to_node),
            ("unserved", &to_address),
            ("unserved-node-ports", &to_node),
            ("source-ranges", &to_address),
        ] {
            self.set(&format!("{name}-{short}"), true, declaration.clone());
        }
        self.set(&format!("node-{short}"), false, format!("type {address};"));
        let by_address = |map: &str| format!("{ip} daddr . meta l4proto . th dport vmap @{map}-{short}");
        let by_node = |map: &str| format!("{ip} daddr @node-{short} meta l4proto . th dport vmap @{map}-{short}");
        for (chain, rule) in [
            ("services", by_address("services")),
            ("services", by_node("node-ports")),
            ("unserved", by_address("unserved")),
            ("unserved", by_node("unserved-node-ports")),
            ("source-ranges", by_address("source-ranges")),
        ] {
            self.rule(chain, rule);
        }
    }

    /// The ways to one port of a Service, and on from there.
    fn port(&mut self, port: &ServicePort, state: &State) {
        let short = words(port.family).short;
        let served = !port.endpoints.is_empty();
        let outside: Vec<IpAddr> = port.external_ips.union(&port.load_balancer_ips).copied().collect();
        let (map, node_map) = if served {
            self.chains_of(port, state);
            ("services", "node-ports")
        } else {
            ("unserved", "unserved-node-ports")
        };
        let verdict = |kind: &str| match (served, kind) {
            (true, kind) => format!("goto {}", named(kind, port)),
            (false, _) => "goto refuse".to_owned(),
        };
        let inside = if port.internal == Policy::Local {
            "local"
        } else {
            "service"
        };
        if let Some(address) = port.cluster_ip {
            let key = destination(address, port.protocol, port.port);
            self.element(&format!("{map}-{short}"), key, verdict(inside));
        }
        for address in outside {
            let key = destination(address, port.protocol, port.port);
            self.element(&format!("{map}-{short}"), key, verdict("external"));
        }
        if let Some(node_port) = port.node_port {
            let key = format!("{} . {node_port}", port.protocol.name());
            self.element(&format!("{node_map}-{short}"), key, verdict("external"));
        }
        self.source_ranges(port);
    }

    fn chains_of(&mut self, port: &ServicePort, state: &State) {
        let ip = words(port.family).ip;
        self.choice(&named("service", port), port, &port.endpoints);
        if port.internal == Policy::Local || (port.external == Policy::Local && port.is_exposed()) {
            self.choice(&named("local", port), port, &port.local);
        }
        for endpoint in port.endpoints.union(&port.local) {
            self.endpoint(port, endpoint);
        }
        if !port.is_exposed() {
            return;
        }
        let chain = named("external", port);
        let everywhere = format!("goto {}", named("service", port));
        match port.external {
            Policy::Cluster => {
                self.rule(&chain, MASQUERADE.to_owned());
                self.rule(&chain, everywhere);
            }
            Policy::Local => {
                // What comes from this node or its pods is inside the cluster: it may go everywhere.
                for cidr in state
                    .pod_cidrs
                    .iter()
                    .filter(|cidr| Family::of(cidr.addr()) == port.family)
                {
                    self.rule(&chain, format!("{ip} saddr {cidr} {everywhere}"));
                }
                self.rule(&chain, format!("fib saddr type local {MASQUERADE} {everywhere}"));
                self.rule(&chain, format!("goto {}", named("local", port)));
            }
        }
    }

    /// A chain that goes to one of `endpoints`: a client's own while its affinity lasts, else the next in turn.
    fn choice(&mut self, chain: &str, port: &ServicePort, endpoints: &BTreeSet<SocketAddr>) {
        let ip = words(port.family).ip;
        let mut turns = Vec::new();
        for (turn, endpoint) in endpoints.iter().enumerate() {
            if let Some(seconds) = port.affinity {
                let set = affinity_name(port, endpoint, seconds);
                let goto = format!("goto {}", endpoint_name(port, endpoint));
                self.rule(chain, format!("{ip} saddr @{set} {goto}"));
            }
            turns.push(format!("{turn} : goto {}", endpoint_name(port, endpoint)));
        }
        let rule = if turns.is_empty() {
            "drop".to_owned()
        } else {
            format!("numgen inc mod {} vmap {{ {} }}", turns.len(), turns.join(", "))
        };
        self.rule(chain, rule);
    }

    fn endpoint(&mut self, port: &ServicePort, endpoint: &SocketAddr) {
        let Words { ip, address, .. } = words(port.family);
        let chain = endpoint_name(port, endpoint);
        // An endpoint that reaches itself through its Service must not see itself as the client.
        self.rule(&chain, format!("{ip} saddr {} {MASQUERADE}", endpoint.ip()));
        if let Some(seconds) = port.affinity {
            let set = affinity_name(port, endpoint, seconds);
            let declaration = format!("type {address}; flags dynamic,timeout; timeout {seconds}s; size {CLIENTS};");
            self.set(&set, false, declaration);
            self.rule(&chain, format!("update @{set} {{ {ip} saddr }}"));
        }
        self.rule(
            &chain,
            format!("meta l4proto {} dnat {ip} to {endpoint}", port.protocol.name()),
        );
    }

    fn source_ranges(&mut self, port: &ServicePort) {
        if port.source_ranges.is_empty() || port.load_balancer_ips.is_empty() {
            return;
        }
        let Words { short, ip, .. } = words(port.family);
        let chain = named("source-ranges", port);
        for range in &port.source_ranges {
            self.rule(&chain, format!("{ip} saddr {range} return"));
        }
        self.rule(&chain, "drop".to_owned());
        for address in &port.load_balancer_ips {
            let key = destination(*address, port.protocol, port.port);
            self.element(&format!("source-ranges-{short}"), key, format!("goto {chain}"));
        }
    }

    fn rule(&mut self, chain: &str, rule: String) {
        self.chains.entry(chain.to_owned()).or_default().rules.push(rule);
    }

    fn set(&mut self, name: &str, is_map: bool, declaration: String) {
        let set = Set {
            is_map,
            declaration,
            elements: BTreeMap::new(),
        };
        self.sets.insert(name.to_owned(), set);
    }

    /// Adds an element to a set that was declared. Of two Services that want the same address and port the first has it.
    fn element(&mut self, set: &str, key: String, value: String) {
        if let Some(set) = self.sets.get_mut(set) {
            set.elements.entry(key).or_insert(value);
        }
    }
}

impl Set {
    fn elements_after(&self, name: &str, before: Option<&Self>, text: &mut String) {
        let none = BTreeMap::new();
        let old = before.map_or(&none, |before| &before.elements);
        let not_in = |one: &BTreeMap<String, String>, other: &BTreeMap<String, String>| -> Vec<String> {
            one.iter()
                .filter(|(key, value)| other.get(*key) != Some(value))
                .map(|(key, value)| {
                    if value.is_empty() {
                        key.clone()
                    } else {
                        format!("{key} : {value}")
                    }
                })
                .collect()
        };
        for (verb, elements) in [
            ("delete", not_in(old, &self.elements)),
            ("add", not_in(&self.elements, old)),
        ] {
            if !elements.is_empty() {
                let list = elements.join(", ");
                line(text, format_args!("{verb} element {TABLE} {name} {{ {list} }}"));
            }
        }
    }
}

/// The timeout is in the name because a set's declaration can't be changed.
fn affinity_name(port: &ServicePort, endpoint: &SocketAddr, seconds: u32) -> String {
    let address = endpoint.ip().to_string().replace(':', "_");
    named("affinity", port) + &format!("/{address}/{}/{seconds}", endpoint.port())
}

fn line(text: &mut String, words: std::fmt::Arguments<'_>) {
    text.push_str(&words.to_string());
    text.push('\n');
}

#[cfg(test)]
mod tests;
