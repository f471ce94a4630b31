//! Which IP addresses can be a VIP, a backend or a SNAT address, and which networks clients may come from.
//!
//! Owns the reasons for refusing one. Pure.

use std::net::IpAddr;

use ipnet::IpNet;

use super::node::{Errors, Field, shown, word};
use super::tree::Node;

/// Reads an address that packets can be forwarded from and to.
pub(super) fn address(node: &Node, field: &Field<'_>, errors: &mut Errors) -> Option<IpAddr> {
    let text = word(node, field, "an IP address", errors)?;
    let reason = match text.parse::<IpAddr>() {
        Ok(address) => match unusable(address) {
            None => return Some(address),
            Some(why) => format!("{address} {why}"),
        },
        Err(_) => malformed(text),
    };
    errors.push(node.line, field, reason);
    None
}

/// Reads a network that clients may come from.
pub(super) fn network(node: &Node, field: &Field<'_>, errors: &mut Errors) -> Option<IpNet> {
    let text = word(node, field, "a network such as 192.0.2.0/24", errors)?;
    let reason = match text.parse::<IpNet>() {
        Ok(network) if network == network.trunc() => return Some(network),
        Ok(network) => format!("{} has bits beyond its prefix; write {}", shown(text), network.trunc()),
        Err(_) => match text.parse::<IpAddr>() {
            Ok(address) => format!("{address} is an address; write {}", IpNet::from(address)),
            Err(_) => format!(
                "{} is not a network; write it like 192.0.2.0/24 or 2001:db8::/32",
                shown(text)
            ),
        },
    };
    errors.push(node.line, field, reason);
    None
}

fn malformed(text: &str) -> String {
    let is_address = |text: &str| text.parse::<IpAddr>().is_ok();
    let shown = shown(text);
    if text.split_once('%').is_some_and(|(address, _)| is_address(address)) {
        format!("{shown} has a zone; scoped addresses cannot be forwarded, use a global one")
    } else if text.split_once('/').is_some_and(|(address, _)| is_address(address)) {
        format!("{shown} is a network; write the address alone")
    } else if text.parse::<std::net::SocketAddr>().is_ok() {
        format!("{shown} has a port in it; the port has a key of its own")
    } else if text.starts_with('[') && text.ends_with(']') {
        format!("{shown} is in brackets; write the address alone")
    } else {
        format!("{shown} is not an IP address; write it like 203.0.113.10 or 2001:db8::10 (names are not resolved)")
    }
}

fn unusable(address: IpAddr) -> Option<String> {
    let why = match address {
        IpAddr::V4(v4) if v4.octets().first() == Some(&0) => "is unspecified; use an address that clients can dial",
        IpAddr::V6(v6) if v6.is_unspecified() => "is unspecified; use an address that clients can dial",
        IpAddr::V4(v4) if v4.is_broadcast() => "is the broadcast address; use a unicast address",
        _ if address.is_multicast() => "is a multicast address; use a unicast address",
        _ if address.is_loopback() => "is a loopback address, which never leaves the node; use one that is routed",
        // RFC 3927 §7 and RFC 4291 §2.5.6: routers must not forward these.
        IpAddr::V4(v4) if v4.is_link_local() => "is link-local and must not be forwarded; use one that is routed",
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            "is link-local and must not be forwarded; use one that is routed"
        }
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => return Some(format!("is an IPv4 address in IPv6 form; write {v4}")),
            None => return None,
        },
        IpAddr::V4(_) => return None,
    };
    Some(why.to_owned())
}
