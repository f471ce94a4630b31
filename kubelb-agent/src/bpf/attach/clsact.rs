//! Filters at clsact ingress, for kernels without tcx: no link and no pin holds them, they stay until somebody removes them.

use std::io;
use std::path::Path;

use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcAttachType, TcError, TcHandle, qdisc_add_clsact,
    qdisc_detach_program,
};
use aya::programs::{ProgramError, SchedClassifier};

use super::super::BpfError;
use super::super::maps::Maps;
use super::{Mode, index_of, name_in};

/// Priority and handle of our filter where clsact is used: fixed, so that a new agent replaces the old one's.
const CLSACT_PRIORITY: u16 = 0x6b62;

/// Replaces the filter of an agent before us, or makes the first one.
pub(super) fn attach(program: &mut SchedClassifier, interface: &str) -> Result<(), ProgramError> {
    if let Err(error) = qdisc_add_clsact(interface) {
        tracing::debug!(interface, %error, "clsact qdisc not added; it may be there already");
    }
    let handle = TcHandle::from(1);
    let present = SchedClassifierLink::attached(interface, TcAttachType::Ingress, CLSACT_PRIORITY, handle, None)
        .map_err(ProgramError::IOError)?;
    let id = program.attach_to_link(present).or_else(|error| {
        tracing::debug!(interface, %error, "no filter of ours to replace");
        let options = TcAttachOptions::Netlink(NlOptions {
            priority: CLSACT_PRIORITY,
            handle,
            classid: None,
        });
        program.attach_with_options(interface, TcAttachType::Ingress, options)
    })?;
    // A netlink filter stays until somebody removes it; forgetting ours keeps aya from doing so.
    std::mem::forget(program.take_link(id)?);
    Ok(())
}

/// What became of the filters of interfaces that are attached by clsact.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    /// Names of the interfaces from which they were removed.
    pub removed: Vec<String>,
    /// Names of interfaces that this network namespace does not have: gone with their filters, or elsewhere.
    pub elsewhere: Vec<String>,
}

/// Removes the filters of interfaces that are attached by clsact: no pin holds those.
///
/// # Errors
/// When a filter is there and cannot be removed.
pub fn detach_filters(bpffs: &Path) -> Result<Filters, BpfError> {
    let mut filters = Filters::default();
    let attachments = match super::super::pins::existing_maps(bpffs) {
        Ok(maps) => Maps::open_attachments(&maps)?,
        Err(BpfError::NothingPinned { .. }) => return Ok(filters),
        Err(error) => return Err(error),
    };
    for (ifindex, row) in attachments.iter().filter_map(Result::ok) {
        let name = name_in(&row);
        if Mode::of(row.mode) != Some(Mode::Clsact) {
            continue;
        }
        if index_of(&name).ok() != Some(ifindex) {
            filters.elsewhere.push(name);
        } else if remove(&name, ifindex)? {
            filters.removed.push(name);
        }
    }
    Ok(filters)
}

/// False when there is nothing to remove.
pub(super) fn remove(interface: &str, ifindex: u32) -> Result<bool, BpfError> {
    if index_of(interface).ok() != Some(ifindex) {
        return Ok(false);
    }
    match qdisc_detach_program(interface, TcAttachType::Ingress, super::super::load::program::TC) {
        Ok(()) => Ok(true),
        Err(TcError::IoError(error)) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(BpfError::Detach {
            interface: interface.to_owned(),
            source: Box::new(error),
        }),
    }
}
