//! The figures beside what they must be and aim for, as text and as JSON.

use std::time::Duration;

use serde::Serialize;

/// Everything measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    cpus: usize,
    /// Nothing is said about time.
    quick: bool,
    figures: Vec<Figure>,
}

/// One of them.
#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    part: &'static str,
    name: String,
    value: f64,
    unit: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    must: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aim: Option<f64>,
    /// The bars are least values.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    least: bool,
}

impl Figure {
    /// It may not be more than this.
    pub(crate) fn must(&mut self, must: f64) -> &mut Self {
        self.must = Some(must);
        self
    }

    /// It should not be more than this.
    pub(crate) fn aim(&mut self, aim: f64) -> &mut Self {
        self.aim = Some(aim);
        self
    }

    /// It may not be less than the one, and should not be less than the other.
    pub(crate) fn at_least(&mut self, must: f64, aim: f64) -> &mut Self {
        self.least = true;
        self.must(must).aim(aim)
    }

    fn keeps(&self, bar: Option<f64>) -> bool {
        bar.is_none_or(|bar| {
            if self.least {
                self.value >= bar
            } else {
                self.value <= bar
            }
        })
    }

    fn passes(&self, is_quick: bool) -> bool {
        // How long something takes and how large a process is says nothing of a build without optimisation.
        let counts = !is_quick || !matches!(self.unit, "ms" | "s" | "MB" | "MiB" | "times");
        !counts || self.keeps(self.must)
    }
}

impl Report {
    pub(crate) fn new(quick: bool) -> anyhow::Result<Self> {
        Ok(Self {
            cpus: std::thread::available_parallelism()?.get(),
            quick,
            figures: Vec::new(),
        })
    }

    /// Adds a figure, and tells it at once.
    #[expect(clippy::indexing_slicing, reason = "the figure was added just now")]
    pub(crate) fn add(
        &mut self,
        part: &'static str,
        name: impl Into<String>,
        value: f64,
        unit: &'static str,
    ) -> &mut Figure {
        let name = name.into();
        eprintln!("{part}: {name}: {value:.2} {unit}");
        self.figures.push(Figure {
            part,
            name,
            value,
            unit,
            must: None,
            aim: None,
            least: false,
        });
        let last = self.figures.len() - 1;
        &mut self.figures[last]
    }

    pub(crate) fn passed(&self) -> bool {
        self.figures.iter().all(|figure| figure.passes(self.quick))
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let mut text = format!(
            "{:<8} {:<62} {:>10} {:<6} {:>8} {:>8}\n",
            "part",
            format!("on {} CPUs", self.cpus),
            "value",
            "",
            "must",
            "aim"
        );
        for figure in &self.figures {
            let sign = if figure.least { '≥' } else { '≤' };
            let bar = |bar: Option<f64>| bar.map_or(String::new(), |bar| format!("{sign} {bar}"));
            let verdict = match figure {
                _ if !figure.passes(self.quick) => "  OVER",
                _ if !figure.keeps(figure.aim) && !self.quick => "  not the aim",
                _ => "",
            };
            text.push_str(&format!(
                "{:<8} {:<62} {:>10.2} {:<6} {:>8} {:>8}{verdict}\n",
                figure.part,
                figure.name,
                figure.value,
                figure.unit,
                bar(figure.must),
                bar(figure.aim)
            ));
        }
        text
    }
}

/// Percentiles of times, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Spread {
    pub(crate) fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |share: usize| {
            let index = times.len().saturating_sub(1).saturating_mul(share).div_ceil(100);
            times.get(index).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
        };
        Self {
            p50: at(50),
            p99: at(99),
            max: at(100),
        }
    }
}

/// Bytes in megabytes.
pub(crate) fn megabytes(bytes: u64) -> f64 {
    // Whole kilobytes are exact enough, and fit.
    f64::from(u32::try_from(bytes / 1_000).unwrap_or(u32::MAX)) / 1e3
}

/// A count as a figure.
pub(crate) fn float(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}
