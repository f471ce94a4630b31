//! Times XDP programs by BPF_PROG_TEST_RUN: a driver program restores the frame and tail-calls the one under test.
//!
//! A figure is what the driver takes with the program, less what it takes with an empty one in its place. Knows frames
//! and programs, not what they are for.

use std::path::Path;

use anyhow::{Context as _, ensure};
use aya::maps::{Array, HashMap, ProgramArray};
use aya::programs::{ProgramFd, TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use kubelb_common::bench::{
    COUNTED, HASH, HEADER_BYTES, KEY_AT, KEY_BYTES, LISTED, PLAN, Plan, UNDER_TEST, VARIANTS, WORDS_AT, counted,
};
use kubelb_tests::packet::Packet;

const DRIVER: &str = "bench_driver";
const EMPTY: &str = "bench_empty";
const LOOKUP: &str = "bench_hash";
/// Bytes of every frame; what its headers leave is padding.
const FRAME_BYTES: usize = 100;

/// The driver, loaded.
pub(crate) struct Driver {
    ebpf: Ebpf,
    lookup: ProgramFd,
    empty: ProgramFd,
}

/// Frames that differ in a few words.
pub(crate) struct Frames {
    bytes: Vec<u8>,
    plan: Plan,
}

/// How often to do what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// Runs in a sample.
    pub(crate) runs: u32,
    /// Samples, of which the median counts; odd.
    pub(crate) samples: usize,
}

/// One sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    /// Nanoseconds of a run, by the kernel's own account.
    pub(crate) nanoseconds: u32,
    /// What the last run returned.
    pub(crate) verdict: u32,
}

/// What some samples came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Figure {
    /// Median of the differences to the empty program, nanoseconds.
    pub(crate) net: f64,
    /// Median with the driver, nanoseconds.
    pub(crate) gross: f64,
    /// What every last run returned.
    pub(crate) verdict: u32,
}

impl Frames {
    /// `flows` clients that send `packet` otherwise alike. A power of two.
    pub(crate) fn of_clients(packet: &Packet, flows: u32) -> anyhow::Result<Self> {
        Self::new(packet, flows, COUNTED)
    }

    /// As many variants as [`Driver::list`] was given.
    pub(crate) fn listed(packet: &Packet, flows: u32) -> anyhow::Result<Self> {
        Self::new(packet, flows, LISTED)
    }

    fn new(packet: &Packet, flows: u32, variants: u32) -> anyhow::Result<Self> {
        ensure!(
            flows.is_power_of_two(),
            "{flows} flows: the driver can have a power of two only"
        );
        let mut bytes = packet.bytes();
        ensure!(bytes.len() <= FRAME_BYTES, "headers of {} bytes", bytes.len());
        bytes.resize(FRAME_BYTES, 0);
        let mut words = [0; WORDS_AT.len()];
        for (word, at) in words.iter_mut().zip(WORDS_AT) {
            *word = word_at(&bytes, at)?;
        }
        let plan = Plan {
            words,
            mask: flows - 1,
            variants,
            v6: packet.destination.is_ipv6().into(),
            ..Plan::default()
        };
        Ok(Self { bytes, plan })
    }

    /// The hash map's key of each variant.
    fn keys(&self) -> impl Iterator<Item = anyhow::Result<[u64; KEY_BYTES / 8]>> {
        (0..=self.plan.mask).map(|which| {
            let words = self.plan.with(counted(which, self.plan.destination_port()));
            let mut header = [0; HEADER_BYTES];
            for (at, word) in WORDS_AT.into_iter().zip(words) {
                if let Some(place) = header.get_mut(at..at + 8) {
                    place.copy_from_slice(&word.to_ne_bytes());
                }
            }
            Ok([word_at(&header, KEY_AT)?, word_at(&header, KEY_AT + 8)?])
        })
    }
}

fn word_at(bytes: &[u8], at: usize) -> anyhow::Result<u64> {
    let word = bytes.get(at..at + 8).context("the frame is too short")?;
    Ok(u64::from_ne_bytes(word.try_into()?))
}

impl Driver {
    /// Loads the bench's object.
    pub(crate) fn load(object: &Path) -> anyhow::Result<Self> {
        let mut ebpf = EbpfLoader::new()
            .load_file(object)
            .with_context(|| format!("cannot load {}", object.display()))?;
        for name in [DRIVER, EMPTY, LOOKUP] {
            program(&mut ebpf, name)?
                .load()
                .with_context(|| format!("the kernel refuses {name}"))?;
        }
        let lookup = program(&mut ebpf, LOOKUP)?.fd()?.try_clone()?;
        let empty = program(&mut ebpf, EMPTY)?.fd()?.try_clone()?;
        Ok(Self { ebpf, lookup, empty })
    }

    /// Lists the variants of [`Frames::listed`].
    pub(crate) fn list(&mut self, variants: &[u64]) -> anyhow::Result<()> {
        let mut rows: Array<_, u64> = self.ebpf.map_mut(VARIANTS).context(VARIANTS)?.try_into()?;
        for (row, variant) in (0..).zip(variants) {
            rows.set(row, variant, 0)?;
        }
        Ok(())
    }

    /// Times one lookup in the stock hash map that finds its key, of as many as `frames` has variants.
    pub(crate) fn time_lookup(&mut self, frames: &Frames, effort: Effort) -> anyhow::Result<Figure> {
        let mut rows: HashMap<_, [u64; KEY_BYTES / 8], u64> = self.ebpf.map_mut(HASH).context(HASH)?.try_into()?;
        let old: Vec<_> = rows.keys().collect::<Result<_, _>>()?;
        old.iter().try_for_each(|key| rows.remove(key))?;
        for key in frames.keys() {
            rows.insert(key?, 1, 0)?;
        }
        let lookup = self.lookup.try_clone()?;
        self.time(&lookup, frames, effort, || Ok(()))
    }

    /// Times `subject`. `reset` is called before each sample.
    pub(crate) fn time(
        &mut self,
        subject: &ProgramFd,
        frames: &Frames,
        effort: Effort,
        mut reset: impl FnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<Figure> {
        let empty = self.empty.try_clone()?;
        let (mut net, mut gross, mut verdicts) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..effort.samples {
            // Side by side, so that both meet the same clock rate and neighbours.
            let alone = self.run(&empty, frames, effort.runs)?;
            reset()?;
            let sample = self.run(subject, frames, effort.runs)?;
            net.push(f64::from(sample.nanoseconds) - f64::from(alone.nanoseconds));
            gross.push(f64::from(sample.nanoseconds));
            verdicts.push(sample.verdict);
        }
        verdicts.dedup();
        let [verdict] = verdicts[..] else {
            anyhow::bail!("not all samples end alike: {verdicts:?}");
        };
        Ok(Figure {
            net: median(net).context("no sample")?,
            gross: median(gross).context("no sample")?,
            verdict,
        })
    }

    /// Runs `subject` over the frames, from the first variant on.
    pub(crate) fn run(&mut self, subject: &ProgramFd, frames: &Frames, runs: u32) -> anyhow::Result<Sample> {
        let mut target: ProgramArray<_> = self.ebpf.map_mut(UNDER_TEST).context(UNDER_TEST)?.try_into()?;
        target
            .set(0, subject, 0)
            .context("the driver cannot call the program")?;
        let mut plans: Array<_, Plan> = self.ebpf.map_mut(PLAN).context(PLAN)?.try_into()?;
        plans.set(0, frames.plan, 0)?;
        let options = TestRunOptions {
            data_in: Some(&frames.bytes),
            repeat: runs,
            ..TestRunOptions::default()
        };
        let result = program(&mut self.ebpf, DRIVER)?
            .test_run(options)
            .context("the kernel refuses the test run")?;
        Ok(Sample {
            nanoseconds: u32::try_from(result.duration.as_nanos())?,
            verdict: result.return_value,
        })
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> anyhow::Result<&'a mut Xdp> {
    let program = ebpf
        .program_mut(name)
        .with_context(|| format!("the bench's object has no {name}"))?;
    Ok(program.try_into()?)
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
