//! Which rows user space may pass to the kernel as plain bytes.

use aya::Pod;

use crate::announce::AnnounceKey;
use crate::frontend::FrontendKey;
use crate::maps::Attachment;
use crate::stats::{Drops, Scratch, Traffic};

// SAFETY: repr(C), without padding (sizes are asserted), valid for any bytes, without references.
unsafe impl Pod for FrontendKey {}
// SAFETY: as above.
unsafe impl Pod for AnnounceKey {}
// SAFETY: as above.
unsafe impl Pod for Attachment {}
// SAFETY: as above.
unsafe impl Pod for Traffic {}
// SAFETY: as above.
unsafe impl Pod for Drops {}
// SAFETY: as above.
unsafe impl Pod for Scratch {}
// SAFETY: as above.
unsafe impl Pod for crate::bench::Plan {}
