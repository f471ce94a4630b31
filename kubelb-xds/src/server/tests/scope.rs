//! What a peer may not see: no name, no wildcard and no type leads to it, and asking is told.

use super::*;
use crate::pb::envoy::extensions::transport_sockets::tls::v3::Secret;

const SDS: ResourceType = ResourceType::Secret;

#[test]
fn what_is_outside_the_scope_does_not_exist() {
    let mut stream = Stream::new(
        Scope::tenant("a"),
        snapshot([cluster("a/1", ""), cluster("b/1", ""), endpoints("b/1")]),
    );
    assert_eq!(stream.ask(CDS, &["*", "b/1", "b/2"]), ["cds +a/1 -b/1 -b/2"]);
    assert_eq!(stream.ask(EDS, &["*", "b/1"]), ["eds -b/1"]);
    let refused = Event::Refused(Refusal::OutOfScope {
        kind: CDS,
        name: "b/1".into(),
    });
    let refusals: Vec<&Event> = stream
        .events
        .iter()
        .filter(|event| matches!(event, Event::Refused(_)))
        .collect();
    assert_eq!(refusals.len(), 2);
    assert_eq!(refusals[0], &refused);
    stream.rest();
    let output = stream.session.on_scope(Scope::tenant("b"), stream.now);
    assert_eq!(stream.shown(output), ["cds +b/1", "eds +b/1"]);
    stream.now += Config::default().phase_wait;
    assert_eq!(stream.ack(CDS), ["cds -a/1"]);
}

#[test]
fn a_type_that_is_for_others_is_empty_and_asking_for_it_is_told_once() {
    let secret = Secret {
        name: "a/1".to_owned(),
        ..Secret::default()
    };
    let secret = Resource::new(&secret, Owner::tenant("a"), Audience::Everyone);
    let foreign = |stream: &Stream, kind| {
        let told = Event::Refused(Refusal::ForeignType(kind));
        stream.events.iter().filter(|event| **event == told).count()
    };
    let mut agent = Stream::new(Scope::Agent, snapshot([secret.clone()]));
    assert_eq!(agent.ask(SDS, &["*"]), ["sds "]);
    assert_eq!(agent.ack(SDS), Vec::<String>::new());
    assert_eq!(agent.ask(SDS, &["a/1"]), ["sds -a/1"]);
    assert_eq!(foreign(&agent, SDS), 1);
    let guessed = Event::Refused(Refusal::OutOfScope {
        kind: SDS,
        name: "a/1".into(),
    });
    assert!(agent.events.contains(&guessed));

    let mut fleet = Stream::new(Scope::tenant("a"), snapshot([secret]));
    assert_eq!(fleet.ask(ResourceType::VirtualAddress, &[]), ["virtual-address "]);
    assert_eq!(foreign(&fleet, ResourceType::VirtualAddress), 1);
    assert_eq!(fleet.ask(SDS, &["*"]), ["sds +a/1"]);
    assert_eq!(foreign(&fleet, SDS), 0);
}
