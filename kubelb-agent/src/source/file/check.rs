//! The keys `healthCheck` and `timeouts` of a frontend.
//!
//! Owns their defaults and limits. Pure; runs no check.

use std::time::Duration;

use hyper::header::HeaderValue;
use hyper::http::uri::PathAndQuery;

use super::node::{Errors, Field, Map, duration, map, number, shown, text, word};
use super::schema::port;
use super::tree::Node;
use crate::model::{HealthCheck, Probe, Protocol, Timeouts};
use crate::source::limits::{
    CHECK_TIMEOUT, ESTABLISHED_TIMEOUT, FLOW_TIMEOUT, INTERVAL, MAX_HOST, MAX_PATH, THRESHOLD,
};

const CHECK_KEYS: [&str; 8] = [
    "type",
    "port",
    "path",
    "host",
    "interval",
    "timeout",
    "healthyThreshold",
    "unhealthyThreshold",
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tcp,
    Http,
    Off,
}

/// Reads `healthCheck`; the inner `None` means that it is switched off.
pub(super) fn health_check(
    node: &Node,
    field: &Field<'_>,
    protocol: Option<Protocol>,
    errors: &mut Errors,
) -> Option<Option<HealthCheck>> {
    let keys = map(node, field, &CHECK_KEYS, errors)?;
    let kind = match keys.optional("type", field, errors) {
        Some(node) => kind(node, &field.key("type"), errors),
        None => Some(Kind::Tcp),
    };
    if kind == Some(Kind::Off) {
        for key in CHECK_KEYS.iter().filter(|key| **key != "type" && keys.has(key)) {
            errors.push(node.line, &field.key(key), "has no use with type: None; remove it");
        }
        return Some(None);
    }
    let mut check = HealthCheck::tcp();
    check.port = keys
        .optional("port", field, errors)
        .and_then(|node| port(node, &field.key("port"), errors));
    if protocol == Some(Protocol::Udp) && !keys.has("port") {
        errors.push(
            node.line,
            &field.key("port"),
            "is missing; a UDP frontend can only be checked on a TCP port, name it or use type: None",
        );
    }
    set_duration(&mut check.interval, &keys, "interval", INTERVAL, field, errors);
    set_duration(&mut check.timeout, &keys, "timeout", CHECK_TIMEOUT, field, errors);
    set_threshold(&mut check.healthy_threshold, &keys, "healthyThreshold", field, errors);
    set_threshold(
        &mut check.unhealthy_threshold,
        &keys,
        "unhealthyThreshold",
        field,
        errors,
    );
    match kind? {
        Kind::Http => check.probe = http(&keys, field, errors),
        Kind::Tcp | Kind::Off => {
            for key in ["path", "host"] {
                if let Some(node) = keys.optional(key, field, errors) {
                    errors.push(
                        node.line,
                        &field.key(key),
                        "only HTTP checks have it; remove it or use type: HTTP",
                    );
                }
            }
        }
    }
    Some(Some(check))
}

fn kind(node: &Node, field: &Field<'_>, errors: &mut Errors) -> Option<Kind> {
    match word(node, field, "TCP, HTTP or None", errors)? {
        "TCP" => Some(Kind::Tcp),
        "HTTP" => Some(Kind::Http),
        "None" => Some(Kind::Off),
        other => {
            errors.push(
                node.line,
                field,
                format!("{} is not a health check type; use TCP, HTTP or None", shown(other)),
            );
            None
        }
    }
}

fn http(keys: &Map<'_>, field: &Field<'_>, errors: &mut Errors) -> Probe {
    let path = keys
        .optional("path", field, errors)
        .and_then(|node| http_path(node, &field.key("path"), errors));
    let host = keys
        .optional("host", field, errors)
        .and_then(|node| http_host(node, &field.key("host"), errors));
    Probe::Http {
        path: path.unwrap_or_else(|| "/".to_owned()),
        host,
    }
}

fn http_path(node: &Node, field: &Field<'_>, errors: &mut Errors) -> Option<String> {
    let path = text(node, field, errors)?;
    let reason = if !path.starts_with('/') {
        format!("{} does not start with a slash; write /{0}", shown(path))
    } else if path.len() > MAX_PATH {
        format!("is longer than {MAX_PATH} bytes; use a shorter path")
    } else if path.contains('#') || !path.is_ascii() || path.parse::<PathAndQuery>().is_err() {
        format!(
            "{} has characters that a request line cannot carry; write them as %XX",
            shown(path)
        )
    } else {
        return Some(path.to_owned());
    };
    errors.push(node.line, field, reason);
    None
}

fn http_host(node: &Node, field: &Field<'_>, errors: &mut Errors) -> Option<String> {
    let host = text(node, field, errors)?;
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    if host.is_empty() || host.len() > MAX_HOST || !host.bytes().all(safe) || HeaderValue::from_str(host).is_err() {
        let reason = format!(
            "{} is not a host; use a name or address like example.com",
            shown(&format!("\"{host}\""))
        );
        errors.push(node.line, field, reason);
        return None;
    }
    Some(host.to_owned())
}

fn set_threshold(threshold: &mut u32, keys: &Map<'_>, key: &str, field: &Field<'_>, errors: &mut Errors) {
    if let Some(node) = keys.optional(key, field, errors) {
        *threshold = number(node, &field.key(key), "a threshold", THRESHOLD, errors).unwrap_or(*threshold);
    }
}

fn set_duration(
    value: &mut Duration,
    keys: &Map<'_>,
    key: &str,
    range: (Duration, Duration),
    field: &Field<'_>,
    errors: &mut Errors,
) {
    if let Some(node) = keys.optional(key, field, errors) {
        *value = duration(node, &field.key(key), range, errors).unwrap_or(*value);
    }
}

/// Reads `timeouts`; what is missing has its default.
pub(super) fn timeouts(node: &Node, field: &Field<'_>, errors: &mut Errors) -> Option<Timeouts> {
    let known = [
        "tcpHalfOpen",
        "tcpEstablished",
        "tcpClosing",
        "udpUnreplied",
        "udpReplied",
    ];
    let keys = map(node, field, &known, errors)?;
    let mut timeouts = Timeouts::default();
    set_duration(
        &mut timeouts.tcp_half_open,
        &keys,
        "tcpHalfOpen",
        FLOW_TIMEOUT,
        field,
        errors,
    );
    set_duration(
        &mut timeouts.tcp_established,
        &keys,
        "tcpEstablished",
        ESTABLISHED_TIMEOUT,
        field,
        errors,
    );
    set_duration(
        &mut timeouts.tcp_closing,
        &keys,
        "tcpClosing",
        FLOW_TIMEOUT,
        field,
        errors,
    );
    set_duration(
        &mut timeouts.udp_unreplied,
        &keys,
        "udpUnreplied",
        FLOW_TIMEOUT,
        field,
        errors,
    );
    set_duration(
        &mut timeouts.udp_replied,
        &keys,
        "udpReplied",
        FLOW_TIMEOUT,
        field,
        errors,
    );
    Some(timeouts)
}
