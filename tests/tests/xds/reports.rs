//! Agents' reports: who may send them, whose they are, and what ends them.

use std::time::Duration;

use kubelb_manager::identity::SpiffeId;
use kubelb_manager::identity::authority::Issued;
use kubelb_manager::xds::server::Count;
use kubelb_manager::xds::server::agents::Presence;
use kubelb_tests::wait;
use kubelb_xds::contract::reports::Report;
use tonic::Code;

use crate::hub::Hub;
use crate::peer::{Credential, Reporting};
use crate::world::{SOON, World};

fn shown(certificate: &Issued) -> Credential<'_> {
    Credential {
        certificate: Some(certificate),
        token: None,
    }
}

fn report(sequence: u64) -> Report {
    Report {
        instance: 1,
        sequence,
        full: sequence == 1,
        ..Report::default()
    }
}

/// The agents that are known, and whether each is there.
fn agents(hub: &Hub<'_>) -> Vec<(Option<String>, Presence)> {
    #[expect(clippy::disallowed_methods, reason = "whether an agent is heard is about now")]
    let now = std::time::Instant::now();
    let agents = hub.server().agents().view(now).into_iter();
    agents.map(|agent| (agent.node, agent.presence)).collect()
}

#[test]
fn only_agents_report_each_for_its_own_node_and_in_order() {
    let world = World::new("xds-reports");
    let hub = Hub::start(&world.namespace, world.state(), Vec::new());
    let issue = |id: SpiffeId| hub.issue(&id, Duration::from_secs(3600));
    let nobody = Reporting::open(&hub, &Credential::default());
    assert_eq!(nobody.end().code(), Code::Unauthenticated);
    let fleet = issue(SpiffeId::fleet("*").unwrap());
    let refused = Reporting::open(&hub, &shown(&fleet));
    assert_eq!(refused.end().code(), Code::PermissionDenied);
    assert_eq!(hub.count(Count::Refused, "reports_scope"), 1);
    assert_eq!(agents(&hub), []);

    let agent = issue(SpiffeId::agent("node-1").unwrap());
    let reporting = Reporting::open(&hub, &shown(&agent));
    reporting.send(report(1));
    wait::until(SOON, || {
        let heard = [(Some("node-1".to_owned()), Presence::Heard)];
        anyhow::ensure!(agents(&hub) == heard, "{:?}", agents(&hub));
        Ok(())
    })
    .unwrap();
    reporting.send(report(3));
    assert_eq!(reporting.end().code(), Code::Aborted, "a report is missing");
    wait::until(SOON, || {
        let agents = agents(&hub);
        let closed = matches!(agents.as_slice(), [(_, Presence::Closed(_))]);
        anyhow::ensure!(closed, "{agents:?}");
        Ok(())
    })
    .unwrap();
    let figures = hub.server().render_metrics();
    let fault = "kubelb_manager_reports_faults_total{reason=\"sequence\"} 1";
    assert!(figures.contains(fault), "{figures}");
}
