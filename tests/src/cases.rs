//! Named cases of the data path: packets in, rows, and what must come out, byte for byte, built by [`crate::packet`].
//!
//! Each case is run on the host and in the kernel, as XDP and as tc, from a fresh [`Scene`] on CPU 0.

#![expect(
    clippy::indexing_slicing,
    reason = "offsets into frames that are built here; one that is wrong fails the test"
)]

mod answers;
mod backends;
mod flows;
mod half_open;
mod malformed;
mod neighbour;
mod new_flows;
mod world;

use kubelb_ebpf::model::Rows;
use kubelb_ebpf::model::scene::Scene;
use kubelb_ebpf::outcome::Outcome;

use crate::packet::Packet;

/// What becomes of a frame: the outcome, and its bytes afterwards.
pub type Expected = (Outcome, Vec<u8>);

/// A configuration, and packets one after the other.
pub struct Case {
    /// Unique.
    pub name: String,
    /// Where it starts.
    pub scene: Scene,
    /// What happens.
    pub steps: Vec<Step>,
}

/// One thing that happens.
pub enum Step {
    /// The rows change.
    Change(Box<dyn Fn(&Rows<'_>)>),
    /// A frame comes in, on interface 1.
    Send(Send),
}

/// A frame comes in.
pub struct Send {
    /// What it is, for the failure's text.
    pub what: &'static str,
    /// From the Ethernet header on.
    pub frame: Vec<u8>,
    /// Payload bytes of each segment, when the stack has merged several; else 0. XDP sees no such frames.
    pub segment: u32,
    /// What the XDP program does with it.
    pub xdp: Expected,
    /// What the tc program does with it.
    pub tc: Expected,
}

impl Case {
    fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            scene: Scene::default(),
            steps: Vec::new(),
        }
    }

    /// How many frames XDP leaves to tc.
    #[must_use]
    pub fn handed_over(&self) -> u64 {
        let handed_over =
            |step: &&Step| matches!(step, Step::Send(send) if send.segment == 0 && send.xdp.0 == Outcome::HandOver);
        self.steps.iter().filter(handed_over).map(|_| 1).sum()
    }

    fn change(mut self, change: impl Fn(&Rows<'_>) + 'static) -> Self {
        self.steps.push(Step::Change(Box::new(change)));
        self
    }

    /// Both programs do the same.
    fn send(self, what: &'static str, packet: &Packet, outcome: Outcome, after: &Packet) -> Self {
        self.frame(what, packet.bytes(), outcome, after.bytes())
    }

    /// Both programs leave the packet as it is.
    fn untouched(self, what: &'static str, packet: &Packet, outcome: Outcome) -> Self {
        self.send(what, packet, outcome, packet)
    }

    /// Both programs leave the bytes as they are.
    fn untouched_frame(self, what: &'static str, frame: Vec<u8>, outcome: Outcome) -> Self {
        let after = frame.clone();
        self.frame(what, frame, outcome, after)
    }

    fn frame(self, what: &'static str, frame: Vec<u8>, outcome: Outcome, after: Vec<u8>) -> Self {
        self.apart(what, frame, (outcome, after.clone()), (outcome, after))
    }

    /// XDP passes the packet on to tc, which sends it.
    fn passed_to_tc(self, what: &'static str, packet: &Packet, outcome: Outcome, after: &Packet) -> Self {
        let frame = packet.bytes();
        self.apart(
            what,
            frame.clone(),
            (Outcome::HandOver, frame),
            (outcome, after.bytes()),
        )
    }

    fn apart(mut self, what: &'static str, frame: Vec<u8>, xdp: Expected, tc: Expected) -> Self {
        self.steps.push(Step::Send(Send {
            what,
            frame,
            segment: 0,
            xdp,
            tc,
        }));
        self
    }

    /// A packet that the stack has merged of segments with this much payload.
    fn merged(mut self, what: &'static str, packet: &Packet, segment: u32, outcome: Outcome, after: &Packet) -> Self {
        self.steps.push(Step::Send(Send {
            what,
            frame: packet.bytes(),
            segment,
            xdp: (outcome, Vec::new()),
            tc: (outcome, after.bytes()),
        }));
        self
    }
}

/// All cases.
#[must_use]
pub fn all() -> Vec<Case> {
    [
        flows::cases(),
        answers::cases(),
        backends::cases(),
        half_open::cases(),
        malformed::cases(),
        neighbour::cases(),
        new_flows::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The beginning of a frame, for a failure's text.
#[must_use]
pub fn hex(frame: &[u8]) -> String {
    let start: String = frame.iter().take(128).map(|byte| format!("{byte:02x}")).collect();
    format!("{start} ({} bytes)", frame.len())
}
