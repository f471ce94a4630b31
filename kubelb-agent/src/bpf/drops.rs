//! Sampled drops of the data path, as lines of the agent's log.
//!
//! The programs write records into a ring that nobody waits for: what finds no room there is lost, and the counters count
//! it all the same.

use std::io;
use std::time::Duration;

use aya::Ebpf;
use aya_log::EbpfLogger;

use super::BpfError;

/// Time between two looks into the ring, which cost two loads when it is empty. With the size of the ring it bounds how
/// many lines a flood of drops can bring.
const PAUSE: Duration = Duration::from_millis(200);

/// Hands on what the programs of `ebpf` write, for as long as it is polled. The target of the lines is the program's
/// module, so that RUST_LOG can name it.
///
/// # Errors
/// When there is no such ring.
pub fn follow(ebpf: &mut Ebpf) -> Result<impl Future<Output = ()> + Send + use<>, BpfError> {
    let mut logger = EbpfLogger::init(ebpf).map_err(|error| BpfError::Records(io::Error::other(error)))?;
    Ok(async move {
        loop {
            tokio::time::sleep(PAUSE).await;
            logger.flush();
        }
    })
}
