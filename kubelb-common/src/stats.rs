//! Counters, one row per CPU, and the reasons for which packets are not forwarded.

/// Counters of a frontend or a backend on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets from clients that were forwarded.
    pub packets_in: u64,
    /// Their bytes, Ethernet header included.
    pub bytes_in: u64,
    /// Packets from backends that were forwarded.
    pub packets_out: u64,
    /// Their bytes.
    pub bytes_out: u64,
    /// Flows that got a record.
    pub flows: u64,
}

const _: () = assert!(size_of::<Traffic>() == 40);

impl core::ops::AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        self.packets_in += other.packets_in;
        self.bytes_in += other.bytes_in;
        self.packets_out += other.packets_out;
        self.bytes_out += other.bytes_out;
        self.flows += other.flows;
    }
}

/// Why a packet for a VIP or SNAT address was not forwarded. Indices into [`Drops`].
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reason(u8);

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $value:literal, $label:literal;)*) => {
        impl Reason {
            $($(#[$doc])* pub const $name: Self = Self($value);)*

            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Label for metrics and `status`.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self.0 {
                    $($value => $label,)*
                    _ => "unknown",
                }
            }

            /// The reason of an index; what is no reason comes out as one without a label.
            #[inline(always)]
            #[must_use]
            pub const fn from_index(index: u8) -> Self {
                Self(index)
            }

            /// Index into [`Drops`].
            #[inline(always)]
            #[must_use]
            pub const fn index(self) -> usize {
                self.0 as usize
            }
        }
    };
}

reasons! {
    /// Headers that contradict themselves or end early.
    MALFORMED = 0, "malformed";
    /// A fragment: its ports are unknown.
    FRAGMENT = 1, "fragment";
    /// The hop limit ran out.
    TTL_EXPIRED = 2, "ttl-expired";
    /// No backend; answered with RST or port unreachable.
    NO_BACKEND = 3, "no-backend";
    /// TCP that is not a SYN and belongs to no flow; answered with RST.
    NO_FLOW = 4, "no-flow";
    /// Both buckets and the stash are full of live flows.
    TABLE_FULL = 5, "table-full";
    /// No SNAT port is left for the backend.
    SNAT_EXHAUSTED = 6, "snat-exhausted";
    /// Another CPU held the flow's bucket too long.
    CONTENDED = 7, "contended";
    /// The frontend has as many flows as it may.
    FRONTEND_CAP = 8, "frontend-cap";
    /// No route to the backend or back to the client.
    NO_ROUTE = 9, "no-route";
    /// Larger than the next hop takes; answered with frag-needed or packet-too-big where that is allowed.
    TOO_BIG = 10, "too-big";
    /// The flow's backend is gone; TCP is answered with RST.
    STALE_BACKEND = 11, "stale-backend";
    /// A row that must exist does not: tables and programs disagree.
    BROKEN_STATE = 12, "broken-state";
    /// An answer of ours (ICMP error, RST) over the rate limit.
    ANSWER_LIMITED = 13, "answer-limited";
    /// The frontend has as many half-open flows as it may, and the oldest of them is too young to give way.
    HALF_OPEN_BUDGET = 14, "half-open-budget";
    /// The client's address is in none of the frontend's source ranges. Never answered.
    SOURCE_REFUSED = 15, "source-refused";
    /// Nobody serves the port of an address that this node announces; answered with RST or port unreachable.
    UNSERVED = 16, "unserved";
}

/// Number of counters of a frontend's drops, room for new reasons included. A power of two, so that a mask bounds an index.
pub const REASONS: usize = 32;

/// Drop counters of one frontend on one CPU; row 0 counts what belongs to no frontend.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drops(pub [u64; REASONS]);

/// Things that are not drops, one row per CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scratch {
    /// Where this CPU looks for its next SNAT port.
    pub port_cursor: u32,
    /// Window (jiffies >> 6) of the answer budget.
    pub answer_window: u32,
    /// Answers of ours sent in that window.
    pub answers: u32,
    /// Drops since start, to sample diagnostics.
    pub sampled: u32,
    /// Packets handed to the tcx program because a next hop was unknown or not reachable for XDP.
    pub handed_over: u64,
    /// Echo requests answered.
    pub echoes: u64,
}

const _: () = assert!(size_of::<Scratch>() == 32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_distinct_and_fit() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), index);
            assert_ne!(reason.label(), "unknown");
        }
        assert!(Reason::ALL.len() <= REASONS);
    }
}
