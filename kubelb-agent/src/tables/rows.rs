//! Which rows of a map are free. Knows numbers only.

/// How many rows the maps have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Frontends.
    pub frontends: u32,
    /// Backends.
    pub backends: u32,
    /// Backend slots.
    pub slots: u32,
    /// Next hops.
    pub hops: u32,
}

/// The rows of one map; row 0 is nobody's.
pub(super) struct Rows {
    taken: Vec<bool>,
    free: usize,
}

impl Rows {
    /// All of `count` rows but 0 and those in `taken`.
    pub(super) fn new(count: u32, taken: impl Iterator<Item = u32>) -> Self {
        let mut rows = Self {
            taken: vec![false; usize::try_from(count).unwrap_or(0)],
            free: 0,
        };
        for row in std::iter::once(0).chain(taken) {
            if let Some(taken) = rows.at(row) {
                *taken = true;
            }
        }
        rows.free = rows.taken.iter().filter(|taken| !**taken).count();
        rows
    }

    fn at(&mut self, row: u32) -> Option<&mut bool> {
        self.taken.get_mut(usize::try_from(row).ok()?)
    }

    /// Takes the first free row after `cursor`, and from the beginning when there is none, so that a row that was freed
    /// just now is given out last. `cursor` becomes that row.
    pub(super) fn take(&mut self, cursor: &mut u32) -> Option<u32> {
        if self.free == 0 {
            return None;
        }
        let start = usize::try_from(*cursor).ok()?.saturating_add(1).min(self.taken.len());
        let (before, after) = self.taken.split_at(start);
        let found = match after.iter().position(|taken| !taken) {
            Some(found) => start + found,
            None => before.iter().position(|taken| !taken)?,
        };
        *self.taken.get_mut(found)? = true;
        self.free -= 1;
        *cursor = u32::try_from(found).ok()?;
        Some(*cursor)
    }

    /// Gives back a row that [`Rows::take`] gave.
    pub(super) fn release(&mut self, row: u32) {
        if let Some(taken) = self.at(row)
            && std::mem::replace(taken, false)
        {
            self.free += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Rows;

    #[test]
    fn rows_are_given_out_in_turn_and_never_twice() {
        let mut rows = Rows::new(6, [2].into_iter());
        let mut cursor = 0;
        let mut take = |rows: &mut Rows| rows.take(&mut cursor);
        assert_eq!(take(&mut rows), Some(1));
        assert_eq!(take(&mut rows), Some(3));
        rows.release(1);
        assert_eq!(
            [take(&mut rows), take(&mut rows), take(&mut rows), take(&mut rows)],
            [Some(4), Some(5), Some(1), None],
            "the one given back comes last"
        );
    }

    #[test]
    fn a_cursor_beyond_the_end_starts_over() {
        let mut rows = Rows::new(3, std::iter::empty());
        let mut cursor = 99;
        assert_eq!(rows.take(&mut cursor), Some(1));
        assert_eq!(cursor, 1);
    }
}
