//! The pace at which a cluster that does not answer is asked again.

use std::time::Duration;

use kube::runtime::utils::Backoff;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(5);

/// Pauses between attempts: doubling from half a second to five, so that an outage is over soon after it is over.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    failures: u32,
}

impl Iterator for Pace {
    type Item = Duration;

    fn next(&mut self) -> Option<Self::Item> {
        let pause = FIRST.saturating_mul(1 << self.failures.min(4));
        self.failures = self.failures.saturating_add(1);
        Some(pause.min(LONGEST))
    }
}

impl Backoff for Pace {
    fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_longest_and_start_anew_after_success() {
        let mut pace = Pace::default();
        let pauses: Vec<u128> = pace.by_ref().take(6).map(|pause| pause.as_millis()).collect();
        assert_eq!(pauses, [500, 1_000, 2_000, 4_000, 5_000, 5_000]);
        pace.reset();
        assert_eq!(pace.next(), Some(FIRST));
    }
}
