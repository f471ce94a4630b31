//! One endpoint changes among all: what the manager computes, and what its peers are sent. In this process, without a network.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kubelb_manager::hub::Hub;
use kubelb_manager::source::manifest;
use kubelb_tests::wait;
use kubelb_xds::client::{self, Change};
use kubelb_xds::pb::envoy::config::core::v3::Node;
use kubelb_xds::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use kubelb_xds::server::{Config, Output, Session, Variant};
use kubelb_xds::{ResourceType, Scope, Snapshot, Tenants};
use prost::Message as _;

use crate::report::{Report, Spread, float};
use crate::scenario::{FOR_ENVOY, Scenario};

const PART: &str = "change";

/// Takes the figures of `changes` changes.
pub(crate) fn take(scenario: &Scenario, changes: usize, report: &mut Report) -> anyhow::Result<()> {
    let mut hub = Hub::new("kubelb");
    let started = wait::now();
    let texts: Vec<String> = (0..scenario.tenants())
        .map(|tenant| scenario.manifest(tenant, None))
        .collect();
    let objects: Vec<_> = texts
        .iter()
        .flat_map(|text| manifest::read(text, |_| {}).entries)
        .collect();
    let parsed = wait::now();
    report.add(
        PART,
        "manifests to objects, one thread",
        ms(parsed.duration_since(started)),
        "ms",
    );
    for entry in objects {
        hub.apply(entry.seen);
    }
    hub.settle(&now());
    report.add(
        PART,
        "objects to snapshot and statuses",
        ms(wait::now().duration_since(parsed)),
        "ms",
    );

    let fleet = |name: &str| Scope::Fleet(Tenants::Only([name.into()].into()));
    let mut peers = [
        ("agent", Peer::new(Scope::Agent)),
        ("fleet of its tenant", Peer::new(fleet("t0"))),
        ("fleet of another tenant", Peer::new(fleet("t1"))),
        ("fleet of all tenants", Peer::new(Scope::Fleet(Tenants::All))),
    ];
    let first = Arc::new(hub.snapshot().clone());
    for (_, peer) in &mut peers {
        peer.connect(&first)?;
    }
    one_of_its_own(scenario, changes, &mut hub, &mut peers, report)?;
    shared(scenario, &mut hub, &mut peers, report)
}

/// An endpoint of one LoadBalancer for the agents.
fn one_of_its_own(
    scenario: &Scenario,
    changes: usize,
    hub: &mut Hub,
    peers: &mut [(&'static str, Peer)],
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut computed = Vec::new();
    let mut planned = Vec::new();
    let mut sent = vec![Sent::default(); peers.len()];
    for turn in 0..changes.max(1) {
        let node = scenario.endpoints + u32::from(turn % 2 == 0);
        let text = scenario.load_balancer(0, FOR_ENVOY + 1, Some(node));
        let seen = manifest::read(&text, |_| {}).entries.pop().context("one object")?.seen;
        let time = now();
        let started = wait::now();
        hub.apply(seen);
        hub.settle(&time);
        let snapshot = Arc::new(hub.snapshot().clone());
        computed.push(wait::now().duration_since(started));
        for (index, ((_, peer), sent)) in peers.iter_mut().zip(&mut sent).enumerate() {
            let started = wait::now();
            let output = peer.server.on_snapshot(Arc::clone(&snapshot), started);
            if index == 0 {
                planned.push(wait::now().duration_since(started));
            }
            *sent = peer.exchange(output)?;
        }
    }
    let spread = Spread::of(computed);
    report
        .add(PART, "store to encoded snapshot, median", spread.p50, "ms")
        .aim(5.0);
    report.add(PART, "store to encoded snapshot, slowest", spread.max, "ms");
    report.add(PART, "an agent's session: what to send", Spread::of(planned).p50, "ms");
    for ((name, _), sent) in peers.iter().zip(&sent) {
        let needed = if *name == "agent" { 1 } else { 0 };
        ensure!(sent.resources == needed, "{name} is sent {} resources", sent.resources);
        report
            .add(
                PART,
                format!("to an {name}: resources").replace("an fleet", "a fleet"),
                float(sent.resources),
                "",
            )
            .must(float(needed));
    }
    report
        .add(
            PART,
            "to an agent: response",
            float(sent.first().map_or(0, |sent| sent.bytes)),
            "B",
        )
        .aim(1_024.0);
    Ok(())
}

/// A node of a tenant with LoadBalancers for agents and for Envoy.
fn shared(
    scenario: &Scenario,
    hub: &mut Hub,
    peers: &mut [(&'static str, Peer)],
    report: &mut Report,
) -> anyhow::Result<()> {
    let text = scenario.manifest(0, Some(scenario.endpoints));
    let entries = manifest::read(&text, |_| {}).entries;
    let time = now();
    let started = wait::now();
    for entry in entries {
        hub.apply(entry.seen);
    }
    hub.settle(&time);
    let snapshot: Arc<Snapshot> = Arc::new(hub.snapshot().clone());
    report.add(
        PART,
        "a tenant's file again, with a change of its nodes",
        ms(wait::now().duration_since(started)),
        "ms",
    );
    for (name, peer) in peers {
        let output = peer.server.on_snapshot(Arc::clone(&snapshot), wait::now());
        let sent = peer.exchange(output)?;
        // The other change is taken back with it.
        let needed = match *name {
            "agent" => 1..=2,
            "fleet of another tenant" => 0..=0,
            _ => 1..=1,
        };
        ensure!(
            needed.contains(&sent.resources),
            "{name} is sent {} resources",
            sent.resources
        );
    }
    Ok(())
}

/// Both ends of a stream.
struct Peer {
    server: Session,
    client: client::Session,
}

/// What a peer was sent.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    resources: usize,
    bytes: usize,
}

impl Peer {
    fn new(scope: Scope) -> Self {
        let mut client = client::Session::new(Node::default());
        for kind in [ResourceType::Cluster, ResourceType::Listener] {
            drop(client.subscribe(kind, ["*".to_owned()]));
        }
        Self {
            server: Session::new(Variant::Delta, scope, Config::default(), wait::now()),
            client,
        }
    }

    fn connect(&mut self, snapshot: &Arc<Snapshot>) -> anyhow::Result<()> {
        let output = self.server.on_snapshot(Arc::clone(snapshot), wait::now());
        self.exchange(output)?;
        for request in self.client.connect() {
            let output = self.server.on_delta_request(request, wait::now());
            self.exchange(output)?;
        }
        Ok(())
    }

    /// Lets them talk until there is nothing more to say.
    fn exchange(&mut self, output: Output) -> anyhow::Result<Sent> {
        let mut sent = Sent::default();
        let mut queue = std::collections::VecDeque::from(output.responses);
        while let Some(response) = queue.pop_front() {
            let bytes = response.to_bytes();
            sent.resources += response.resources().len();
            sent.bytes += bytes.len();
            for request in self.answer(DeltaDiscoveryResponse::decode(bytes)?) {
                queue.extend(self.server.on_delta_request(request, wait::now()).responses);
            }
        }
        Ok(sent)
    }

    fn answer(&mut self, response: DeltaDiscoveryResponse) -> Vec<DeltaDiscoveryRequest> {
        let outcome = self.client.on_response(response, |_, _, _| Ok(()));
        let clusters = outcome.changes.into_iter().filter_map(|change| match change {
            Change::Updated {
                kind: ResourceType::Cluster,
                name,
                ..
            } => Some(name),
            Change::Updated { .. } | Change::Removed { .. } => None,
        });
        let wanted = self
            .client
            .subscribe(ResourceType::Endpoints, clusters.collect::<Vec<_>>());
        std::iter::once(outcome.reply).chain(wanted).collect()
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn now() -> Time {
    Time(Timestamp::now())
}
