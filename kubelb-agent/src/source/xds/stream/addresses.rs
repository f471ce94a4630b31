//! In which order the addresses of a manager's name are tried: those that have not failed lately first, else by chance, so that agents spread.
//!
//! Pure but for chance. Must not know: how one connects.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

/// Addresses of one name that are tried.
const TRIED: usize = 16;
/// What failed is tried last for so long.
const REMEMBERED: Duration = Duration::from_secs(60);

/// What is known of the addresses of one name.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    failed: BTreeMap<SocketAddr, Instant>,
    /// The one of the last connection.
    chosen: Option<SocketAddr>,
    /// Others that there were, and how many of them have been gone on to since the name was last left.
    others: usize,
    visited: usize,
}

impl Addresses {
    /// The order for these.
    pub(super) fn order(&mut self, mut found: Vec<SocketAddr>) -> Vec<SocketAddr> {
        found.sort();
        found.dedup();
        fastrand::shuffle(&mut found);
        self.failed.retain(|address, _| found.contains(address));
        found.sort_by_key(|address| self.failed.get(address).copied());
        found.truncate(TRIED);
        self.others = found.len().saturating_sub(1);
        self.chosen = None;
        found
    }

    /// There is a connection.
    pub(super) fn chose(&mut self, address: SocketAddr) {
        self.chosen = Some(address);
    }

    /// There is none.
    pub(super) fn failed(&mut self, address: SocketAddr, now: Instant) {
        self.failed.insert(address, now);
    }

    /// The connection has ended. Whether the same name has another address that is worth a try at once.
    pub(super) fn ended(&mut self, now: Instant) -> bool {
        self.failed.retain(|_, failed| now.duration_since(*failed) < REMEMBERED);
        let Some(chosen) = self.chosen.take() else {
            return false;
        };
        self.failed.insert(chosen, now);
        let stays = self.visited < self.others;
        self.visited = if stays { self.visited + 1 } else { 0 };
        stays
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn three() -> Vec<SocketAddr> {
        (1..=3).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_failed_comes_last_and_the_latest_at_the_end() {
        let mut addresses = Addresses::default();
        let now = Instant::now();
        let all = three();
        addresses.order(all.clone());
        addresses.failed(all[1], now);
        addresses.chose(all[0]);
        assert!(addresses.ended(now + Duration::from_secs(1)), "there are others");
        for _ in 0..20 {
            assert_eq!(addresses.order(all.clone()), [all[2], all[1], all[0]]);
        }
        assert!(!addresses.ended(now + REMEMBERED), "none was connected");
        let first: BTreeSet<SocketAddr> = (0..200).map(|_| addresses.order(all.clone())[0]).collect();
        assert_eq!(first, [all[1], all[2]].into(), "the older failure is forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn agents_spread_and_a_name_of_one_address_is_left() {
        let mut addresses = Addresses::default();
        let all = three();
        let first: BTreeSet<SocketAddr> = (0..200).map(|_| addresses.order(all.clone())[0]).collect();
        assert_eq!(first.len(), 3);
        addresses.order(vec![all[0], all[0]]);
        addresses.chose(all[0]);
        assert!(!addresses.ended(Instant::now()));
        // One whose managers all end the stream is left, too.
        let stays = [(); 4].map(|()| {
            let first = addresses.order(all.clone())[0];
            addresses.chose(first);
            addresses.ended(Instant::now())
        });
        assert_eq!(stays, [true, true, false, true]);
    }
}
