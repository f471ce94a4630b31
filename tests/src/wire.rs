//! Frames put on an interface as they are, for what no socket would send.

use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Context as _, ensure};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike as _, sendto, socket};

use crate::netns::Namespace;

/// Sends through one interface of one namespace.
#[derive(Debug)]
pub struct Wire {
    socket: OwnedFd,
    interface: LinkAddr,
}

impl Wire {
    /// Opens `interface`.
    ///
    /// # Errors
    /// Without root, or when there is no such interface.
    pub fn open(namespace: &Namespace, interface: &str) -> anyhow::Result<Self> {
        namespace
            .run(|| open(interface))?
            .with_context(|| format!("cannot open {interface}"))
    }

    /// Sends a whole Ethernet frame. Nothing is filled in or checked.
    ///
    /// # Errors
    /// When the interface is down, or the frame shorter than an Ethernet header or longer than the MTU.
    pub fn send(&self, frame: &[u8]) -> anyhow::Result<()> {
        let sent = sendto(self.socket.as_raw_fd(), frame, &self.interface, MsgFlags::empty());
        let sent = sent.with_context(|| format!("cannot send a frame of {} bytes", frame.len()))?;
        ensure!(sent == frame.len(), "only {sent} of {} bytes were sent", frame.len());
        Ok(())
    }
}

fn open(interface: &str) -> anyhow::Result<Wire> {
    // Protocol 0: it receives nothing (packet(7)).
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: all-zero bytes are a valid value of this plain C structure.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET)?;
    address.sll_ifindex = i32::try_from(if_nametoindex(interface)?)?;
    let length = libc::socklen_t::try_from(size_of_val(&address))?;
    // SAFETY: the pointer is to a whole `sockaddr_ll` of this length, whose family says so.
    let interface = unsafe { LinkAddr::from_raw((&raw const address).cast(), Some(length)) };
    Ok(Wire {
        socket,
        interface: interface.context("not a link-layer address")?,
    })
}
