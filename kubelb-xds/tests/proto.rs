//! The messages in Rust and those in the .proto file that other implementations use are the same.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use kubelb_xds::contract::limits::{self, LimitsRequest, ProcessLimits};
use kubelb_xds::contract::messages::{LocalPort, LocalPortProtocol, Rejection, VirtualAddress};
use kubelb_xds::contract::relay::{
    self, NodePresence, Relayed, RelayedNode, RelayedObject, RelayedPeer, RelayedRefusal, RelayedView,
};
use kubelb_xds::contract::reports::{self, Drops, ListenerReport, Report, Standing, Traffic, UnhealthyBackend};
use prost::Message;
use protox::prost_reflect::{DescriptorPool, DynamicMessage};

fn pool() -> DescriptorPool {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/proto");
    let files = ["xds", "reports", "relay", "limits"].map(|name| format!("kubelb/v1alpha1/{name}.proto"));
    let files = protox::compile(files, [root]).unwrap();
    DescriptorPool::from_file_descriptor_set(files).unwrap()
}

/// `message` as somebody reads it who has the file only.
fn read(name: &str, message: &impl Message) -> String {
    let descriptor = pool().get_message_by_name(name).unwrap();
    let read = DynamicMessage::decode(descriptor.clone(), message.encode_to_vec().as_slice()).unwrap();
    assert_eq!(
        read.unknown_fields().count(),
        0,
        "{name} has a field that the file does not have"
    );
    assert_eq!(
        read.fields().count(),
        descriptor.fields().count(),
        "the file has a field that the test does not set, or that {name} does not have"
    );
    read.to_string()
}

#[test]
fn a_virtual_address_reads_the_same() {
    let message = VirtualAddress {
        address: "203.0.113.10".to_owned(),
        owner_node: "node-1".to_owned(),
        epoch: 1 << 40,
        interfaces: vec!["eth0".to_owned(), "eth1".to_owned()],
        tenant: "a".to_owned(),
        local_ports: vec![LocalPort {
            protocol: LocalPortProtocol::Udp.into(),
            port: 443,
        }],
    };
    assert_eq!(
        read("kubelb.v1alpha1.VirtualAddress", &message),
        "address:\"203.0.113.10\",owner_node:\"node-1\",epoch:1099511627776,interfaces:[\"eth0\",\"eth1\"],tenant:\"a\",\
         local_ports:[{protocol:UDP,port:443}]"
    );
}

#[test]
fn a_rejection_reads_the_same_and_has_the_name_of_its_type_url() {
    let message = Rejection {
        type_url: "t".to_owned(),
        name: "n".to_owned(),
        version: "v".to_owned(),
        reason: "r".to_owned(),
    };
    assert_eq!(
        read("kubelb.v1alpha1.Rejection", &message),
        "type_url:\"t\",name:\"n\",version:\"v\",reason:\"r\""
    );
    let name = pool()
        .get_message_by_name("kubelb.v1alpha1.Rejection")
        .unwrap()
        .full_name()
        .to_owned();
    assert!(Rejection::TYPE_URL.ends_with(&format!("/{name}")));
    assert_eq!(Rejection::from_any(&message.to_any()), Some(message));
}

#[test]
fn a_report_and_its_method_read_the_same() {
    let standing = Standing {
        problem: "p".to_owned(),
        healthy: 1,
        unchecked: 2,
        pending: 3,
        draining: 4,
        unhealthy: vec![UnhealthyBackend {
            address: "10.0.0.1".to_owned(),
            port: 80,
            since: 5,
        }],
    };
    assert_eq!(
        read("kubelb.v1alpha1.Standing", &standing),
        "problem:\"p\",healthy:1,unchecked:2,pending:3,draining:4,unhealthy:[{address:\"10.0.0.1\",port:80,since:5}]"
    );
    let traffic = Traffic {
        new_flows: 1,
        active_flows: 2,
        packets_in: 3,
        bytes_in: 4,
        packets_out: 5,
        bytes_out: 6,
        drops: vec![Drops {
            reason: "r".to_owned(),
            packets: 7,
        }],
    };
    assert_eq!(
        read("kubelb.v1alpha1.Traffic", &traffic),
        "new_flows:1,active_flows:2,packets_in:3,bytes_in:4,packets_out:5,bytes_out:6,drops:[{reason:\"r\",packets:7}]"
    );
    let report = Report {
        instance: 1,
        sequence: 2,
        full: true,
        more: true,
        listeners: vec![ListenerReport {
            name: "n".to_owned(),
            standing: Some(Standing::default()),
            traffic: Some(Traffic::default()),
        }],
        removed: vec!["m".to_owned()],
    };
    assert_eq!(
        read("kubelb.v1alpha1.Report", &report),
        "instance:1,sequence:2,full:true,more:true,listeners:[{name:\"n\",standing{},traffic{}}],removed:[\"m\"]"
    );
    let pool = pool();
    let service = pool.get_service_by_name("kubelb.v1alpha1.Reports").unwrap();
    let method = service.methods().next().unwrap();
    assert_eq!(format!("/{}/{}", service.full_name(), method.name()), reports::METHOD);
    assert!(method.is_client_streaming() && !method.is_server_streaming());
}

#[test]
fn what_managers_tell_each_other_and_its_method_read_the_same() {
    let view = RelayedView {
        name: "n".to_owned(),
        node: "m".to_owned(),
        agent: true,
        all_tenants: true,
        tenants: vec!["a".to_owned()],
        all_behind: true,
        behind: vec!["a/b".to_owned()],
        refusals: vec![RelayedRefusal {
            object: "a/c".to_owned(),
            reason: "r".to_owned(),
        }],
        reports: true,
    };
    assert_eq!(
        read("kubelb.v1alpha1.RelayedView", &view),
        "name:\"n\",node:\"m\",agent:true,all_tenants:true,tenants:[\"a\"],all_behind:true,behind:[\"a/b\"],\
         refusals:[{object:\"a/c\",reason:\"r\"}],reports:true"
    );
    let relayed = Relayed {
        sequence: 1,
        full: true,
        more: true,
        objects: vec![RelayedObject {
            name: "a/b".to_owned(),
            digest: 2,
        }],
        peers: vec![RelayedPeer {
            id: 3,
            view: Some(RelayedView::default()),
            report: Some(Report::default()),
        }],
        peers_gone: vec![4],
        nodes: vec![RelayedNode {
            name: "n".to_owned(),
            presence: NodePresence::Lost.into(),
            age: 5,
        }],
        nodes_gone: vec!["m".to_owned()],
    };
    assert_eq!(
        read("kubelb.v1alpha1.Relayed", &relayed),
        "sequence:1,full:true,more:true,objects:[{name:\"a/b\",digest:2}],peers:[{id:3,view{},report{}}],peers_gone:[4],\
         nodes:[{name:\"n\",presence:NODE_PRESENCE_LOST,age:5}],nodes_gone:[\"m\"]"
    );
    let pool = pool();
    let service = pool.get_service_by_name("kubelb.v1alpha1.Relay").unwrap();
    let method = service.methods().next().unwrap();
    assert_eq!(format!("/{}/{}", service.full_name(), method.name()), relay::METHOD);
    assert!(method.is_client_streaming() && method.is_server_streaming());
}

#[test]
fn limits_and_their_method_read_the_same() {
    let said = ProcessLimits {
        max_connections: 1,
        max_heap_bytes: 2,
    };
    assert_eq!(
        read("kubelb.v1alpha1.ProcessLimits", &said),
        "max_connections:1,max_heap_bytes:2"
    );
    assert_eq!(read("kubelb.v1alpha1.LimitsRequest", &LimitsRequest {}), "");
    let pool = pool();
    let service = pool.get_service_by_name("kubelb.v1alpha1.Limits").unwrap();
    let method = service.methods().next().unwrap();
    assert_eq!(format!("/{}/{}", service.full_name(), method.name()), limits::METHOD);
    assert!(!method.is_client_streaming() && !method.is_server_streaming());
}
