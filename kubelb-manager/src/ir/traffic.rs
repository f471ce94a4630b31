//! How a LoadBalancer wants its traffic spread, checked and timed: from the API's fields to values with their defaults.
//!
//! Owns the defaults of health checks and the bounds of durations. Must not know: addresses and ports of endpoints.

use std::num::NonZeroU16;
use std::time::Duration;

use ipnet::IpNet;
use kubelb_api::v1alpha1::{
    Algorithm as ApiAlgorithm, HealthCheck as ApiHealthCheck, HealthCheckType, LoadBalancerSpec,
    OnUnhealthy as ApiOnUnhealthy,
};

use super::policy::network;
use super::{Algorithm, HealthCheck, OnUnhealthy, Probe, Protocol, Timeouts};
use crate::object::ObjectKey;
use crate::problem::{Problem, Reason};

/// Affinity of a Service that asks for it and says no time (core API, `sessionAffinityConfig.clientIP.timeoutSeconds`).
const DEFAULT_AFFINITY: Duration = Duration::from_secs(10_800);
/// Time from one check to the next, and longest time for one.
const DEFAULT_CHECK: Duration = Duration::from_secs(5);
const DEFAULT_HEALTHY_THRESHOLD: u32 = 2;
const DEFAULT_UNHEALTHY_THRESHOLD: u32 = 3;
const MAX_THRESHOLD: u32 = 100;
const MIN_INTERVAL: Duration = Duration::from_secs(1);
const MIN_CHECK_TIMEOUT: Duration = Duration::from_millis(100);
const MIN_TIMEOUT: Duration = Duration::from_secs(1);
/// Longer ones overflow somebody's clock, and are meant by nobody.
const MAX_DURATION: Duration = Duration::from_secs(30 * 86_400);
/// Most source ranges, as the schema has it.
const MAX_RANGES: usize = 1_024;
const MAX_PATH: usize = 1_024;
const MAX_HOST: usize = 253;

/// What holds for all ports of a LoadBalancer.
#[derive(Clone, Debug, Default)]
pub(super) struct Traffic {
    pub(super) source_ranges: Vec<IpNet>,
    pub(super) affinity: Option<Duration>,
    pub(super) timeouts: Timeouts,
    pub(super) algorithm: Algorithm,
    pub(super) on_unhealthy: OnUnhealthy,
    health_check: Option<HealthCheck>,
    asks_for_check: bool,
}

impl Traffic {
    /// The check of a port's endpoints. A UDP port is checked only on another port that speaks TCP.
    pub(super) fn health_check(&self, protocol: Protocol) -> Option<HealthCheck> {
        let check = self.health_check.clone();
        match protocol {
            Protocol::Tcp => check,
            Protocol::Udp => check.filter(|check| self.asks_for_check && check.port.is_some()),
        }
    }
}

/// Reads the fields. A value without meaning is a problem, and its default holds; a source range without meaning lets nobody in.
pub(super) fn read(object: &ObjectKey, spec: &LoadBalancerSpec, problems: &mut Vec<Problem>) -> Traffic {
    let mut reader = Reader { object, problems };
    let affinity = spec.persistence.as_ref().map(|persistence| {
        let seconds = persistence.timeout_seconds.map(u64::try_from);
        match seconds {
            None => DEFAULT_AFFINITY,
            Some(Ok(seconds @ 1..=86_400)) => Duration::from_secs(seconds),
            Some(_) => {
                reader.refuse("spec.persistence.timeoutSeconds", "must be 1 to 86400; 10800 holds");
                DEFAULT_AFFINITY
            }
        }
    });
    Traffic {
        source_ranges: reader.source_ranges(&spec.source_ranges),
        affinity,
        timeouts: reader.timeouts(spec),
        algorithm: match spec.algorithm {
            None | Some(ApiAlgorithm::RoundRobin) => Algorithm::RoundRobin,
            Some(ApiAlgorithm::Maglev) => Algorithm::Maglev,
        },
        on_unhealthy: match spec.on_unhealthy {
            None | Some(ApiOnUnhealthy::Drain) => OnUnhealthy::Drain,
            Some(ApiOnUnhealthy::Reset) => OnUnhealthy::Reset,
        },
        health_check: Some(reader.health_check(spec.health_check.as_ref().unwrap_or(&ApiHealthCheck::default()))),
        asks_for_check: spec.health_check.is_some(),
    }
}

struct Reader<'a> {
    object: &'a ObjectKey,
    problems: &'a mut Vec<Problem>,
}

impl Reader<'_> {
    fn refuse(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.problems
            .push(Problem::new(self.object, field, Reason::InvalidValue, message));
    }

    /// A list that was meant to restrict stays one, whatever is wrong with its parts.
    fn source_ranges(&mut self, ranges: &[String]) -> Vec<IpNet> {
        let mut read = Vec::with_capacity(ranges.len());
        if ranges.len() > MAX_RANGES {
            self.refuse(
                "spec.sourceRanges",
                format!(
                    "has {} networks, {MAX_RANGES} are allowed; nobody is let in by the others",
                    ranges.len()
                ),
            );
        }
        for (index, range) in ranges.iter().enumerate().take(MAX_RANGES) {
            match network(range) {
                Ok(range) => read.push(range),
                Err(why) => self.refuse(format!("spec.sourceRanges[{index}]"), why),
            }
        }
        if read.is_empty() && !ranges.is_empty() {
            read.push(nobody());
        }
        read.sort_unstable();
        read.dedup();
        read
    }

    fn duration(&mut self, field: String, given: Option<kube::core::Duration>, min: Duration) -> Option<Duration> {
        let given = given?;
        let duration = Duration::from(given);
        if given.is_negative() || duration < min || duration > MAX_DURATION {
            self.refuse(field, format!("must be {min:?} to 720h; the default holds"));
            return None;
        }
        Some(duration)
    }

    fn timeouts(&mut self, spec: &LoadBalancerSpec) -> Timeouts {
        let Some(given) = &spec.timeouts else {
            return Timeouts::default();
        };
        let mut one = |name: &str, given| self.duration(format!("spec.timeouts.{name}"), given, MIN_TIMEOUT);
        Timeouts {
            tcp_half_open: one("tcpHalfOpen", given.tcp_half_open),
            tcp_idle: one("tcpIdle", given.tcp_idle),
            tcp_closing: one("tcpClosing", given.tcp_closing),
            udp_unreplied: one("udpUnreplied", given.udp_unreplied),
            udp_idle: one("udpIdle", given.udp_idle),
        }
    }

    fn health_check(&mut self, given: &ApiHealthCheck) -> HealthCheck {
        let mut threshold = |name: &str, given: Option<i32>, default| match given.map(u32::try_from) {
            None => default,
            Some(Ok(count @ 1..=MAX_THRESHOLD)) => count,
            Some(_) => {
                let message = format!("must be 1 to {MAX_THRESHOLD}; {default} holds");
                self.refuse(format!("spec.healthCheck.{name}"), message);
                default
            }
        };
        let healthy_threshold = threshold("healthyThreshold", given.healthy_threshold, DEFAULT_HEALTHY_THRESHOLD);
        let unhealthy_threshold = threshold(
            "unhealthyThreshold",
            given.unhealthy_threshold,
            DEFAULT_UNHEALTHY_THRESHOLD,
        );
        let port = given.port.and_then(|port| {
            let read = port_number(port);
            if read.is_none() {
                self.refuse(
                    "spec.healthCheck.port",
                    "must be 1 to 65535; the endpoint's own port is checked",
                );
            }
            read
        });
        let field = |name: &str| format!("spec.healthCheck.{name}");
        HealthCheck {
            probe: self.probe(given),
            port,
            interval: self
                .duration(field("interval"), given.interval, MIN_INTERVAL)
                .unwrap_or(DEFAULT_CHECK),
            timeout: self
                .duration(field("timeout"), given.timeout, MIN_CHECK_TIMEOUT)
                .unwrap_or(DEFAULT_CHECK),
            healthy_threshold,
            unhealthy_threshold,
        }
    }

    fn probe(&mut self, given: &ApiHealthCheck) -> Probe {
        let visible = |text: &str| text.bytes().all(|byte| (b'!'..=b'~').contains(&byte));
        match given.type_.unwrap_or_default() {
            HealthCheckType::Tcp => {
                if given.http.is_some() {
                    self.refuse(
                        "spec.healthCheck.http",
                        "is for type HTTP; a connection is all that is checked",
                    );
                }
                Probe::Tcp
            }
            HealthCheckType::Http => {
                let http = given.http.clone().unwrap_or_default();
                let path = http.path.unwrap_or_else(|| "/".to_owned());
                let path_fits = path.starts_with('/') && path.len() <= MAX_PATH && visible(&path);
                if !path_fits {
                    self.refuse(
                        "spec.healthCheck.http.path",
                        "must start with '/' and be visible ASCII; / holds",
                    );
                }
                let host = http.host.filter(|host| !host.is_empty());
                let host_fits = host
                    .as_deref()
                    .is_none_or(|host| host.len() <= MAX_HOST && visible(host));
                if !host_fits {
                    self.refuse(
                        "spec.healthCheck.http.host",
                        "must be visible ASCII; the endpoint's address holds",
                    );
                }
                Probe::Http {
                    path: if path_fits { path } else { "/".to_owned() },
                    host: host.filter(|_| host_fits),
                }
            }
        }
    }
}

/// A network that no client is in: a list of source ranges that lost all its parts must not let everybody in.
fn nobody() -> IpNet {
    IpNet::from(std::net::IpAddr::from([255, 255, 255, 255]))
}

/// A port number, `None` when it is none.
pub(super) fn port_number(port: i32) -> Option<NonZeroU16> {
    u16::try_from(port).ok().and_then(NonZeroU16::new)
}

#[cfg(test)]
mod tests {
    use kubelb_api::v1alpha1::{HttpHealthCheck, Timeouts as ApiTimeouts};

    use super::*;
    use crate::object::Kind;

    fn problems_of(spec: &LoadBalancerSpec) -> (Traffic, Vec<String>) {
        let mut problems = Vec::new();
        let traffic = read(
            &ObjectKey::new(Kind::LoadBalancer, "tenant-x", "a"),
            spec,
            &mut problems,
        );
        (traffic, problems.into_iter().map(|problem| problem.field).collect())
    }

    #[test]
    fn defaults() {
        let (traffic, problems) = problems_of(&LoadBalancerSpec::default());
        assert!(problems.is_empty());
        let check = traffic.health_check(Protocol::Tcp).unwrap();
        assert_eq!(
            (check.interval, check.timeout),
            (Duration::from_secs(5), Duration::from_secs(5))
        );
        assert_eq!((check.healthy_threshold, check.unhealthy_threshold), (2, 3));
        assert_eq!(check.probe, Probe::Tcp);
        assert_eq!(
            traffic.health_check(Protocol::Udp),
            None,
            "nothing answers a connection there"
        );
    }

    #[test]
    fn a_udp_port_is_checked_on_a_named_port() {
        let with_port = LoadBalancerSpec {
            health_check: Some(ApiHealthCheck {
                port: Some(8080),
                ..ApiHealthCheck::default()
            }),
            ..LoadBalancerSpec::default()
        };
        let (traffic, _) = problems_of(&with_port);
        assert_eq!(traffic.health_check(Protocol::Udp).unwrap().port, NonZeroU16::new(8080));
    }

    #[test]
    fn source_ranges_never_open_by_mistake() {
        let spec = LoadBalancerSpec {
            source_ranges: vec!["10.0.0.1".to_owned(), "everybody".to_owned()],
            ..LoadBalancerSpec::default()
        };
        let (traffic, problems) = problems_of(&spec);
        assert_eq!(problems, ["spec.sourceRanges[0]", "spec.sourceRanges[1]"]);
        assert_eq!(traffic.source_ranges, [nobody()]);
    }

    #[test]
    fn values_out_of_bounds_leave_the_default() {
        let negative = "-5s".parse().unwrap();
        let spec = LoadBalancerSpec {
            timeouts: Some(ApiTimeouts {
                tcp_idle: Some(negative),
                udp_idle: Some(Duration::from_secs(120).into()),
                ..ApiTimeouts::default()
            }),
            health_check: Some(ApiHealthCheck {
                type_: Some(HealthCheckType::Http),
                interval: Some(Duration::from_millis(1).into()),
                healthy_threshold: Some(0),
                port: Some(0),
                http: Some(HttpHealthCheck {
                    path: Some("no slash".to_owned()),
                    host: Some("a\r\nb".to_owned()),
                }),
                ..ApiHealthCheck::default()
            }),
            ..LoadBalancerSpec::default()
        };
        let (traffic, problems) = problems_of(&spec);
        assert_eq!(traffic.timeouts.tcp_idle, None);
        assert_eq!(traffic.timeouts.udp_idle, Some(Duration::from_secs(120)));
        let check = traffic.health_check(Protocol::Tcp).unwrap();
        let root = Probe::Http {
            path: "/".to_owned(),
            host: None,
        };
        assert_eq!(check.probe, root);
        assert_eq!(problems.len(), 6, "{problems:?}");
    }
}
