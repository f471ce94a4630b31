//! The clock: the one place of the kubelet that reads it.

use jiff::Timestamp;

/// The time, to the second where the API shows no more.
pub(super) fn now() -> Timestamp {
    Timestamp::now()
}
