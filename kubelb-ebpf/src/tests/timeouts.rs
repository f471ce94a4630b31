//! Idle timeouts: each frontend has its own, of each kind, and they are kept to the tick.

use kubelb_common::addr::{Addr, TCP, UDP};
use kubelb_common::frontend::timeout;
use kubelb_common::tcp::{ACK, FIN, RST, SYN};

use super::frames::Mk;
use crate::model::scene::{self, BACKEND_PORT, EGRESS, FIRST_PORT, SERVICE, SNAT, Scene, VIP, backend_address};
use crate::model::{Cpu, Frame};
use crate::outcome::Outcome;
use crate::process::process;

/// Ticks; long enough to be told from any other.
const SHORT: u32 = 1_000;
const LONG: u32 = 1_000_000;

/// Which way a packet goes.
#[derive(Clone, Copy)]
enum From {
    Client,
    Backend,
}

/// What brings a flow of the first client to a state.
type Story = &'static [(From, u8)];

/// A way to each class of timeout.
const STORIES: [(usize, usize, Story); 8] = [
    (timeout::TCP_HALF_OPEN, 0, &[(From::Client, SYN)]),
    (
        timeout::TCP_HALF_OPEN,
        0,
        &[(From::Client, SYN), (From::Backend, SYN | ACK)],
    ),
    (
        timeout::TCP_ESTABLISHED,
        0,
        &[(From::Client, SYN), (From::Backend, SYN | ACK), (From::Client, ACK)],
    ),
    (
        timeout::TCP_ESTABLISHED,
        0,
        &[
            (From::Client, SYN),
            (From::Backend, SYN | ACK),
            (From::Client, ACK),
            (From::Client, ACK | FIN),
        ],
    ),
    (
        timeout::TCP_CLOSING,
        0,
        &[
            (From::Client, SYN),
            (From::Backend, SYN | ACK),
            (From::Client, ACK),
            (From::Client, ACK | FIN),
            (From::Backend, ACK | FIN),
        ],
    ),
    (
        timeout::TCP_CLOSING,
        0,
        &[(From::Client, SYN), (From::Backend, RST | ACK)],
    ),
    (timeout::UDP_UNREPLIED, 1, &[(From::Client, 0)]),
    (timeout::UDP_REPLIED, 1, &[(From::Client, 0), (From::Backend, 0)]),
];

fn client(family: usize) -> (Addr, u16) {
    let address = if family == 0 {
        Addr::v4([198, 51, 100, 7])
    } else {
        Addr::v6([0x20, 1, 0x0d, 0xb8, 0, 0xc, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7])
    };
    (address, 4_000)
}

fn run(cpu: &Cpu<'_>, family: usize, protocol: usize, from: From, flags: u8) -> Outcome {
    let (kind, port) = SERVICE[protocol];
    let vip = (VIP[family], port);
    let packet = match from {
        From::Client => Mk::new(kind, client(family), vip),
        From::Backend => Mk::new(
            kind,
            (backend_address(family, 0), BACKEND_PORT[protocol]),
            (SNAT[family], FIRST_PORT),
        ),
    };
    // Either acknowledges the other's only byte so far.
    let packet = Mk { flags, ..packet };
    process(&mut Frame::<true>::new(packet.frame(), 1), cpu)
}

#[test]
fn each_class_of_each_frontend_has_its_own_time() {
    for family in 0..2 {
        for (class, protocol, story) in STORIES {
            for (idle, lives) in [(SHORT, true), (SHORT + 1, false)] {
                let mut timeouts = [LONG; timeout::COUNT];
                timeouts[class] = SHORT;
                let mut model = Scene::default().model();
                model.set_route(client(family).0, hop());
                let row = scene::frontend(u32::try_from(family).unwrap(), u32::try_from(protocol).unwrap());
                let rows = model.rows();
                rows.flows.frontends[usize::try_from(row).unwrap()].set_timeouts(timeouts);
                let cpu = model.cpu(0, 7);
                for (from, flags) in story {
                    let outcome = run(&cpu, family, protocol, *from, *flags);
                    assert!(matches!(outcome, Outcome::Send(_)), "{outcome:?}");
                }
                cpu.set_now(7 + idle);
                let outcome = run(&cpu, family, protocol, From::Client, ACK);
                // Of an ended TCP flow the client is told, of an ended UDP flow a new one takes the place.
                let ended = match SERVICE[protocol].0 {
                    TCP => outcome == Outcome::Answer,
                    UDP => cpu.counters().frontends[&row].flows == 2,
                    other => panic!("protocol {other}"),
                };
                assert_eq!(ended, !lives, "class {class}, idle for {idle}: {outcome:?}");
                if lives {
                    assert_eq!(outcome, Outcome::Send(EGRESS));
                }
            }
        }
    }
}

fn hop() -> kubelb_common::flow::ClientHop {
    use kubelb_common::next_hop::MacWord;
    kubelb_common::flow::ClientHop {
        destination: MacWord::new([2, 0, 0, 0, 0, 1], 1),
        source: MacWord::new([2, 0, 0, 0, 0, 2], 0),
        interface: 1,
    }
    .with(1_400, true)
}
