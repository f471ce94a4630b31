//! A manager on each node, and nodes that die: who announces the addresses then, and that nothing else moves them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kubelb_tests::agent::Agent;
use kubelb_tests::netns::Namespace;
use kubelb_tests::wait;
use nix::sys::signal::Signal;

use crate::signal;
use crate::site::Site;

const BOTH: &str = "True: 2 data planes serve it";

/// The addresses are the first node's, the manager of `leader` leads, and both agents are known to it.
fn begin<'a>(site: &mut Site, hosts: &'a [Arc<Namespace>; 2], leader: usize) -> [Agent<'a>; 2] {
    site.start_manager(leader);
    site.until_led_by(leader, 0);
    site.start_manager(1 - leader);
    site.until_led_by(leader, 1);
    let first = site.agent(0, &hosts[0]);
    site.until_owned_by(0);
    let second = site.agent(1, &hosts[1]);
    site.until_programmed(BOTH);
    site.until_served();
    [first, second]
}

/// Cuts off the node that has the addresses; how long they were not served.
fn outage(leader: usize) -> Duration {
    let mut site = Site::new();
    let hosts = site.namespaces();
    let [mut first, _second] = begin(&mut site, &hosts, leader);
    let cut = site.cut_off(0, &mut first);
    let served = site.until_served();
    site.until_owned_by(1);
    served.duration_since(cut)
}

#[test]
fn a_node_dies_and_its_addresses_go_on_by_another() {
    // Its agent was connected to the manager that died with it.
    let outage = outage(1);
    eprintln!("a node died, and its manager, which did not lead: traffic goes on after {outage:?}");
    assert!(outage <= Duration::from_secs(5), "{outage:?}");
}

#[test]
fn the_node_of_the_leader_dies_and_its_addresses_go_on_by_another() {
    let outage = outage(0);
    eprintln!("a node died, and with it the manager that led: traffic goes on after {outage:?}");
    assert!(outage <= Duration::from_secs(8), "{outage:?}");
}

#[test]
fn managers_come_and_go_and_nothing_moves_or_is_told_otherwise() {
    let mut site = Site::new();
    let hosts = site.namespaces();
    let [first, second] = begin(&mut site, &hosts, 0);
    for agent in [&first, &second] {
        assert!(agent.status().unwrap().get("/xds/is_current").is_some());
    }
    let owners = site.owners().unwrap();
    let mut said = BTreeSet::new();
    let mut watch = |site: &Site| {
        said.insert(site.programmed().unwrap());
        assert_eq!(site.owners().unwrap(), owners);
    };
    let mut leader = 0;
    for round in 0..2 {
        site.kill_manager(leader);
        if round == 0 {
            // The other one takes over, and then this one is told of.
            let other = 1 - leader;
            site.wait(|| {
                watch(&site);
                anyhow::ensure!(site.figure(other, "kubelb_manager_leads")? == 1, "it does not lead yet");
                Ok(())
            });
            site.start_manager(leader);
            leader = other;
        } else {
            // It is back at once; whoever leads then.
            site.start_manager(leader);
            leader = site.wait(|| {
                watch(&site);
                let leads = [0, 1].map(|node| site.figure(node, "kubelb_manager_leads"));
                let leads = leads.into_iter().collect::<anyhow::Result<Vec<u64>>>()?;
                leads
                    .iter()
                    .position(|leads| *leads == 1)
                    .ok_or_else(|| anyhow::anyhow!("nobody leads"))
            });
        }
        site.until_led_by(leader, 1);
        // As long as a new leader waits for those that it has not heard of, and a little longer.
        let until = wait::now() + Duration::from_secs(6);
        while wait::now() < until {
            watch(&site);
            wait::pause(Duration::from_millis(100));
        }
        site.until_served();
    }
    assert_eq!(said, [BOTH.to_owned()].into());
}

/// Exactly one answers 3 s after each step, and for as long as a step lasts.
fn one_answers_whatever_the_agent_does(long: Duration) {
    let mut site = Site::new();
    let hosts = site.namespaces();
    let [mut first, mut second] = begin(&mut site, &hosts, 1);
    let stay = |site: &Site| {
        let until = wait::now() + long;
        let mut last = site.one_answers_when_settled();
        while wait::now() < until {
            last = site.one_answers_when_settled();
        }
        site.until_served();
        last
    };
    assert_eq!(stay(&site), [0, 0]);
    signal(&first, Signal::SIGSTOP);
    stay(&site);
    // An agent that is silent has lost its addresses.
    site.until_owned_by(1);
    site.until_answered_by(1);
    signal(&first, Signal::SIGCONT);
    assert_eq!(stay(&site), [1, 1], "it does not take them back");
    second.kill().unwrap();
    let kept = stay(&site);
    if long < Duration::from_secs(60) {
        assert_eq!(kept, [1, 1], "it may be a restart");
    }
    second.restart().unwrap();
    assert_eq!(stay(&site), kept);
    first.kill().unwrap();
    stay(&site);
    first.restart().unwrap();
    stay(&site);
}

#[test]
fn one_answers_whatever_the_owner_s_agent_does() {
    one_answers_whatever_the_agent_does(Duration::ZERO);
}

#[cfg(feature = "soak")]
#[test]
fn one_answers_whatever_the_owner_s_agent_does_for_a_minute_and_a_half() {
    one_answers_whatever_the_agent_does(Duration::from_secs(90));
}
