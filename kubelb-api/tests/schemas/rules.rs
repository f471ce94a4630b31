//! The rules in CEL: which there are, and that an API server can afford and evaluate them.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::assert_none;
use crate::definition::all;

/// Kind, path and message of every rule. What a rule says is in the generated files; whether it works is tested on an API server.
const RULES: &[(&str, &str, &str)] = &[
    (
        "AddressClaim",
        "",
        "the name must be that of the address: v4-203-0-113-10, or v6- and 32 hexadecimal digits",
    ),
    ("AddressClaim", ".spec.address", "the address cannot be changed"),
    ("AddressClaim", ".spec.tenant", "the tenant cannot be changed"),
    (
        "Addresses",
        ".spec.addresses[]",
        "at least one of ip or hostname must be set",
    ),
    (
        "Addresses",
        ".spec.addresses[]",
        "ip must not be a loopback, link-local, multicast, broadcast or unspecified address",
    ),
    (
        "Config",
        ".spec.addressPools[].ranges[]",
        "must be a network such as 203.0.113.0/24, or first and last address as 203.0.113.10-203.0.113.20",
    ),
    (
        "Config",
        ".spec.deniedRanges[]",
        "must be a network such as 203.0.113.0/24 or 2001:db8::/32",
    ),
    (
        "Config",
        ".spec.envoyProxy.connectionLimits",
        "timeouts must be 1s or more",
    ),
    (
        "Config",
        ".spec.envoyProxy.outlierDetection",
        "ejectionTime must be 1s or more",
    ),
    (
        "Config",
        ".spec.envoyProxy.topology",
        "topology cannot be changed from shared",
    ),
    ("LoadBalancer", ".spec", "every port needs a port of the endpoints"),
    (
        "LoadBalancer",
        ".spec.endpoints[].addresses[]",
        "at least one of ip or hostname must be set",
    ),
    (
        "LoadBalancer",
        ".spec.endpoints[].addresses[]",
        "ip must not be a loopback, link-local, multicast, broadcast or unspecified address",
    ),
    ("LoadBalancer", ".spec.healthCheck", "http is for type HTTP"),
    ("LoadBalancer", ".spec.healthCheck", "interval must be 1s or more"),
    ("LoadBalancer", ".spec.healthCheck", "timeout must be 100ms or more"),
    (
        "LoadBalancer",
        ".spec.ipFamilies",
        "ipFamilies must be IPv4, IPv6 or both",
    ),
    (
        "LoadBalancer",
        ".spec.loadBalancerIP",
        "loadBalancerIP must be an IP address",
    ),
    ("LoadBalancer", ".spec.ports", "a port and protocol may be listed once"),
    (
        "LoadBalancer",
        ".spec.sourceRanges[]",
        "must be a network such as 203.0.113.0/24 or 2001:db8::/32",
    ),
    ("LoadBalancer", ".spec.timeouts", "timeouts must be 1s or more"),
    (
        "Route",
        ".spec.endpoints[].addresses[]",
        "at least one of ip or hostname must be set",
    ),
    (
        "Route",
        ".spec.endpoints[].addresses[]",
        "ip must not be a loopback, link-local, multicast, broadcast or unspecified address",
    ),
    (
        "Tenant",
        "",
        "the name must make a namespace with tenant- before it: a-z, 0-9 and '-', 56 characters at most",
    ),
    (
        "Tenant",
        ".spec.allowedRanges[]",
        "must be a network such as 203.0.113.0/24 or 2001:db8::/32",
    ),
    (
        "VirtualAddressOwner",
        "",
        "the name must be that of an address: v4-203-0-113-10, or v6- and 32 hexadecimal digits",
    ),
    (
        "VirtualAddressOwner",
        ".spec",
        "another node needs a higher epoch, and an epoch never goes back",
    ),
];

/// Functions and macros that rules may use. All are in Kubernetes 1.31, the oldest that these definitions can be installed on; the ones on
/// addresses and networks are the newest of them.
const FUNCTIONS: &[&str] = &[
    "all",
    "contains",
    "duration",
    "exists_one",
    "family",
    "has",
    "indexOf",
    "ip",
    "isCIDR",
    "isGlobalUnicast",
    "isIP",
    "matches",
    "replace",
    "size",
    "substring",
];

/// What an API server lets one rule cost, over all the places where it may have to be evaluated.
const PLACES: u64 = 20_000;

#[test]
fn the_rules_are_these() {
    let mut found = Vec::new();
    for definition in all() {
        for node in definition.nodes() {
            for rule in rules(node.schema) {
                found.push((
                    definition.kind.clone(),
                    node.path.clone(),
                    rule["message"].as_str().unwrap().to_owned(),
                ));
            }
        }
    }
    found.sort();
    let mut listed: Vec<(String, String, String)> = RULES
        .iter()
        .map(|(kind, path, message)| ((*kind).to_owned(), (*path).to_owned(), (*message).to_owned()))
        .collect();
    listed.sort();
    assert_eq!(found, listed);
}

#[test]
fn rules_use_known_functions_only() {
    let mut used = BTreeSet::new();
    for definition in all() {
        for node in definition.nodes() {
            for rule in rules(node.schema) {
                used.extend(functions(rule["rule"].as_str().unwrap()));
            }
        }
    }
    assert_eq!(used.iter().map(String::as_str).collect::<Vec<_>>(), FUNCTIONS);
}

/// Costs are estimated from the limits of lists and texts; without a limit, the whole request may be one.
#[test]
fn rules_are_evaluated_in_a_limited_number_of_places() {
    let mut violations = Vec::new();
    for definition in all() {
        for node in definition.nodes() {
            if rules(node.schema).next().is_none() {
                continue;
            }
            let mut places = 1_u64;
            for schema in &node.above {
                if schema["type"] == "array" {
                    places = places.saturating_mul(schema["maxItems"].as_u64().unwrap_or(u64::MAX));
                } else if schema.get("additionalProperties").is_some() {
                    places = u64::MAX;
                }
            }
            if places > PLACES {
                violations.push(format!("{} {}: {places} places", definition.kind, node.path));
            }
            if node.schema["type"] == "string" && node.schema["maxLength"].is_null() && node.schema["enum"].is_null() {
                violations.push(format!("{} {}: text without a limit", definition.kind, node.path));
            }
        }
    }
    assert_none("an API server refuses rules that may cost too much", &violations);
}

/// An API server does not know which item of a plain list was which before.
#[test]
fn rules_that_look_back_are_not_inside_of_lists() {
    let mut violations = Vec::new();
    for definition in all() {
        for node in definition.nodes() {
            let looks_back = rules(node.schema).any(|rule| rule["rule"].as_str().unwrap().contains("oldSelf"));
            if looks_back && node.path.contains("[]") {
                violations.push(format!("{} {}", definition.kind, node.path));
            }
        }
    }
    assert_none("oldSelf must be found", &violations);
}

#[test]
fn functions_are_told_from_words() {
    let found = functions("has(self.a) && ip(self.b).family() == 4 && self.c.matches('^x(y)') && self.size == 1");
    assert_eq!(found, ["has", "ip", "family", "matches"]);
}

fn rules(schema: &Value) -> impl Iterator<Item = &Value> {
    schema["x-kubernetes-validations"].as_array().into_iter().flatten()
}

/// Names before an opening parenthesis, outside of quotes.
fn functions(rule: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut name = String::new();
    let mut quoted = false;
    for character in rule.chars() {
        match character {
            '\'' => quoted = !quoted,
            _ if quoted => {}
            '(' if !name.is_empty() => found.push(std::mem::take(&mut name)),
            _ if character.is_alphanumeric() || character == '_' => name.push(character),
            _ => name.clear(),
        }
    }
    found
}
