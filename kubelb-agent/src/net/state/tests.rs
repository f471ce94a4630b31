use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::{Event, MAX_BACK_OFF, MIN_BACK_OFF, Neighbour, NextHops, Prefix, REFRESH, Reachability, RouteAnswer};
use crate::net::{Link, NoHop};

const LINK: u32 = 7;
const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const MAC_A: [u8; 6] = [2, 0, 0, 0, 0, 0xa];
const MAC_B: [u8; 6] = [2, 0, 0, 0, 0, 0xb];

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[expect(clippy::disallowed_methods, reason = "any instant will do as the origin")]
fn origin() -> Instant {
    Instant::now()
}

fn mk_link() -> Link {
    Link {
        name: "eth0".to_owned(),
        mac: Some(NODE_MAC),
        mtu: 1500,
        up: true,
    }
}

fn mk_route(gateway: Option<&str>) -> RouteAnswer {
    RouteAnswer::Via {
        ifindex: LINK,
        gateway: gateway.map(ip),
        source: Some(ip("10.0.0.1")),
        mtu: None,
    }
}

fn heard(address: &str, reachability: Reachability, mac: Option<[u8; 6]>) -> Event {
    Event::Neighbour((LINK, ip(address)), Neighbour { reachability, mac })
}

/// Wants `wanted`, each on the link itself, with nothing left to ask and no neighbour known.
fn mk_state(wanted: &[&str]) -> NextHops {
    let mut state = NextHops::default();
    state.set_wanted(&wanted.iter().map(|text| ip(text)).collect());
    state.reset_links(vec![(LINK, mk_link())]);
    for address in state.questions(usize::MAX) {
        state.answer(address, mk_route(None));
    }
    state
}

fn mac_of(state: &NextHops, address: &str) -> Option<[u8; 6]> {
    state.view().hops[&ip(address)].neighbour_mac
}

#[test]
fn a_wanted_address_is_asked_for_until_it_is_answered() {
    let mut state = NextHops::default();
    state.set_wanted(&BTreeSet::from([ip("10.0.1.11"), ip("fd00::11")]));
    assert_eq!(state.questions(9), [ip("10.0.1.11"), ip("fd00::11")]);
    assert_eq!(state.view().hops.len() + state.view().unroutable.len(), 0);

    state.reset_links(vec![(LINK, mk_link())]);
    state.answer(ip("10.0.1.11"), mk_route(Some("10.0.0.254")));
    state.answer(ip("fd00::11"), RouteAnswer::Nowhere(NoHop::NoRoute));
    assert!(state.questions(9).is_empty());
    state.apply(heard("10.0.0.254", Reachability::Confirmed, Some(MAC_A)));

    let view = state.view();
    let hop = view.hops[&ip("10.0.1.11")];
    assert_eq!(
        (hop.ifindex, hop.source_mac, hop.neighbour_mac),
        (LINK, NODE_MAC, Some(MAC_A))
    );
    assert_eq!((hop.mtu, hop.source), (1500, Some(ip("10.0.0.1"))));
    assert_eq!(view.unroutable[&ip("fd00::11")], NoHop::NoRoute);
}

#[test]
fn a_view_covers_what_has_been_looked_up() {
    let mut state = mk_state(&["10.0.1.11"]);
    let known = BTreeSet::from([ip("10.0.1.11")]);
    let more = BTreeSet::from([ip("10.0.1.11"), ip("10.0.1.12")]);
    assert!(state.view().covers(&known));
    state.set_wanted(&more);
    assert!(!state.view().covers(&more), "not asked yet");
    state.answer(ip("10.0.1.12"), RouteAnswer::Nowhere(NoHop::NoRoute));
    assert!(state.view().covers(&more), "that there is no route is an answer too");
    assert!(state.view().covers(&known));
}

#[test]
fn the_mtu_is_the_smaller_of_route_and_link() {
    for (route, expected) in [(None, 1500), (Some(1400), 1400), (Some(9000), 1500)] {
        let mut state = mk_state(&["10.0.1.11"]);
        let answer = RouteAnswer::Via {
            ifindex: LINK,
            gateway: None,
            source: None,
            mtu: route,
        };
        state.answer(ip("10.0.1.11"), answer);
        assert_eq!(state.view().hops[&ip("10.0.1.11")].mtu, expected, "route MTU {route:?}");
    }
}

#[test]
fn links_that_cannot_carry_ethernet_say_so() {
    let mut state = mk_state(&["10.0.1.11"]);
    state.apply(Event::Link(LINK, Some(Link { mac: None, ..mk_link() })));
    assert_eq!(state.view().unroutable[&ip("10.0.1.11")], NoHop::NoLinkLayer);
    state.apply(Event::Link(LINK, None));
    assert_eq!(state.view().unroutable[&ip("10.0.1.11")], NoHop::UnknownLink);
}

#[test]
fn moves_between_states_with_the_same_mac_leave_the_revision_alone() {
    let mut state = mk_state(&["10.0.1.11"]);
    state.apply(heard("10.0.1.11", Reachability::Confirmed, Some(MAC_A)));
    let before = state.view();
    for reachability in [
        Reachability::Stale,
        Reachability::Checking,
        Reachability::Confirmed,
        Reachability::Stale,
        // Forgotten by the kernel, then found again as it was.
        Reachability::Gone,
        Reachability::Resolving,
        Reachability::Confirmed,
    ] {
        let mac = matches!(
            reachability,
            Reachability::Confirmed | Reachability::Stale | Reachability::Checking
        );
        assert!(
            !state.apply(heard("10.0.1.11", reachability, mac.then_some(MAC_A))),
            "{reachability:?}"
        );
        assert_eq!(state.view(), before, "{reachability:?}");
    }
}

#[test]
fn another_mac_or_a_failure_raises_the_revision_also_for_strangers() {
    for address in ["10.0.1.11", "10.0.9.9"] {
        let mut state = mk_state(&["10.0.1.11"]);
        assert!(!state.apply(heard(address, Reachability::Confirmed, Some(MAC_A))));
        let first = state.view().revision;
        assert!(
            state.apply(heard(address, Reachability::Stale, Some(MAC_B))),
            "new MAC of {address}"
        );
        assert!(
            state.apply(heard(address, Reachability::Failed, None)),
            "failure of {address}"
        );
        assert_eq!(state.view().revision, first + 2);
        assert!(
            !state.apply(heard(address, Reachability::Failed, None)),
            "{address} still failed"
        );
        assert!(
            !state.apply(heard(address, Reachability::Confirmed, Some(MAC_A))),
            "{address} is back"
        );
    }
}

#[test]
fn a_forgotten_neighbour_that_comes_back_elsewhere_raises_the_revision() {
    let mut state = mk_state(&["10.0.1.11"]);
    state.apply(heard("10.0.1.11", Reachability::Stale, Some(MAC_A)));
    assert!(!state.apply(heard("10.0.1.11", Reachability::Gone, None)));
    assert_eq!(
        mac_of(&state, "10.0.1.11"),
        Some(MAC_A),
        "usable until the kernel knows better"
    );
    assert!(state.apply(heard("10.0.1.11", Reachability::Confirmed, Some(MAC_B))));
    assert_eq!(mac_of(&state, "10.0.1.11"), Some(MAC_B));
}

#[test]
fn link_changes_raise_the_revision_and_names_do_not() {
    let cases = [
        (Link { mtu: 1400, ..mk_link() }, true),
        (
            Link {
                mac: Some(MAC_B),
                ..mk_link()
            },
            true,
        ),
        (Link { up: false, ..mk_link() }, true),
        (
            Link {
                name: "wan".to_owned(),
                ..mk_link()
            },
            false,
        ),
        (mk_link(), false),
    ];
    for (link, raises) in cases {
        let mut state = mk_state(&["10.0.1.11"]);
        assert_eq!(state.apply(Event::Link(LINK, Some(link.clone()))), raises, "{link:?}");
        assert_eq!(
            state.questions(9).len(),
            usize::from(raises),
            "the route is asked again: {link:?}"
        );
    }
    assert!(mk_state(&[]).apply(Event::Link(LINK, None)), "a link that goes");
    assert!(
        !mk_state(&[]).apply(Event::Link(LINK + 1, Some(mk_link()))),
        "a link that comes"
    );
}

#[test]
fn a_route_event_asks_again_only_what_it_covers_and_always_raises_the_revision() {
    let mut state = mk_state(&["10.0.1.11", "10.0.2.12", "fd00::11"]);
    let before = state.view().revision;
    let prefix = |text, length| {
        Event::Route(Prefix {
            address: ip(text),
            length,
        })
    };
    assert!(state.apply(prefix("10.0.1.0", 24)));
    assert_eq!(state.questions(9), [ip("10.0.1.11")]);
    state.answer(ip("10.0.1.11"), mk_route(None));
    assert!(state.apply(prefix("192.0.2.0", 24)), "clients may live there");
    assert!(state.questions(9).is_empty());
    state.apply(prefix("::", 0));
    assert_eq!(state.questions(9), [ip("fd00::11")]);
    state.apply(Event::Everything);
    assert_eq!(state.questions(9).len(), 3);
    assert_eq!(state.view().revision, before + 4);
}

#[test]
fn unresolved_neighbours_are_kicked_at_once_and_then_ever_more_rarely() {
    let mut state = mk_state(&["10.0.1.11"]);
    let start = origin();
    let key = (LINK, ip("10.0.1.11"));
    assert_eq!(state.take_kicks(start, 9), [key]);
    let mut now = start;
    let mut waits = Vec::new();
    for _ in 0..8 {
        assert!(state.take_kicks(now, 9).is_empty(), "not twice");
        let next = state.poll_timeout().expect("it goes on while wanted");
        waits.push(next - now);
        now = next;
        assert_eq!(state.take_kicks(now, 9), [key]);
    }
    assert_eq!(waits[0], MIN_BACK_OFF);
    assert_eq!(waits[7], MAX_BACK_OFF);
    assert!(waits.windows(2).all(|pair| pair[0] <= pair[1]));

    state.apply(heard("10.0.1.11", Reachability::Confirmed, Some(MAC_A)));
    assert_eq!(state.poll_timeout(), None, "a confirmed neighbour is left alone");
    state.apply(heard("10.0.1.11", Reachability::Failed, None));
    assert_eq!(state.take_kicks(now, 9), [key], "and a later failure starts afresh");
}

#[test]
fn stale_neighbours_in_use_are_confirmed_and_others_left_alone() {
    let mut state = mk_state(&["10.0.1.11"]);
    let now = origin();
    let _first = state.take_kicks(now, 9);
    state.apply(heard("10.0.1.11", Reachability::Confirmed, Some(MAC_A)));
    state.apply(heard("10.0.1.11", Reachability::Stale, Some(MAC_A)));
    state.apply(heard("10.0.1.99", Reachability::Stale, Some(MAC_B)));
    assert_eq!(state.take_kicks(now, 9), [(LINK, ip("10.0.1.11"))]);
    assert_eq!(state.poll_timeout(), Some(now + REFRESH));
}

#[test]
fn a_full_kernel_table_is_not_hammered() {
    let mut state = mk_state(&["10.0.1.11"]);
    let now = origin();
    assert_eq!(state.take_kicks(now, 9).len(), 1);
    for _ in 0..5 {
        state.apply(heard("10.0.1.11", Reachability::Resolving, None));
        state.apply(heard("10.0.1.11", Reachability::Gone, None));
        assert!(state.take_kicks(now + Duration::from_millis(1), 9).is_empty());
    }
}

#[test]
fn destinations_behind_one_gateway_share_its_kick_and_its_mac() {
    let mut state = mk_state(&["10.0.1.11", "10.0.1.12"]);
    for address in ["10.0.1.11", "10.0.1.12"] {
        state.answer(ip(address), mk_route(Some("10.0.0.254")));
    }
    let now = origin();
    assert_eq!(state.take_kicks(now, 9), [(LINK, ip("10.0.0.254"))]);
    state.apply(heard("10.0.0.254", Reachability::Confirmed, Some(MAC_A)));
    assert_eq!(mac_of(&state, "10.0.1.12"), Some(MAC_A));

    state.apply(heard("10.0.0.254", Reachability::Stale, Some(MAC_A)));
    state.set_wanted(&BTreeSet::from([ip("10.0.1.12")]));
    assert_eq!(state.take_kicks(now, 9).len(), 1, "still used by the other");
    state.set_wanted(&BTreeSet::new());
    assert_eq!(state.poll_timeout(), None);
    assert!(state.take_kicks(now + MAX_BACK_OFF, 9).is_empty());
}

#[test]
fn nothing_is_kicked_through_a_link_that_is_down() {
    let mut state = mk_state(&["10.0.1.11"]);
    state.apply(Event::Link(LINK, Some(Link { up: false, ..mk_link() })));
    assert!(state.take_kicks(origin(), 9).is_empty());
    state.apply(Event::Link(LINK, Some(mk_link())));
    assert_eq!(state.take_kicks(origin(), 9).len(), 1);
}

#[test]
fn what_a_new_listing_lacks_is_gone() {
    let mut state = mk_state(&["10.0.1.11"]);
    state.apply(heard("10.0.1.11", Reachability::Confirmed, Some(MAC_A)));
    state.reset_neighbours(Vec::new());
    assert_eq!(mac_of(&state, "10.0.1.11"), Some(MAC_A), "forgotten, not refuted");
    assert_eq!(state.take_kicks(origin(), 9).len(), 1);
    state.reset_links(Vec::new());
    assert!(state.view().links.is_empty());
    assert_eq!(state.view().unroutable[&ip("10.0.1.11")], NoHop::UnknownLink);
}

#[test]
fn a_neighbour_behind_a_cut_link_must_be_found_again() {
    let mut state = mk_state(&["10.0.1.11"]);
    state.apply(heard("10.0.1.11", Reachability::Confirmed, Some(MAC_A)));
    state.apply(heard("10.0.1.11", Reachability::Gone, None));
    state.apply(Event::Link(LINK, Some(Link { up: false, ..mk_link() })));
    assert_eq!(mac_of(&state, "10.0.1.11"), None);
}

proptest! {
    #[test]
    fn a_prefix_covers_exactly_the_addresses_that_share_its_bits(net: u32, host: u32, length in 0u8..=32) {
        let prefix = Prefix { address: IpAddr::V4(net.into()), length };
        let equal = (0..u32::from(length)).all(|bit| (net >> (31 - bit)) & 1 == (host >> (31 - bit)) & 1);
        prop_assert_eq!(prefix.covers(IpAddr::V4(host.into())), equal);
        prop_assert!(!prefix.covers(IpAddr::V6(u128::from(host).into())));
    }

    #[test]
    fn a_v6_prefix_covers_exactly_the_addresses_that_share_its_bits(net: u128, flip in 0u32..128, length in 0u8..=128) {
        let prefix = Prefix { address: IpAddr::V6(net.into()), length };
        prop_assert!(prefix.covers(prefix.address));
        let other = IpAddr::V6((net ^ (1u128 << (127 - flip))).into());
        prop_assert_eq!(prefix.covers(other), flip >= u32::from(length));
    }

    /// Whatever is heard, a hop's MAC is the last valid one heard, unless a failure came after it.
    #[test]
    fn the_hop_follows_the_last_word(words in proptest::collection::vec((0u8..6, any::<bool>()), 0..30)) {
        let mut state = mk_state(&["10.0.1.11"]);
        let mut expected = None;
        for (word, which) in words {
            let mac = Some(if which { MAC_A } else { MAC_B });
            let (reachability, mac) = match word {
                0 => (Reachability::Confirmed, mac),
                1 => (Reachability::Stale, mac),
                2 => (Reachability::Checking, mac),
                3 => (Reachability::Resolving, None),
                4 => (Reachability::Failed, None),
                _ => (Reachability::Gone, None),
            };
            let before = state.view();
            let raised = state.apply(heard("10.0.1.11", reachability, mac));
            match word {
                0..=2 => expected = mac,
                4 => expected = None,
                _ => {}
            }
            let after = state.view();
            let old = before.hops[&ip("10.0.1.11")].neighbour_mac;
            prop_assert_eq!(after.hops[&ip("10.0.1.11")].neighbour_mac, expected);
            prop_assert_eq!(raised, old.is_some() && old != expected);
            prop_assert_eq!(after.revision, before.revision + u64::from(raised));
        }
    }
}
