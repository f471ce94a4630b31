//! The data path's clock, read the way the data path reads it: by a program.
//!
//! `sysconf(_SC_CLK_TCK)` is another number than the kernel's HZ, which is measured here.

use std::thread;
use std::time::Duration;

use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};

use super::BpfError;

/// Values of CONFIG_HZ that exist.
const KNOWN_HZ: [u32; 5] = [24, 100, 250, 300, 1000];
/// Long enough to tell them apart.
const MEASURE: Duration = Duration::from_millis(120);

/// Both clocks of the data path at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Ticks since about boot.
    pub jiffies: u64,
    /// CLOCK_MONOTONIC in nanoseconds.
    pub nanoseconds: u64,
}

impl Reading {
    /// What flow records hold: the low half of jiffies.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
    pub fn tick(self) -> u32 {
        self.jiffies as u32
    }
}

/// Reads the clocks; some microseconds.
///
/// # Errors
/// When the kernel refuses the run.
pub fn read(clock: &SchedClassifier) -> Result<Reading, BpfError> {
    let frame = [0u8; 64];
    let mut out = [0u8; 64];
    let options = TestRunOptions {
        data_in: Some(&frame),
        data_out: Some(&mut out),
        ..TestRunOptions::default()
    };
    clock.test_run(options).map_err(|source| BpfError::Program {
        name: super::load::program::CLOCK,
        source: Box::new(source),
    })?;
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, ..] = out;
    let reading = Reading {
        jiffies: u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
        nanoseconds: u64::from_ne_bytes([i, j, k, l, m, n, o, p]),
    };
    if reading.nanoseconds == 0 {
        Err(BpfError::Clock("the program wrote nothing"))
    } else {
        Ok(reading)
    }
}

/// Measures the kernel's HZ over a tenth of a second.
///
/// # Errors
/// When the clocks cannot be read or agree with no HZ that Linux has.
pub fn measure_hz(clock: &SchedClassifier) -> Result<u32, BpfError> {
    for _ in 0..3 {
        let first = read(clock)?;
        thread::sleep(MEASURE);
        let second = read(clock)?;
        if let Some(hz) = hz_of(first, second) {
            return Ok(hz);
        }
    }
    Err(BpfError::Clock(
        "jiffies advance at a rate that no kernel is built with",
    ))
}

/// The HZ that two readings show, `None` when none fits within an eighth and one tick.
#[must_use]
pub fn hz_of(first: Reading, second: Reading) -> Option<u32> {
    let nanoseconds = second.nanoseconds.checked_sub(first.nanoseconds).filter(|n| *n > 0)?;
    let ticks = second.jiffies.checked_sub(first.jiffies)?;
    let expected = |hz: u32| u64::from(hz) * nanoseconds / 1_000_000_000;
    KNOWN_HZ
        .into_iter()
        .map(|hz| (expected(hz).abs_diff(ticks), hz))
        .filter(|(off, hz)| *off <= expected(*hz) / 8 + 1)
        .min()
        .map(|(_, hz)| hz)
}

#[cfg(test)]
mod tests {
    use super::{Reading, hz_of};

    #[test]
    fn tells_known_rates_apart() {
        for (ticks, hz) in [(12, 100), (30, 250), (36, 300), (120, 1000), (29, 250), (37, 300)] {
            let first = Reading {
                jiffies: 4_294_892_296,
                nanoseconds: 5_000,
            };
            let second = Reading {
                jiffies: first.jiffies + ticks,
                nanoseconds: 5_000 + 120_000_000,
            };
            assert_eq!(hz_of(first, second), Some(hz), "{ticks} ticks");
        }
        let still = Reading {
            jiffies: 7,
            nanoseconds: 1,
        };
        assert_eq!(hz_of(still, still), None);
        assert_eq!(
            hz_of(
                still,
                Reading {
                    jiffies: 7 + 600,
                    nanoseconds: 120_000_001
                }
            ),
            None
        );
    }
}
