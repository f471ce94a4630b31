//! BPF arrays as slices of this process: created with BPF_F_MMAPABLE, so that reading and writing them costs no system
//! call, and an aligned store is seen whole by the data path.

use std::io;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::os::fd::AsFd;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// A mapped array of rows.
pub struct Mapped<T: Row> {
    start: NonNull<T>,
    rows: usize,
    length: NonZeroUsize,
}

/// A type that may be a row of a mapped array.
///
/// # Safety
/// Any bytes must be a valid value, and every change by others (the data path, another process) must go through cells
/// that allow it, such as [`kubelb_common::shared`]'s words. The size must be a multiple of eight.
pub unsafe trait Row: Sync {}

macro_rules! rows {
    ($($row:ty),* $(,)?) => {
        $(
            const _: () = assert!(size_of::<$row>() % 8 == 0);
            // SAFETY: made of shared words, or written by user space alone.
            unsafe impl Row for $row {}
        )*
    };
}

rows!(
    kubelb_common::announce::AnnounceRow,
    kubelb_common::control::Control,
    kubelb_common::control::Filter,
    kubelb_common::frontend::Frontend,
    kubelb_common::maps::Name,
    kubelb_common::maps::Note,
    kubelb_common::shared::Line,
    kubelb_common::backend::Backend,
    kubelb_common::next_hop::NextHop,
    kubelb_common::snat::SnatAddress,
    kubelb_common::source::SourceRange,
    kubelb_common::port_pool::PortPool,
    kubelb_common::flow::Bucket,
);

impl<T: Row> Mapped<T> {
    /// Maps `rows` rows of an array. Without `write`, storing through the rows kills the process: `status` only reads.
    ///
    /// # Errors
    /// When the kernel refuses, for example because the array was not made mappable.
    pub fn new(fd: impl AsFd, rows: u32, write: bool) -> io::Result<Self> {
        let rows = usize::try_from(rows).map_err(io::Error::other)?;
        let length = rows.checked_mul(size_of::<T>()).and_then(NonZeroUsize::new);
        let length = length.ok_or_else(|| io::Error::other("empty or too large"))?;
        let protection = if write {
            ProtFlags::PROT_READ | ProtFlags::PROT_WRITE
        } else {
            ProtFlags::PROT_READ
        };
        // SAFETY: a new shared mapping at an address of the kernel's choice; the file descriptor is open.
        let start = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, fd, 0) }?;
        Ok(Self {
            start: start.cast(),
            rows,
            length,
        })
    }
}

impl<T: Row> Deref for Mapped<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `start` is page-aligned and `rows` rows long for as long as `self` lives; `Row` allows any bytes and
        // changes by others.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.rows) }
    }
}

impl<T: Row> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: our own mapping, to which no reference outlives `self`.
        if let Err(error) = unsafe { munmap(self.start.cast(), self.length.get()) } {
            tracing::warn!(%error, "cannot unmap a map");
        }
    }
}

// SAFETY: the mapping belongs to no thread, and rows are `Sync`.
unsafe impl<T: Row> Send for Mapped<T> {}
// SAFETY: as above.
unsafe impl<T: Row> Sync for Mapped<T> {}
