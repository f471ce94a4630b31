//! Waiting for something that gives no signal of its own.

use std::time::{Duration, Instant};

use anyhow::Context as _;

/// Pause between two looks.
const STEP: Duration = Duration::from_millis(10);

/// Looks again and again until `look` succeeds, and returns its result and how long it took.
///
/// # Errors
/// With what `look` said last, when it did not succeed `within` this time.
pub fn until<T>(within: Duration, look: impl FnMut() -> anyhow::Result<T>) -> anyhow::Result<(T, Duration)> {
    until_by(STEP, within, look)
}

/// As [`until`], with another pause between two looks: for what is to be measured more finely.
///
/// # Errors
/// As [`until`].
pub fn until_by<T>(
    step: Duration,
    within: Duration,
    mut look: impl FnMut() -> anyhow::Result<T>,
) -> anyhow::Result<(T, Duration)> {
    let start = now();
    loop {
        let result = look();
        let taken = now().duration_since(start);
        match result {
            Ok(found) => return Ok((found, taken)),
            Err(error) if taken >= within => return Err(error).with_context(|| format!("not within {within:?}")),
            Err(_not_yet) => std::thread::sleep(step),
        }
    }
}

/// Does nothing for a while: to pace traffic, never to wait for something to have happened.
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// The clock, for measuring in tests.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "the testbed waits for and measures real things"
)]
pub fn now() -> Instant {
    Instant::now()
}
