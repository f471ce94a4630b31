//! Who has this address: what is answered for an announced one, and when it is given up.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use kubelb_ebpf::model::scene::{LINK_MAC, LOCAL_PORT, OTHER_MAC, Scene, VIP};
use kubelb_ebpf::outcome::Outcome::{Answer, Pass};

use super::Case;
use super::answers::{port_unreachable, reset_to};
use super::world::{ACK, RST, SYN, TCPS, UDPS};
use crate::packet::link::{Arp, advertisement, probe, solicitation, unsolicited_advertisement};
use crate::packet::{Body, Packet};

const CLIENT: [u8; 6] = [2, 0, 0, 0, 0, 1];
const RIVAL: [u8; 6] = [2, 9, 9, 9, 9, 9];
const CLIENT4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7);

pub(super) fn cases() -> Vec<Case> {
    let mut cases = arp();
    cases.extend(discovery());
    cases.extend(conflicts());
    cases.extend(malformed_arp());
    cases.extend(malformed_discovery());
    cases.extend(unserved());
    cases
}

fn vip4() -> Ipv4Addr {
    VIP[0].v4_bytes().into()
}

fn vip6() -> Ipv6Addr {
    VIP[1].bytes().into()
}

fn announcing(name: &str) -> Case {
    let mut case = Case::new(name);
    case.scene = Scene {
        announces: true,
        ..Scene::default()
    };
    case
}

fn arp() -> Vec<Case> {
    let request = Arp::request((CLIENT, CLIENT4), vip4());
    let tagged = Arp {
        vlan: Some(42),
        ..request.clone()
    };
    let unicast = Arp {
        to: LINK_MAC,
        ..request.clone()
    };
    let probe = Arp::request((CLIENT, Ipv4Addr::UNSPECIFIED), vip4());
    let mut answered = announcing("ARP for an announced address is answered");
    for (what, request) in [
        ("request", request.clone()),
        ("tagged", tagged),
        ("unicast", unicast),
        ("probe (RFC 5227)", probe),
    ] {
        answered = answered.frame(what, request.bytes(), Answer, request.reply(LINK_MAC).bytes());
    }
    let other = Arp::request((CLIENT, CLIENT4), Ipv4Addr::new(203, 0, 113, 11));
    let left = announcing("ARP that is none of ours is left to the stack")
        .untouched_frame("for another address", other.bytes(), Pass)
        .untouched_frame("a reply", other.reply(RIVAL).bytes(), Pass)
        .untouched_frame(
            "to us, who asked for another",
            Arp::request((LINK_MAC, CLIENT4), vip4()).reply(RIVAL).bytes(),
            Pass,
        );
    let silent = Case::new("ARP for an address that is not announced is left to the stack").untouched_frame(
        "request",
        request.bytes(),
        Pass,
    );
    vec![answered, left, silent]
}

fn discovery() -> Vec<Case> {
    let client = (CLIENT, CLIENT6);
    let request = solicitation(client, vip6());
    let answer = advertisement(LINK_MAC, vip6(), client);
    let with = |change: &dyn Fn(&mut Packet)| {
        let (mut request, mut answer) = (request.clone(), answer.clone());
        change(&mut request);
        answer.vlan = request.vlan;
        (request, answer)
    };
    let mut answered = announcing("solicitations for an announced address are answered");
    for (what, (request, answer)) in [
        ("to the group", with(&|_| ())),
        ("tagged", with(&|packet| packet.vlan = Some(42))),
        (
            "to the address itself",
            with(&|packet| (packet.destination, packet.destination_mac) = (vip6().into(), LINK_MAC)),
        ),
        ("without the sender's MAC address", with(&|packet| cut(packet, 16))),
        (
            "with a second option",
            with(&|packet| append(packet, &[14, 1, 1, 2, 3, 4, 5, 6])),
        ),
        ("with padding", with(&|packet| packet.padding = 6)),
    ] {
        answered = answered.send(what, &request, Answer, &answer);
    }
    let mut to_all = advertisement(LINK_MAC, vip6(), client);
    let unsolicited = unsolicited_advertisement(LINK_MAC, vip6());
    (to_all.destination, to_all.destination_mac) = (unsolicited.destination, unsolicited.destination_mac);
    to_all.body = unsolicited.body;
    let answered = answered.send(
        "of who wants the address for itself",
        &probe(CLIENT, vip6()),
        Answer,
        &to_all,
    );
    let neighbour = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 1, 0x10);
    let left = announcing("neighbour discovery that is none of ours is left to the stack")
        .untouched(
            "another address of the same group",
            &solicitation(client, neighbour),
            Pass,
        )
        .untouched(
            "an advertisement of another address",
            &unsolicited_advertisement(RIVAL, neighbour),
            Pass,
        )
        .untouched(
            "our own question come back",
            &solicitation((LINK_MAC, CLIENT6), vip6()),
            Pass,
        )
        .untouched("a router's advertisement", &router(), Pass)
        .untouched(
            "an echo request to all nodes",
            &Packet::echo_request(CLIENT6.into(), all_nodes(), 1, 2, b"?"),
            Pass,
        );
    let silent = Case::new("solicitations for an address that is not announced are left to the stack")
        .untouched("to the group", &request, Pass)
        .untouched(
            "to the address",
            &with(&|packet| packet.destination = vip6().into()).0,
            Pass,
        );
    vec![answered, left, silent]
}

fn all_nodes() -> IpAddr {
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into()
}

fn router() -> Packet {
    let body = Body::Icmp {
        kind: 134,
        code: 0,
        rest: [64, 0, 0, 0],
        payload: vec![0; 8],
    };
    let mut packet = Packet::new(CLIENT6.into(), all_nodes(), body);
    packet.ttl = 255;
    packet
}

fn payload(packet: &mut Packet) -> Option<&mut Vec<u8>> {
    match &mut packet.body {
        Body::Icmp { payload, .. } => Some(payload),
        Body::Tcp(_) | Body::Udp(_) | Body::Raw { .. } => None,
    }
}

fn cut(packet: &mut Packet, length: usize) {
    if let Some(payload) = payload(packet) {
        payload.truncate(length);
    }
}

fn append(packet: &mut Packet, option: &[u8]) {
    if let Some(payload) = payload(packet) {
        payload.extend(option);
    }
}

fn conflicts() -> Vec<Case> {
    let (ask4, ask6) = (
        Arp::request((CLIENT, CLIENT4), vip4()),
        solicitation((CLIENT, CLIENT6), vip6()),
    );
    let answer6 = advertisement(LINK_MAC, vip6(), (CLIENT, CLIENT6));
    let answered = |case: Case| {
        case.frame("a request", ask4.bytes(), Answer, ask4.reply(LINK_MAC).bytes())
            .send("a solicitation", &ask6, Answer, &answer6)
    };
    let own = |case: Case, mac| {
        case.untouched_frame("announced", Arp::announcement(mac, vip4()).bytes(), Pass)
            .untouched("advertised", &unsolicited_advertisement(mac, vip6()), Pass)
    };
    let kept = announcing("a node's own announcements, also by another interface, take nothing from it");
    let kept = answered(own(own(kept, LINK_MAC), OTHER_MAC));
    let mut cases = vec![kept];
    let reply = Arp {
        operation: 2,
        ..Arp::announcement(RIVAL, vip4())
    };
    for (how, frame) in [
        ("request", Arp::announcement(RIVAL, vip4()).bytes()),
        ("reply", reply.bytes()),
        ("other question", Arp::request((RIVAL, vip4()), CLIENT4).bytes()),
    ] {
        cases.push(
            announcing(&format!(
                "an ARP {how} of another machine in the address's name takes it"
            ))
            .frame("a request", ask4.bytes(), Answer, ask4.reply(LINK_MAC).bytes())
            .untouched_frame("the announcement", frame, Pass)
            .untouched_frame("a request", ask4.bytes(), Pass)
            .send("the other address is as it was", &ask6, Answer, &answer6),
        );
    }
    let solicited = advertisement(RIVAL, vip6(), (LINK_MAC, vip6()));
    for (how, packet) in [
        ("unsolicited", unsolicited_advertisement(RIVAL, vip6())),
        ("solicited", solicited),
    ] {
        cases.push(
            announcing(&format!("an {how} advertisement of another machine takes the address"))
                .send("a solicitation", &ask6, Answer, &answer6)
                .untouched("the advertisement", &packet, Pass)
                .untouched("a solicitation", &ask6, Pass)
                .frame(
                    "the other address is as it was",
                    ask4.bytes(),
                    Answer,
                    ask4.reply(LINK_MAC).bytes(),
                ),
        );
    }
    cases
}

fn malformed_arp() -> Vec<Case> {
    let ask = Arp::request((CLIENT, CLIENT4), vip4());
    let mut case = announcing("malformed ARP is left to the stack");
    let group = [1, 0, 0x5e, 0, 0, 1];
    for (what, frame) in [
        (
            "a group asks",
            Arp {
                sender: (group, CLIENT4),
                ..ask.clone()
            }
            .bytes(),
        ),
        (
            "nobody asks",
            Arp {
                sender: ([0; 6], CLIENT4),
                ..ask.clone()
            }
            .bytes(),
        ),
        ("a group announces", Arp::announcement(group, vip4()).bytes()),
        ("another hardware", changed(&ask, 15, 6)),
        ("another protocol", changed(&ask, 17, 1)),
        ("other lengths", changed(&ask, 18, 8)),
        ("another operation", changed(&ask, 21, 9)),
        ("cut short", ask.bytes().into_iter().take(41).collect()),
    ] {
        case = case.untouched_frame(what, frame, Pass);
    }
    vec![case.frame("still ours", ask.bytes(), Answer, ask.reply(LINK_MAC).bytes())]
}

fn changed(arp: &Arp, at: usize, to: u8) -> Vec<u8> {
    let mut frame = arp.bytes();
    frame[at] = to;
    frame
}

fn malformed_discovery() -> Vec<Case> {
    let client = (CLIENT, CLIENT6);
    let ask = solicitation(client, vip6());
    let with = |change: &dyn Fn(&mut Packet)| {
        let mut packet = ask.clone();
        change(&mut packet);
        packet.bytes()
    };
    let from_nobody = |change: &dyn Fn(&mut Packet)| {
        let mut packet = probe(CLIENT, vip6());
        change(&mut packet);
        packet.bytes()
    };
    let mut wrong_sum = ask.bytes();
    wrong_sum[14 + 40 + 2] ^= 1;
    let mut rival = unsolicited_advertisement(RIVAL, vip6());
    rival.ttl = 254;
    let mut case = announcing("malformed neighbour discovery is left to the stack");
    for (what, frame) in [
        ("from beyond the link", with(&|packet| packet.ttl = 254)),
        ("a wrong checksum", wrong_sum),
        (
            "a code",
            with(&|packet| {
                if let Body::Icmp { code, .. } = &mut packet.body {
                    *code = 1;
                }
            }),
        ),
        ("an empty option", with(&|packet| append(packet, &[0; 8]))),
        (
            "an option beyond the end",
            with(&|packet| append(packet, &[14, 2, 0, 0, 0, 0, 0, 0])),
        ),
        ("half an option", with(&|packet| append(packet, &[14, 1, 0, 0]))),
        ("too short", with(&|packet| cut(packet, 12))),
        (
            "very long",
            with(&|packet| append(packet, &[14, 12].into_iter().chain([0; 94]).collect::<Vec<u8>>())),
        ),
        (
            "who has no address names its MAC",
            from_nobody(&|packet| append(packet, &[1, 1, 2, 0, 0, 0, 0, 1])),
        ),
        (
            "who has no address asks the address",
            from_nobody(&|packet| packet.destination = vip6().into()),
        ),
        (
            "a group asks",
            with(&|packet| packet.source_mac = [0x33, 0x33, 0, 0, 0, 1]),
        ),
        ("a rival beyond the link", rival.bytes()),
    ] {
        case = case.untouched_frame(what, frame, Pass);
    }
    let answer = advertisement(LINK_MAC, vip6(), client);
    vec![case.send("still ours", &ask, Answer, &answer)]
}

fn unserved() -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in TCPS {
        let to = |port| (kind.vip().0, port);
        let unserved = Packet::tcp(kind.client(0), to(81), SYN);
        let local = Packet::tcp(kind.client(0), to(LOCAL_PORT), SYN);
        cases.push(
            announcing(&format!(
                "{}: a port of an announced address that nobody serves",
                kind.name()
            ))
            .send(
                "refused",
                &unserved,
                Answer,
                &reset_to(&unserved, 0, 0x0102_0305, RST | ACK),
            )
            .untouched("a proxy's", &local, Pass),
        );
        cases.push(
            Case::new(format!(
                "{}: other ports of an address that is routed here",
                kind.name()
            ))
            .untouched("the stack's", &unserved, Pass),
        );
    }
    for kind in UDPS {
        let unserved = Packet::udp(kind.client(0), (kind.vip().0, 54), b"anybody?");
        let other_protocol = Packet::udp(kind.client(0), (kind.vip().0, LOCAL_PORT), b"anybody?");
        cases.push(
            announcing(&format!(
                "{}: a port of an announced address that nobody serves",
                kind.name()
            ))
            .send("refused", &unserved, Answer, &port_unreachable(&unserved))
            .send(
                "of another protocol than the proxy's",
                &other_protocol,
                Answer,
                &port_unreachable(&other_protocol),
            ),
        );
    }
    cases
}
