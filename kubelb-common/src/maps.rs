//! Names and default sizes of the maps. The `#[map]` statics of kubelb-ebpf carry the same names (a tidy test compares).

use crate::shared::SharedU64;

/// One [`crate::control::Control`].
pub const CONTROL: &str = "CONTROL";
/// Two [`crate::control::Filter`]s.
pub const FILTERS: &str = "FILTERS";
/// [`crate::frontend::FrontendKey`] to row number.
pub const FRONTEND_KEYS: &str = "FRONTEND_KEYS";
/// [`crate::frontend::Frontend`] rows; row 0 is nobody's.
pub const FRONTENDS: &str = "FRONTENDS";
/// Names of the frontends, for people; the data path never reads them.
pub const FRONTEND_NAMES: &str = "FRONTEND_NAMES";
/// Backend row numbers, in the order of the turn; 16 words to an element.
pub const BACKEND_SLOTS: &str = "BACKEND_SLOTS";
/// [`crate::source::SourceRange`] rows: the sets of all frontends.
pub const SOURCE_RANGES: &str = "SOURCE_RANGES";
/// [`crate::affinity::AffinityKey`] to [`crate::affinity::Affinity`], least recently used ones go first.
pub const AFFINITIES: &str = "AFFINITIES";
/// [`crate::backend::Backend`] rows; row 0 is nobody's.
pub const BACKENDS: &str = "BACKENDS";
/// [`crate::next_hop::NextHop`] rows; row 0 is "no route".
pub const NEXT_HOPS: &str = "NEXT_HOPS";
/// [`crate::snat::SnatAddress`] rows.
pub const SNAT_ADDRESSES: &str = "SNAT_ADDRESSES";
/// [`crate::port_pool::PortPool`]s.
pub const PORT_POOLS: &str = "PORT_POOLS";
/// [`crate::flow::Bucket`]s, the stash at the end.
pub const FLOWS: &str = "FLOWS";
/// Reverse index: number of a flow, plus one, or 0; 16 words to an element.
pub const REVERSE: &str = "REVERSE";
/// Where half-open flows are: number of a flow, plus one, or 0; 16 words to an element. Hints: what a word names may have
/// become another flow, or a word another frontend's.
pub const HALF_OPEN: &str = "HALF_OPEN";
/// [`crate::announce::AnnounceKey`] to row number of [`ANNOUNCED`].
pub const ANNOUNCE_KEYS: &str = "ANNOUNCE_KEYS";
/// [`crate::announce::AnnounceRow`] rows; row 0 is nobody's.
pub const ANNOUNCED: &str = "ANNOUNCED";
/// MAC addresses of this node's interfaces, as words, to 1: what comes from one of these is no other machine's.
pub const OWN_MACS: &str = "OWN_MACS";
/// Interfaces an XDP program may redirect to: index to 1.
pub const XDP_INTERFACES: &str = "XDP_INTERFACES";
/// How each interface is attached and why, for `status`.
pub const ATTACHMENTS: &str = "ATTACHMENTS";
/// One [`Note`] of the agent, for `status`.
pub const AGENT: &str = "AGENT";
/// [`crate::stats::Traffic`] of each frontend, per CPU.
pub const FRONTEND_TRAFFIC: &str = "FRONTEND_TRAFFIC";
/// [`crate::stats::Traffic`] of each backend, per CPU.
pub const BACKEND_TRAFFIC: &str = "BACKEND_TRAFFIC";
/// [`crate::stats::Drops`] of each frontend, per CPU.
pub const FRONTEND_DROPS: &str = "FRONTEND_DROPS";
/// One [`crate::stats::Scratch`], per CPU.
pub const SCRATCH: &str = "SCRATCH";

/// What the steps of one run of a program share, per CPU; not pinned.
pub const WORK: &str = "WORK";

/// All maps that are pinned.
pub const PINNED: &[&str] = &[
    CONTROL,
    FILTERS,
    FRONTEND_KEYS,
    FRONTENDS,
    FRONTEND_NAMES,
    BACKEND_SLOTS,
    SOURCE_RANGES,
    AFFINITIES,
    BACKENDS,
    NEXT_HOPS,
    SNAT_ADDRESSES,
    PORT_POOLS,
    FLOWS,
    REVERSE,
    HALF_OPEN,
    ANNOUNCE_KEYS,
    ANNOUNCED,
    OWN_MACS,
    XDP_INTERFACES,
    ATTACHMENTS,
    AGENT,
    FRONTEND_TRAFFIC,
    BACKEND_TRAFFIC,
    FRONTEND_DROPS,
    SCRATCH,
];

/// Frontend rows.
pub const MAX_FRONTENDS: u32 = 16_384;
/// Backend rows, unless the agent is asked for others.
pub const DEFAULT_BACKENDS: u32 = 131_072;
/// Backend slots for each backend row: room for every set twice and for weights.
pub const SLOTS_PER_BACKEND: u32 = 8;
/// Backend slots at the least: room for Maglev tables. A map that was pinned by an earlier version may have fewer, so ask the map.
pub const MIN_BACKEND_SLOTS: u32 = 1 << 21;
/// Source ranges: room for sets old and new.
pub const MAX_SOURCE_RANGES: u32 = 1 << 17;
/// Clients whose backend is remembered.
pub const MAX_AFFINITIES: u32 = 1 << 17;
/// Next-hop rows.
pub const MAX_NEXT_HOPS: u32 = 16_384;
/// Port pools.
pub const MAX_PORT_POOLS: u32 = 1_024;
/// Words of reverse index.
pub const MAX_REVERSE: u32 = 1 << 22;
/// Words for half-open flows, a power of two.
pub const HALF_OPEN_WORDS: u32 = 1 << 18;
/// Announced addresses, times the interfaces that they are announced on.
pub const MAX_ANNOUNCED: u32 = 32_768;
/// Keys of announced addresses: their interfaces, their local ports, themselves.
pub const MAX_ANNOUNCE_KEYS: u32 = 3 * MAX_ANNOUNCED;
/// Interfaces.
pub const MAX_INTERFACES: u32 = 256;
/// Default number of flows.
pub const DEFAULT_FLOWS: u32 = 262_144;
/// Buckets that take what finds no room in its two.
pub const STASH_BUCKETS: u32 = 64;
/// Longest name of a frontend in bytes, terminated by zero in its row.
pub const NAME_BYTES: usize = 256;

/// Word of [`HALF_OPEN`] for a place of a frontend. Frontends begin far from each other and may overlap.
#[inline(always)]
#[must_use]
pub const fn half_open_word(frontend: u32, place: u32) -> u32 {
    frontend.wrapping_mul(0x9e37_79b1).wrapping_add(place) & (HALF_OPEN_WORDS - 1)
}

/// A frontend's name, zero-padded UTF-8.
#[repr(C)]
#[derive(Default)]
pub struct Name([SharedU64; NAME_BYTES / 8]);

const _: () = assert!(size_of::<Name>() == NAME_BYTES);

impl Name {
    /// The bytes.
    #[must_use]
    pub fn load(&self) -> [u8; NAME_BYTES] {
        let mut bytes = [0; NAME_BYTES];
        for (bytes, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(&self.0) {
            *bytes = word.load().to_le_bytes();
        }
        bytes
    }

    /// Replaces the bytes.
    pub fn store(&self, bytes: &[u8; NAME_BYTES]) {
        for (word, bytes) in self.0.iter().zip(bytes.as_chunks::<8>().0) {
            word.store(u64::from_le_bytes(*bytes));
        }
    }
}

/// Longest text of a [`Note`] in bytes.
pub const NOTE_BYTES: usize = 4_080;

/// What the agent says of itself: its process id, and why it refused the last change of its configuration. It holds as
/// long as that process does.
#[repr(C)]
pub struct Note {
    pid: SharedU64,
    length: SharedU64,
    text: [SharedU64; NOTE_BYTES / 8],
}

const _: () = assert!(size_of::<Note>() == NOTE_BYTES + 16);

impl Default for Note {
    fn default() -> Self {
        Self {
            pid: SharedU64::new(0),
            length: SharedU64::new(0),
            text: [const { SharedU64::new(0) }; NOTE_BYTES / 8],
        }
    }
}

impl Note {
    /// Process id of the agent.
    #[must_use]
    pub fn pid(&self) -> u64 {
        self.pid.load()
    }

    /// The text's bytes and how many of them count; 0: the configuration is in force.
    #[must_use]
    pub fn text(&self) -> ([u8; NOTE_BYTES], usize) {
        let mut bytes = [0; NOTE_BYTES];
        for (bytes, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(&self.text) {
            *bytes = word.load().to_le_bytes();
        }
        (bytes, usize::try_from(self.length.load()).unwrap_or(0).min(NOTE_BYTES))
    }

    /// Replaces the note; a longer text is cut. A reader in between may see parts of both.
    pub fn write(&self, pid: u64, text: &[u8]) {
        self.pid.store(pid);
        for (index, word) in self.text.iter().enumerate() {
            let mut bytes = [0; 8];
            for (to, from) in bytes.iter_mut().zip(text.iter().skip(index * 8)) {
                *to = *from;
            }
            word.store(u64::from_le_bytes(bytes));
        }
        let length = if text.len() < NOTE_BYTES {
            text.len()
        } else {
            NOTE_BYTES
        };
        self.length.store(u64::try_from(length).unwrap_or(0));
    }
}

/// How an interface is attached.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Attachment {
    /// 1: XDP native, 2: tcx, 3: XDP generic, 4: clsact.
    pub mode: u32,
    /// Bytes used of `reason`.
    pub reason_length: u32,
    /// The interface's name when it was attached, zero-padded.
    pub interface: [u8; 16],
    /// Why, UTF-8.
    pub reason: [u8; 232],
}

const _: () = assert!(size_of::<Attachment>() == 256);
