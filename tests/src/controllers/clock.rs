//! The one place of the controllers that reads the clock.

use k8s_openapi::jiff::Timestamp;

/// The time of day; decisions take it as an argument.
pub(super) fn now() -> Timestamp {
    Timestamp::now()
}
