//! The messages in Rust and those in the .proto file that other implementations use are the same.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use kubelb_xds::contract::messages::{LocalPort, LocalPortProtocol, Rejection, VirtualAddress};
use prost::Message;
use protox::prost_reflect::{DescriptorPool, DynamicMessage};

fn pool() -> DescriptorPool {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/proto");
    let files = protox::compile(["kubelb/v1alpha1/xds.proto"], [root]).unwrap();
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
