//! Where the programs are attached, and why so.
//!
//! tc is always attached: it takes what XDP hands over, and everything where XDP is not. Links are pinned, so that
//! forwarding outlives the agent; a new agent puts its programs into the pinned links, which is atomic.

use std::io;
use std::path::Path;

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions, TcAttachType};
use aya::programs::xdp::{XdpLink, XdpMode};
use aya::programs::{LinkOrder, ProgramError};
use aya::util::KernelVersion;
use kubelb_common::maps::Attachment;

use super::BpfError;
use super::link;
use super::load::Programs;
use super::maps::Maps;
use super::pins::{LinkKind, PinDirectory};
use crate::args::AttachMode;

mod clsact;
mod driver;

pub use clsact::detach_filters;
use driver::driver_of;

/// Kernels from this on have tcx.
const TCX: (u8, u8, u16) = (6, 6, 0);

/// How an interface is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// XDP in the driver, tc behind it.
    Xdp,
    /// tcx alone.
    Tcx,
    /// XDP in the stack, tc behind it.
    Generic,
    /// A clsact filter alone (before Linux 6.6).
    Clsact,
}

impl Mode {
    /// For people and metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Tcx => "tcx",
            Self::Generic => "generic",
            Self::Clsact => "clsact",
        }
    }

    fn code(self) -> u32 {
        match self {
            Self::Xdp => 1,
            Self::Tcx => 2,
            Self::Generic => 3,
            Self::Clsact => 4,
        }
    }

    /// Undoes the coding of [`Attachment::mode`].
    #[must_use]
    pub fn of(code: u32) -> Option<Self> {
        [Self::Xdp, Self::Tcx, Self::Generic, Self::Clsact]
            .into_iter()
            .find(|mode| mode.code() == code)
    }
}

/// An attached interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Its name.
    pub interface: String,
    /// Its index.
    pub ifindex: u32,
    /// How.
    pub mode: Mode,
    /// Why so, for people.
    pub reason: String,
}

/// Attaches all interfaces, in the order given, and detaches what was attached before and is not asked for now.
///
/// # Errors
/// When an interface does not exist or refuses the mode that was asked for.
pub fn attach_all(
    programs: &mut Programs,
    maps: &mut Maps,
    pins: &PinDirectory,
    wanted: &[(String, AttachMode)],
) -> Result<Vec<Attached>, BpfError> {
    let mut attached = Vec::new();
    for (interface, mode) in wanted {
        attached.push(attach_one(programs, pins, interface, *mode)?);
    }
    settle(maps, pins, &attached)?;
    Ok(attached)
}

/// Attaches those interfaces that exist and are not attached yet, after interfaces came or went; `before` is what was
/// attached. Gives all that are attached then, and whether all that exist are.
///
/// # Errors
/// When pins or maps cannot be changed. An interface that refuses is only logged.
pub fn attach_again(
    programs: &mut Programs,
    maps: &mut Maps,
    pins: &PinDirectory,
    wanted: &[(String, AttachMode)],
    before: &[Attached],
) -> Result<(Vec<Attached>, bool), BpfError> {
    let mut attached = Vec::new();
    let mut complete = true;
    for (interface, mode) in wanted {
        let Ok(ifindex) = index_of(interface) else {
            tracing::warn!(
                interface,
                "the interface is gone; it is attached again when it comes back"
            );
            continue;
        };
        let same = |done: &&Attached| done.interface == *interface && done.ifindex == ifindex;
        if let Some(done) = before.iter().find(same) {
            attached.push(done.clone());
            continue;
        }
        match attach_one(programs, pins, interface, *mode) {
            Ok(done) => attached.push(done),
            Err(error) => {
                complete = false;
                let error = kubelb_runtime::error_chain::chain(&error).to_string();
                tracing::error!(interface, error, "cannot attach, to be tried again");
            }
        }
    }
    settle(maps, pins, &attached)?;
    Ok((attached, complete))
}

fn attach_one(
    programs: &mut Programs,
    pins: &PinDirectory,
    interface: &str,
    mode: AttachMode,
) -> Result<Attached, BpfError> {
    let ifindex = index_of(interface)?;
    // Links of an interface that had this name before are dead.
    for pin in pins.links()? {
        if pin.interface == *interface && pin.ifindex != ifindex {
            unpin(&pin.path)?;
        }
    }
    let done = attach(programs, pins, interface, ifindex, mode)?;
    let (mode, reason) = (done.mode.label(), done.reason.as_str());
    tracing::info!(interface, ifindex, mode, reason, "attached");
    Ok(done)
}

/// Detaches whatever else is attached, and writes down what is.
fn settle(maps: &mut Maps, pins: &PinDirectory, attached: &[Attached]) -> Result<(), BpfError> {
    for pin in pins.links()? {
        if !attached
            .iter()
            .any(|done| done.ifindex == pin.ifindex && done.interface == pin.interface)
        {
            tracing::info!(
                interface = pin.interface,
                kind = pin.kind.suffix(),
                "link removed: the interface is gone or no longer asked for"
            );
            unpin(&pin.path)?;
        }
    }
    record(maps, attached)
}

fn attach(
    programs: &mut Programs,
    pins: &PinDirectory,
    interface: &str,
    ifindex: u32,
    mode: AttachMode,
) -> Result<Attached, BpfError> {
    let tc = attach_tc(programs, pins, interface, ifindex)?;
    let done = |mode, reason: String| Attached {
        interface: interface.to_owned(),
        ifindex,
        mode,
        reason,
    };
    let outcome = match mode {
        AttachMode::Xdp => {
            attach_xdp(programs, pins, interface, ifindex, LinkKind::Xdp)?;
            done(Mode::Xdp, "asked for".into())
        }
        AttachMode::Generic => {
            attach_xdp(programs, pins, interface, ifindex, LinkKind::Generic)?;
            done(Mode::Generic, "asked for".into())
        }
        AttachMode::Tcx => done(tc, "asked for".into()),
        AttachMode::Auto => match automatic(&driver_of(interface)) {
            Err(reason) => done(tc, reason),
            Ok(reason) => match attach_xdp(programs, pins, interface, ifindex, LinkKind::Xdp) {
                Ok(()) => done(Mode::Xdp, reason),
                Err(BpfError::Occupied(_)) => done(tc, "automatic: the interface carries another XDP program".into()),
                Err(error) => done(
                    tc,
                    format!(
                        "automatic: native XDP refused: {}",
                        kubelb_runtime::error_chain::chain(&error)
                    ),
                ),
            },
        },
    };
    let keep = match outcome.mode {
        Mode::Xdp => Some(LinkKind::Xdp),
        Mode::Generic => Some(LinkKind::Generic),
        Mode::Tcx | Mode::Clsact => None,
    };
    for kind in [LinkKind::Xdp, LinkKind::Generic] {
        let pin = pins.link(interface, ifindex, kind);
        if Some(kind) != keep && pin.exists() {
            unpin(&pin)?;
        }
    }
    Ok(outcome)
}

/// True for interfaces on which XDP_TX reaches nobody: veth wakes a receiver that has no XDP program of its own for
/// redirected frames only.
#[must_use]
pub fn wants_hairpin_by_redirect(interface: &str) -> bool {
    driver_of(interface).is_ok_and(|driver| driver == VETH)
}

const VETH: &str = "veth";

/// Whether native XDP is the better choice for a driver, and why.
fn automatic(driver: &io::Result<String>) -> Result<String, String> {
    match driver {
        Ok(driver) if driver == VETH => {
            Err("automatic: on veth the peer's offloads cannot be seen, and tcx keeps large segments whole".into())
        }
        Ok(driver) => Ok(format!("automatic: driver {driver} has native XDP")),
        Err(_) => Ok("automatic: driver unknown, native XDP accepted".into()),
    }
}

fn attach_xdp(
    programs: &mut Programs,
    pins: &PinDirectory,
    interface: &str,
    ifindex: u32,
    kind: LinkKind,
) -> Result<(), BpfError> {
    let path = pins.link(interface, ifindex, kind);
    let (mode, label) = match kind {
        LinkKind::Generic => (XdpMode::Skb, "generic"),
        LinkKind::Xdp | LinkKind::Tcx => (XdpMode::Driver, "xdp"),
    };
    let failed = |source| BpfError::Attach {
        interface: interface.to_owned(),
        mode: label,
        source: Box::new(source),
    };
    // The other kind of XDP link has to go first: an interface has one XDP program.
    for other in [LinkKind::Xdp, LinkKind::Generic] {
        let pin = pins.link(interface, ifindex, other);
        if other != kind && pin.exists() {
            unpin(&pin)?;
        }
    }
    let program = programs.xdp()?;
    if path.exists() {
        if let Some(link) = pinned(&path)
            && let Ok(link) = XdpLink::try_from(link)
            && let Ok(id) = program.attach_to_link(link)
        {
            // The pin keeps the link; what is dropped here is one reference to it.
            drop(program.take_link(id).map_err(failed)?);
            return Ok(());
        }
        unpin(&path)?;
    }
    let id = match program.attach_to_if_index(ifindex, mode) {
        Ok(id) => id,
        Err(error) if is_busy(&error) => return Err(BpfError::Occupied(interface.to_owned())),
        Err(error) => return Err(failed(error)),
    };
    let link: FdLink = program.take_link(id).map_err(failed)?.try_into().map_err(|error| {
        failed(ProgramError::IOError(io::Error::other(format!(
            "the kernel has no XDP links (Linux 5.9 or newer is needed): {error}"
        ))))
    })?;
    pin(link, &path)
}

fn attach_tc(programs: &mut Programs, pins: &PinDirectory, interface: &str, ifindex: u32) -> Result<Mode, BpfError> {
    let failed = |mode| {
        move |source| BpfError::Attach {
            interface: interface.to_owned(),
            mode,
            source: Box::new(source),
        }
    };
    let program = programs.tc()?;
    let has_tcx = KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(TCX.0, TCX.1, TCX.2));
    if !has_tcx {
        clsact::attach(program, interface).map_err(failed("clsact"))?;
        return Ok(Mode::Clsact);
    }
    let path = pins.link(interface, ifindex, LinkKind::Tcx);
    if path.exists() {
        if let Some(link) = pinned(&path)
            && let Ok(link) = SchedClassifierLink::try_from(link)
            && let Ok(id) = program.attach_to_link(link)
        {
            drop(program.take_link(id).map_err(failed("tcx"))?);
            return Ok(Mode::Tcx);
        }
        unpin(&path)?;
    }
    // First, so that programs of others that drop or account see what we leave.
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program
        .attach_with_options(interface, TcAttachType::Ingress, options)
        .map_err(failed("tcx"))?;
    let link: FdLink = program
        .take_link(id)
        .map_err(failed("tcx"))?
        .try_into()
        .map_err(|error| failed("tcx")(ProgramError::IOError(io::Error::other(error))))?;
    pin(link, &path)?;
    Ok(Mode::Tcx)
}

/// The interface's name in its row.
#[must_use]
pub fn name_in(row: &Attachment) -> String {
    let end = row.interface.iter().position(|byte| *byte == 0);
    let name = row.interface.get(..end.unwrap_or(row.interface.len()));
    String::from_utf8_lossy(name.unwrap_or_default()).into_owned()
}

/// One more reference to a pinned link; the pin stays, so that there is no moment without one.
fn pinned(path: &Path) -> Option<FdLink> {
    PinnedLink::from_pin(path).ok().map(Into::into)
}

fn pin(link: FdLink, path: &Path) -> Result<(), BpfError> {
    link.pin(path).map(drop).map_err(|error| BpfError::Pin {
        path: path.to_owned(),
        source: io::Error::other(error),
    })
}

fn unpin(path: &Path) -> Result<(), BpfError> {
    link::end(path).map_err(|source| BpfError::Pin {
        path: path.to_owned(),
        source,
    })
}

fn is_busy(error: &ProgramError) -> bool {
    let ProgramError::SyscallError(error) = error else {
        return false;
    };
    error.io_error.raw_os_error() == Some(libc::EBUSY) || error.io_error.raw_os_error() == Some(libc::EEXIST)
}

/// Interface index by name.
///
/// # Errors
/// When there is no such interface.
pub fn index_of(interface: &str) -> Result<u32, BpfError> {
    nix::net::if_::if_nametoindex(interface).map_err(|errno| BpfError::NoInterface {
        interface: interface.to_owned(),
        source: errno.into(),
    })
}

/// Writes down how the interfaces are attached, for `status` and for the data path.
fn record(maps: &mut Maps, attached: &[Attached]) -> Result<(), BpfError> {
    let failed = |name| {
        move |source| BpfError::Update {
            name,
            source: Box::new(source),
        }
    };
    for stale in maps.attachments.keys().filter_map(Result::ok).collect::<Vec<u32>>() {
        if !attached.iter().any(|done| done.ifindex == stale) {
            if let Ok(row) = maps.attachments.get(&stale, 0)
                && Mode::of(row.mode) == Some(Mode::Clsact)
            {
                clsact::remove(&name_in(&row), stale)?;
            }
            maps.attachments
                .remove(&stale)
                .map_err(failed(kubelb_common::maps::ATTACHMENTS))?;
        }
    }
    for done in attached {
        let mut row = Attachment {
            mode: done.mode.code(),
            reason_length: 0,
            interface: [0; 16],
            reason: [0; 232],
        };
        for (to, from) in row.interface.iter_mut().zip(done.interface.bytes()) {
            *to = from;
        }
        for (to, from) in row.reason.iter_mut().zip(done.reason.bytes()) {
            *to = from;
            row.reason_length += 1;
        }
        maps.attachments
            .insert(done.ifindex, row, 0)
            .map_err(failed(kubelb_common::maps::ATTACHMENTS))?;
    }
    let redirectable = |ifindex: u32| {
        attached
            .iter()
            .any(|done| done.ifindex == ifindex && matches!(done.mode, Mode::Xdp | Mode::Generic))
    };
    for stale in maps.xdp_interfaces.keys().filter_map(Result::ok).collect::<Vec<u32>>() {
        if !redirectable(stale) {
            maps.xdp_interfaces
                .remove(&stale)
                .map_err(failed(kubelb_common::maps::XDP_INTERFACES))?;
        }
    }
    for done in attached.iter().filter(|done| redirectable(done.ifindex)) {
        maps.xdp_interfaces
            .insert(done.ifindex, 1, 0)
            .map_err(failed(kubelb_common::maps::XDP_INTERFACES))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn automatic_prefers_native_xdp_but_not_on_veth() {
        assert!(automatic(&Ok("mlx5_core".into())).is_ok());
        assert!(automatic(&Ok("veth".into())).is_err());
        assert!(automatic(&Err(io::Error::other("no ioctl"))).is_ok());
    }
}
