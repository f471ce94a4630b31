//! The data path in the kernel, without an interface: the object loaded, its maps filled, frames through
//! BPF_PROG_TEST_RUN.

use std::os::fd::AsFd as _;
use std::path::PathBuf;

use anyhow::{Context as _, bail, ensure};
use aya::maps::{HashMap, MapData, PerCpuArray, PerCpuValues};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use kubelb_agent::bpf::clock;
use kubelb_agent::bpf::mapped::{Mapped, Row};
use kubelb_common::announce::{AnnounceKey, AnnounceRow};
use kubelb_common::backend::Backend;
use kubelb_common::control::{Control, Filter};
use kubelb_common::flow::Bucket;
use kubelb_common::flow_table::Slices;
use kubelb_common::frontend::{Frontend, FrontendKey};
use kubelb_common::maps as names;
use kubelb_common::next_hop::{MacWord, NextHop};
use kubelb_common::port_pool::PortPool;
use kubelb_common::shared::Line;
use kubelb_common::snat::SnatAddress;
use kubelb_common::source::SourceRange;
use kubelb_common::stats::{Drops, Reason, Scratch, Traffic};
use kubelb_ebpf::model::scene::{Scene, Store};
use kubelb_ebpf::model::{Counters, Rows, Sizes};

use crate::tool;

/// Names the object to test instead of the one that `cargo xtask build-ebpf` left in the target directory.
const OBJECT_VARIABLE: &str = "KUBELB_EBPF_OBJECT";
const XDP: &str = "kubelb_xdp";
const TC: &str = "kubelb_tc";
const CLOCK: &str = "kubelb_clock";
/// Where `gso_size` is in `__sk_buff` (linux/bpf.h), and its size.
const GSO_SIZE: usize = 176;
const SK_BUFF: usize = 192;
/// Room for what a frame grows by.
const GROWTH: usize = 128;

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// The XDP program.
    Xdp,
    /// The tc program.
    Tc,
}

/// The object, loaded, with one scene in its maps.
pub struct Kernel {
    ebpf: Ebpf,
    sizes: Sizes,
    control: Mapped<Control>,
    filters: Mapped<Filter>,
    frontends: Mapped<Frontend>,
    backends: Mapped<Backend>,
    backend_slots: Mapped<Line>,
    next_hops: Mapped<NextHop>,
    snat: Mapped<SnatAddress>,
    pools: Mapped<PortPool>,
    buckets: Mapped<Bucket>,
    reverse: Mapped<Line>,
    half_open: Mapped<Line>,
    source_ranges: Mapped<SourceRange>,
    affinities: HashMap<MapData, [u64; 3], [u64; 2]>,
    announce_keys: HashMap<MapData, AnnounceKey, u32>,
    announced: Mapped<AnnounceRow>,
    own_macs: HashMap<MapData, u64, u32>,
    keys: HashMap<MapData, FrontendKey, u32>,
    frontend_traffic: PerCpuArray<MapData, Traffic>,
    backend_traffic: PerCpuArray<MapData, Traffic>,
    drops: PerCpuArray<MapData, Drops>,
    scratch: PerCpuArray<MapData, Scratch>,
}

impl Kernel {
    /// Loads the object and fills its maps. The program is loaded by `program`, the clock always.
    ///
    /// # Errors
    /// Without root, without the object, or when the kernel refuses it.
    pub fn load(scene: &Scene, program: Program) -> anyhow::Result<Self> {
        tool::require_root()?;
        let path = object()?;
        let sizes = scene.sizes();
        let rows = u32::try_from(sizes.rows)?;
        let reverse = u32::try_from(sizes.reverse)?;
        let mut loader = EbpfLoader::new();
        for name in [
            names::FRONTENDS,
            names::FRONTEND_NAMES,
            names::BACKENDS,
            names::NEXT_HOPS,
        ] {
            loader.map_max_entries(name, rows);
        }
        for name in [
            names::FRONTEND_TRAFFIC,
            names::BACKEND_TRAFFIC,
            names::FRONTEND_DROPS,
            names::BACKEND_SLOTS,
            names::SOURCE_RANGES,
        ] {
            loader.map_max_entries(name, rows);
        }
        let mut ebpf = loader
            .map_max_entries(names::PORT_POOLS, u32::try_from(sizes.pools)?)
            .map_max_entries(names::FLOWS, sizes.layout.buckets())
            .map_max_entries(names::REVERSE, reverse)
            .map_max_entries(names::ANNOUNCED, u32::try_from(sizes.addresses)?)
            .override_global("MAIN_BUCKETS", &sizes.layout.main, true)
            .load_file(&path)
            .with_context(|| format!("cannot load {}", path.display()))?;
        match program {
            Program::Xdp => <&mut Xdp>::try_from(entry(&mut ebpf, XDP)?)?.load()?,
            Program::Tc => <&mut SchedClassifier>::try_from(entry(&mut ebpf, TC)?)?.load()?,
        }
        <&mut SchedClassifier>::try_from(entry(&mut ebpf, CLOCK)?)?.load()?;
        let mut kernel = Self {
            sizes,
            control: mapped(&mut ebpf, names::CONTROL)?,
            filters: mapped(&mut ebpf, names::FILTERS)?,
            frontends: mapped(&mut ebpf, names::FRONTENDS)?,
            backends: mapped(&mut ebpf, names::BACKENDS)?,
            backend_slots: mapped(&mut ebpf, names::BACKEND_SLOTS)?,
            next_hops: mapped(&mut ebpf, names::NEXT_HOPS)?,
            snat: mapped(&mut ebpf, names::SNAT_ADDRESSES)?,
            pools: mapped(&mut ebpf, names::PORT_POOLS)?,
            buckets: mapped(&mut ebpf, names::FLOWS)?,
            reverse: mapped(&mut ebpf, names::REVERSE)?,
            half_open: mapped(&mut ebpf, names::HALF_OPEN)?,
            source_ranges: mapped(&mut ebpf, names::SOURCE_RANGES)?,
            affinities: take(&mut ebpf, names::AFFINITIES)?.try_into()?,
            announce_keys: take(&mut ebpf, names::ANNOUNCE_KEYS)?.try_into()?,
            announced: mapped(&mut ebpf, names::ANNOUNCED)?,
            own_macs: take(&mut ebpf, names::OWN_MACS)?.try_into()?,
            keys: take(&mut ebpf, names::FRONTEND_KEYS)?.try_into()?,
            frontend_traffic: take(&mut ebpf, names::FRONTEND_TRAFFIC)?.try_into()?,
            backend_traffic: take(&mut ebpf, names::BACKEND_TRAFFIC)?.try_into()?,
            drops: take(&mut ebpf, names::FRONTEND_DROPS)?.try_into()?,
            scratch: take(&mut ebpf, names::SCRATCH)?.try_into()?,
            ebpf,
        };
        scene.fill(&mut kernel);
        ensure!(
            kernel.keys.keys().count() == 6,
            "not all of the frontends' keys were stored"
        );
        Ok(kernel)
    }

    /// Empties all maps and fills them anew. `scene` must be of the same size.
    ///
    /// # Errors
    /// When a map cannot be written.
    pub fn reset(&mut self, scene: &Scene) -> anyhow::Result<()> {
        zero(&mut self.control);
        zero(&mut self.filters);
        zero(&mut self.frontends);
        zero(&mut self.backends);
        zero(&mut self.backend_slots);
        zero(&mut self.next_hops);
        zero(&mut self.snat);
        zero(&mut self.pools);
        zero(&mut self.buckets);
        zero(&mut self.reverse);
        zero(&mut self.half_open);
        zero(&mut self.source_ranges);
        let clients: Vec<[u64; 3]> = self.affinities.keys().collect::<Result<_, _>>()?;
        for client in clients {
            self.affinities.remove(&client)?;
        }
        zero(&mut self.announced);
        for key in self.announce_keys.keys().collect::<Result<Vec<_>, _>>()? {
            self.announce_keys.remove(&key)?;
        }
        for mac in self.own_macs.keys().collect::<Result<Vec<_>, _>>()? {
            self.own_macs.remove(&mac)?;
        }
        for row in 0..u32::try_from(self.sizes.rows)? {
            zero_row(&mut self.frontend_traffic, row, Traffic::default())?;
            zero_row(&mut self.backend_traffic, row, Traffic::default())?;
            zero_row(&mut self.drops, row, Drops::default())?;
        }
        zero_row(&mut self.scratch, 0, Scratch::default())?;
        scene.fill(self);
        Ok(())
    }

    /// Runs a frame, which came in on the loopback interface, through the program that was loaded: its return value and
    /// the frame afterwards. `segment`: payload bytes of each merged segment, or 0.
    ///
    /// # Errors
    /// When the kernel refuses the run.
    pub fn run(&self, program: Program, frame: &[u8], segment: u32) -> anyhow::Result<(u32, Vec<u8>)> {
        let mut out = vec![0; frame.len() + GROWTH];
        let mut context = [0; SK_BUFF];
        if let Some(place) = context.get_mut(GSO_SIZE..GSO_SIZE + 4) {
            place.copy_from_slice(&segment.to_ne_bytes());
        }
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: (program == Program::Tc).then_some(&context),
            ..TestRunOptions::default()
        };
        let result = match program {
            Program::Xdp => <&Xdp>::try_from(self.program(XDP)?)?.test_run(options)?,
            Program::Tc => <&SchedClassifier>::try_from(self.program(TC)?)?.test_run(options)?,
        };
        out.truncate(usize::try_from(result.data_size_out)?);
        Ok((result.return_value, out))
    }

    fn program(&self, name: &str) -> anyhow::Result<&aya::programs::Program> {
        self.ebpf.program(name).with_context(|| format!("no program {name}"))
    }

    /// The data path's clocks.
    ///
    /// # Errors
    /// When the kernel refuses the run.
    pub fn clock(&self) -> anyhow::Result<clock::Reading> {
        Ok(clock::read(<&SchedClassifier>::try_from(self.program(CLOCK)?)?)?)
    }

    /// Returns once more than `jiffies` have gone by.
    ///
    /// # Errors
    /// When the clock cannot be read.
    pub fn let_pass(&self, jiffies: u64) -> anyhow::Result<()> {
        let start = self.clock()?.jiffies;
        while self.clock()?.jiffies <= start + jiffies {
            std::thread::yield_now();
        }
        Ok(())
    }

    /// What all CPUs counted, without rows of zeros.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn counters(&self) -> anyhow::Result<Counters> {
        let mut counters = Counters::default();
        for row in 0..u32::try_from(self.sizes.rows)? {
            for (map, rows) in [
                (&self.frontend_traffic, &mut counters.frontends),
                (&self.backend_traffic, &mut counters.backends),
            ] {
                let mut sum = Traffic::default();
                map.get(&row, 0)?.iter().for_each(|cpu| sum += *cpu);
                if sum != Traffic::default() {
                    rows.insert(row, sum);
                }
            }
            let cpus = self.drops.get(&row, 0)?;
            for reason in Reason::ALL {
                let sum: u64 = cpus.iter().filter_map(|cpu| cpu.0.get(reason.index())).sum();
                if sum != 0 {
                    counters.drops.insert((row, *reason), sum);
                }
            }
        }
        Ok(counters)
    }

    /// Packets handed over to tc, and echo requests answered, by all CPUs.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn handed_over_and_echoes(&self) -> anyhow::Result<(u64, u64)> {
        let cpus = self.scratch.get(&0, 0)?;
        let sum = |part: fn(&Scratch) -> u64| cpus.iter().map(part).sum();
        Ok((sum(|cpu| cpu.handed_over), sum(|cpu| cpu.echoes)))
    }
}

impl Store for Kernel {
    fn rows(&self) -> Rows<'_> {
        static EMPTY: std::sync::LazyLock<Control> = std::sync::LazyLock::new(Control::default);
        Rows {
            flows: Slices {
                layout: self.sizes.layout,
                buckets: &self.buckets,
                reverse: &self.reverse,
                pools: &self.pools,
                frontends: &self.frontends,
                snat: &self.snat,
                source_ranges: &self.source_ranges,
            },
            control: self.control.first().unwrap_or(&EMPTY),
            filters: &self.filters,
            backends: &self.backends,
            backend_slots: &self.backend_slots,
            next_hops: &self.next_hops,
            announced: &self.announced,
        }
    }

    fn set_key(&mut self, key: FrontendKey, number: u32) {
        // `load` sees to it that they are there.
        if let Err(error) = self.keys.insert(key, number, 0) {
            eprintln!("cannot store a frontend's key: {error}");
        }
    }

    fn set_announce_key(&mut self, key: AnnounceKey, row: u32) {
        if let Err(error) = self.announce_keys.insert(key, row, 0) {
            eprintln!("cannot store the key of an announced address: {error}");
        }
    }

    fn set_own_mac(&mut self, mac: MacWord) {
        if let Err(error) = self.own_macs.insert(mac.word(), 1, 0) {
            eprintln!("cannot store a MAC address: {error}");
        }
    }
}

/// Jiffies per second.
///
/// # Errors
/// When the clock cannot be read.
pub fn hz(kernel: &Kernel) -> anyhow::Result<u32> {
    Ok(clock::measure_hz(<&SchedClassifier>::try_from(
        kernel.program(CLOCK)?,
    )?)?)
}

fn object() -> anyhow::Result<PathBuf> {
    let built = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/ebpf/kubelb.bpf.o");
    let path = std::env::var_os(OBJECT_VARIABLE).map_or(built, PathBuf::from);
    if !path.is_file() {
        bail!("{} does not exist: run `cargo xtask build-ebpf`", path.display());
    }
    Ok(path)
}

fn entry<'a>(ebpf: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut aya::programs::Program> {
    ebpf.program_mut(name)
        .with_context(|| format!("the object has no program {name}"))
}

fn take(ebpf: &mut Ebpf, name: &str) -> anyhow::Result<aya::maps::Map> {
    ebpf.take_map(name)
        .with_context(|| format!("the object has no map {name}"))
}

fn mapped<T: Row>(ebpf: &mut Ebpf, name: &str) -> anyhow::Result<Mapped<T>> {
    let aya::maps::Map::Array(data) = take(ebpf, name)? else {
        bail!("{name} is not an array");
    };
    let rows = data.info()?.max_entries();
    ensure!(
        usize::try_from(data.info()?.value_size())? == size_of::<T>(),
        "rows of {name} have another size in the object"
    );
    Mapped::new(data.fd().as_fd(), rows, true).with_context(|| format!("cannot map {name}"))
}

fn zero<T: Row>(rows: &mut Mapped<T>) {
    let start = rows.as_ptr().cast_mut();
    // SAFETY: the rows are mapped for writing, borrowed by nobody else, and consist of cells; no program runs meanwhile.
    unsafe { start.write_bytes(0, rows.len()) };
}

fn zero_row<T: aya::Pod>(map: &mut PerCpuArray<MapData, T>, row: u32, zero: T) -> anyhow::Result<()> {
    let cpus = map.get(&row, 0)?.len();
    map.set(row, PerCpuValues::try_from(vec![zero; cpus])?, 0)?;
    Ok(())
}
