//! Ends pinned links for certain.
//!
//! Removing the last pin of a link ends it too, but some time later: the kernel puts the work off. Whoever attaches
//! another program right away would find the interface taken, and `detach` would return before it is true.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// `BPF_OBJ_GET` and `BPF_LINK_DETACH` of linux/bpf.h.
const OBJ_GET: libc::c_int = 7;
const LINK_DETACH: libc::c_int = 34;

/// The part of `union bpf_attr` that the two commands read, and zeros behind it.
#[repr(C, align(8))]
struct Attributes {
    bytes: [u8; 32],
}

impl Attributes {
    /// With this as the first field, of whatever width.
    fn of(first: &[u8]) -> Self {
        let mut bytes = [0; 32];
        bytes.iter_mut().zip(first).for_each(|(to, from)| *to = *from);
        Self { bytes }
    }
}

fn bpf(command: libc::c_int, attributes: &Attributes) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads `size` bytes from a live value and writes none for these commands.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attributes, size_of::<Attributes>()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let address = u64::try_from(path.as_ptr().addr()).map_err(io::Error::other)?;
    let fd = bpf(OBJ_GET, &Attributes::of(&address.to_ne_bytes()))?;
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn detach(link: &OwnedFd) -> io::Result<()> {
    let fd = u32::try_from(link.as_raw_fd()).map_err(io::Error::other)?;
    bpf(LINK_DETACH, &Attributes::of(&fd.to_ne_bytes())).map(drop)
}

/// Detaches what a pinned link attaches and removes its pin; afterwards the interface is free.
///
/// # Errors
/// When the pin cannot be removed. A link whose interface is gone, or that the kernel cannot detach by command, ends with
/// its pin.
pub(super) fn end(path: &Path) -> io::Result<()> {
    if let Err(error) = open(path).and_then(|link| detach(&link)) {
        tracing::debug!(path = %path.display(), %error, "link not detached by command; removing its pin ends it");
    }
    fs::remove_file(path)
}
