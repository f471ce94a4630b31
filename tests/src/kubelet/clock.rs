//! The clock: the one place of the kubelet that reads it, or waits for it.

use std::time::Duration;

use jiff::Timestamp;

/// The time, to the second where the API shows no more.
pub(super) fn now() -> Timestamp {
    Timestamp::now()
}

/// Periods of probes and heartbeats, and pauses before another attempt. Nothing that gives a signal is waited for so.
pub(super) async fn pause(time: Duration) {
    tokio::time::sleep(time).await;
}
