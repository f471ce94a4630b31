//! What the manager translates is what the real Envoy takes: every golden case of the manager, L4 for node agents included, which is the same
//! API.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "all of this is test code")]

use std::fs;
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
use kubelb_xds::pb::google::protobuf::{Any, Duration};
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
            listeners: messages(snapshot, ResourceType::Listener),
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

fn messages<M: Message + Default>(snapshot: &Snapshot, kind: ResourceType) -> Vec<M> {
    let packed = snapshot
        .table(kind)
        .values()
        .map(|resource| Any::decode(resource.any_bytes()).unwrap());
    packed.map(|any| M::decode(any.value.as_slice()).unwrap()).collect()
}
