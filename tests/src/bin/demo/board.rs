//! The table of who answered what, redrawn while it grows.

use crate::load::{Counts, Service};
use crate::say;

/// Draws tables of one shape, each over the one before when the screen allows it.
pub(crate) struct Board<'a> {
    services: &'a [Service],
    servers: Vec<String>,
    redraw: bool,
    drawn: usize,
}

impl<'a> Board<'a> {
    pub(crate) fn new(services: &'a [Service], servers: Vec<String>, redraw: bool) -> Self {
        Self {
            services,
            servers,
            redraw,
            drawn: 0,
        }
    }

    /// Draws a state on the way; on something that isn't a terminal only [`Self::last`] is seen.
    pub(crate) fn draw(&mut self, counts: &Counts, notes: &[String]) -> anyhow::Result<()> {
        if self.redraw { self.put(counts, notes) } else { Ok(()) }
    }

    /// Draws the final state.
    pub(crate) fn last(&mut self, counts: &Counts, notes: &[String]) -> anyhow::Result<()> {
        self.put(counts, notes)
    }

    fn put(&mut self, counts: &Counts, notes: &[String]) -> anyhow::Result<()> {
        let lines = self.lines(counts, notes);
        let mut text = String::new();
        if self.drawn > 0 {
            text.push_str(&format!("\x1b[{}A", self.drawn));
        }
        self.drawn = if self.redraw { lines.len() } else { 0 };
        for line in lines {
            text.push_str(&line);
            text.push_str(if self.redraw { "\x1b[K\n" } else { "\n" });
        }
        say(&text)
    }

    fn lines(&self, counts: &Counts, notes: &[String]) -> Vec<String> {
        let cell = |service: usize, server: &str| counts.get(&(service, server.to_owned())).copied().unwrap_or(0);
        let mut head = format!("    {:<32}", "answers by");
        for server in &self.servers {
            head.push_str(&format!("{server:>10}"));
        }
        head.push_str(&format!("{:>10}", "failed"));
        let mut lines: Vec<String> = notes.iter().map(|note| format!("    {note}")).collect();
        lines.push(head);
        for (index, service) in self.services.iter().enumerate() {
            let mut line = format!("    {:<32}", service.label);
            for server in &self.servers {
                line.push_str(&format!("{:>10}", cell(index, server)));
            }
            line.push_str(&format!("{:>10}", cell(index, "")));
            lines.push(line);
        }
        lines
    }
}
