//! Sampled drops of the data path, as lines of the agent's log.
//!
//! The programs write records into a ring that nobody waits for: what finds no room there is lost, and the counters count
//! it all the same.

use std::io;
use std::time::Duration;

use aya::Ebpf;
use aya_log::EbpfLogger;
use kubelb_common::stats::Reason;
use log::{Log, Metadata, Record};

use super::BpfError;

/// Time between two looks into the ring, which cost two loads when it is empty. With the size of the ring it bounds how
/// many lines a flood of drops can bring.
const PAUSE: Duration = Duration::from_millis(200);

/// Hands on what the programs of `ebpf` write, for as long as it is polled. The target of the lines is this module, so that
/// RUST_LOG can name it.
///
/// # Errors
/// When there is no such ring.
pub fn follow(ebpf: &mut Ebpf) -> Result<impl Future<Output = ()> + Send + use<>, BpfError> {
    let mut logger =
        EbpfLogger::init_with_logger(ebpf, Lines).map_err(|error| BpfError::Records(io::Error::other(error)))?;
    Ok(async move {
        loop {
            tokio::time::sleep(PAUSE).await;
            logger.flush();
        }
    })
}

/// What takes the records, one at a time.
struct Lines;

impl Log for Lines {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        tracing::info!("{}", with_label(&record.args().to_string()));
    }

    fn flush(&self) {}
}

/// Programs give the number of a reason, because they have no strings; people want its name.
fn with_label(text: &str) -> String {
    let label = |number: &str| {
        let number = number.parse::<usize>().ok()?;
        Reason::ALL.iter().find(|reason| reason.index() == number)
    };
    let mut words: Vec<&str> = text.split(' ').collect();
    let at = words.iter().position(|word| *word == "reason").map(|at| at + 1);
    if let Some(word) = at.and_then(|at| words.get_mut(at))
        && let Some(reason) = label(word)
    {
        *word = reason.label();
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_have_names() {
        let number = Reason::NO_BACKEND.index();
        assert_eq!(
            with_label(&format!("xdp drop: reason {number} interface 3")),
            "xdp drop: reason no-backend interface 3"
        );
        for other in ["reason 999", "reason", "something else", ""] {
            assert_eq!(with_label(other), other);
        }
    }
}
