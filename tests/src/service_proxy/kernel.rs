//! The node's network namespace, as the process that runs in it changes it: nftables, forwarding, addresses on loopback.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::IpAddr;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use super::ruleset::{Ruleset, TABLE};
use crate::tool;

/// What a node that forwards for others needs.
const SYSCTLS: [(&str, &str); 4] = [
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    // An endpoint that reaches itself through its Service leaves the node where it came in.
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
];

/// Lets the node forward.
///
/// # Errors
/// When a setting can't be written.
pub(super) fn forward() -> anyhow::Result<()> {
    for (key, value) in SYSCTLS {
        let path = format!("/proc/sys/{key}");
        std::fs::write(&path, value).with_context(|| format!("cannot set {path} to {value}"))?;
    }
    Ok(())
}

/// The table as the kernel has it. It knows what was written last, so that only changes are written.
#[derive(Debug, Default)]
pub(super) struct Table {
    written: Option<Ruleset>,
}

impl Table {
    /// Brings the kernel there in one transaction.
    ///
    /// # Errors
    /// When `nft` is missing or refuses; then the next one writes all of it.
    pub(super) fn write(&mut self, wanted: Ruleset) -> anyhow::Result<()> {
        let text = match self.written.take() {
            Some(written) => wanted.after(&written),
            None => wanted.whole(),
        };
        if !text.is_empty() {
            nft(&text)?;
        }
        self.written = Some(wanted);
        Ok(())
    }

    /// Removes it.
    ///
    /// # Errors
    /// When `nft` is missing or refuses.
    pub(super) fn remove(&mut self) -> anyhow::Result<()> {
        self.written = None;
        nft(&format!("add table {TABLE}\ndelete table {TABLE}\n"))
    }
}

fn nft(text: &str) -> anyhow::Result<()> {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .map_err(|error| tool::explain(command.get_program(), error))
        .context("cannot run nft")?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(text.as_bytes()).context("nft does not read")?;
    }
    let output = child.wait_with_output().context("nft is lost")?;
    if !output.status.success() {
        bail!("nft refused: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Addresses that this node answers on by itself; taken back on drop.
#[derive(Debug)]
pub(super) struct OwnAddresses(BTreeSet<IpAddr>);

impl OwnAddresses {
    /// Gives them to loopback.
    ///
    /// # Errors
    /// When `ip` fails.
    pub(super) fn add(addresses: &BTreeSet<IpAddr>) -> anyhow::Result<Self> {
        let own = Self(addresses.clone());
        for address in addresses {
            change("replace", *address)?;
        }
        Ok(own)
    }
}

impl Drop for OwnAddresses {
    fn drop(&mut self) {
        for address in &self.0 {
            if let Err(error) = change("del", *address) {
                eprintln!("warning: {address} stays on lo: {error:#}");
            }
        }
    }
}

fn change(verb: &str, address: IpAddr) -> anyhow::Result<()> {
    let mut command = Command::new("ip");
    let length = if address.is_ipv4() { 32 } else { 128 };
    command.args(["address", verb, &format!("{address}/{length}"), "dev", "lo"]);
    if address.is_ipv6() && verb != "del" {
        command.arg("nodad");
    }
    tool::output(&mut command).map(drop)
}
