//! Both ends against each other, and what a change costs among many.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests say what they expect, and figures to a person who asks"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kubelb_xds::pb::envoy::config::cluster::v3::Cluster;
use kubelb_xds::pb::envoy::config::core::v3::Node;
use kubelb_xds::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, LbEndpoint, LocalityLbEndpoints};
use kubelb_xds::pb::envoy::config::listener::v3::Listener;
use kubelb_xds::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use kubelb_xds::server::{Config, Output, Session, Variant};
use kubelb_xds::{Audience, Owner, Reference, Resource, ResourceType, Scope, Snapshot, client};
use proptest::prelude::*;
use prost::Message;

const KINDS: [ResourceType; 3] = [ResourceType::Cluster, ResourceType::Endpoints, ResourceType::Listener];

fn resources(name: &str, version: u32) -> [Resource; 3] {
    let tenant = name.split('/').next().unwrap().to_owned();
    let owner = || Owner::tenant(tenant.as_str());
    let needs = |kind| Reference {
        kind,
        name: name.into(),
    };
    [
        Resource::new(
            &Cluster {
                name: name.to_owned(),
                ..Cluster::default()
            },
            owner(),
            Audience::Agents,
        )
        .needing([needs(ResourceType::Endpoints)]),
        endpoints(name, version),
        Resource::new(
            &Listener {
                name: name.to_owned(),
                stat_prefix: (version / 2).to_string(),
                ..Listener::default()
            },
            owner(),
            Audience::Agents,
        )
        .needing([needs(ResourceType::Cluster)]),
    ]
}

fn endpoints(name: &str, version: u32) -> Resource {
    let lb_endpoints = vec![LbEndpoint {
        health_status: i32::try_from(version).unwrap(),
        ..LbEndpoint::default()
    }];
    let message = ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: vec![LocalityLbEndpoints {
            lb_endpoints,
            ..LocalityLbEndpoints::default()
        }],
        ..ClusterLoadAssignment::default()
    };
    let tenant = name.split('/').next().unwrap().to_owned();
    Resource::new(&message, Owner::tenant(tenant), Audience::Agents)
}

fn build(slots: &[u32], previous: Option<&Snapshot>) -> Arc<Snapshot> {
    let present = slots.iter().enumerate().filter(|(_, version)| **version > 0);
    let all = present.flat_map(|(slot, version)| resources(&format!("t{}/{slot}", slot % 3), *version));
    Arc::new(Snapshot::build(all, previous).unwrap())
}

fn start() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "where time starts is of no matter")]
    Instant::now()
}

/// A server and a client that rejects some versions of some names.
struct Pair {
    server: Session,
    client: client::Session,
    bad: BTreeSet<(String, String)>,
    applied: BTreeMap<(ResourceType, String), Vec<u8>>,
    now: Instant,
    sent: usize,
}

impl Pair {
    fn new() -> Self {
        let now = start();
        let mut client = client::Session::new(Node::default());
        for kind in KINDS {
            client.subscribe(kind, ["*".to_owned()]);
        }
        Self {
            server: Session::new(Variant::Delta, Scope::Agent, Config::default(), now),
            client,
            bad: BTreeSet::new(),
            applied: BTreeMap::new(),
            now,
            sent: 0,
        }
    }

    fn connect(&mut self, snapshot: Option<&Arc<Snapshot>>) {
        self.server = Session::new(Variant::Delta, Scope::Agent, Config::default(), self.now);
        if let Some(snapshot) = snapshot {
            self.server.on_snapshot(Arc::clone(snapshot), self.now);
        }
        for request in self.client.connect() {
            let output = self.server.on_delta_request(request, self.now);
            self.exchange(output);
        }
    }

    /// Over the wire, until both rest. What waits for time gets it.
    fn exchange(&mut self, output: Output) {
        let mut pending: Vec<_> = output.responses;
        while let Some(response) = (!pending.is_empty()).then(|| pending.remove(0)) {
            self.sent += response.resources().len();
            let read = DeltaDiscoveryResponse::decode(response.to_bytes()).unwrap();
            let versions: BTreeMap<String, String> = read
                .resources
                .iter()
                .map(|resource| (resource.name.clone(), resource.version.clone()))
                .collect();
            let bad = &self.bad;
            let outcome = self.client.on_response(read, |_, name, bytes| {
                if bad.contains(&(name.to_owned(), versions[name].clone())) {
                    return Err("cannot be".to_owned());
                }
                Ok(bytes.to_vec())
            });
            for change in outcome.changes {
                match change {
                    client::Change::Updated { kind, name, value } => {
                        self.applied.insert((kind, name), value);
                    }
                    client::Change::Removed { kind, name } => {
                        self.applied.remove(&(kind, name));
                    }
                }
            }
            pending.extend(self.server.on_delta_request(outcome.reply, self.now).responses);
        }
        if let Some(deadline) = self.server.poll_timeout() {
            self.now = deadline;
            let output = self.server.on_timeout(deadline);
            self.exchange(output);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_client_has_what_the_server_serves_but_for_what_it_rejects(
        steps in prop::collection::vec((prop::array::uniform6(0_u32..4), any::<bool>(), prop::option::of(0_usize..6)), 1..12),
    ) {
        let mut pair = Pair::new();
        pair.connect(None);
        let mut snapshot: Option<Arc<Snapshot>> = None;
        for (slots, reconnect, bad) in steps {
            let next = build(&slots, snapshot.as_deref());
            if let Some(slot) = bad {
                let name = format!("t{}/{slot}", slot % 3);
                let endpoints = next.get(ResourceType::Endpoints, &name);
                let new = endpoints.filter(|found| pair.client.version(ResourceType::Endpoints, &name) != Some(&found.version().to_string()));
                pair.bad.extend(new.map(|found| (name.clone(), found.version().to_string())));
            }
            let output = pair.server.on_snapshot(Arc::clone(&next), pair.now);
            pair.exchange(output);
            if reconnect {
                let before = pair.sent;
                pair.connect(Some(&next));
                prop_assert!(pair.sent - before <= pair.bad.len(), "only what was rejected is tried again");
            }
            for kind in KINDS {
                for (name, wanted) in next.table(kind) {
                    let version = wanted.version().to_string();
                    let has = pair.client.version(kind, name) == Some(&version);
                    let rejected = pair.bad.contains(&(name.to_string(), version));
                    prop_assert_eq!(has, !rejected, "{} {}", kind, name);
                }
                for name in pair.client.versions(kind).keys() {
                    prop_assert!(next.get(kind, name).is_some() && pair.applied.contains_key(&(kind, name.clone())));
                }
            }
            snapshot = Some(next);
        }
    }
}

/// Run with `--nocapture` to see the figures. The limits are wide: builds without optimisation, on a busy machine.
#[test]
fn one_endpoint_that_changes_among_ten_thousand_is_one_small_response() {
    let name = |index: u32| format!("tenant-{:02}/service-{index:05}/80-tcp/v4", index % 100);
    let mut time = Stopwatch::new();
    let all = || (0..10_000).flat_map(|index| resources(&name(index), 1));
    let first = Arc::new(Snapshot::build(all(), None).unwrap());
    time.lap("30,000 resources, encoded and built");
    first.check_references().unwrap();
    time.lap("references checked");
    let again = Snapshot::build(all(), Some(&first)).unwrap();
    assert!(again.diff_since(&first).is_empty());
    time.lap("encoded, built and compared again");

    let mut pair = Pair::new();
    pair.connect(Some(&first));
    assert_eq!(pair.applied.len(), 30_000);
    time.lap("sent to one peer and acknowledged");
    let mut current = first;
    let (mut built, mut pushed) = (Vec::new(), Vec::new());
    for version in 2..11 {
        time.lap("");
        let next = Arc::new(current.update([endpoints(&name(4_711), version)], &[]));
        built.push(time.lap(""));
        let output = pair.server.on_snapshot(Arc::clone(&next), pair.now);
        pushed.push(time.lap(""));
        assert_eq!(output.responses.len(), 1);
        assert_eq!(output.responses[0].resources().len(), 1);
        let bytes = output.responses[0].to_bytes().len();
        assert!(bytes <= 1 << 10, "{bytes} bytes");
        pair.exchange(output);
        current = next;
    }
    built.sort();
    pushed.sort();
    println!(
        "one endpoint changed: snapshot and difference {:?}, push {:?}",
        built[4], pushed[4]
    );
    assert!(built[4] < Duration::from_millis(100), "{built:?}");
    assert!(
        pushed[4] < Duration::from_millis(5),
        "{pushed:?}: not with the number of resources"
    );
}

struct Stopwatch(Instant);

impl Stopwatch {
    fn new() -> Self {
        Self(start())
    }

    fn lap(&mut self, what: &str) -> Duration {
        let now = start();
        let took = now - self.0;
        self.0 = now;
        if !what.is_empty() {
            println!("{what}: {took:?}");
        }
        took
    }
}
