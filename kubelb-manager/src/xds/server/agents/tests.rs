use std::time::SystemTime;

use kubelb_xds::Scope;
use kubelb_xds::contract::reports::{ListenerReport, Standing, Traffic};

use super::*;
use crate::xds::server::registry::Concerned;

fn identity(node: &str) -> Identity {
    Identity {
        subject: format!("spiffe://kubelb/agent/{node}"),
        scope: Scope::Agent,
        node: Some(node.to_owned()),
        expires: SystemTime::UNIX_EPOCH,
    }
}

fn beat(sequence: u64) -> Report {
    Report {
        instance: 1,
        sequence,
        full: sequence == 1,
        ..Report::default()
    }
}

fn presence(agents: &Agents, now: Instant) -> Vec<Presence> {
    agents.view(now).iter().map(|agent| agent.presence).collect()
}

#[test]
fn a_node_is_heard_silent_and_gone_by_silence_or_in_order() {
    let agents = Agents::new(Registry::default());
    let start = clock();
    let entry = agents.enter(&identity("n"), 1, start);
    entry.take(beat(1), start).unwrap();
    assert_eq!(presence(&agents, start + SILENCE / 2), [Presence::Heard]);
    assert_eq!(presence(&agents, start + SILENCE), [Presence::Silent]);
    entry.take(beat(2), start + SILENCE).unwrap();
    assert_eq!(presence(&agents, start + SILENCE), [Presence::Heard]);
    let end = start + SILENCE + Duration::from_secs(1);
    entry.leave(end);
    assert_eq!(presence(&agents, end), [Presence::Closed(end)], "a restart");
    let again = agents.enter(&identity("n"), 2, end);
    again.take(beat(1), end).unwrap();
    assert_eq!(presence(&agents, end), [Presence::Heard]);
    again.leave(end + SILENCE);
    assert_eq!(presence(&agents, end + SILENCE), [Presence::Lost(end + SILENCE)]);
    assert_eq!(presence(&agents, end + REMEMBERED), []);
}

#[test]
fn two_streams_of_one_node_are_one_agent() {
    let agents = Agents::new(Registry::default());
    let start = clock();
    let old = agents.enter(&identity("n"), 1, start);
    let new = agents.enter(&identity("n"), 2, start);
    let view = agents.view(start);
    assert_eq!(view.iter().map(|agent| agent.connection).collect::<Vec<_>>(), [2]);
    old.leave(start);
    assert_eq!(presence(&agents, start), [Presence::Heard], "the new one is there");
    drop(new);
}

#[test]
fn a_heartbeat_wakes_nobody_and_news_concern_what_they_are_about() {
    let registry = Registry::default();
    let agents = Agents::new(registry.clone());
    let now = clock();
    let entry = agents.enter(&identity("n"), 1, now);
    entry.take(beat(1), now).unwrap();
    assert!(
        registry.take_concerned().everything,
        "what is not named is as it should be"
    );
    let changes = *registry.changes().borrow();
    entry.take(beat(2), now).unwrap();
    assert_eq!(*registry.changes().borrow(), changes);
    let mut report = beat(3);
    report.listeners.push(ListenerReport {
        name: "tenant-a/web/203.0.113.10/80-tcp".to_owned(),
        standing: Some(Standing {
            problem: "no room".to_owned(),
            ..Standing::default()
        }),
        traffic: Some(Traffic {
            new_flows: 4,
            ..Traffic::default()
        }),
    });
    entry.take(report, now).unwrap();
    let concerned = Concerned {
        everything: false,
        names: ["tenant-a/web/203.0.113.10/80-tcp".into()].into(),
        ..Concerned::default()
    };
    assert_eq!(registry.take_concerned(), concerned);
    assert!(entry.take(beat(9), now).is_err());
    let text = agents.render_metrics(now);
    for line in [
        "kubelb_manager_reports_agents{state=\"heard\"} 1",
        "kubelb_manager_reports_total 4",
        "kubelb_manager_reports_faults_total{reason=\"sequence\"} 1",
        "kubelb_manager_reports_listeners{node=\"n\"} 1",
        "kubelb_manager_reports_flows_total{node=\"n\"} 4",
    ] {
        assert!(text.lines().any(|each| each == line), "{line} is not in\n{text}");
    }
}
