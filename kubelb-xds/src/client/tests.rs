use std::collections::HashMap;

use proptest::prelude::*;
use prost::Message as _;

use super::{Change, Session};
use crate::pb::envoy::config::core::v3::Node;
use crate::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, Resource};
use crate::pb::google::protobuf::Any as AnyMessage;
use crate::resource_type::ResourceType;

const KIND: ResourceType = ResourceType::Cluster;

fn resource(name: &str, version: &str, contents: &str) -> Resource {
    Resource {
        name: name.to_owned(),
        version: version.to_owned(),
        resource: Some(AnyMessage {
            type_url: KIND.type_url().to_owned(),
            value: contents.into(),
        }),
        ..Resource::default()
    }
}

fn response(resources: Vec<Resource>, removed: &[&str]) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: KIND.type_url().to_owned(),
        nonce: "7".to_owned(),
        resources,
        removed_resources: removed.iter().map(ToString::to_string).collect(),
        ..DeltaDiscoveryResponse::default()
    }
}

/// Takes what does not start with `bad`.
fn decode(_: ResourceType, _: &str, bytes: &[u8]) -> Result<String, String> {
    let text = String::from_utf8_lossy(bytes).into_owned();
    if text.starts_with("bad") { Err(text) } else { Ok(text) }
}

fn connected() -> Session {
    let mut session = Session::new(Node::default());
    session.subscribe(KIND, ["*".to_owned()]);
    session.connect();
    session
}

#[test]
fn valid_resources_are_taken_and_the_others_named() {
    let mut session = connected();
    session.on_response(response(vec![resource("b", "1", "good")], &[]), decode);
    let mut foreign = resource("c", "1", "good");
    foreign.resource.as_mut().unwrap().type_url = "x".to_owned();
    let outcome = session.on_response(
        response(
            vec![resource("a", "1", "good"), resource("b", "2", "bad port"), foreign],
            &["d"],
        ),
        decode,
    );
    let names: Vec<&str> = outcome
        .rejections
        .iter()
        .map(|rejection| rejection.name.as_str())
        .collect();
    assert_eq!(names, ["b", "c"]);
    assert_eq!(outcome.changes.len(), 2);
    assert_eq!(
        outcome.changes[0],
        Change::Removed {
            kind: KIND,
            name: "d".to_owned()
        }
    );
    let error = outcome.reply.error_detail.unwrap();
    assert!(
        error.message.starts_with("b: bad port; c: is of type"),
        "{}",
        error.message
    );
    assert_eq!(error.details.len(), 2);
    assert_eq!(outcome.reply.response_nonce, "7");
    assert_eq!(session.version(KIND, "a"), Some("1"));
    assert_eq!(session.version(KIND, "b"), Some("1"), "the last good one stays");
}

#[test]
fn a_new_stream_starts_with_what_is_there() {
    let mut session = connected();
    session.on_response(response(vec![resource("a", "1", "good")], &[]), decode);
    session.disconnect();
    assert_eq!(session.subscribe(ResourceType::Endpoints, ["x".to_owned()]), None);
    let requests = session.connect();
    assert_eq!(requests.len(), 2);
    assert_eq!(
        requests[0].initial_resource_versions,
        HashMap::from([("a".to_owned(), "1".to_owned())])
    );
    assert!(
        requests[0].resource_names_subscribe.is_empty(),
        "the form that all servers know"
    );
    assert!(
        requests[0].node.is_some() && requests[1].node.is_none(),
        "a node says its name once"
    );
    assert_eq!(requests[1].resource_names_subscribe, ["x"]);
}

#[test]
fn a_type_that_is_held_is_asked_for_when_the_caller_says_so() {
    let held = ResourceType::VirtualAddress;
    let mut session = connected();
    session.hold(held);
    assert_eq!(session.subscribe(held, ["*".to_owned()]), None);
    let request = session.release(held).unwrap();
    assert_eq!(request.type_url, held.type_url());
    assert!(session.release(held).is_none(), "once on a stream");
    session.disconnect();
    assert!(
        session
            .connect()
            .iter()
            .all(|request| request.type_url != held.type_url())
    );
    assert!(session.release(held).is_some());
}

#[test]
fn what_nobody_asked_for_is_let_pass() {
    let mut session = Session::new(Node::default());
    session.subscribe(KIND, ["a".to_owned()]);
    session.connect();
    let outcome = session.on_response(response(vec![resource("b", "1", "bad")], &["c"]), decode);
    assert!(outcome.changes.is_empty() && outcome.reply.error_detail.is_none());

    let mut unknown = response(vec![], &[]);
    unknown.type_url = "type.googleapis.com/x".to_owned();
    let outcome = session.on_response(unknown, decode);
    assert!(outcome.reply.error_detail.is_some());
    assert_eq!(outcome.reply.type_url, "type.googleapis.com/x");
}

#[test]
fn unsubscribing_forgets() {
    let mut session = connected();
    session.subscribe(KIND, ["a".to_owned()]);
    session.on_response(
        response(vec![resource("a", "1", "x"), resource("b", "1", "x")], &[]),
        decode,
    );
    session.unsubscribe(KIND, ["*".to_owned()]).unwrap();
    assert_eq!(session.versions(KIND).keys().collect::<Vec<_>>(), ["a"]);
    assert_eq!(session.unsubscribe(KIND, ["b".to_owned()]), None);
}

proptest! {
    #[test]
    fn no_bytes_are_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..300), cut in 0_usize..200) {
        let mut session = connected();
        if let Ok(message) = DeltaDiscoveryResponse::decode(bytes.as_slice()) {
            session.on_response(message, decode);
        }
        let mut valid = response(vec![resource("a", "1", "x"), resource("b", "2", "bad")], &["c"]).encode_to_vec();
        let at = cut % valid.len();
        valid[at] = bytes.first().copied().unwrap_or(0);
        valid.truncate(valid.len() - cut % 7);
        if let Ok(message) = DeltaDiscoveryResponse::decode(valid.as_slice()) {
            session.on_response(message, decode);
        }
    }
}
