//! What servers of this process log, to be looked at by tests. (All tests of a run write into one; lines name connections.)

use std::io;
use std::sync::{LazyLock, Mutex, Once, PoisonError};

use tracing_subscriber::filter::LevelFilter;

static LINES: LazyLock<Mutex<String>> = LazyLock::new(Mutex::default);
static START: Once = Once::new();

struct Writer;

impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push_str(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Begins to keep what is logged.
pub(crate) fn capture() {
    START.call_once(|| {
        tracing_subscriber::fmt()
            .with_ansi(false)
            .with_max_level(LevelFilter::INFO)
            .with_writer(|| Writer)
            .init();
    });
}

/// That there is a line with all of these.
pub(crate) fn find(words: &[&str]) -> anyhow::Result<()> {
    let lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
    let found = lines.lines().any(|line| words.iter().all(|word| line.contains(word)));
    anyhow::ensure!(found, "no line has all of {words:?}");
    Ok(())
}
