//! Netlink messages to and from the words of [`super::state`].
//!
//! Owns every mention of `netlink_packet_route` types outside [`super::socket`]. Does no I/O and decides nothing.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the crate's enums are non-exhaustive: they grow with the kernel"
)]

use std::net::{IpAddr, Ipv6Addr};

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::stack::StackAddress;
use super::state::{Event, Neighbour, NeighbourKey, Prefix, Reachability, RouteAnswer};
use super::{Link, NoHop};

/// What a multicast message means here; `None` when it means nothing.
#[must_use]
pub fn event(message: &RouteNetlinkMessage) -> Option<Event> {
    match message {
        RouteNetlinkMessage::NewLink(message) => {
            // Bridge and IPv6 notifications about a port share the message type and lack what a link has.
            let (index, link) = link(message)?;
            Some(Event::Link(index, Some(link)))
        }
        RouteNetlinkMessage::DelLink(message) if message.header.interface_family == AddressFamily::Unspec => {
            Some(Event::Link(message.header.index, None))
        }
        RouteNetlinkMessage::DelLink(_) => None,
        RouteNetlinkMessage::NewNeighbour(message) => {
            neighbour(message).map(|(key, neighbour)| Event::Neighbour(key, neighbour))
        }
        RouteNetlinkMessage::DelNeighbour(message) => neighbour(message).map(|(key, _)| {
            let gone = Neighbour {
                reachability: Reachability::Gone,
                mac: None,
            };
            Event::Neighbour(key, gone)
        }),
        RouteNetlinkMessage::NewRoute(message) | RouteNetlinkMessage::DelRoute(message) => route_event(message),
        _ => Some(Event::Everything),
    }
}

/// A link with its interface index; `None` for messages about something else of that link.
#[must_use]
pub fn link(message: &LinkMessage) -> Option<(u32, Link)> {
    if message.header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let ethernet = message.header.link_layer_type == LinkLayerType::Ether;
    let mut link = Link {
        name: String::new(),
        mac: None,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
    };
    for attribute in &message.attributes {
        if let LinkAttribute::IfName(name) = attribute {
            link.name.clone_from(name);
        } else if let LinkAttribute::Mtu(mtu) = attribute {
            link.mtu = *mtu;
        } else if let LinkAttribute::Address(bytes) = attribute
            && ethernet
        {
            link.mac = mac(bytes);
        }
    }
    Some((message.header.index, link))
}

/// A neighbour of an IP family with its key; `None` for bridge entries and proxies.
#[must_use]
pub fn neighbour(message: &NeighbourMessage) -> Option<(NeighbourKey, Neighbour)> {
    if message.header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let mut address = None;
    let mut link_layer = None;
    for attribute in &message.attributes {
        if let NeighbourAttribute::Destination(destination) = attribute {
            address = match destination {
                NeighbourAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
                NeighbourAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
                _ => None,
            };
        } else if let NeighbourAttribute::LinkLayerAddress(bytes) = attribute {
            link_layer = mac(bytes);
        }
    }
    let reachability = match message.header.state {
        NeighbourState::Reachable | NeighbourState::Permanent | NeighbourState::Noarp => Reachability::Confirmed,
        NeighbourState::Stale => Reachability::Stale,
        NeighbourState::Delay | NeighbourState::Probe => Reachability::Checking,
        NeighbourState::Failed => Reachability::Failed,
        _ => Reachability::Resolving,
    };
    let neighbour = Neighbour {
        reachability,
        mac: link_layer,
    };
    Some(((message.header.ifindex, address?), neighbour))
}

/// The answer to a question that [`route_question`] asked.
#[must_use]
pub fn route_answer(message: &RouteMessage) -> RouteAnswer {
    let nowhere = match message.header.kind {
        RouteType::Unicast => None,
        RouteType::Local => Some(NoHop::Local),
        RouteType::Unreachable => Some(NoHop::Unreachable),
        RouteType::BlackHole => Some(NoHop::Blackhole),
        RouteType::Prohibit => Some(NoHop::Prohibited),
        RouteType::Throw | RouteType::Unspec => Some(NoHop::NoRoute),
        _ => Some(NoHop::NotUnicast),
    };
    if let Some(why) = nowhere {
        return RouteAnswer::Nowhere(why);
    }
    let (mut oif, mut gateway, mut source, mut mtu) = (None, None, None, None);
    for attribute in &message.attributes {
        if let RouteAttribute::Oif(index) = attribute {
            oif = Some(*index);
        } else if let RouteAttribute::Gateway(address) = attribute {
            gateway = ip(address);
        } else if let RouteAttribute::Via(via) = attribute {
            // An IPv4 route through an IPv6 router (RFC 5549).
            gateway = match via {
                RouteVia::Inet(v4) => Some(IpAddr::V4(*v4)),
                RouteVia::Inet6(v6) => Some(IpAddr::V6(*v6)),
                _ => return RouteAnswer::Nowhere(NoHop::Encapsulated),
            };
        } else if let RouteAttribute::PrefSource(address) = attribute {
            source = ip(address);
        } else if let RouteAttribute::Metrics(metrics) = attribute {
            mtu = metrics.iter().find_map(|metric| match metric {
                RouteMetric::Mtu(bytes) if *bytes > 0 => Some(*bytes),
                _ => None,
            });
        } else if matches!(attribute, RouteAttribute::Encap(_) | RouteAttribute::NewDestination(_)) {
            return RouteAnswer::Nowhere(NoHop::Encapsulated);
        }
    }
    oif.map_or(RouteAnswer::Nowhere(NoHop::UnknownLink), |ifindex| RouteAnswer::Via {
        ifindex,
        gateway,
        source,
        mtu,
    })
}

/// What the kernel means by refusing a route question with this (positive) errno; `fib_lookup` returns the route
/// type's error (`fib_props` in net/ipv4/fib_semantics.c).
#[must_use]
pub fn route_refusal(errno: i32) -> NoHop {
    match errno {
        libc::ENETUNREACH => NoHop::NoRoute,
        libc::EHOSTUNREACH => NoHop::Unreachable,
        libc::EINVAL => NoHop::Blackhole,
        libc::EACCES => NoHop::Prohibited,
        other => NoHop::Refused(other),
    }
}

/// `RTM_GETROUTE` for one destination, as the kernel would route a packet of its own: the answer holds the source
/// address it would take and a path MTU it has learned, which the bare FIB entry (`RTM_F_FIB_MATCH`) lacks.
#[must_use]
pub fn route_question(address: IpAddr) -> NetlinkMessage<RouteNetlinkMessage> {
    let mut message = RouteMessage::default();
    (message.header.address_family, message.header.destination_prefix_length) = match address {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    message.attributes.push(RouteAttribute::Destination(address.into()));
    request(RouteNetlinkMessage::GetRoute(message), NLM_F_REQUEST)
}

/// Asks the kernel to use a neighbour: to resolve it if it must, to confirm it if it is stale (`NTF_USE`).
#[must_use]
pub fn kick((ifindex, address): NeighbourKey) -> NetlinkMessage<RouteNetlinkMessage> {
    let mut message = NeighbourMessage::default();
    let destination = match address {
        IpAddr::V4(v4) => {
            message.header.family = AddressFamily::Inet;
            NeighbourAddress::Inet(v4)
        }
        IpAddr::V6(v6) => {
            message.header.family = AddressFamily::Inet6;
            NeighbourAddress::Inet6(v6)
        }
    };
    message.header.ifindex = ifindex;
    message.header.state = NeighbourState::None;
    message.header.flags = NeighbourFlags::Use;
    message.header.kind = RouteType::Unspec;
    message.attributes.push(NeighbourAttribute::Destination(destination));
    request(
        RouteNetlinkMessage::NewNeighbour(message),
        NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE,
    )
}

/// Lists all links.
#[must_use]
pub fn list_links() -> NetlinkMessage<RouteNetlinkMessage> {
    request(
        RouteNetlinkMessage::GetLink(LinkMessage::default()),
        NLM_F_REQUEST | NLM_F_DUMP,
    )
}

/// Lists all neighbours of both families.
#[must_use]
pub fn list_neighbours() -> NetlinkMessage<RouteNetlinkMessage> {
    request(
        RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()),
        NLM_F_REQUEST | NLM_F_DUMP,
    )
}

/// Marks addresses as this agent's (`IFA_PROTO`): "k".
const PROTOCOL: AddressProtocol = AddressProtocol::Other(0x6b);

/// Lists all addresses of both families.
#[must_use]
pub fn list_addresses() -> NetlinkMessage<RouteNetlinkMessage> {
    request(
        RouteNetlinkMessage::GetAddress(AddressMessage::default()),
        NLM_F_REQUEST | NLM_F_DUMP,
    )
}

/// An address that this agent has given an interface; `None` for all others.
#[must_use]
pub fn own_address(message: &AddressMessage) -> Option<StackAddress> {
    let mut address = None;
    let mut is_own = false;
    for attribute in &message.attributes {
        if let AddressAttribute::Address(ip) = attribute {
            address = Some(*ip);
        } else if let AddressAttribute::Protocol(protocol) = attribute {
            is_own = *protocol == PROTOCOL;
        }
    }
    let address = address.filter(|_| is_own)?;
    let interface = message.header.index;
    Some(match address {
        IpAddr::V6(group) if group.is_multicast() => StackAddress::Group(interface, group),
        address => StackAddress::Local(interface, address),
    })
}

/// Gives an interface an address of this agent's.
#[must_use]
pub fn add_address(address: StackAddress) -> NetlinkMessage<RouteNetlinkMessage> {
    request(
        RouteNetlinkMessage::NewAddress(address_message(address)),
        NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE,
    )
}

/// Takes it away again.
#[must_use]
pub fn remove_address(address: StackAddress) -> NetlinkMessage<RouteNetlinkMessage> {
    request(
        RouteNetlinkMessage::DelAddress(address_message(address)),
        NLM_F_REQUEST | NLM_F_ACK,
    )
}

fn address_message(address: StackAddress) -> AddressMessage {
    let mut message = AddressMessage::default();
    let (interface, ip, flags) = match address {
        StackAddress::Local(interface, ip) => (interface, ip, AddressFlags::empty()),
        // The kernel's own socket joins the group then: the membership, and the interface's filter, outlive this process.
        StackAddress::Group(interface, group) => (interface, IpAddr::V6(group), AddressFlags::Mcautojoin),
    };
    message.header.index = interface;
    (message.header.family, message.header.prefix_len) = match ip {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    message.attributes = vec![
        AddressAttribute::Local(ip),
        AddressAttribute::Address(ip),
        AddressAttribute::Protocol(PROTOCOL),
    ];
    if let IpAddr::V6(v6) = ip {
        message.header.scope = scope(v6);
        // The data path answers for it, before the stack is asked: nothing to detect.
        let flags = flags | AddressFlags::Nodad | AddressFlags::Noprefixroute;
        message.attributes.push(AddressAttribute::Flags(flags));
    }
    message
}

fn scope(address: Ipv6Addr) -> AddressScope {
    if address.is_multicast() {
        AddressScope::Link
    } else {
        AddressScope::Universe
    }
}

fn request(payload: RouteNetlinkMessage, flags: u16) -> NetlinkMessage<RouteNetlinkMessage> {
    let mut message = NetlinkMessage::from(payload);
    message.header.flags = flags;
    message
}

fn route_event(message: &RouteMessage) -> Option<Event> {
    // Cache entries (path MTU, redirects), not routes.
    if message.header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let any = match message.header.address_family {
        AddressFamily::Inet => IpAddr::from([0u8; 4]),
        AddressFamily::Inet6 => IpAddr::from([0u8; 16]),
        _ => return None,
    };
    let destination = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => ip(address),
        _ => None,
    });
    Some(Event::Route(Prefix {
        address: destination.unwrap_or(any),
        length: message.header.destination_prefix_length,
    }))
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

/// Six bytes that are not all zero.
fn mac(bytes: &[u8]) -> Option<[u8; 6]> {
    <[u8; 6]>::try_from(bytes).ok().filter(|mac| *mac != [0; 6])
}

#[cfg(test)]
mod tests;
