use proptest::prelude::{any, prop, proptest};
use prost::Message as _;

use super::*;
use crate::pb::envoy::config::cluster::v3::Cluster;
use crate::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use crate::pb::envoy::config::listener::v3::Listener;
use crate::pb::envoy::config::route::v3::RouteConfiguration;
use crate::pb::google::rpc::Status;
use crate::resource::{Audience, Reference, Resource, XdsResource};
use crate::snapshot::Tenants;

mod batches;
mod scope;

const CDS: ResourceType = ResourceType::Cluster;
const EDS: ResourceType = ResourceType::Endpoints;
const LDS: ResourceType = ResourceType::Listener;
const RDS: ResourceType = ResourceType::Route;

/// A tenant's resource; names start with the tenant's.
fn of<M: XdsResource>(message: &M, needs: &[(ResourceType, &str)]) -> Resource {
    let tenant = message.resource_name().split('/').next().unwrap().to_owned();
    let references = needs.iter().map(|(kind, name)| Reference {
        kind: *kind,
        name: (*name).into(),
    });
    Resource::new(message, Owner::tenant(tenant), Audience::Fleets).needing(references)
}

fn cluster(name: &str, contents: &str) -> Resource {
    let message = Cluster {
        name: name.to_owned(),
        alt_stat_name: contents.to_owned(),
        ..Cluster::default()
    };
    of(&message, &[(EDS, name)])
}

fn endpoints(name: &str) -> Resource {
    let message = ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        ..ClusterLoadAssignment::default()
    };
    of(&message, &[])
}

fn route(name: &str, to: &str) -> Resource {
    let message = RouteConfiguration {
        name: name.to_owned(),
        internal_only_headers: vec![to.to_owned()],
        ..RouteConfiguration::default()
    };
    of(&message, &[(CDS, to)])
}

fn listener(name: &str, to: &str) -> Resource {
    let message = Listener {
        name: name.to_owned(),
        stat_prefix: to.to_owned(),
        ..Listener::default()
    };
    of(&message, &[(CDS, to)])
}

fn snapshot(resources: impl IntoIterator<Item = Resource>) -> Arc<Snapshot> {
    Arc::new(Snapshot::build(resources, None).unwrap())
}

/// A delta stream of an Envoy that sees everything.
struct Stream {
    session: Session,
    now: Instant,
    events: Vec<Event>,
}

impl Stream {
    fn new(scope: Scope, snapshot: Arc<Snapshot>) -> Self {
        #[expect(clippy::disallowed_methods, reason = "where time starts is of no matter")]
        let now = Instant::now();
        let mut session = Session::new(Variant::Delta, scope, Config::default(), now);
        let output = session.on_snapshot(snapshot, now);
        assert!(output.responses.is_empty(), "nothing is sent before it is asked for");
        Self {
            session,
            now,
            events: Vec::new(),
        }
    }

    fn fleet(resources: impl IntoIterator<Item = Resource>) -> Self {
        Self::new(Scope::Fleet(Tenants::All), snapshot(resources))
    }

    fn shown(&mut self, output: Output) -> Vec<String> {
        self.events.extend(output.events);
        let show = |response: &Response| {
            let resources = response
                .resources()
                .iter()
                .map(|resource| format!("+{}", resource.name()));
            let removed = response.removed().iter().map(|name| format!("-{name}"));
            let all: Vec<String> = resources.chain(removed).collect();
            format!("{} {}", response.kind(), all.join(" "))
        };
        output.responses.iter().map(show).collect()
    }

    fn request(&mut self, kind: ResourceType, change: impl FnOnce(&mut DeltaDiscoveryRequest)) -> Vec<String> {
        let mut request = DeltaDiscoveryRequest {
            type_url: kind.type_url().to_owned(),
            ..DeltaDiscoveryRequest::default()
        };
        change(&mut request);
        let output = self.session.on_delta_request(request, self.now);
        self.shown(output)
    }

    fn ask(&mut self, kind: ResourceType, names: &[&str]) -> Vec<String> {
        self.request(kind, |request| {
            request.resource_names_subscribe = names.iter().map(ToString::to_string).collect();
        })
    }

    fn nonce(&self, kind: ResourceType) -> String {
        let in_flight = self.session.types.get(kind).in_flight.as_ref();
        in_flight.expect("nothing to answer").nonce.to_string()
    }

    fn ack(&mut self, kind: ResourceType) -> Vec<String> {
        let nonce = self.nonce(kind);
        self.request(kind, |request| request.response_nonce = nonce)
    }

    fn nack(&mut self, kind: ResourceType, text: &str) -> Vec<String> {
        let nonce = self.nonce(kind);
        self.request(kind, |request| {
            request.response_nonce = nonce;
            request.error_detail = Some(Status {
                message: text.to_owned(),
                ..Status::default()
            });
        })
    }

    fn publish(&mut self, resources: impl IntoIterator<Item = Resource>) -> Vec<String> {
        let output = self.session.on_snapshot(snapshot(resources), self.now);
        self.shown(output)
    }

    /// Acknowledges until nothing is on its way.
    fn rest(&mut self) {
        for _ in 0..1_000 {
            let waiting = |kind: &ResourceType| self.session.types.get(*kind).in_flight.is_some();
            let Some(kind) = ResourceType::ALL.into_iter().find(waiting) else {
                return;
            };
            self.ack(kind);
        }
        panic!("no end of responses");
    }
}

const NOTHING: [&str; 0] = [];

#[test]
fn a_proxy_that_starts_is_answered_even_if_there_is_nothing() {
    let mut stream = Stream::fleet([]);
    assert_eq!(stream.ask(CDS, &[]), ["cds "]);
    assert_eq!(stream.ask(LDS, &[]), ["lds "]);
    assert_eq!(stream.ask(RDS, &[]), NOTHING, "no names of routes is no wildcard");
}

#[test]
fn a_name_is_answered_at_once_and_remembered() {
    let mut stream = Stream::fleet([endpoints("a/1")]);
    assert_eq!(stream.ask(EDS, &["a/1", "a/2"]), ["eds +a/1 -a/2"]);
    assert_eq!(stream.ack(EDS), NOTHING);
    assert_eq!(stream.publish([endpoints("a/1"), endpoints("a/2")]), ["eds +a/2"]);
    stream.ack(EDS);
    assert_eq!(stream.ask(EDS, &["a/1"]), ["eds +a/1"], "asked again, it is sent again");
    stream.ack(EDS);
    let gone = stream.request(EDS, |request| {
        request.resource_names_unsubscribe = vec!["a/2".to_owned()];
        request.response_nonce = "of another age".to_owned();
    });
    assert_eq!(gone, NOTHING);
    assert_eq!(
        stream.publish([endpoints("a/1")]),
        NOTHING,
        "a stale nonce loses no change of subscription"
    );
}

#[test]
fn what_a_wildcard_still_covers_is_answered_when_its_name_is_given_up() {
    let mut stream = Stream::fleet([cluster("a/1", "")]);
    stream.ask(CDS, &["*", "a/1", "a/2"]);
    stream.rest();
    let answer = stream.request(CDS, |request| {
        request.resource_names_unsubscribe = vec!["a/1".to_owned(), "a/2".to_owned()];
    });
    assert_eq!(answer, ["cds +a/1 -a/2"]);
}

#[test]
fn a_proxy_that_comes_back_is_sent_what_differs() {
    let resources = || {
        [
            cluster("a/1", ""),
            cluster("a/2", ""),
            endpoints("a/1"),
            endpoints("a/2"),
        ]
    };
    let mut first = Stream::fleet(resources());
    first.ask(CDS, &[]);
    first.rest();
    let versions = |name: &str| (name.to_owned(), first.session.acked(CDS, name).unwrap().to_string());

    let mut second = Stream::fleet(resources());
    let opening = second.request(CDS, |request| {
        request.initial_resource_versions = [versions("a/1"), versions("a/2")].into();
    });
    assert_eq!(opening, ["cds "], "versions without names are no subscription to names");
    second.rest();
    assert_eq!(
        second.publish([cluster("a/1", "new"), cluster("a/2", ""), cluster("a/3", "")]),
        ["cds +a/1 +a/3"]
    );
}

#[test]
fn a_route_moves_without_a_gap() {
    let old = || [cluster("a/old", ""), route("a/r", "a/old"), endpoints("a/old")];
    let new = || [cluster("a/new", ""), route("a/r", "a/new"), endpoints("a/new")];
    let mut stream = Stream::fleet(old());
    stream.ask(CDS, &[]);
    stream.ask(LDS, &[]);
    stream.rest();
    assert_eq!(stream.ask(RDS, &["a/r"]), ["rds +a/r"]);
    stream.rest();
    assert_eq!(stream.publish(new()), ["cds +a/new"], "clusters first");
    assert_eq!(
        stream.ask(EDS, &["a/new"]),
        ["eds +a/new"],
        "which wait for their endpoints"
    );
    assert_eq!(stream.ack(EDS), NOTHING);
    assert_eq!(stream.ack(CDS), ["rds +a/r"], "routes when clusters are there");
    assert_eq!(stream.ack(RDS), ["cds -a/old"], "removals when no route is left");
    stream.rest();
    assert!(stream.session.is_settled());
}

#[test]
fn a_listener_waits_for_what_its_routes_lead_to() {
    let by_route = || {
        let message = Listener {
            name: "a/l".to_owned(),
            ..Listener::default()
        };
        of(&message, &[(RDS, "a/r")])
    };
    let mut stream = Stream::fleet([]);
    stream.ask(CDS, &[]);
    stream.ask(LDS, &[]);
    stream.rest();
    assert_eq!(
        stream.publish([cluster("a/1", ""), route("a/r", "a/1"), by_route()]),
        ["cds +a/1"]
    );
    assert_eq!(
        stream.ack(CDS),
        ["lds +a/l"],
        "else it would ask for routes that it cannot get"
    );
    assert_eq!(stream.ask(RDS, &["a/r"]), ["rds +a/r"]);
}

#[test]
fn state_of_the_world_keeps_the_same_order() {
    let mut stream = Stream::fleet([cluster("a/old", ""), listener("a/l", "a/old")]);
    stream.session = Session::new(
        Variant::StateOfTheWorld,
        Scope::Fleet(Tenants::All),
        Config::default(),
        stream.now,
    );
    let ask = |stream: &mut Stream, kind: ResourceType| {
        let request = DiscoveryRequest {
            type_url: kind.type_url().to_owned(),
            response_nonce: stream
                .session
                .types
                .get(kind)
                .last_nonce
                .map(|nonce| nonce.to_string())
                .unwrap_or_default(),
            ..DiscoveryRequest::default()
        };
        let output = stream.session.on_sotw_request(&request, stream.now);
        stream.shown(output)
    };
    stream.publish([cluster("a/old", ""), listener("a/l", "a/old")]);
    assert_eq!(ask(&mut stream, CDS), ["cds +a/old"]);
    assert_eq!(ask(&mut stream, LDS), NOTHING, "it is not acknowledged");
    assert_eq!(ask(&mut stream, CDS), ["lds +a/l"]);
    ask(&mut stream, LDS);
    ask(&mut stream, RDS);
    assert_eq!(
        stream.publish([cluster("a/new", ""), listener("a/l", "a/new")]),
        ["cds +a/new +a/old"]
    );
    assert_eq!(ask(&mut stream, CDS), ["lds +a/l"]);
    assert_eq!(
        ask(&mut stream, LDS),
        ["cds +a/new -a/old"],
        "a list without the old one"
    );
}

#[test]
fn the_endpoints_of_a_changed_cluster_follow_it() {
    let mut stream = Stream::fleet([cluster("a/1", ""), endpoints("a/1")]);
    stream.ask(CDS, &[]);
    stream.ask(EDS, &["a/1"]);
    stream.rest();
    assert_eq!(
        stream.publish([cluster("a/1", "changed"), endpoints("a/1")]),
        ["cds +a/1", "eds +a/1"],
        "before the cluster is acknowledged, which waits for them"
    );
}

#[test]
fn a_new_configuration_in_the_middle_of_a_push_takes_its_place() {
    let mut stream = Stream::fleet([cluster("a/1", "1")]);
    stream.ask(CDS, &[]);
    for contents in ["2", "3", "4"] {
        assert_eq!(
            stream.publish([cluster("a/1", contents), cluster("a/2", contents)]),
            NOTHING
        );
    }
    assert_eq!(stream.ack(CDS), ["cds +a/1 +a/2"]);
    assert_eq!(stream.ack(CDS), NOTHING);
    let last = cluster("a/1", "4").version();
    assert_eq!(stream.session.acked(CDS, "a/1"), Some(last));
}

#[test]
fn a_response_is_of_one_tenant_and_one_route_configuration() {
    let mut stream = Stream::fleet([]);
    stream.ask(CDS, &[]);
    stream.ask(RDS, &["a/r1", "a/r2"]);
    stream.rest();
    let all = ["a/1", "b/1", "a/2"].map(|name| cluster(name, ""));
    let routes = [route("a/r1", "a/1"), route("a/r2", "a/1")];
    assert_eq!(stream.publish(all.into_iter().chain(routes)), ["cds +a/1 +a/2"]);
    assert_eq!(stream.ack(CDS), ["cds +b/1", "rds +a/r1"]);
    assert_eq!(stream.ack(RDS), ["rds +a/r2"]);
}

#[test]
fn a_response_has_a_size_that_a_client_takes() {
    let contents = "x".repeat(1 << 20);
    let names = ["a/1", "a/2", "a/3", "a/4", "a/5"];
    let mut stream = Stream::fleet(names.map(|name| cluster(name, &contents)));
    assert_eq!(stream.ask(CDS, &[]), ["cds +a/1 +a/2"]);
    assert_eq!(stream.ack(CDS), ["cds +a/3 +a/4"]);
    assert_eq!(stream.ack(CDS), ["cds +a/5"]);
}

fn quarantined(events: &[Event]) -> Vec<(&str, &str)> {
    let found = events.iter().filter_map(|event| match event {
        Event::Quarantined { name, reason, .. } => Some((&**name, reason.as_str())),
        Event::Acked { .. } | Event::Nacked { .. } | Event::Refused(_) | Event::Stalled { .. } => None,
    });
    found.collect()
}

#[test]
fn what_the_text_names_goes_alone_and_what_is_rejected_alone_is_kept_back() {
    let names = ["a/1", "a/10", "a/2", "b/1"];
    let mut stream = Stream::fleet(names.map(|name| cluster(name, "1")));
    stream.ask(CDS, &[]);
    let text = "Error adding/updating cluster(s) a/10: no such thing";
    assert_eq!(stream.nack(CDS, text), ["cds +a/10"]);
    assert_eq!(stream.nack(CDS, "no such thing"), ["cds +a/1 +a/2 +b/1"]);
    assert_eq!(stream.ack(CDS), NOTHING);
    assert_eq!(quarantined(&stream.events), [("a/10", "no such thing")]);
    assert!(stream.session.is_settled());
    let mut fixed: Vec<Resource> = names.map(|name| cluster(name, "1")).into();
    assert_eq!(stream.publish(std::mem::take(&mut fixed)), NOTHING, "not a second time");
    assert_eq!(
        stream.publish(names.map(|name| cluster(name, if name == "a/10" { "2" } else { "1" }))),
        ["cds +a/10"],
        "a fix is tried at once"
    );
}

#[test]
fn a_rejection_without_names_is_found_by_halves() {
    let names: Vec<String> = (0..64).map(|index| format!("a/{index:02}")).collect();
    let mut stream = Stream::fleet(names.iter().map(|name| cluster(name, "")));
    let mut sent = stream.ask(CDS, &[]);
    let mut responses = 1;
    while let [response] = sent.as_slice() {
        responses += 1;
        sent = if response.contains("+a/37") {
            stream.nack(CDS, "Proto constraint validation failed")
        } else {
            stream.ack(CDS)
        };
    }
    assert!(responses <= 20, "{responses} responses to find one of 64");
    assert_eq!(
        quarantined(&stream.events),
        [("a/37", "Proto constraint validation failed")]
    );
    assert!(
        names
            .iter()
            .all(|name| name == "a/37" || stream.session.acked(CDS, name).is_some())
    );
}

#[test]
fn the_rejected_keeps_its_last_good_version_and_what_leads_to_it() {
    let mut stream = Stream::fleet([cluster("a/1", "good")]);
    stream.ask(CDS, &[]);
    stream.ask(LDS, &[]);
    stream.rest();
    stream.publish([
        cluster("a/1", "bad"),
        cluster("a/2", "bad"),
        listener("a/l1", "a/1"),
        listener("a/l2", "a/2"),
    ]);
    stream.nack(CDS, "no");
    stream.nack(CDS, "no");
    assert_eq!(stream.nack(CDS, "no"), NOTHING.map(String::from).to_vec());
    stream.rest();
    assert!(
        stream.session.acked(LDS, "a/l1").is_some(),
        "its cluster is there, if an old one"
    );
    assert_eq!(stream.session.acked(LDS, "a/l2"), None, "it would lead nowhere");
}

#[test]
fn routes_do_not_wait_for_a_cluster_that_is_refused() {
    let mut stream = Stream::fleet([]);
    for kind in [CDS, LDS] {
        stream.ask(kind, &[]);
    }
    stream.ask(RDS, &["a/r"]);
    stream.rest();
    let through = |to: &str| {
        of(
            &Listener {
                name: "a/l".to_owned(),
                ..Listener::default()
            },
            &[(RDS, to)],
        )
    };
    let resources = |contents: &str| [cluster("a/1", contents), route("a/r", "a/1"), through("a/r")];
    assert_eq!(stream.publish(resources("bad")), ["cds +a/1"]);
    assert_eq!(
        stream.nack(CDS, "no"),
        ["lds +a/l", "rds +a/r"],
        "the other routes of the configuration are not to suffer"
    );
    stream.rest();
    assert_eq!(stream.publish(resources("good")), ["cds +a/1"]);
}

#[test]
fn a_cluster_that_is_asked_for_again_counts_as_lost_until_it_is_acknowledged() {
    let mut stream = Stream::fleet([cluster("a/1", "good")]);
    stream.ask(CDS, &[]);
    stream.ask(LDS, &[]);
    stream.rest();
    assert_eq!(stream.ask(CDS, &["a/1"]), ["cds +a/1"]);
    assert_eq!(
        stream.publish([cluster("a/1", "bad"), listener("a/l1", "a/1")]),
        NOTHING,
        "the listener waits"
    );
    assert_eq!(stream.ack(CDS), ["cds +a/1"]);
    stream.ask(CDS, &["a/1"]);
    assert_eq!(
        stream.nack(CDS, "no"),
        ["cds +a/1"],
        "asked for again before it was rejected"
    );
    assert_eq!(
        stream.nack(CDS, "no"),
        NOTHING,
        "nobody knows of a version that is there"
    );
    assert_eq!(
        stream.publish([cluster("a/1", "good"), listener("a/l1", "a/1")]),
        ["cds +a/1"],
        "what it once acknowledged it may have lost"
    );
    assert_eq!(stream.ack(CDS), ["lds +a/l1"]);
}

#[test]
fn a_cluster_that_stalls_holds_up_only_what_leads_to_it() {
    let mut stream = Stream::fleet([cluster("a/1", "")]);
    stream.ask(CDS, &[]);
    stream.ask(LDS, &[]);
    stream.rest();
    let next = [
        cluster("a/1", ""),
        cluster("a/slow", ""),
        listener("a/l1", "a/1"),
        listener("a/l2", "a/slow"),
    ];
    assert_eq!(stream.publish(next), ["cds +a/slow", "lds +a/l1"]);
    stream.ack(LDS);
    stream.now = stream.session.poll_timeout().unwrap();
    let output = stream.session.on_timeout(stream.now);
    assert_eq!(stream.shown(output), NOTHING);
    let stalled = Event::Stalled {
        kind: CDS,
        names: vec!["a/slow".into()],
    };
    assert!(stream.events.contains(&stalled));
    assert_eq!(stream.session.poll_timeout(), None, "said once");
    assert_eq!(stream.ack(CDS), ["lds +a/l2"]);
}

#[test]
fn names_have_a_bound() {
    let mut stream = Stream::fleet([]);
    stream.session.config.names = 2;
    assert_eq!(stream.ask(EDS, &["a", "b", "c", "d"]), ["eds -a -b"]);
    assert_eq!(stream.events, [Event::Refused(Refusal::TooManyNames(EDS))]);
    let strange = DeltaDiscoveryRequest {
        type_url: "type.googleapis.com/envoy.service.runtime.v3.Runtime".to_owned(),
        ..DeltaDiscoveryRequest::default()
    };
    let output = stream.session.on_delta_request(strange, stream.now);
    assert!(matches!(
        output.events.as_slice(),
        [Event::Refused(Refusal::UnknownType(_))]
    ));
}

proptest! {
    #[test]
    fn no_request_is_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..200), nonce in ".{0,12}", name in ".{0,12}") {
        let mut stream = Stream::fleet([cluster("a/1", "")]);
        if let Ok(request) = DeltaDiscoveryRequest::decode(bytes.as_slice()) {
            stream.session.on_delta_request(request, stream.now);
        }
        for kind in ResourceType::ALL {
            stream.request(kind, |request| {
                request.resource_names_subscribe = vec![name.clone(), String::new()];
                request.resource_names_unsubscribe = vec![name.clone(), "*".to_owned()];
                request.initial_resource_versions = [(name.clone(), nonce.clone())].into();
                request.response_nonce = nonce.clone();
                request.error_detail = Some(Status { message: name.clone(), ..Status::default() });
            });
        }
    }
}
