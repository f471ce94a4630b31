//! A network that several clusters share: one switch, and hosts on it that see each other directly.
//!
//! ```text
//!            switch 192.168.77.1/24 fd77::1/64 (a bridge; hosts' default route, leading nowhere)
//!      ┌──────────┬─────┴────┬──────────┐
//!    eth0 .10   eth0 .11   eth0 .12   eth0 .13      MAC addresses 02:00:c0:a8:4d:<host>
//!   fd77::10   fd77::11   fd77::12   fd77::13
//! ```
//! Host numbers are given in the order in which hosts come, the same number in both families. Those from
//! [`FIRST_FREE`] on are never given: they are for virtual addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::{Context as _, ensure};

use crate::netns::Namespace;
use crate::tool;

/// Interface of each host.
pub const INTERFACE: &str = "eth0";
/// The first host number that is nobody's.
pub const FIRST_FREE: u8 = 200;
const FIRST_HOST: u8 = 10;
const BRIDGE: &str = "lan";

/// The switch.
#[derive(Debug)]
pub struct Lan {
    switch: Namespace,
    next: AtomicU8,
}

/// A machine on the network.
#[derive(Debug)]
pub struct Host {
    /// Where it lives.
    pub namespace: Arc<Namespace>,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
}

impl Host {
    /// Its address of the family of `like`.
    #[must_use]
    pub fn address(&self, like: IpAddr) -> IpAddr {
        if like.is_ipv4() { self.v4.into() } else { self.v6.into() }
    }

    /// Both addresses.
    #[must_use]
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }
}

/// The IPv4 address with a host number.
#[must_use]
pub fn v4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 77, number)
}

/// The IPv6 address with a host number, which is written in decimal: host 10 has `fd77::10`.
#[must_use]
pub fn v6(number: u8) -> Ipv6Addr {
    let (hundreds, rest) = (u16::from(number / 100), u16::from(number % 100));
    Ipv6Addr::new(
        0xfd77,
        0,
        0,
        0,
        0,
        0,
        0,
        hundreds * 0x100 + rest / 10 * 0x10 + rest % 10,
    )
}

impl Lan {
    /// Makes the switch.
    ///
    /// # Errors
    /// Without root or `ip`, or when the kernel refuses.
    pub fn new() -> anyhow::Result<Self> {
        let switch = Namespace::new("switch")?;
        // Who asks for the world through the switch is told at once that there is none.
        switch.sysctl("net/ipv4/ip_forward", "1")?;
        switch.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        let commands = format!(
            "link add {BRIDGE} type bridge forward_delay 0 mcast_snooping 0\n\
             address add {}/24 dev {BRIDGE}\n\
             address add {}/64 dev {BRIDGE} nodad\n\
             link set {BRIDGE} up\n\
             route add unreachable default\n\
             -6 route add unreachable default\n",
            v4(1),
            v6(1)
        );
        batch(&switch, &commands)?;
        Ok(Self {
            switch,
            next: AtomicU8::new(FIRST_HOST),
        })
    }

    /// Adds a host; it reaches all others when this returns. `role` is the readable end of its namespace's name.
    ///
    /// # Errors
    /// When the network is full, or the kernel refuses.
    pub fn host(&self, role: &str) -> anyhow::Result<Host> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        ensure!(number < FIRST_FREE, "the network has no host number left");
        let namespace = Arc::new(Namespace::new(role)?);
        let port = format!("host{number}");
        let [a, b, c, d] = v4(number).octets();
        let mac = format!("02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}");
        let plug = format!(
            "link add {port} type veth peer name {INTERFACE} address {mac} netns {}\n\
             link set {port} master {BRIDGE} up\n",
            namespace.name()
        );
        batch(&self.switch, &plug)?;
        // Large receive offload in software: a peer with neither that nor an XDP program of its own drops what XDP sends it.
        offload(&self.switch, &port, "gro", "on")?;
        let (v4, v6) = (v4(number), v6(number));
        let settle = format!(
            "address add {v4}/24 dev {INTERFACE}\n\
             address add {v6}/64 dev {INTERFACE} nodad\n\
             link set {INTERFACE} up\n\
             route add default via {}\n\
             -6 route add default via {}\n",
            self::v4(1),
            self::v6(1)
        );
        batch(&namespace, &settle)?;
        Ok(Host { namespace, v4, v6 })
    }
}

impl Lan {
    /// Takes the plug of a host out, as if its power were cut. The switch goes on believing that it is there: what is sent to it is lost, and not
    /// sent to everybody, as it would be once the switch has forgotten it.
    ///
    /// # Errors
    /// When it is no host of this network.
    pub fn cut_off(&self, host: &Host) -> anyhow::Result<()> {
        let [a, b, c, number] = host.v4.octets();
        let port = format!("host{number}");
        let mac = format!("02:00:{a:02x}:{b:02x}:{c:02x}:{number:02x}");
        let mut command = self.switch.command("bridge");
        command.args(["fdb", "replace", &mac, "dev", &port, "master", "static"]);
        tool::output(command.stdin(Stdio::null()))?;
        self.switch.ip(&["link", "set", &port, "down"])
    }
}

impl Host {
    /// Has it finish the checksums of what it sends: nothing else would do so before an XDP program sees it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn finish_checksums(&self) -> anyhow::Result<()> {
        offload(&self.namespace, INTERFACE, "tx", "off")
    }
}

fn offload(namespace: &Namespace, interface: &str, what: &str, state: &str) -> anyhow::Result<()> {
    let mut command = namespace.command("ethtool");
    tool::output(command.args(["-K", interface, what, state]).stdin(Stdio::null())).map(drop)
}

/// Runs commands of `ip`, one a line, inside.
///
/// # Errors
/// When one fails.
pub(crate) fn batch(namespace: &Namespace, commands: &str) -> anyhow::Result<()> {
    for line in commands.lines().filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let mut command = namespace.command("ip");
        command.args(&words).stdin(Stdio::null());
        tool::output(&mut command).with_context(|| format!("in namespace {}", namespace.name()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_the_same_number_in_both_families() {
        assert_eq!(v4(10).to_string(), "192.168.77.10");
        assert_eq!(v6(10).to_string(), "fd77::10");
        assert_eq!(v6(199).to_string(), "fd77::199");
        assert_eq!(v6(1).to_string(), "fd77::1");
    }
}
