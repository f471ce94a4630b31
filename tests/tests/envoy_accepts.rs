//! What the manager translates is what the real Envoy takes: every golden case of the manager, L4 for node agents included, which is the same
//! API.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "all of this is test code")]

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use kubelb_manager::object::Object;
use kubelb_manager::source::manifest;
use kubelb_manager::store::Store;
use kubelb_manager::{allocate, ir, xds};
use kubelb_tests::envoy;
use kubelb_xds::pb::envoy::config::bootstrap::v3 as bootstrap;
use kubelb_xds::pb::envoy::config::cluster::v3::{Cluster, cluster};
use kubelb_xds::pb::envoy::config::core::v3 as core;
use kubelb_xds::pb::envoy::config::listener::v3::{Listener, filter};
use kubelb_xds::pb::envoy::config::route::v3::RouteConfiguration;
use kubelb_xds::pb::envoy::extensions::filters::http::cors::v3::Cors;
use kubelb_xds::pb::envoy::extensions::filters::http::router::v3::Router;
use kubelb_xds::pb::envoy::extensions::filters::network::http_connection_manager::v3 as http;
use kubelb_xds::pb::google::protobuf::{Any, BoolValue, Duration};
use kubelb_xds::{ResourceType, Snapshot};
use prost::Message;

const NAMESPACE: &str = "kubelb";
const CONTROL_PLANE: &str = "control-plane";

#[test]
fn every_golden_case_of_the_manager() {
    let program = envoy::program().unwrap();
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kubelb-manager/tests/golden");
    let scratch = tempfile::tempdir().unwrap();
    let mut refused = Vec::new();
    let mut listeners = 0;
    for entry in fs::read_dir(cases).unwrap() {
        let case = entry.unwrap().path();
        if !case.is_dir() {
            continue;
        }
        let snapshot = snapshot(&case);
        listeners += snapshot.table(ResourceType::Listener).len();
        let config = scratch.path().join("bootstrap.pb");
        fs::write(&config, bootstrap(&snapshot).encode_to_vec()).unwrap();
        let mut command = Command::new(&program);
        command.args([
            "--mode",
            "validate",
            "--disable-hot-restart",
            "--log-level",
            "error",
            "--config-path",
        ]);
        let output = command.arg(&config).output().unwrap();
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            refused.push(format!("{}: {said}", case.display()));
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
    assert!(listeners >= 20, "only {listeners} listeners were looked at");
}

fn snapshot(case: &Path) -> Snapshot {
    let text = fs::read_to_string(case.join("in.yaml")).unwrap();
    let mut store = Store::default();
    for entry in manifest::read(&text, |_| {}).entries {
        store.apply(entry.seen);
    }
    for claim in allocate::plan(&store, NAMESPACE, allocate::Given::Held).write {
        store.apply(Ok(Object::AddressClaim(claim.into())));
    }
    let (ir, _) = ir::build(&store, NAMESPACE);
    xds::translate(&ir)
}

/// Listeners and clusters as an Envoy has them that is told nothing more.
fn bootstrap(snapshot: &Snapshot) -> bootstrap::Bootstrap {
    let control_plane = Cluster {
        name: CONTROL_PLANE.to_owned(),
        connect_timeout: Some(Duration { seconds: 1, nanos: 0 }),
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(
            cluster::DiscoveryType::Static.into(),
        )),
        ..Cluster::default()
    };
    let mut clusters: Vec<Cluster> = messages(snapshot, ResourceType::Cluster);
    clusters.push(control_plane);
    let service = core::GrpcService {
        target_specifier: Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(
            core::grpc_service::EnvoyGrpc {
                cluster_name: CONTROL_PLANE.to_owned(),
                ..core::grpc_service::EnvoyGrpc::default()
            },
        )),
        ..core::GrpcService::default()
    };
    bootstrap::Bootstrap {
        node: Some(core::Node {
            id: "fleet/test".to_owned(),
            cluster: "test".to_owned(),
            ..core::Node::default()
        }),
        static_resources: Some(bootstrap::bootstrap::StaticResources {
            listeners: messages(snapshot, ResourceType::Listener)
                .into_iter()
                .chain(tables(snapshot))
                .collect(),
            clusters,
            ..bootstrap::bootstrap::StaticResources::default()
        }),
        dynamic_resources: Some(bootstrap::bootstrap::DynamicResources {
            ads_config: Some(core::ApiConfigSource {
                api_type: core::api_config_source::ApiType::DeltaGrpc.into(),
                transport_api_version: core::ApiVersion::V3.into(),
                grpc_services: vec![service],
                ..core::ApiConfigSource::default()
            }),
            ..bootstrap::bootstrap::DynamicResources::default()
        }),
        ..bootstrap::Bootstrap::default()
    }
}

/// Tables of routes come by RDS, which is not asked for here: each in a listener of its own.
fn tables(snapshot: &Snapshot) -> Vec<Listener> {
    let all: Vec<RouteConfiguration> = messages(snapshot, ResourceType::Route);
    let listeners = all.into_iter().enumerate().map(|(index, mut table)| {
        table.validate_clusters = Some(BoolValue { value: false });
        // Each an address of its own, as Envoy wants it.
        let address = SocketAddr::from(([127, 0, 0, 1], u16::try_from(index + 1).unwrap()));
        let mut listener = kubelb_tests::xds::http_listener(&format!("table-{index}"), address, "none");
        let manager = http::HttpConnectionManager {
            stat_prefix: "table".to_owned(),
            http_filters: ["cors", "router"].map(http_filter).into(),
            route_specifier: Some(http::http_connection_manager::RouteSpecifier::RouteConfig(table)),
            ..http::HttpConnectionManager::default()
        };
        for filter in listener.filter_chains.iter_mut().flat_map(|chain| &mut chain.filters) {
            filter.config_type = Some(filter::ConfigType::TypedConfig(kubelb_tests::xds::any(&manager)));
        }
        listener
    });
    listeners.collect()
}

fn http_filter(name: &str) -> http::HttpFilter {
    let config = if name == "cors" {
        kubelb_tests::xds::any(&Cors {})
    } else {
        kubelb_tests::xds::any(&Router::default())
    };
    http::HttpFilter {
        name: format!("envoy.filters.http.{name}"),
        config_type: Some(http::http_filter::ConfigType::TypedConfig(config)),
        ..http::HttpFilter::default()
    }
}

fn messages<M: Message + Default>(snapshot: &Snapshot, kind: ResourceType) -> Vec<M> {
    let packed = snapshot
        .table(kind)
        .values()
        .map(|resource| Any::decode(resource.any_bytes()).unwrap());
    packed.map(|any| M::decode(any.value.as_slice()).unwrap()).collect()
}
