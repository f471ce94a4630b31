//! How the agent is doing: what the loop notes, and what a supervisor is told. Pure; time is an argument.

use std::time::{Duration, Instant};

/// Without a sign of life for this long the loop is stuck. It looks up several times a second, and the longest thing that
/// it waits for, a driver that resets its queues, takes a few seconds.
const STUCK: Duration = Duration::from_secs(20);
/// Problems that are listed; more are counted.
const LISTED: usize = 10;

/// How the agent is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    /// Why the newest configuration was refused; the one before is in force.
    pub(super) config_error: Option<String>,
    /// What could not be done in the last round.
    problems: Vec<String>,
    /// A round has been carried out.
    applied: bool,
    last_beat: Instant,
}

impl Standing {
    /// At the start, at time `now`.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            config_error: None,
            problems: Vec::new(),
            applied: false,
            last_beat: now,
        }
    }

    /// The loop is alive at time `now`.
    pub(super) fn beat(&mut self, now: Instant) {
        self.last_beat = now;
    }

    /// A round has been carried out, but for these problems. True for the first one.
    pub(super) fn carried_out(&mut self, problems: Vec<String>) -> bool {
        self.problems = problems;
        !std::mem::replace(&mut self.applied, true)
    }

    /// A round broke off.
    pub(super) fn broke_off(&mut self, why: String) {
        self.problems = vec![why];
    }

    /// Problems of the last round.
    pub(super) fn problems(&self) -> &[String] {
        &self.problems
    }

    /// For `/healthz`.
    ///
    /// # Errors
    /// When the loop gave no sign of life for a while before `now`.
    pub(super) fn healthy(&self, now: Instant) -> Result<(), String> {
        let silent = now.saturating_duration_since(self.last_beat);
        if silent < STUCK {
            Ok(())
        } else {
            Err(format!("no sign of life for {} seconds", silent.as_secs()))
        }
    }

    /// For `/readyz`.
    ///
    /// # Errors
    /// While the maps do not hold a configuration whole.
    pub(super) fn ready(&self) -> Result<(), String> {
        if !self.problems.is_empty() {
            return Err(listed(&self.problems));
        }
        match &self.config_error {
            _ if self.applied => Ok(()),
            Some(error) => Err(format!(
                "the configuration is refused, and what was forwarded before still is:\n{error}"
            )),
            None => Err("no configuration applied yet".to_owned()),
        }
    }
}

/// One line each, as many as one reads.
pub(super) fn listed(problems: &[String]) -> String {
    let mut lines: Vec<&str> = problems.iter().take(LISTED).map(String::as_str).collect();
    let more = format!("and {} more", problems.len().saturating_sub(LISTED));
    if problems.len() > LISTED {
        lines.push(&more);
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "some moment to count from")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_loop_that_hangs_is_not_healthy() {
        let start = start();
        let mut standing = Standing::new(start);
        assert_eq!(standing.healthy(start + Duration::from_secs(19)), Ok(()));
        assert_eq!(
            standing.healthy(start + Duration::from_secs(21)),
            Err("no sign of life for 21 seconds".to_owned())
        );
        standing.beat(start + Duration::from_secs(20));
        assert_eq!(standing.healthy(start + Duration::from_secs(21)), Ok(()));
        assert_eq!(standing.healthy(start), Ok(()), "clocks of two CPUs may differ");
    }

    #[test]
    fn ready_says_what_is_missing() {
        let mut standing = Standing::new(start());
        assert_eq!(standing.ready(), Err("no configuration applied yet".to_owned()));
        standing.config_error = Some("agent.yaml:3: frontends[0].port: 0 is not a port".to_owned());
        assert!(
            standing
                .ready()
                .unwrap_err()
                .ends_with("agent.yaml:3: frontends[0].port: 0 is not a port")
        );
        standing.config_error = None;
        assert!(standing.carried_out(Vec::new()));
        assert_eq!(standing.ready(), Ok(()));
        standing.config_error = Some("agent.yaml:9: oops".to_owned());
        assert_eq!(standing.ready(), Ok(()), "the configuration before is in force");
        standing.broke_off("cannot update map".to_owned());
        assert_eq!(standing.ready(), Err("cannot update map".to_owned()));
        assert!(!standing.carried_out(vec!["frontend a: no room".to_owned()]));
        assert_eq!(standing.ready(), Err("frontend a: no room".to_owned()));
    }

    #[test]
    fn a_thousand_problems_are_counted_not_listed() {
        let problems: Vec<String> = (0..1_000).map(|n| format!("frontend {n}: no room")).collect();
        let text = listed(&problems);
        assert_eq!(text.lines().count(), LISTED + 1);
        assert!(text.ends_with("and 990 more"), "{text}");
    }
}
