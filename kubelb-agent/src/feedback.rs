//! What the agent tells the managers about itself: which listeners it does not forward as configured, which backends do not answer, and traffic.
//!
//! Owns how state becomes that. Pure; must not know who is told, and how.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use kubelb_xds::contract::reports::{Standing, Traffic, UnhealthyBackend};
use tokio::sync::watch;

use crate::model::{Desired, Frontend, Health, HealthView};

/// Where those who tell have it from.
#[derive(Clone)]
pub struct Feedback {
    /// The state after the last round; `None` before the first.
    pub state: watch::Receiver<Option<State>>,
    /// Reads what traffic frontends have had, by name. May block for milliseconds.
    pub traffic: Arc<dyn Fn() -> BTreeMap<String, Traffic> + Send + Sync>,
}

impl fmt::Debug for Feedback {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Feedback").finish_non_exhaustive()
    }
}

/// What was carried out.
#[derive(Clone, Debug)]
pub struct State {
    /// What was asked for.
    pub desired: Arc<Desired>,
    /// What the checks say.
    pub health: Arc<HealthView>,
    /// Frontends that are not forwarded as they should be, and why.
    pub problems: Arc<BTreeMap<String, String>>,
}

impl State {
    /// How each frontend is that is not as it should be. `now` is in seconds since 1970. A listener that is not a frontend yet is among
    /// `waiting`, with the reason.
    #[must_use]
    pub fn standings(&self, waiting: &BTreeMap<String, String>, now: u64) -> BTreeMap<String, Standing> {
        let frontends = self.desired.frontends.iter();
        let served = frontends.map(|(name, frontend)| {
            let mut standing = self.standing(frontend, now);
            standing.problem = self.problems.get(name).cloned().unwrap_or_default();
            (name.clone(), standing)
        });
        let mut standings: BTreeMap<String, Standing> = served.filter(|(_, standing)| !standing.is_plain()).collect();
        for (name, reason) in waiting {
            standings.entry(name.clone()).or_default().problem.clone_from(reason);
        }
        standings
    }

    fn standing(&self, frontend: &Frontend, now: u64) -> Standing {
        let mut standing = Standing::default();
        let mut unhealthy: BTreeSet<SocketAddr> = BTreeSet::new();
        for backend in &frontend.backends {
            let count = if backend.weight == 0 {
                &mut standing.draining
            } else {
                let target = frontend.check_target(backend);
                let health = target.map(|target| self.health.get(&target).copied().unwrap_or_default());
                match health {
                    None => &mut standing.unchecked,
                    Some(Health::Healthy) => &mut standing.healthy,
                    Some(Health::Unknown) => &mut standing.pending,
                    Some(Health::Unhealthy) => {
                        unhealthy.insert(backend.address);
                        continue;
                    }
                }
            };
            *count += 1;
        }
        let backend = |address: SocketAddr| UnhealthyBackend {
            address: address.ip().to_string(),
            port: address.port().into(),
            since: now,
        };
        standing.unhealthy = unhealthy.into_iter().map(backend).collect();
        standing
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::*;
    use crate::model::{Algorithm, Backend, HealthCheck, OnUnhealthy, Protocol, Timeouts};

    #[test]
    fn only_what_is_out_of_the_ordinary_is_told() {
        let backend = |last: u8, weight| Backend {
            address: SocketAddr::from(([10, 0, 0, last], 30_080)),
            weight,
            on_unhealthy: OnUnhealthy::default(),
            snat: None,
        };
        let frontend = Frontend {
            vip: [203, 0, 113, 10].into(),
            port: NonZeroU16::new(80).unwrap(),
            protocol: Protocol::Tcp,
            algorithm: Algorithm::RoundRobin,
            health_check: Some(HealthCheck::tcp()),
            timeouts: Timeouts::default(),
            half_open_budget: None,
            affinity: None,
            source_ranges: None,
            backends: vec![backend(1, 1), backend(2, 1), backend(3, 0)],
        };
        let target = |index: usize| frontend.check_target(&frontend.backends[index]).unwrap();
        let mut health = HealthView::from([(target(0), Health::Healthy), (target(1), Health::Healthy)]);
        let mut state = State {
            desired: Arc::new(Desired {
                frontends: [("web".to_owned(), frontend.clone())].into(),
                ..Desired::default()
            }),
            health: Arc::new(health.clone()),
            problems: Arc::default(),
        };
        let none = BTreeMap::new();
        assert_eq!(
            state.standings(&none, 7),
            BTreeMap::new(),
            "draining is what was asked for"
        );

        health.insert(target(1), Health::Unhealthy);
        health.insert(target(2), Health::Unhealthy);
        state.health = Arc::new(health.clone());
        let standing = state.standings(&none, 7)["web"].clone();
        let unhealthy: Vec<_> = standing
            .unhealthy
            .iter()
            .map(|each| (each.address.as_str(), each.since))
            .collect();
        assert_eq!((standing.healthy, standing.draining), (1, 1));
        assert_eq!(unhealthy, [("10.0.0.2", 7)]);

        health.remove(&target(1));
        state.health = Arc::new(health);
        state.problems = Arc::new([("web".to_owned(), "no room".to_owned())].into());
        let waiting = [("next".to_owned(), "its cluster has not come yet".to_owned())].into();
        let standings = state.standings(&waiting, 7);
        assert_eq!(
            (standings["web"].pending, standings["web"].problem.as_str()),
            (1, "no room")
        );
        assert_eq!(standings["next"].problem, "its cluster has not come yet");
    }
}
