//! Node ports of a Service: kept, asked for, or given; and the port at which its health is asked. Pure.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use serde_json::{Map, Value, json};

use super::super::super::object::{as_map, field_mut, items, text};
use super::super::super::status::Cause;

/// Ports tried at random before the server gives up.
const TRIES: usize = 4096;

/// A port and its protocol.
pub(super) type Used = BTreeSet<(u64, String)>;

fn number(port: &Map<String, Value>, key: &str) -> u64 {
    port.get(key).and_then(Value::as_u64).unwrap_or(0)
}

fn protocol(port: &Map<String, Value>) -> String {
    port.get("protocol").and_then(Value::as_str).unwrap_or("TCP").to_owned()
}

/// What a Service holds.
pub(super) fn of(service: &Value) -> impl Iterator<Item = (u64, String)> {
    let ports = items(service, "/spec/ports").iter().filter_map(Value::as_object);
    let health = service.pointer("/spec/healthCheckNodePort").and_then(Value::as_u64);
    ports
        .map(|port| (number(port, "nodePort"), protocol(port)))
        .chain(health.map(|port| (port, "TCP".to_owned())))
        .filter(|(port, _)| *port != 0)
}

/// Gives each port its node port. `used` is what other Services hold.
pub(super) fn assign(
    object: &mut Value,
    old: Option<&Value>,
    range: &RangeInclusive<u16>,
    used: &mut Used,
    causes: &mut Vec<Cause>,
) {
    let before: Vec<Map<String, Value>> = old
        .map(|old| items(old, "/spec/ports"))
        .unwrap_or_default()
        .iter()
        .filter_map(|port| port.as_object().cloned())
        .collect();
    let Some(Value::Array(ports)) = object.pointer_mut("/spec/ports") else {
        return;
    };
    let mut given: Vec<(u64, u64)> = Vec::new();
    for (index, port) in ports.iter_mut().enumerate() {
        let port = as_map(port);
        let (number_of, protocol) = (number(port, "port"), protocol(port));
        let asked = match number(port, "nodePort") {
            0 => before
                .iter()
                .find(|old| number(old, "port") == number_of && self::protocol(old) == protocol)
                .map_or(0, |old| number(old, "nodePort")),
            asked => asked,
        };
        // One number for both protocols of the same port, where that is free.
        let shared = given
            .iter()
            .find(|(of, node)| *of == number_of && !used.contains(&(*node, protocol.clone())))
            .map(|(_, node)| *node);
        let node = match (asked, shared) {
            (0, Some(shared)) => shared,
            (0, None) => free(range, used).unwrap_or_default(),
            (asked, _) => {
                let field = format!("spec.ports[{index}].nodePort");
                if used.contains(&(asked, protocol.clone())) {
                    let why = "provided port is already allocated";
                    causes.push(Cause::invalid(field, &json!(asked), why));
                } else if !u16::try_from(asked).is_ok_and(|asked| range.contains(&asked)) {
                    let why = format!(
                        "provided port is not in the valid range. The range of valid ports is {}-{}",
                        range.start(),
                        range.end()
                    );
                    causes.push(Cause::invalid(field, &json!(asked), &why));
                }
                asked
            }
        };
        used.insert((node, protocol));
        given.push((number_of, node));
        port.insert("nodePort".to_owned(), json!(node));
    }
}

fn free(range: &RangeInclusive<u16>, used: &Used) -> Option<u64> {
    let taken = |port: u64| used.iter().any(|(used, _)| *used == port);
    std::iter::repeat_with(|| u64::from(fastrand::u16(range.clone())))
        .take(TRIES)
        .find(|port| !taken(*port))
}

/// Gives or takes the port for health checks, which only a LoadBalancer with local traffic has.
pub(super) fn health(object: &mut Value, old: Option<&Value>, range: &RangeInclusive<u16>, used: &Used) {
    let local = text(object, "/spec/type") == "LoadBalancer" && text(object, "/spec/externalTrafficPolicy") == "Local";
    let asked = |object: &Value| object.pointer("/spec/healthCheckNodePort").and_then(Value::as_u64);
    let has = asked(object).filter(|port| *port != 0);
    if local && has.is_none() {
        let port = old.and_then(asked).or_else(|| free(range, used));
        field_mut(object, "spec").insert("healthCheckNodePort".to_owned(), json!(port));
    } else if !local {
        field_mut(object, "spec").remove("healthCheckNodePort");
    }
}
