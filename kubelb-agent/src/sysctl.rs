//! Kernel settings of the node that the data path relies on: forwarding on the interfaces, and local ports that are not
//! its own.
//!
//! Reads and writes below `/proc/sys`, which shows the network namespace of the reader. Must not know maps or programs.

use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::model::PortRange;

/// The settings of this process's network namespace.
pub const PROC_SYS: &str = "/proc/sys";

/// Both inclusive.
type Range = (u16, u16);

/// What was found, and done, about forwarding on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forwarding {
    /// It is on.
    On,
    /// It was off, and is on now.
    TurnedOn,
    /// It is off and stays so; the text says what to do.
    Off(String),
}

/// Turns IPv4 forwarding of an interface on where it is off: the data path asks the kernel's routing for the way back to
/// a client, which refuses on an interface that does not forward.
#[must_use]
pub fn forward_v4(root: &Path, interface: &str) -> Forwarding {
    let path = setting(root, 4, interface);
    let off = |error: &io::Error| Forwarding::Off(format!("{} ({error})", advice(4, interface)));
    match fs::read_to_string(&path) {
        Ok(value) if is_on(&value) => Forwarding::On,
        Ok(_) => match fs::write(&path, "1\n") {
            Ok(()) => Forwarding::TurnedOn,
            Err(error) => off(&error),
        },
        Err(error) => off(&error),
    }
}

/// Looks whether IPv6 forwarding of an interface is on. It is not turned on here, because that ends the taking over of
/// routes and addresses from router advertisements (`accept_ra` of the kernel's ip-sysctl document).
#[must_use]
pub fn forward_v6(root: &Path, interface: &str) -> Forwarding {
    match fs::read_to_string(setting(root, 6, interface)) {
        Ok(value) if is_on(&value) => Forwarding::On,
        // Without IPv6 there is nothing to forward.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Forwarding::On,
        Ok(_) | Err(_) => Forwarding::Off(advice(6, interface)),
    }
}

/// Sees to it that an interface answers ARP for its own addresses only (`arp_ignore` 1) and asks in their names only (`arp_announce` 2), so that
/// an address on the loopback interface is announced by nobody but the data path. Higher values stay. What is set is not set back: the
/// agent's end must not change who answers.
///
/// # Errors
/// When a setting cannot be read or written.
pub fn quiet_arp(root: &Path, interface: &str) -> io::Result<()> {
    for (name, least) in [("arp_ignore", 1), ("arp_announce", 2)] {
        let path = root.join(format!("net/ipv4/conf/{interface}/{name}"));
        let value: u8 = fs::read_to_string(&path)?.trim().parse().map_err(io::Error::other)?;
        if value < least {
            fs::write(&path, format!("{least}\n"))?;
        }
    }
    Ok(())
}

fn is_on(value: &str) -> bool {
    value.trim() != "0"
}

fn setting(root: &Path, version: u8, interface: &str) -> PathBuf {
    root.join(format!("net/ipv{version}/conf/{interface}/forwarding"))
}

/// With slashes, because names of VLAN interfaces have dots.
fn advice(version: u8, interface: &str) -> String {
    format!("sysctl -w net/ipv{version}/conf/{interface}/forwarding=1")
}

/// The part of the SNAT ports that sockets of this node may take for themselves, and what to do about it. `None` when
/// there is none, or the settings cannot be read.
#[must_use]
pub fn contested_ports(root: &Path, snat: PortRange) -> Option<String> {
    let read = |name: &str| fs::read_to_string(root.join("net/ipv4").join(name)).ok();
    let local = parse_local(&read("ip_local_port_range")?)?;
    let reserved = read("ip_local_reserved_ports")?;
    let (first, last) = first_contested((snat.first(), snat.last()), local, &parse_ports(&reserved))?;
    let mut all = reserved.trim().to_owned();
    if !all.is_empty() {
        all.push(',');
    }
    let setting = "net/ipv4/ip_local_reserved_ports";
    Some(format!(
        "ports {first}-{last} may be taken by sockets of this node (ip_local_port_range {}-{}); keep them free with: \
         sysctl -w {setting}={all}{}-{}",
        local.0,
        local.1,
        snat.first(),
        snat.last()
    ))
}

/// `ip_local_port_range`: two numbers.
fn parse_local(text: &str) -> Option<Range> {
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(last)), None) => Some((first, last)),
        _ => None,
    }
}

/// `ip_local_reserved_ports`: numbers and ranges between commas. What is neither is left out.
fn parse_ports(text: &str) -> Vec<Range> {
    let parse = |part: &str| -> Option<Range> {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
    };
    text.split(',').filter_map(parse).collect()
}

/// The first ports in a row that are in both ranges and in none of the reserved ones.
fn first_contested(snat: Range, local: Range, reserved: &[Range]) -> Option<Range> {
    let (mut first, mut last) = (snat.0.max(local.0), snat.1.min(local.1));
    let mut reserved = reserved.to_vec();
    reserved.sort_unstable();
    for (begin, end) in reserved {
        if begin > first {
            last = last.min(begin - 1);
            break;
        }
        if end >= first {
            first = end.checked_add(1)?;
        }
    }
    if first > last {
        return None;
    }
    Some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn v4_forwarding_is_turned_on_and_v6_only_looked_at() {
        let v4 = "net/ipv4/conf/eth0.100/forwarding";
        let v6 = "net/ipv6/conf/eth0.100/forwarding";
        let root = tree(&[(v4, "0\n"), (v6, "0\n")]);
        assert_eq!(forward_v4(root.path(), "eth0.100"), Forwarding::TurnedOn);
        assert_eq!(forward_v4(root.path(), "eth0.100"), Forwarding::On);
        let Forwarding::Off(advice) = forward_v6(root.path(), "eth0.100") else {
            panic!("off is off")
        };
        assert_eq!(advice, "sysctl -w net/ipv6/conf/eth0.100/forwarding=1");
        assert_eq!(fs::read_to_string(root.path().join(v6)).unwrap(), "0\n");
        fs::write(root.path().join(v6), "1\n").unwrap();
        assert_eq!(forward_v6(root.path(), "eth0.100"), Forwarding::On);
    }

    #[test]
    fn arp_is_quiet_where_it_was_not_and_left_where_it_is_quieter() {
        let (ignore, announce) = ("net/ipv4/conf/eth0/arp_ignore", "net/ipv4/conf/eth0/arp_announce");
        let root = tree(&[(ignore, "0\n"), (announce, "1\n")]);
        let read = |name: &str| fs::read_to_string(root.path().join(name)).unwrap();
        quiet_arp(root.path(), "eth0").unwrap();
        assert_eq!((read(ignore), read(announce)), ("1\n".to_owned(), "2\n".to_owned()));
        fs::write(root.path().join(ignore), "2\n").unwrap();
        quiet_arp(root.path(), "eth0").unwrap();
        assert_eq!(read(ignore), "2\n");
        assert!(quiet_arp(root.path(), "eth1").is_err());
    }

    #[test]
    fn what_cannot_be_read_is_said_and_a_kernel_without_ipv6_is_fine() {
        let root = tree(&[]);
        let Forwarding::Off(advice) = forward_v4(root.path(), "eth0") else {
            panic!("nothing says that it is on")
        };
        assert!(
            advice.starts_with("sysctl -w net/ipv4/conf/eth0/forwarding=1 ("),
            "{advice}"
        );
        assert_eq!(forward_v6(root.path(), "eth0"), Forwarding::On);
    }

    fn contested(local: &str, reserved: &str, first: u16, last: u16) -> Option<String> {
        let root = tree(&[
            ("net/ipv4/ip_local_port_range", local),
            ("net/ipv4/ip_local_reserved_ports", reserved),
        ]);
        contested_ports(root.path(), PortRange::new(first, last).unwrap())
    }

    #[test]
    fn the_default_ranges_do_not_meet() {
        let snat = PortRange::NODE_DEFAULT;
        assert_eq!(contested("32768\t60999\n", "\n", snat.first(), snat.last()), None);
    }

    #[test]
    fn ports_that_sockets_may_take_are_named_with_what_to_do() {
        let advice = contested("1024\t65535\n", "8080,9148-9150\n", 10_000, 29_999).unwrap();
        assert!(advice.starts_with("ports 10000-29999 may be taken"), "{advice}");
        assert!(
            advice.ends_with("sysctl -w net/ipv4/ip_local_reserved_ports=8080,9148-9150,10000-29999"),
            "{advice}"
        );
        assert_eq!(contested("1024\t65535\n", "8080,10000-29999\n", 10_000, 29_999), None);
    }

    #[test]
    fn reserved_ports_count_in_any_order_and_only_where_they_cover() {
        let snat = (10_000, 19_999);
        let contested = |local, reserved: &str| first_contested(snat, local, &parse_ports(reserved));
        assert_eq!(contested((1, u16::MAX), "15000-19999,10000-14999"), None);
        assert_eq!(
            contested((1, u16::MAX), "15000-19999,9000-14998"),
            Some((14_999, 14_999))
        );
        assert_eq!(contested((1, u16::MAX), "10001-19999"), Some((10_000, 10_000)));
        assert_eq!(contested((15_000, 15_000), "15000"), None);
        assert_eq!(contested((20_000, 30_000), ""), None);
        assert_eq!(contested((1, u16::MAX), "1-65535"), None);
        assert_eq!(parse_ports("7, 8-9,x,3-y,"), [(7, 7), (8, 9)]);
        assert_eq!(parse_local("1024 65535 7"), None);
    }
}
