//! The one owner of the maps: turns every change of configuration, health or next hops into rows, and sweeps.
//!
//! Level-triggered: each round reads the rows back, builds what they should be, and carries out the difference. What a
//! round missed, the next one mends.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use kubelb_common::backend::flag;
use kubelb_common::flow_table::FlowTables as _;
use kubelb_common::maps::{MAX_PORT_POOLS, MAX_REVERSE};
use kubelb_common::snat::SnatView;

use crate::bpf::attach::{Attached, Mode};
use crate::bpf::load::Programs;
use crate::bpf::store::Store;
use crate::bpf::{BpfError, clock};
use crate::diff::diff;
use crate::model::{Desired, Health, HealthView};
use crate::net::NextHopView;
use crate::snat::{self, Room};
use crate::sweep::{Suspects, Sweeper};
use crate::tables::{self, Context, Cursors};

/// Longest that established TCP flows of a removed backend go on.
pub const DRAIN_TIME: Duration = Duration::from_secs(300);
/// A frontend may hold this part of the flow table, so that one cannot starve the others.
const SHARE_OF_FLOWS: (u64, u64) = (4, 5);

/// The engine.
pub struct Engine {
    store: Store,
    programs: Programs,
    hz: u32,
    xdp_interfaces: BTreeSet<u32>,
    cursors: Cursors,
    sweeper: Sweeper,
    draining: BTreeMap<u32, Drain>,
    route_revision: Option<u64>,
    suspects: Option<Suspects>,
    random: fastrand::Rng,
}

/// A backend row on its way out.
struct Drain {
    since: Instant,
    passes: u64,
}

impl Engine {
    /// Takes over maps and programs; gives a new flow table its secret.
    ///
    /// # Errors
    /// When the data path's clock cannot be read.
    pub fn new(store: Store, programs: Programs, attached: &[Attached]) -> Result<Self, BpfError> {
        let hz = clock::measure_hz(programs.clock()?)?;
        let mut random = fastrand::Rng::new();
        if let Some(control) = store.maps.control() {
            // The seed of a table that may hold flows must stay.
            while control.flow_seed.load() == 0 {
                control.flow_seed.store(random.u64(..));
            }
            control.hz.store(hz);
            control.cpus.store(cpus());
            control.advance_routes();
        }
        let redirectable = |done: &&Attached| matches!(done.mode, Mode::Xdp | Mode::Generic);
        let xdp_interfaces = attached.iter().filter(redirectable).map(|done| done.ifindex).collect();
        let mut engine = Self {
            store,
            programs,
            hz,
            xdp_interfaces,
            cursors: Cursors::default(),
            sweeper: Sweeper::default(),
            draining: BTreeMap::new(),
            route_revision: None,
            suspects: None,
            random,
        };
        engine.suspects = Some(Suspects::find(&engine.store.maps, &engine.snat_views()));
        Ok(engine)
    }

    /// What the rows say of the targets' health: results of the agent that ran before.
    #[must_use]
    pub fn known_health(&self, desired: &Desired) -> HealthView {
        let actual = self.store.read_back();
        let mut known = BTreeMap::new();
        for row in actual.backends.values().filter(|row| row.flags & flag::CHECKED != 0) {
            known.insert((row.frontend, row.address, row.port), row.flags & flag::UNHEALTHY != 0);
        }
        let mut health = HealthView::new();
        for frontend in desired.frontends.values() {
            let Some(row) = actual.frontends.get(&tables::key_of(frontend)) else {
                continue;
            };
            for backend in &frontend.backends {
                let identity = (row.number, backend.address.ip().into(), backend.address.port().to_be());
                if let (Some(target), Some(unhealthy)) = (frontend.check_target(backend), known.get(&identity)) {
                    health.insert(target, if *unhealthy { Health::Unhealthy } else { Health::Healthy });
                }
            }
        }
        health
    }

    /// One round. Returns what could not be served, as text for people.
    ///
    /// # Errors
    /// When a map refuses a change; the round can be repeated.
    pub fn reconcile(
        &mut self,
        desired: &Desired,
        health: &HealthView,
        hops: &NextHopView,
        now: Instant,
    ) -> Result<Vec<String>, BpfError> {
        let room = Room {
            reverse: MAX_REVERSE,
            pools: MAX_PORT_POOLS,
        };
        let plan = snat::plan(&desired.snat, &hops.hops, &self.store.snat_rows(), room);
        plan.ops.iter().for_each(|op| self.store.apply_snat(op));
        let mut problems: Vec<String> = plan
            .left_out
            .iter()
            .map(|address| format!("SNAT address {address}: no room for its ports"))
            .collect();

        let actual = self.store.read_back();
        let drained = self.drained(&actual, now);
        let flows = self.store.maps.flow_capacity() * SHARE_OF_FLOWS.0 / SHARE_OF_FLOWS.1;
        let context = Context {
            health,
            hops: &hops.hops,
            xdp_interfaces: &self.xdp_interfaces,
            snat: &plan.rows,
            hz: self.hz,
            max_flows: u32::try_from(flows).unwrap_or(u32::MAX),
            drained: &drained,
        };
        let (wanted, missing) = tables::build(desired, &context, &actual, &mut self.cursors);
        problems.extend(missing.iter().map(ToString::to_string));
        for op in diff(&actual, &wanted) {
            tracing::debug!(?op, "map operation");
            self.store.apply(&op)?;
        }
        let random = &mut self.random;
        self.store.publish_filter(&wanted.vips, || random.u64(..));
        if self.route_revision != Some(hops.revision) {
            self.route_revision = Some(hops.revision);
            if let Some(control) = self.store.maps.control() {
                control.advance_routes();
            }
        }
        Ok(problems)
    }

    /// Rows of removed backends whose time is up, or whose flows are all gone.
    fn drained(&mut self, actual: &tables::Tables, now: Instant) -> BTreeSet<u32> {
        let leaving = |row: &tables::BackendRow| row.flags & flag::DRAINING != 0;
        self.draining
            .retain(|row, _| actual.backends.get(row).is_some_and(leaving));
        let passes = self.sweeper.passes();
        for (row, _) in actual.backends.iter().filter(|(_, row)| leaving(row)) {
            self.draining.entry(*row).or_insert(Drain { since: now, passes });
        }
        let idle = |row: &u32, drain: &Drain| {
            let counted_since = passes >= drain.passes + 2;
            counted_since
                && self
                    .sweeper
                    .count()
                    .is_some_and(|count| !count.by_backend.contains_key(row))
        };
        let over = |drain: &Drain| now.duration_since(drain.since) >= DRAIN_TIME;
        self.draining
            .iter()
            .filter(|(row, drain)| over(drain) || idle(row, drain))
            .map(|(row, _)| *row)
            .collect()
    }

    /// True while removed backends wait for their flows: then another round is due after a while.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        !self.draining.is_empty()
    }

    /// One step of the sweep; some hundred microseconds.
    ///
    /// # Errors
    /// When the data path's clock cannot be read.
    pub fn sweep(&mut self) -> Result<(), BpfError> {
        if let Some(suspects) = self.suspects.take() {
            let later = Suspects::find(&self.store.maps, &self.snat_views());
            let mended = suspects.mend(&self.store.maps, &later);
            if mended > 0 {
                tracing::info!(mended, "mended what an earlier process left half done");
            }
        }
        let now = clock::read(self.programs.clock()?)?.tick();
        let ended = self.sweeper.step(&self.store.maps, now);
        if ended > 0 {
            tracing::debug!(ended, "idle flows ended");
        }
        Ok(())
    }

    fn snat_views(&self) -> BTreeMap<u8, SnatView> {
        self.store
            .snat_rows()
            .into_iter()
            .map(|(slot, (view, _))| (slot, view))
            .collect()
    }

    /// Capacity in a line for people.
    #[must_use]
    pub fn capacity(&self) -> Capacity {
        let addresses = self.snat_views().into_values().map(|view| {
            let per_protocol = u64::from(view.ports) << view.fold_bits;
            (IpAddr::from(view.address), per_protocol)
        });
        Capacity {
            flows: self.store.maps.flow_capacity(),
            buckets: self.store.maps.layout().buckets(),
            hz: self.hz,
            snat: addresses.collect(),
        }
    }
}

/// What the tables have room for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Flows at half load of the table.
    pub flows: u64,
    /// Buckets, stash included.
    pub buckets: u32,
    /// Jiffies per second.
    pub hz: u32,
    /// Flows of each protocol that each SNAT address has ports for.
    pub snat: BTreeMap<IpAddr, u64>,
}

/// CPUs that may run the programs.
fn cpus() -> u32 {
    let configured = nix::unistd::sysconf(nix::unistd::SysconfVar::_NPROCESSORS_CONF)
        .ok()
        .flatten();
    configured
        .and_then(|cpus| u32::try_from(cpus).ok())
        .filter(|cpus| *cpus > 0)
        .unwrap_or(1)
}
