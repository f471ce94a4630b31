//! [`FlowTables`] over plain memory: the mapped rows in the agent's sweeper, vectors in tests.

use super::{FlowTables, Layout};
use crate::flow::Bucket;
use crate::frontend::Frontend;
use crate::port_pool::PortPool;
use crate::shared::{Line, SharedU32};
use crate::snat::SnatAddress;
use crate::source::SourceRange;

/// The rows that the flow table is made of.
#[derive(Clone, Copy)]
pub struct Slices<'a> {
    /// Sizes of the flow table; `buckets` holds [`Layout::buckets`].
    pub layout: Layout,
    /// Flow records.
    pub buckets: &'a [Bucket],
    /// Reverse index.
    pub reverse: &'a [Line],
    /// Free SNAT ports.
    pub pools: &'a [PortPool],
    /// Frontend rows.
    pub frontends: &'a [Frontend],
    /// SNAT address rows.
    pub snat: &'a [SnatAddress],
    /// Source ranges.
    pub source_ranges: &'a [SourceRange],
}

/// Row `index`, if there is one.
fn row<T>(rows: &[T], index: u32) -> Option<&T> {
    rows.get(usize::try_from(index).ok()?)
}

impl FlowTables for Slices<'_> {
    fn layout(&self) -> Layout {
        self.layout
    }
    fn bucket(&self, index: u32) -> Option<&Bucket> {
        row(self.buckets, index)
    }
    fn reverse(&self, index: u32) -> Option<&SharedU32> {
        row(self.reverse, Line::of(index)).map(|line| line.word(index))
    }
    fn pool(&self, index: u32) -> Option<&PortPool> {
        row(self.pools, index)
    }
    fn frontend(&self, index: u32) -> Option<&Frontend> {
        row(self.frontends, index)
    }
    fn snat(&self, slot: u32) -> Option<&SnatAddress> {
        row(self.snat, slot)
    }
    fn source_range(&self, index: u32) -> Option<&SourceRange> {
        row(self.source_ranges, index)
    }
}
