use std::net::IpAddr;

use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{event, link, neighbour, route_answer, route_refusal};
use crate::net::NoHop;
use crate::net::state::{Event, Prefix, Reachability, RouteAnswer};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn mk_route(kind: RouteType, attributes: Vec<RouteAttribute>) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.kind = kind;
    message.attributes = attributes;
    message
}

fn mk_neighbour(state: NeighbourState) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.ifindex = 3;
    message.header.state = state;
    message.attributes = vec![
        NeighbourAttribute::Destination(NeighbourAddress::Inet([10, 0, 0, 2].into())),
        NeighbourAttribute::LinkLayerAddress(MAC.to_vec()),
    ];
    message
}

#[test]
fn a_route_answer_keeps_link_gateway_source_and_mtu() {
    let message = mk_route(
        RouteType::Unicast,
        vec![
            RouteAttribute::Oif(4),
            RouteAttribute::Gateway(RouteAddress::Inet([10, 0, 0, 254].into())),
            RouteAttribute::PrefSource(RouteAddress::Inet([10, 0, 0, 1].into())),
            RouteAttribute::Metrics(vec![RouteMetric::Advmss(1), RouteMetric::Mtu(1400)]),
        ],
    );
    let expected = RouteAnswer::Via {
        ifindex: 4,
        gateway: Some(ip("10.0.0.254")),
        source: Some(ip("10.0.0.1")),
        mtu: Some(1400),
    };
    assert_eq!(route_answer(&message), expected);
}

#[test]
fn a_v4_route_may_lead_through_a_v6_router() {
    let via = RouteVia::Inet6("fe80::1".parse().expect("an address"));
    let message = mk_route(
        RouteType::Unicast,
        vec![RouteAttribute::Oif(4), RouteAttribute::Via(via)],
    );
    assert!(matches!(route_answer(&message), RouteAnswer::Via { gateway: Some(g), .. } if g == ip("fe80::1")));
}

#[test]
fn routes_that_lead_nowhere_say_why() {
    let cases = [
        (RouteType::Local, NoHop::Local),
        (RouteType::BlackHole, NoHop::Blackhole),
        (RouteType::Unreachable, NoHop::Unreachable),
        (RouteType::Prohibit, NoHop::Prohibited),
        (RouteType::Throw, NoHop::NoRoute),
        (RouteType::Broadcast, NoHop::NotUnicast),
        (RouteType::Multicast, NoHop::NotUnicast),
        (RouteType::Unicast, NoHop::UnknownLink),
    ];
    for (kind, why) in cases {
        assert_eq!(
            route_answer(&mk_route(kind, Vec::new())),
            RouteAnswer::Nowhere(why),
            "{kind:?}"
        );
    }
    let tunnel = vec![RouteAttribute::Oif(4), RouteAttribute::Encap(Vec::new())];
    let answer = route_answer(&mk_route(RouteType::Unicast, tunnel));
    assert_eq!(answer, RouteAnswer::Nowhere(NoHop::Encapsulated));
    assert_eq!(route_refusal(libc::ENETUNREACH), NoHop::NoRoute);
    assert_eq!(route_refusal(libc::EINVAL), NoHop::Blackhole);
    assert_eq!(route_refusal(libc::EHOSTUNREACH), NoHop::Unreachable);
    assert_eq!(route_refusal(libc::EACCES), NoHop::Prohibited);
    assert_eq!(route_refusal(libc::ENOMEM), NoHop::Refused(libc::ENOMEM));
}

#[test]
fn neighbour_states_map_to_how_far_the_mac_can_be_trusted() {
    let cases = [
        (NeighbourState::Permanent, Reachability::Confirmed),
        (NeighbourState::Noarp, Reachability::Confirmed),
        (NeighbourState::Reachable, Reachability::Confirmed),
        (NeighbourState::Stale, Reachability::Stale),
        (NeighbourState::Delay, Reachability::Checking),
        (NeighbourState::Probe, Reachability::Checking),
        (NeighbourState::Incomplete, Reachability::Resolving),
        (NeighbourState::None, Reachability::Resolving),
        (NeighbourState::Failed, Reachability::Failed),
    ];
    for (state, reachability) in cases {
        let (key, found) = neighbour(&mk_neighbour(state)).expect("a neighbour");
        assert_eq!(key, (3, ip("10.0.0.2")));
        assert_eq!((found.reachability, found.mac), (reachability, Some(MAC)), "{state:?}");
    }
}

#[test]
fn proxies_and_bridge_entries_are_no_neighbours() {
    let mut proxy = mk_neighbour(NeighbourState::Permanent);
    proxy.header.flags = NeighbourFlags::Proxy;
    assert_eq!(event(&RouteNetlinkMessage::NewNeighbour(proxy)), None);
    let mut bridge = mk_neighbour(NeighbourState::Permanent);
    bridge.header.family = AddressFamily::Bridge;
    bridge.attributes = vec![NeighbourAttribute::LinkLayerAddress(MAC.to_vec())];
    assert_eq!(event(&RouteNetlinkMessage::NewNeighbour(bridge)), None);
}

#[test]
fn a_link_is_up_with_carrier_and_has_a_mac_only_if_ethernet() {
    let mut message = LinkMessage::default();
    message.header.index = 5;
    message.header.link_layer_type = LinkLayerType::Ether;
    message.header.flags = LinkFlags::Up | LinkFlags::LowerUp | LinkFlags::Running;
    message.attributes = vec![
        LinkAttribute::IfName("eth0".to_owned()),
        LinkAttribute::Mtu(1500),
        LinkAttribute::Address(MAC.to_vec()),
    ];
    let (index, found) = link(&message).expect("a link");
    assert_eq!(
        (index, found.name.as_str(), found.mac, found.mtu, found.up),
        (5, "eth0", Some(MAC), 1500, true)
    );

    message.header.flags = LinkFlags::Up;
    assert!(!link(&message).expect("a link").1.up, "no carrier");
    message.header.link_layer_type = LinkLayerType::Loopback;
    assert_eq!(link(&message).expect("a link").1.mac, None);
    // A port leaving its bridge is announced as the removal of a link of the bridge family.
    message.header.interface_family = AddressFamily::Bridge;
    assert_eq!(event(&RouteNetlinkMessage::DelLink(message.clone())), None);
    assert_eq!(event(&RouteNetlinkMessage::NewLink(message)), None);
}

#[test]
fn route_events_name_their_block_and_cache_entries_are_not_routes() {
    let mut message = mk_route(
        RouteType::Unicast,
        vec![RouteAttribute::Destination(RouteAddress::Inet([10, 1, 0, 0].into()))],
    );
    message.header.destination_prefix_length = 16;
    let block = Prefix {
        address: ip("10.1.0.0"),
        length: 16,
    };
    assert_eq!(
        event(&RouteNetlinkMessage::DelRoute(message.clone())),
        Some(Event::Route(block))
    );
    message.header.flags = RouteFlags::Cloned;
    assert_eq!(event(&RouteNetlinkMessage::NewRoute(message)), None);

    let mut default = mk_route(RouteType::Unicast, Vec::new());
    default.header.address_family = AddressFamily::Inet6;
    let any = Prefix {
        address: ip("::"),
        length: 0,
    };
    assert_eq!(event(&RouteNetlinkMessage::NewRoute(default)), Some(Event::Route(any)));
}

#[test]
fn anything_else_puts_everything_in_question() {
    let message = RouteNetlinkMessage::NewAddress(AddressMessage::default());
    assert_eq!(event(&message), Some(Event::Everything));
}
