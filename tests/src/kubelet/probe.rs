//! Probes: what results mean for a container. Pure; [`super::probing`] runs them.

use k8s_openapi::api::core::v1::{Container, Probe};

/// What a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Purpose {
    Startup,
    Liveness,
    Readiness,
}

impl Purpose {
    pub(super) const ALL: [Self; 3] = [Self::Startup, Self::Liveness, Self::Readiness];

    pub(super) fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
        }
    }

    /// As in events: `Readiness probe failed: …`.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// Counts results until they mean something.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    success_threshold: u32,
    failure_threshold: u32,
    last: Option<bool>,
    run: u32,
    verdict: Option<bool>,
}

impl Machine {
    pub(super) fn new(probe: &Probe) -> Self {
        Self {
            success_threshold: at_least_one(probe.success_threshold, 1),
            failure_threshold: at_least_one(probe.failure_threshold, 3),
            last: None,
            run: 0,
            verdict: None,
        }
    }

    /// The verdict when this result changes it, or confirms a failure that stands (each restarts a container).
    pub(super) fn on_result(&mut self, success: bool) -> Option<bool> {
        self.run = if self.last == Some(success) {
            self.run.saturating_add(1)
        } else {
            1
        };
        self.last = Some(success);
        let threshold = if success {
            self.success_threshold
        } else {
            self.failure_threshold
        };
        if self.run < threshold || (self.verdict == Some(success) && success) {
            return None;
        }
        if !success && self.verdict == Some(false) && self.run > threshold {
            return None;
        }
        self.verdict = Some(success);
        self.verdict
    }
}

/// A number of seconds or times from the API, where nothing and nonsense mean the default.
pub(super) fn at_least_one(value: Option<i32>, default: u32) -> u32 {
    value
        .and_then(|value| u32::try_from(value).ok())
        .filter(|value| *value > 0)
        .unwrap_or(default)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(probe: &Probe, results: &[bool]) -> Vec<Option<bool>> {
        let mut machine = Machine::new(probe);
        results.iter().map(|result| machine.on_result(*result)).collect()
    }

    #[test]
    fn three_failures_in_a_row_and_one_success_by_default() {
        let results = [false, false, true, false, false, false, false, true, true];
        let wanted = [None, None, Some(true), None, None, Some(false), None, Some(true), None];
        assert_eq!(verdicts(&Probe::default(), &results), wanted);
    }

    #[test]
    fn thresholds_are_the_probes() {
        let probe = Probe {
            success_threshold: Some(2),
            failure_threshold: Some(1),
            ..Probe::default()
        };
        assert_eq!(
            verdicts(&probe, &[true, true, false, true]),
            [None, Some(true), Some(false), None]
        );
    }
}
