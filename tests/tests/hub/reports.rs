//! What agents tell the manager, as it shows: in the statuses of objects, and in the manager's own status and metrics.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use kubelb_tests::traffic::{ask_many, http_get};
use kubelb_tests::wait;
use kubelb_tests::world::{Mode, VIP_PORT, World};
use serde_json::Value;

use super::{FLOWS, Hub, MANAGER, SOON, load_balancer, tcp, until_served_by};

/// Found dead after two checks, alive after one.
const QUICK: &str = "  healthCheck: {interval: 1s, timeout: 1s, unhealthyThreshold: 2, healthyThreshold: 1}\n";

/// One condition of an object: status, reason and message.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    status: String,
    reason: String,
    message: String,
}

impl Hub<'_> {
    fn said(&self, object: &str, condition: &str) -> anyhow::Result<Said> {
        let path = self
            .state()
            .join("status")
            .join(format!("LoadBalancer.tenant-x.{object}.yaml"));
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let value: Value = serde_saphyr::from_str(&text)?;
        let conditions = value.pointer("/status/conditions").and_then(Value::as_array);
        let found = conditions
            .into_iter()
            .flatten()
            .find(|present| present["type"] == condition)
            .with_context(|| format!("no {condition} in {text}"))?;
        let part = |name: &str| found[name].as_str().unwrap_or_default().to_owned();
        Ok(Said {
            status: part("status"),
            reason: part("reason"),
            message: part("message"),
        })
    }

    /// Waits until a condition says so, and how long that took.
    fn until(&self, object: &str, condition: &str, status: &str, reason: &str, message: &str) -> Duration {
        let (_, taken) = wait::until(SOON, || {
            let said = self.said(object, condition)?;
            let is_so = said.status == status && said.reason == reason && said.message.contains(message);
            ensure!(is_so, "{condition} of {object} is {said:?}");
            Ok(())
        })
        .unwrap();
        taken
    }

    /// That of all backends, three tenants over two families, so many are healthy. UDP ports are not checked.
    fn has_healthy(&self, count: usize) -> Duration {
        let message = format!("{count} of 6 are healthy");
        self.until("web", "BackendsHealthy", "True", "BackendsHealthy", &message)
    }

    fn is_served(&self, object: &str) {
        self.until(object, "Programmed", "True", "Programmed", "1 data planes serve it");
    }

    fn ask_manager(&self, path: &str) -> anyhow::Result<String> {
        let (status, body) = http_get(&self.world.net.node, MANAGER[1].parse().unwrap(), path)?;
        ensure!(status == 200, "{path}: {status} {body}");
        Ok(body)
    }
}

#[test]
fn statuses_follow_backends_and_the_agent() {
    let world = World::new(Mode::Tcx).unwrap();
    let hub = Hub::new(&world);
    hub.write("tenant.yaml", &hub.tenant(0));
    hub.write("web.yaml", &load_balancer("web", VIP_PORT, QUICK));
    let manager = hub.manager();
    hub.until("web", "Programmed", "False", "NoNodeAgent", "");
    hub.until("web", "BackendsHealthy", "Unknown", "NoReports", "");
    let mut agent = hub.agent();
    hub.is_served("web");
    hub.has_healthy(6);

    world.kill(2).unwrap();
    let taken = hub.has_healthy(4);
    eprintln!("a dead backend is in the status after {taken:?}");
    world.kill(0).unwrap();
    world.kill(1).unwrap();
    hub.until("web", "BackendsHealthy", "False", "NoneHealthy", "none of 6");
    for tenant in 0..3 {
        world.revive(tenant).unwrap();
    }
    hub.has_healthy(6);

    agent.kill().unwrap();
    let taken = hub.until("web", "Programmed", "False", "NoNodeAgent", "no node agent");
    eprintln!("a killed agent is in the status after {taken:?}");
    agent.restart().unwrap();
    hub.is_served("web");
    hub.has_healthy(6);

    // A manager that starts again says nothing else meanwhile: the agent is about to come back.
    drop(manager);
    let before = hub.said("web", "Programmed").unwrap();
    let _manager = hub.manager();
    wait::until(SOON, || {
        let status: Value = serde_json::from_str(&hub.ask_manager("/status")?)?;
        ensure!(status["agents"][0]["complete"] == true, "{status}");
        Ok(())
    })
    .unwrap();
    assert_eq!(hub.said("web", "Programmed").unwrap(), before);
}

#[test]
fn a_refusal_is_told_to_its_object_and_to_no_other() {
    let world = World::new(Mode::Tcx).unwrap();
    let hub = Hub::new(&world);
    hub.write("tenant.yaml", &hub.tenant(0));
    hub.write("web.yaml", &load_balancer("web", VIP_PORT, QUICK));
    let _manager = hub.manager();
    let _agent = hub.agent();
    hub.is_served("web");
    // The manager takes every visible character; an agent does not send a fragment.
    let odd = "  healthCheck: {type: HTTP, http: {path: \"/#odd\"}}\n";
    hub.write("odd.yaml", &load_balancer("odd", VIP_PORT + 1, odd));
    let taken = hub.until("odd", "Programmed", "False", "Rejected", "http_health_check.path");
    eprintln!("a refusal is in the status after {taken:?}");
    let said = hub.said("odd", "Programmed").unwrap();
    assert!(
        said.message.starts_with("node node-1: Cluster tenant-x/odd/"),
        "{said:?}"
    );
    hub.is_served("web");
    until_served_by(&world, 3);

    hub.write("odd.yaml", &load_balancer("odd", VIP_PORT + 1, QUICK));
    hub.is_served("odd");
    std::fs::remove_file(hub.manifests().join("odd.yaml")).unwrap();
    wait::until(SOON, || {
        ensure!(hub.said("odd", "Programmed").is_err(), "it has a status still");
        Ok(())
    })
    .unwrap();
    hub.is_served("web");
}

#[test]
fn counters_and_signs_of_life_arrive() {
    let world = World::new(Mode::Tcx).unwrap();
    let hub = Hub::new(&world);
    hub.write("tenant.yaml", &hub.tenant(0));
    hub.write("web.yaml", &load_balancer("web", VIP_PORT, QUICK));
    let _manager = hub.manager();
    let mut agent = hub.agent();
    hub.is_served("web");
    for way in tcp() {
        ask_many(&world.net.client, way.transport, way.address(), FLOWS).unwrap();
    }
    let wanted = tcp().len() * FLOWS;
    wait::until(SOON, || {
        let metrics = hub.ask_manager("/metrics")?;
        let prefix = "kubelb_manager_reports_flows_total{node=\"node-1\"} ";
        let flows = metrics
            .lines()
            .find_map(|line| line.strip_prefix(prefix))
            .context("no figure")?;
        ensure!(flows.parse::<usize>()? >= wanted, "{flows} flows");
        Ok(())
    })
    .unwrap();
    let status: Value = serde_json::from_str(&hub.ask_manager("/status").unwrap()).unwrap();
    let told = &status["agents"][0];
    assert_eq!(
        (&told["node"], &told["state"]),
        (&"node-1".into(), &"heard".into()),
        "{told}"
    );
    assert!(told["secondsSinceHeard"].as_f64().unwrap() < 2.0, "{told}");
    assert_eq!(told["listeners"], 0, "{told}");
    let peer = &status["peers"][0];
    assert_eq!((&peer["kind"], &peer["behind"]), (&"agent".into(), &0.into()), "{peer}");

    agent.kill().unwrap();
    wait::until(SOON, || {
        let status: Value = serde_json::from_str(&hub.ask_manager("/status")?)?;
        ensure!(status["agents"][0]["state"] == "closed", "{status}");
        ensure!(status["peers"].as_array().is_some_and(Vec::is_empty), "{status}");
        Ok(())
    })
    .unwrap();
}
