//! Peers that ask for what is not theirs, or are not who they say: refused, in the log, and counted.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kubelb_manager::identity::authority::{Issued, SERVER_LIFETIME};
use kubelb_manager::identity::token::{Review, Reviewed, TokenReviewer};
use kubelb_manager::identity::{Authority, ServiceAccounts, SpiffeId};
use kubelb_manager::xds::server::Count;
use kubelb_tests::scratch::Scratch;
use kubelb_tests::wait;
use kubelb_tests::xds::{self, Tenant};
use kubelb_xds::{Resource, ResourceType};
use tonic::Code;

use crate::hub::{Hub, Setup, now};
use crate::peer::{self, Credential, DeltaPeer, SotwPeer};
use crate::world::{SOON, World, port, web};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// Tenant a's web, and something of every type that is tenant b's.
pub(crate) fn two_tenants() -> Vec<Resource> {
    let cert = rcgen::generate_simple_self_signed(vec!["b".to_owned()]).unwrap();
    let b = Tenant::new("b")
        .secret("b-secret", &cert.cert.pem(), &cert.signing_key.serialize_pem())
        .https("b-listener", port(8443), "b-routes", "b-secret")
        .routes("b-routes", &[("*", "b-cluster")])
        .cluster("b-cluster", &[port(9)]);
    let mut resources = web("a-cluster", &[("a-cluster", port(9))]);
    resources.extend(b.resources());
    resources
}

pub(crate) const OF_B: [(ResourceType, &str); 5] = [
    (ResourceType::Cluster, "b-cluster"),
    (ResourceType::Endpoints, "b-cluster"),
    (ResourceType::Secret, "b-secret"),
    (ResourceType::Listener, "b-listener"),
    (ResourceType::Route, "b-routes"),
];

pub(crate) fn certificate(hub: &Hub<'_>, tenants: &str) -> Issued {
    hub.issue(&SpiffeId::fleet(tenants).unwrap(), HOUR)
}

pub(crate) fn shown(certificate: &Issued) -> Credential<'_> {
    Credential {
        certificate: Some(certificate),
        token: None,
    }
}

#[test]
fn what_is_anothers_is_answered_for_as_if_it_did_not_exist() {
    let world = World::new("xds-guess");
    let hub = Hub::start(&world.namespace, world.state(), two_tenants());
    let issued = certificate(&hub, "a");
    let mut peer = DeltaPeer::open(&hub, &shown(&issued)).unwrap();
    for (kind, name) in OF_B {
        peer.ask(kind, &[name, "no-such-thing"]);
        let response = peer.next().unwrap();
        assert_eq!(response.type_url, kind.type_url());
        assert!(response.resources.is_empty(), "{response:?}");
        let mut removed = response.removed_resources.clone();
        removed.sort();
        let mut asked = vec![name.to_owned(), "no-such-thing".to_owned()];
        asked.sort();
        assert_eq!(removed, asked, "both are answered for alike");
        peer.ack(&response);
        assert_eq!(hub.count(Count::OutOfScope, kind.label()), 1, "{kind}");
        hub.assert_logged(&format!("{kind} {name:?} is outside the peer's scope"));
    }
}

/// Names of what a wildcard brings of a type.
fn all_of(hub: &Hub<'_>, credential: &Credential<'_>, kind: ResourceType) -> [Vec<String>; 2] {
    let mut peer = DeltaPeer::open(hub, credential).unwrap();
    peer.ask(kind, &["*"]);
    let response = peer.next().unwrap();
    assert!(response.removed_resources.is_empty(), "{response:?}");
    let delta = response.resources.into_iter().map(|each| each.name).collect();
    let mut peer = SotwPeer::open(hub, credential).unwrap();
    peer.ask(kind, &["*"]);
    let response = peer.next().unwrap();
    let sotw = response.resources.iter().map(|any| name_of(kind, &any.value)).collect();
    [delta, sotw]
}

fn name_of(kind: ResourceType, bytes: &[u8]) -> String {
    use prost::Message as _;
    match kind {
        ResourceType::Cluster => xds::Cluster::decode(bytes).unwrap().name,
        ResourceType::Endpoints => xds::ClusterLoadAssignment::decode(bytes).unwrap().cluster_name,
        ResourceType::Secret => xds::Secret::decode(bytes).unwrap().name,
        ResourceType::Listener => xds::Listener::decode(bytes).unwrap().name,
        ResourceType::Route => xds::RouteConfiguration::decode(bytes).unwrap().name,
        ResourceType::VirtualAddress => panic!("no test has one"),
    }
}

#[test]
fn a_wildcard_holds_what_is_the_peers_own_and_nothing_of_others() {
    let world = World::new("xds-wildcard");
    let hub = Hub::start(&world.namespace, world.state(), two_tenants());
    for (tenant, others) in [("a", "b"), ("b", "a")] {
        let issued = certificate(&hub, tenant);
        for (kind, _) in OF_B {
            for names in all_of(&hub, &shown(&issued), kind) {
                assert!(!names.iter().any(|name| name.starts_with(others)), "{kind}: {names:?}");
                // Tenant a has no certificate.
                assert_eq!(
                    names.is_empty(),
                    tenant == "a" && kind == ResourceType::Secret,
                    "{kind}"
                );
            }
        }
    }
    // An agent's certificate opens L4 only, of which there is none here.
    let agent = hub.issue(&SpiffeId::agent("node-1").unwrap(), HOUR);
    for kind in [ResourceType::Cluster, ResourceType::Endpoints, ResourceType::Listener] {
        assert_eq!(all_of(&hub, &shown(&agent), kind), [[""; 0]; 2], "{kind}");
    }
    // Whoever looks at the manager sees how far each peer's wildcards reach.
    let mut peer = DeltaPeer::open(&hub, &shown(&agent)).unwrap();
    peer.ask(ResourceType::Cluster, &["*"]);
    peer.next().unwrap();
    hub.assert_logged("scope=agent");
    let scopes: Vec<String> = hub
        .server()
        .registry()
        .peers()
        .iter()
        .map(|peer| peer.identity.scope.to_string())
        .collect();
    assert!(scopes.contains(&"agent".to_owned()), "{scopes:?}");
}

#[test]
fn a_wildcard_for_a_type_that_is_for_others_is_refused_in_either_form() {
    let world = World::new("xds-types");
    let hub = Hub::start(&world.namespace, world.state(), two_tenants());
    let agent = hub.issue(&SpiffeId::agent("node-1").unwrap(), HOUR);
    let fleet = certificate(&hub, "*");
    let mut refused = 0;
    for (issued, kind) in [
        (&agent, ResourceType::Secret),
        (&agent, ResourceType::Route),
        (&fleet, ResourceType::VirtualAddress),
    ] {
        let told = format!("nothing of type {kind} is for a peer of this scope");
        let mut assert_refused = || {
            refused += 1;
            assert_eq!(hub.count(Count::Refused, "foreign_type"), refused, "{kind}");
            hub.assert_logged(&told);
        };
        let mut peer = DeltaPeer::open(&hub, &shown(issued)).unwrap();
        peer.ask(kind, &["*"]);
        let response = peer.next().unwrap();
        assert!(response.resources.is_empty(), "{response:?}");
        assert_refused();
        let mut peer = SotwPeer::open(&hub, &shown(issued)).unwrap();
        peer.ask(kind, &["*"]);
        let response = peer.next().unwrap();
        assert!(response.resources.is_empty(), "{response:?}");
        assert_refused();
    }
}

#[test]
fn in_the_state_of_the_world_form_what_is_anothers_does_not_exist_either() {
    let world = World::new("xds-guess-sotw");
    let hub = Hub::start(&world.namespace, world.state(), two_tenants());
    let issued = certificate(&hub, "a");
    for (kind, name) in OF_B {
        let mut peer = SotwPeer::open(&hub, &shown(&issued)).unwrap();
        peer.ask(kind, &[name, "no-such-thing"]);
        // There is no way to say that something does not exist, but an empty list of types that are listed whole.
        if kind.is_full_state() {
            let response = peer.next().unwrap();
            assert!(response.resources.is_empty(), "{response:?}");
        } else {
            assert!(peer.silence(Duration::from_millis(300)), "{kind}");
        }
        assert_eq!(hub.count(Count::OutOfScope, kind.label()), 1, "{kind}");
        hub.assert_logged(&format!("{kind} {name:?} is outside the peer's scope"));
    }
}

#[test]
fn another_tenants_certificate_opens_what_is_that_tenants() {
    let world = World::new("xds-other-cert");
    let hub = Hub::start(&world.namespace, world.state(), two_tenants());
    let issued = certificate(&hub, "b");
    let mut peer = DeltaPeer::open(&hub, &shown(&issued)).unwrap();
    peer.ask(ResourceType::Cluster, &["*", "a-cluster"]);
    let response = peer.next().unwrap();
    let names: Vec<&str> = response.resources.iter().map(|each| each.name.as_str()).collect();
    assert_eq!(names, ["b-cluster"]);
    assert_eq!(response.removed_resources, ["a-cluster"]);
    assert_eq!(hub.count(Count::OutOfScope, ResourceType::Cluster.label()), 1);
    hub.assert_logged("is outside the peer's scope");
}

#[test]
fn other_ways_than_the_one_stream_are_refused_with_any_credential() {
    let world = World::new("xds-methods");
    let hub = Hub::start(&world.namespace, world.state(), two_tenants());
    let issued = certificate(&hub, "a");
    let mut tried = 0;
    for credential in [Credential::default(), shown(&issued)] {
        for path in [
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/FetchAggregatedResources",
            "/envoy.service.cluster.v3.ClusterDiscoveryService/FetchClusters",
            "/envoy.service.cluster.v3.ClusterDiscoveryService/DeltaClusters",
            "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets",
            "/envoy.service.secret.v3.SecretDiscoveryService/FetchSecrets",
            "/envoy.service.status.v3.ClientStatusDiscoveryService/FetchClientStatus",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            "/v3/discovery:secrets",
        ] {
            assert_eq!(peer::call(&hub, &credential, path), Code::Unimplemented, "{path}");
            tried += 1;
            assert_eq!(hub.count(Count::Refused, "method"), tried, "{path}");
            hub.assert_logged(path);
        }
    }
    assert_eq!(hub.total(Count::Responses), 0);
}

#[test]
fn no_credential_and_foreign_ones_open_nothing() {
    let world = World::new("xds-strangers");
    let hub = Hub::start(&world.namespace, world.state(), two_tenants());
    let unauthenticated = |credential: &Credential<'_>, reason: &'static str| {
        assert_eq!(refusal(&hub, credential, reason), Code::Unauthenticated);
        assert_eq!(
            hub.count(Count::Refused, reason),
            2,
            "once for each form of the protocol"
        );
    };
    unauthenticated(&Credential::default(), "no_credential");
    let token = Credential {
        certificate: None,
        token: Some("a.b.c"),
    };
    unauthenticated(&token, "tokens_not_accepted");

    let foreign = |issued: &Issued, reason: &'static str| {
        refusal(&hub, &shown(issued), reason);
        wait::until(SOON, || {
            let refused = hub.count(Count::HandshakesFailed, reason);
            anyhow::ensure!(refused == 2, "{}", hub.server().render_metrics());
            Ok(())
        })
        .unwrap();
    };
    let id = SpiffeId::fleet("a").unwrap();
    let long_ago = now() - 2 * HOUR;
    foreign(
        &hub.authority().issue_peer(&id, HOUR, long_ago).unwrap(),
        "certificate_expired",
    );
    let elsewhere = Scratch::new().unwrap();
    let other = Authority::open(elsewhere.path(), now()).unwrap();
    foreign(
        &other.issue_peer(&id, HOUR, now()).unwrap(),
        "certificate_unknown_issuer",
    );
    let name = ["127.0.0.1".to_owned()];
    let servers = hub.authority().issue_server(&name, SERVER_LIFETIME, now());
    foreign(&servers.unwrap(), "certificate_purpose");
    assert!(hub.server().registry().peers().is_empty());
    assert_eq!(hub.total(Count::Responses), 0);
}

/// How streams of either form fail with this credential (when they are opened, or at their first word), which is in the log.
fn refusal(hub: &Hub<'_>, credential: &Credential<'_>, reason: &str) -> Code {
    let logged = format!("reason=\"{reason}\"");
    let delta = match DeltaPeer::open(hub, credential) {
        Err(status) => status,
        Ok(mut peer) => {
            peer.ask(ResourceType::Cluster, &[]);
            peer.next().expect_err("it was served")
        }
    };
    hub.assert_logged(&logged);
    let sotw = match SotwPeer::open(hub, credential) {
        Err(status) => status,
        Ok(mut peer) => {
            peer.ask(ResourceType::Cluster, &[]);
            peer.next().expect_err("it was served")
        }
    };
    hub.assert_logged(&logged);
    assert_eq!(delta.code(), sotw.code(), "{delta} {sotw}");
    delta.code()
}

/// Knows tokens of the form `name.claims.`.
#[derive(Debug)]
struct Reviewer;

impl TokenReviewer for Reviewer {
    fn review<'a>(&'a self, token: &'a str, audience: &'a str) -> Reviewed<'a> {
        let name = token.split('.').next().unwrap_or_default();
        let review = Review {
            authenticated: name != "forged",
            username: format!("system:serviceaccount:kubelb:{name}"),
            audiences: if name == "apiserver" {
                vec![]
            } else {
                vec![audience.to_owned()]
            },
            error: "signature".to_owned(),
        };
        Box::pin(async move { Ok(review) })
    }
}

pub(crate) fn token(name: &str, end: SystemTime) -> String {
    use base64::Engine as _;
    let end = end.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(format!("{{\"exp\":{end}}}"));
    format!("{name}.{claims}.")
}

pub(crate) fn hub_with_tokens(world: &World) -> Hub<'_> {
    let accounts = ServiceAccounts::parse(
        &["kubelb/agent".to_owned()],
        &["kubelb/envoy-a=a".to_owned(), "kubelb/envoy-b=b".to_owned()],
    );
    let setup = Setup {
        tokens: Some((Arc::new(Reviewer), accounts.unwrap())),
        ..Setup::default()
    };
    Hub::with(&world.namespace, world.state(), two_tenants(), setup)
}

#[test]
fn a_token_opens_what_its_service_account_was_given() {
    let world = World::new("xds-tokens");
    let hub = hub_with_tokens(&world);
    let bearer = token("envoy-a", now() + HOUR);
    let mut peer = DeltaPeer::open(
        &hub,
        &Credential {
            certificate: None,
            token: Some(&bearer),
        },
    )
    .unwrap();
    peer.ask(ResourceType::Cluster, &[]);
    let names: Vec<String> = peer
        .next()
        .unwrap()
        .resources
        .into_iter()
        .map(|each| each.name)
        .collect();
    assert_eq!(names, ["a-cluster"]);
    for (name, end, code, reason) in [
        ("tenant-a-ccm", now() + HOUR, Code::PermissionDenied, "stranger"),
        ("forged", now() + HOUR, Code::Unauthenticated, "token"),
        ("apiserver", now() + HOUR, Code::Unauthenticated, "token"),
        ("agent", now() - HOUR, Code::Unauthenticated, "expired"),
    ] {
        let before = hub.count(Count::Refused, reason);
        let bearer = token(name, end);
        let credential = Credential {
            certificate: None,
            token: Some(&bearer),
        };
        assert_eq!(refusal(&hub, &credential, reason), code, "{name}");
        assert_eq!(hub.count(Count::Refused, reason), before + 2, "{name}");
    }
}

#[test]
fn another_tenants_token_opens_what_is_that_tenants() {
    let world = World::new("xds-other-token");
    let hub = hub_with_tokens(&world);
    let bearer = token("envoy-b", now() + HOUR);
    let credential = Credential {
        certificate: None,
        token: Some(&bearer),
    };
    let kind = ResourceType::Cluster;
    let mut peer = DeltaPeer::open(&hub, &credential).unwrap();
    peer.ask(kind, &["*", "a-cluster"]);
    let response = peer.next().unwrap();
    let names: Vec<&str> = response.resources.iter().map(|each| each.name.as_str()).collect();
    assert_eq!(names, ["b-cluster"]);
    assert_eq!(response.removed_resources, ["a-cluster"]);
    assert_eq!(hub.count(Count::OutOfScope, kind.label()), 1);
    hub.assert_logged("\"a-cluster\" is outside the peer's scope");
    let mut peer = SotwPeer::open(&hub, &credential).unwrap();
    peer.ask(kind, &["a-cluster"]);
    assert!(peer.next().unwrap().resources.is_empty());
    assert_eq!(hub.count(Count::OutOfScope, kind.label()), 2);
    hub.assert_logged("\"a-cluster\" is outside the peer's scope");
}

#[test]
fn a_stream_ends_with_the_token_that_opened_it() {
    let world = World::new("xds-expiry");
    let hub = hub_with_tokens(&world);
    let bearer = token("envoy-a", now() + Duration::from_secs(2));
    let credential = Credential {
        certificate: None,
        token: Some(&bearer),
    };
    let mut delta = DeltaPeer::open(&hub, &credential).unwrap();
    delta.ask(ResourceType::Cluster, &[]);
    let response = delta.next().unwrap();
    delta.ack(&response);
    let mut sotw = SotwPeer::open(&hub, &credential).unwrap();
    sotw.ask(ResourceType::Cluster, &[]);
    let response = sotw.next().unwrap();
    sotw.ack(&response, &[]);
    for ended in [delta.next().err(), sotw.next().err()] {
        let status = ended.expect("the stream goes on");
        assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    }
    assert_eq!(hub.count(Count::Refused, "expired"), 2);
    // The last connection is the second one's.
    hub.assert_logged("its credential has expired");
}

#[test]
fn who_does_not_answer_costs_one_response_and_gets_the_newest_state_afterwards() {
    let world = World::new("xds-slow");
    let hub = Hub::start(&world.namespace, world.state(), web("start", &[("start", port(9))]));
    let issued = certificate(&hub, "a");
    let mut peer = DeltaPeer::open(&hub, &shown(&issued)).unwrap();
    peer.ask(ResourceType::Cluster, &[]);
    let first = peer.next().unwrap();
    for round in 0..300 {
        let name = format!("cluster-{round}");
        hub.publish(web(&name, &[(&name, port(9))]));
    }
    assert!(
        peer.silence(Duration::from_millis(300)),
        "more than one response is on its way"
    );
    assert_eq!(hub.total(Count::Responses), 1);
    peer.ack(&first);
    let next = peer.next().unwrap();
    let names: Vec<String> = next.resources.into_iter().map(|each| each.name).collect();
    assert_eq!(names, ["cluster-299"]);
}
