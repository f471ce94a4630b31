use super::*;
use std::sync::Arc;

use serde_json::{Value, json};

fn objects(services: Value, slices: Value) -> Objects {
    let services: Vec<Service> = serde_json::from_value(services).unwrap();
    let slices: Vec<EndpointSlice> = serde_json::from_value(slices).unwrap();
    Objects {
        services: services.into_iter().map(Arc::new).collect(),
        slices: slices.into_iter().map(Arc::new).collect(),
        node: None,
    }
}

fn sample() -> Zone {
    let services = json!([
        {"metadata": {"namespace": "a", "name": "s"}, "spec": {
            "clusterIPs": ["10.96.0.20", "fd00:96::14"], "ports": [{"name": "http", "port": 80}],
        }},
        {"metadata": {"namespace": "a", "name": "out"}, "spec": {"type": "ExternalName", "externalName": "s.a.svc.cluster.local."}},
        {"metadata": {"namespace": "a", "name": "h"}, "spec": {"clusterIP": "None", "ports": [{"name": "sip", "port": 1}]}},
    ]);
    let endpoints: Vec<Value> = (1..=120)
        .map(|host| json!({"addresses": [format!("10.100.1.{host}")], "conditions": {"ready": host != 9}}))
        .collect();
    let slices = json!([{
        "metadata": {"namespace": "a", "name": "h-1", "labels": {"kubernetes.io/service-name": "h"}},
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "sip", "port": 5060, "protocol": "UDP"}],
    }]);
    zone(&objects(services, slices))
}

fn ask(zone: &Zone, name: &str, kind: RecordType, over_udp: bool) -> Message {
    let mut question = Message::new(3, MessageType::Query, OpCode::Query);
    question.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    let bytes = answer(zone, &question.to_vec().unwrap(), over_udp).unwrap();
    assert!(!over_udp || bytes.len() <= usize::from(SMALL));
    Message::from_vec(&bytes).unwrap()
}

fn texts(records: &[Record]) -> Vec<String> {
    records.iter().map(|record| record.data.to_string()).collect()
}

#[test]
fn a_name_has_the_records_of_the_kind_that_is_asked_for() {
    let zone = sample();
    for (name, kind, expected) in [
        ("s.a.svc.cluster.local.", RecordType::A, "10.96.0.20"),
        ("S.A.SVC.cluster.local.", RecordType::AAAA, "fd00:96::14"),
        (
            "_http._tcp.s.a.svc.cluster.local.",
            RecordType::SRV,
            "0 100 80 s.a.svc.cluster.local.",
        ),
        ("20.0.96.10.in-addr.arpa.", RecordType::PTR, "s.a.svc.cluster.local."),
        ("10-100-1-7.h.a.svc.cluster.local.", RecordType::A, "10.100.1.7"),
        ("10-1-2-3.any.pod.cluster.local.", RecordType::A, "10.1.2.3"),
    ] {
        let found = ask(&zone, name, kind, true);
        assert_eq!(texts(&found.answers), [expected], "{name}");
        assert_eq!(found.metadata.response_code, ResponseCode::NoError);
    }
}

#[test]
fn what_a_name_stands_for_comes_along() {
    let zone = sample();
    let alias = ask(&zone, "out.a.svc.cluster.local.", RecordType::A, true);
    assert_eq!(texts(&alias.answers), ["s.a.svc.cluster.local.", "10.96.0.20"]);
    let service = ask(&zone, "_http._tcp.s.a.svc.cluster.local.", RecordType::SRV, true);
    assert_eq!(texts(&service.additionals), ["10.96.0.20", "fd00:96::14"]);
}

#[test]
fn a_name_that_is_there_without_such_a_record_differs_from_one_that_is_not() {
    let zone = sample();
    for (name, code) in [
        ("s.a.svc.cluster.local.", ResponseCode::NoError),
        ("a.svc.cluster.local.", ResponseCode::NoError),
        ("cluster.local.", ResponseCode::NoError),
        ("t.a.svc.cluster.local.", ResponseCode::NXDomain),
        ("10-100-1-9.h.a.svc.cluster.local.", ResponseCode::NXDomain),
        ("example.com.", ResponseCode::NXDomain),
    ] {
        let found = ask(&zone, name, RecordType::MX, true);
        assert_eq!(found.metadata.response_code, code, "{name}");
        assert_eq!(found.answers.len(), 0);
        assert_eq!(found.authorities.len(), 1, "how long that may be remembered");
    }
}

#[test]
fn an_answer_that_is_too_long_for_a_datagram_says_so_and_is_whole_over_tcp() {
    let zone = sample();
    let short = ask(&zone, "h.a.svc.cluster.local.", RecordType::A, true);
    assert!(short.metadata.truncation);
    let whole = ask(&zone, "h.a.svc.cluster.local.", RecordType::A, false);
    assert_eq!(whole.answers.len(), 119);
    assert!(!whole.metadata.truncation);
}

#[test]
fn what_is_no_question_has_no_answer() {
    let zone = sample();
    let response = Message::response(1, OpCode::Query).to_vec().unwrap();
    assert_eq!(answer(&zone, &response, true), None);
    assert_eq!(answer(&zone, b"\x00\x01garbage", true), None);
    let mut update = Message::new(1, MessageType::Query, OpCode::Update);
    update.add_query(Query::query(Name::root(), RecordType::SOA));
    let refused = answer(&zone, &update.to_vec().unwrap(), true).unwrap();
    assert_eq!(
        Message::from_vec(&refused).unwrap().metadata.response_code,
        ResponseCode::NotImp
    );
}
