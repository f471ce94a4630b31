//! The maps and nothing else. Names are those of [`kubelb_common::maps`]; sizes that depend on the node are set at load.

use aya_ebpf::Global;
use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, bpf_fib_lookup};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray};
use kubelb_common::addr::Addr;
use kubelb_common::affinity::{Affinity, AffinityKey};
use kubelb_common::announce::{AnnounceKey, AnnounceRow};
use kubelb_common::backend::Backend;
use kubelb_common::control::{Control, Filter};
use kubelb_common::flow::{Bucket, ClientHop};
use kubelb_common::flow_table::Layout;
use kubelb_common::frontend::{Frontend, FrontendKey};
use kubelb_common::maps as size;
use kubelb_common::maps::{Attachment, Name, Note};
use kubelb_common::next_hop::NextHop;
use kubelb_common::port_pool::PortPool;
use kubelb_common::shared::Line;
use kubelb_common::snat::{MAX_ADDRESSES, SnatAddress};
use kubelb_common::source::SourceRange;
use kubelb_common::stats::{Drops, Scratch, Traffic};
use kubelb_ebpf::parse::Packet;

const LAYOUT: Layout = Layout::for_flows(size::DEFAULT_FLOWS);

#[map]
pub(super) static CONTROL: Array<Control> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
pub(super) static FILTERS: Array<Filter> = Array::with_max_entries(2, BPF_F_MMAPABLE);
#[map]
pub(super) static FRONTEND_KEYS: HashMap<FrontendKey, u32> = HashMap::with_max_entries(2 * size::MAX_FRONTENDS, 0);
#[map]
pub(super) static FRONTENDS: Array<Frontend> = Array::with_max_entries(size::MAX_FRONTENDS, BPF_F_MMAPABLE);
#[map]
pub(super) static FRONTEND_NAMES: Array<Name> = Array::with_max_entries(size::MAX_FRONTENDS, BPF_F_MMAPABLE);
#[map]
pub(super) static BACKEND_SLOTS: Array<Line> =
    Array::with_max_entries(size::MIN_BACKEND_SLOTS / Line::WORDS, BPF_F_MMAPABLE);
#[map]
pub(super) static SOURCE_RANGES: Array<SourceRange> = Array::with_max_entries(size::MAX_SOURCE_RANGES, BPF_F_MMAPABLE);
#[map]
pub(super) static AFFINITIES: LruHashMap<AffinityKey, Affinity> = LruHashMap::with_max_entries(size::MAX_AFFINITIES, 0);
#[map]
pub(super) static BACKENDS: Array<Backend> = Array::with_max_entries(size::DEFAULT_BACKENDS, BPF_F_MMAPABLE);
#[map]
pub(super) static NEXT_HOPS: Array<NextHop> = Array::with_max_entries(size::MAX_NEXT_HOPS, BPF_F_MMAPABLE);
#[map]
pub(super) static SNAT_ADDRESSES: Array<SnatAddress> = Array::with_max_entries(MAX_ADDRESSES, BPF_F_MMAPABLE);
#[map]
pub(super) static PORT_POOLS: Array<PortPool> = Array::with_max_entries(size::MAX_PORT_POOLS, BPF_F_MMAPABLE);
#[map]
pub(super) static FLOWS: Array<Bucket> = Array::with_max_entries(LAYOUT.buckets(), BPF_F_MMAPABLE);
#[map]
pub(super) static REVERSE: Array<Line> = Array::with_max_entries(size::MAX_REVERSE / Line::WORDS, BPF_F_MMAPABLE);
#[map]
pub(super) static HALF_OPEN: Array<Line> = Array::with_max_entries(size::HALF_OPEN_WORDS / Line::WORDS, BPF_F_MMAPABLE);
#[map]
pub(super) static ANNOUNCE_KEYS: HashMap<AnnounceKey, u32> =
    HashMap::with_max_entries(size::MAX_ANNOUNCE_KEYS, BPF_F_NO_PREALLOC);
#[map]
pub(super) static ANNOUNCED: Array<AnnounceRow> = Array::with_max_entries(size::MAX_ANNOUNCED, BPF_F_MMAPABLE);
#[map]
pub(super) static OWN_MACS: HashMap<u64, u32> = HashMap::with_max_entries(size::MAX_INTERFACES, 0);
#[map]
pub(super) static XDP_INTERFACES: HashMap<u32, u32> = HashMap::with_max_entries(size::MAX_INTERFACES, 0);
#[map]
pub(super) static ATTACHMENTS: HashMap<u32, Attachment> = HashMap::with_max_entries(size::MAX_INTERFACES, 0);
#[map]
pub(super) static AGENT: Array<Note> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
pub(super) static FRONTEND_TRAFFIC: PerCpuArray<Traffic> = PerCpuArray::with_max_entries(size::MAX_FRONTENDS, 0);
#[map]
pub(super) static BACKEND_TRAFFIC: PerCpuArray<Traffic> = PerCpuArray::with_max_entries(size::DEFAULT_BACKENDS, 0);
#[map]
pub(super) static FRONTEND_DROPS: PerCpuArray<Drops> = PerCpuArray::with_max_entries(size::MAX_FRONTENDS, 0);
#[map]
pub(super) static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// What the steps of one run share: the 512 bytes of stack would not hold it.
#[repr(C)]
pub(super) struct Work {
    pub(super) packet: Packet,
    pub(super) client: Addr,
    pub(super) vip: Addr,
    pub(super) hop: ClientHop,
    pub(super) fib: bpf_fib_lookup,
    pub(super) frontend: u32,
    pub(super) why: u32,
}

#[map]
pub(super) static WORK: PerCpuArray<Work> = PerCpuArray::with_max_entries(1, 0);

/// Buckets before the stash; user space sets it to fit the size of [`FLOWS`].
#[unsafe(no_mangle)]
static MAIN_BUCKETS: Global<u32> = Global::new(LAYOUT.main);

/// 1: send back out of the interface of arrival by redirect instead of XDP_TX. veth wakes a receiver that has no XDP
/// program of its own for redirected frames only; real drivers do without the detour.
#[unsafe(no_mangle)]
static HAIRPIN_BY_REDIRECT: Global<u32> = Global::new(0);

/// See [`HAIRPIN_BY_REDIRECT`].
#[inline(always)]
pub(super) fn hairpin_by_redirect() -> bool {
    HAIRPIN_BY_REDIRECT.load() != 0
}

/// Sizes of the flow table.
#[inline(always)]
pub(super) fn layout() -> Layout {
    Layout {
        main: MAIN_BUCKETS.load(),
        stash: LAYOUT.stash,
    }
}

/// This CPU's workspace. Nothing else uses it while a program runs: XDP and tc programs run with softirqs off.
#[inline(always)]
pub(super) fn work() -> Option<&'static mut Work> {
    // SAFETY: a live value of a per-CPU map; see above for why there is no second reference.
    WORK.get_ptr_mut(0).map(|work| unsafe { &mut *work })
}
