//! What is on the wire: tcpdump into a file, and the frames out of it.
//!
//! A frame that is *sent* through an interface whose transmit offload is on is seen before its checksum is finished.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::netns::Namespace;
use crate::scratch::Scratch;
use crate::{packet, tool, wait};

/// A capture under way. Ended and deleted on drop.
#[derive(Debug)]
pub struct Capture {
    child: Child,
    file: PathBuf,
    _scratch: Scratch,
}

impl Capture {
    /// Captures whole frames on `interface` that match `filter` (pcap-filter(7); empty: all). Sees every frame from when
    /// this returns.
    ///
    /// # Errors
    /// When tcpdump is missing or rejects the arguments.
    pub fn start(namespace: &Namespace, interface: &str, filter: &str) -> anyhow::Result<Self> {
        let scratch = Scratch::new()?;
        let file = scratch.path().join("capture.pcap");
        let mut child = namespace
            .command("tcpdump")
            .args([
                "-i",
                interface,
                "-n",
                "-s",
                "0",
                "-U",
                "--immediate-mode",
                "-Z",
                "root",
                "-w",
            ])
            .arg(&file)
            .args(filter.split_whitespace())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| tool::explain("tcpdump".as_ref(), error))?;
        let said = child.stderr.take().context("its standard error is a pipe")?;
        let capture = Self {
            child,
            file,
            _scratch: scratch,
        };
        let mut said = BufReader::new(said);
        let mut all = String::new();
        while !all.contains("listening on") {
            if said.read_line(&mut all)? == 0 {
                bail!("tcpdump ended: {}", all.trim());
            }
        }
        // What it says at its end (three lines) fits the pipe.
        Ok(capture)
    }

    /// Waits until at least `frames` were captured, ends the capture and returns all of them.
    ///
    /// # Errors
    /// When they don't come within ten seconds.
    pub fn finish(mut self, frames: usize) -> anyhow::Result<Vec<Vec<u8>>> {
        wait::until(Duration::from_secs(10), || {
            let found = read(&std::fs::read(&self.file)?)?.len();
            ensure!(found >= frames, "{found} of {frames} frames were captured");
            Ok(())
        })?;
        self.end()?;
        read(&std::fs::read(&self.file)?)
    }

    fn end(&mut self) -> anyhow::Result<()> {
        if self.child.try_wait()?.is_none() {
            let pid = Pid::from_raw(i32::try_from(self.child.id())?);
            kill(pid, Signal::SIGINT).context("cannot end tcpdump")?;
            self.child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("warning: a tcpdump stays: {error:#}");
        }
    }
}

/// Verifies the checksums of all `frames`.
///
/// # Errors
/// When there is none, or with the first wrong one and its bytes.
pub fn verify_all(frames: &[Vec<u8>]) -> anyhow::Result<()> {
    ensure!(!frames.is_empty(), "no frame was captured");
    for (number, frame) in frames.iter().enumerate() {
        packet::verify(frame).with_context(|| format!("frame {number} of {}: {}", frames.len(), hex(frame)))?;
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(80).map(|byte| format!("{byte:02x}")).collect()
}

/// The frames of a capture file (the classic format of libpcap, in this machine's byte order). A last frame that is not
/// all there yet is left out.
fn read(file: &[u8]) -> anyhow::Result<Vec<Vec<u8>>> {
    // Microsecond and nanosecond time stamps.
    const MAGIC: [u32; 2] = [0xa1b2_c3d4, 0xa1b2_3c4d];
    let Some(header) = file.get(..24) else {
        return Ok(Vec::new());
    };
    let magic = number(header, 0).context("no magic number")?;
    ensure!(MAGIC.contains(&magic), "not a capture file: it starts with {magic:#x}");
    let mut frames = Vec::new();
    let mut rest = file.get(24..).unwrap_or_default();
    while let (Some(captured), Some(original)) = (number(rest, 8), number(rest, 12)) {
        ensure!(
            captured == original,
            "a frame of {original} bytes was cut to {captured}"
        );
        let length = usize::try_from(captured)?;
        let Some(frame) = rest.get(16..16 + length) else { break };
        frames.push(frame.to_vec());
        rest = rest.get(16 + length..).unwrap_or_default();
    }
    Ok(frames)
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::read;

    fn mk_file(frames: &[&[u8]]) -> Vec<u8> {
        let mut file = 0xa1b2_c3d4_u32.to_ne_bytes().to_vec();
        file.resize(24, 0);
        for frame in frames {
            let length = u32::try_from(frame.len()).expect("short").to_ne_bytes();
            file.extend([[0; 4], [0; 4], length, length].concat());
            file.extend(*frame);
        }
        file
    }

    #[test]
    fn frames_come_back_and_an_unfinished_one_waits() {
        let file = mk_file(&[b"one", b"three"]);
        assert_eq!(read(&file).expect("valid"), [b"one".to_vec(), b"three".to_vec()]);
        assert_eq!(read(&file[..file.len() - 1]).expect("valid"), [b"one".to_vec()]);
        assert_eq!(read(&file[..30]).expect("valid").len(), 0);
        assert_eq!(read(&[]).expect("not begun").len(), 0);
        assert!(read(&[0; 24]).is_err());
    }
}
