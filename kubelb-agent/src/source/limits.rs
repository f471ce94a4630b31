//! What every source holds its values to. Owns the numbers and why they are what they are.

use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);
/// The data path counts in ticks of 1 to 10 ms; much less than this would be mostly rounding.
const SHORTEST_FLOW: Duration = Duration::from_millis(100);

/// Most backends of one frontend.
pub const MAX_BACKENDS: usize = 4_096;
/// Largest weight of a backend.
pub const MAX_WEIGHT: u16 = 256;
/// Largest budget of half-open flows; more than any flow table holds.
pub(super) const MAX_HALF_OPEN: u32 = 1 << 24;
/// Shortest and longest interval of a health check; below it a check is a load of its own, above it nobody would notice a dead backend.
pub(super) const INTERVAL: (Duration, Duration) = (Duration::from_millis(100), HOUR);
/// Shortest and longest time for one health check.
pub(super) const CHECK_TIMEOUT: (Duration, Duration) = (Duration::from_millis(1), HOUR);
/// Fewest and most results in a row that a health check waits for.
pub(super) const THRESHOLD: (u32, u32) = (1, 100);
/// Shortest and longest life of an idle flow.
pub(super) const FLOW_TIMEOUT: (Duration, Duration) = (SHORTEST_FLOW, DAY);
/// The same for established TCP.
pub(super) const ESTABLISHED_TIMEOUT: (Duration, Duration) = (SHORTEST_FLOW, Duration::from_secs(10 * 86_400));
/// Shortest and longest affinity of a client address, as Kubernetes has them.
pub(super) const AFFINITY: (Duration, Duration) = (Duration::from_secs(1), DAY);
/// Most source ranges of one frontend.
pub(super) const MAX_SOURCE_RANGES: usize = 8_192;
/// Longest HTTP path of a health check, in bytes: a request line stays far below what servers accept.
pub(super) const MAX_PATH: usize = 1_024;
/// Longest `Host` of a health check, in bytes.
pub(super) const MAX_HOST: usize = 255;
