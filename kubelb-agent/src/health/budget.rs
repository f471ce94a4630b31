//! How many checks a node runs in a second, and how far their intervals stretch to keep to it. Pure; time is an argument.

use std::time::{Duration, Instant};

/// Checks that may be started at once, in time: what is due in a tenth of a second.
const BURST: f64 = 0.1;

/// See the module.
#[derive(Debug)]
pub(super) struct Budget {
    /// Checks in a second; infinite where nobody limits them.
    per_second: f64,
    /// Checks in a second that the targets ask for by their intervals.
    asked: f64,
    allowance: f64,
    refilled: Option<Instant>,
}

impl Budget {
    pub(super) const UNLIMITED: Self = Self {
        per_second: f64::INFINITY,
        asked: 0.0,
        allowance: 0.0,
        refilled: None,
    };

    pub(super) fn new(per_second: u32) -> Self {
        Self {
            per_second: f64::from(per_second.max(1)),
            ..Self::UNLIMITED
        }
    }

    /// Notes what all targets ask for, by the intervals of each.
    pub(super) fn ask(&mut self, intervals: impl Iterator<Item = Duration>) {
        self.asked = intervals.map(|interval| 1.0 / interval.as_secs_f64().max(1e-3)).sum();
    }

    /// By how much intervals are longer than asked for; 1 when everything fits.
    pub(super) fn stretch(&self) -> f64 {
        (self.asked / self.per_second).max(1.0)
    }

    /// Time that this many checks take at least.
    pub(super) fn time_for(&self, checks: usize) -> Duration {
        let checks = f64::from(u32::try_from(checks).unwrap_or(u32::MAX));
        Duration::from_secs_f64(checks / self.per_second)
    }

    /// Takes one check's worth; false when there is none now.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        if self.per_second.is_infinite() {
            return true;
        }
        let most = (self.per_second * BURST).max(1.0);
        let since = self.refilled.map(|then| now.saturating_duration_since(then));
        let earned = since.map_or(most, |since| since.as_secs_f64() * self.per_second);
        self.allowance = (self.allowance + earned).min(most);
        self.refilled = Some(now);
        if self.allowance < 1.0 {
            return false;
        }
        self.allowance -= 1.0;
        true
    }

    /// When there is enough for a check; `None`: now.
    pub(super) fn next(&self) -> Option<Instant> {
        let refilled = self.refilled.filter(|_| self.allowance < 1.0)?;
        // A little later than exactly then, for what rounding takes.
        Some(refilled + Duration::from_secs_f64((1.0 - self.allowance) / self.per_second) + Duration::from_micros(1))
    }
}
