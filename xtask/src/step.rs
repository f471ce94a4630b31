//! Progress: one line when a step starts, one when it ends, and a summary with the time of each.

use std::time::{Duration, Instant};

/// The steps of one task, in order.
pub(crate) struct Steps {
    done: Vec<Done>,
}

struct Done {
    name: String,
    took: Duration,
    passed: bool,
}

impl Steps {
    pub(crate) fn new() -> Self {
        Self { done: Vec::new() }
    }

    /// Runs one step and notes how long it took.
    ///
    /// # Errors
    /// Those of the step.
    pub(crate) fn run<T>(&mut self, name: &str, step: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
        eprintln!("\n==> {name}");
        let start = now();
        let result = step();
        let took = now().saturating_duration_since(start);
        let verdict = if result.is_ok() { "ok" } else { "FAILED" };
        eprintln!("<== {name}: {verdict} ({:.1} s)", took.as_secs_f64());
        self.done.push(Done {
            name: name.to_owned(),
            took,
            passed: result.is_ok(),
        });
        result
    }

    /// Prints every step's result and time; whether all passed.
    pub(crate) fn summarize(&self) -> bool {
        let width = self.done.iter().map(|done| done.name.len()).max().unwrap_or_default();
        eprintln!("\nsummary");
        for done in &self.done {
            let verdict = if done.passed { "ok" } else { "FAILED" };
            eprintln!("  {:<width$}  {:>7.1} s  {verdict}", done.name, done.took.as_secs_f64());
        }
        let total: Duration = self.done.iter().map(|done| done.took).sum();
        eprintln!("  {:<width$}  {:>7.1} s", "total", total.as_secs_f64());
        self.done.iter().all(|done| done.passed)
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long a step takes is what this module reports"
)]
fn now() -> Instant {
    Instant::now()
}
