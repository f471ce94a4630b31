//! A node's service proxy, as small as the tests need: what kube-proxy and the cluster's DNS do, over any API server.
//!
//! Services, EndpointSlices and the proxy's own Node are watched; after every change the whole state is decided anew
//! ([`state::build`], [`ruleset::ruleset`], [`dns::zone`]), and what differs is written. It runs in the node's network
//! namespace and changes only that. While the API server is away, what was written last holds.

mod conntrack;
mod dns;
mod health;
mod kernel;
mod ruleset;
mod state;

use std::collections::BTreeSet;
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use dns::Zone;
use health::HealthChecks;
use kernel::{OwnAddresses, Table};
use state::{Objects, Protocol, State};

/// The first of a burst of changes is followed at once, the rest together after this.
const PACE: Duration = Duration::from_millis(5);
/// How long until what failed is tried again, when nothing changes before.
const RETRY: Duration = Duration::from_secs(1);

/// How a proxy runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the Node that it serves.
    pub node: String,
    /// Addresses on which it answers DNS; none: it doesn't.
    pub cluster_dns: BTreeSet<IpAddr>,
}

/// Forwards until `shutdown` ends, then takes its rules back.
///
/// # Errors
/// When the network namespace can't be changed, or the DNS's addresses are taken.
pub async fn run(client: Client, options: Options, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    kernel::forward()?;
    let _addresses = OwnAddresses::add(&options.cluster_dns)?;
    let mut tasks = JoinSet::new();
    let (names, zone) = watch::channel(Arc::new(Zone::default()));
    for address in &options.cluster_dns {
        let served = dns::serve(*address, zone.clone(), &mut tasks).await;
        served.with_context(|| format!("cannot serve DNS on {address}"))?;
    }
    let changed = Arc::new(Notify::new());
    let by_name = watcher::Config::default().fields(&format!("metadata.name={}", options.node));
    let stores = Stores {
        services: follow(
            Api::all(client.clone()),
            watcher::Config::default(),
            &changed,
            &mut tasks,
        ),
        slices: follow(
            Api::all(client.clone()),
            watcher::Config::default(),
            &changed,
            &mut tasks,
        ),
        nodes: follow(Api::all(client), by_name, &changed, &mut tasks),
    };
    let mut proxy = Proxy {
        options,
        names,
        table: Table::default(),
        health: HealthChecks::default(),
        udp: Vec::new(),
    };
    tokio::pin!(shutdown);
    let mut failed = false;
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut retry = interval(RETRY);
    retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            () = changed.notified() => drop(pace.tick().await),
            _ = retry.tick(), if failed => {}
        }
        if let Some(objects) = stores.objects() {
            failed = proxy.sync(&objects).await;
        }
    }
    proxy.table.remove()
}

/// All that is watched.
struct Stores {
    services: Store<Service>,
    slices: Store<EndpointSlice>,
    nodes: Store<Node>,
}

impl Stores {
    /// `None` until each list was had once: half the objects would take rules away that a restart has left in place.
    fn objects(&self) -> Option<Objects> {
        use futures_util::FutureExt as _;
        let ready = self.services.wait_until_ready().now_or_never().is_some()
            && self.slices.wait_until_ready().now_or_never().is_some()
            && self.nodes.wait_until_ready().now_or_never().is_some();
        ready.then(|| Objects {
            services: self.services.state(),
            slices: self.slices.state(),
            node: self.nodes.state().into_iter().next(),
        })
    }
}

fn follow<K>(api: Api<K>, config: watcher::Config, changed: &Arc<Notify>, tasks: &mut JoinSet<()>) -> Store<K>
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + Send + Sync + serde::de::DeserializeOwned + 'static,
{
    let (store, writer) = reflector::store();
    let changed = Arc::clone(changed);
    let events = reflector::reflector(writer, watcher(api, config).default_backoff());
    tasks.spawn(async move {
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => {}
                Ok(_) => changed.notify_one(),
                Err(error) => eprintln!("service-proxy: {error}"),
            }
        }
    });
    store
}

struct Proxy {
    options: Options,
    names: watch::Sender<Arc<Zone>>,
    table: Table,
    health: HealthChecks,
    /// UDP ports as they were forwarded last.
    udp: Vec<state::ServicePort>,
}

impl Proxy {
    /// Writes what differs; whether something has to be tried again.
    async fn sync(&mut self, objects: &Objects) -> bool {
        let state = state::build(objects, &self.options.node, &self.options.cluster_dns);
        let mut zone = Some(Arc::new(dns::zone(objects)));
        self.names.send_if_modified(|now| match zone.take() {
            Some(zone) if zone != *now => {
                *now = zone;
                true
            }
            _ => false,
        });
        let mut failed = false;
        if let Err(error) = self.table.write(ruleset::ruleset(&state)) {
            eprintln!("service-proxy: {error:#}");
            failed = true;
        }
        self.health.set(&state.health_checks).await;
        if !failed && let Err(error) = self.forget_stale(&state) {
            eprintln!("service-proxy: UDP flows to endpoints that are gone: {error}");
            failed = true;
        }
        failed
    }

    /// After the rules, so that no flow is made anew by the old ones.
    fn forget_stale(&mut self, state: &State) -> std::io::Result<()> {
        let udp = |port: &&state::ServicePort| port.protocol == Protocol::Udp;
        let now: Vec<_> = state.ports.iter().filter(udp).cloned().collect();
        if now != self.udp {
            for flow in conntrack::stale(&conntrack::flows()?, state) {
                conntrack::forget(&flow)?;
            }
            self.udp = now;
        }
        Ok(())
    }
}
