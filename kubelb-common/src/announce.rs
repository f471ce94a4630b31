//! Addresses that this node announces on its links: who asks for one by ARP or neighbour discovery is answered by the data path, from these
//! rows, with or without an agent.
//!
//! A row is of one address on one interface. Its state is one word, so that the data path, which gives an address up when another machine
//! announces it, and the agent, which takes it over, cannot undo each other's changes unseen.

use crate::addr::Addr;
use crate::next_hop::MacWord;
use crate::shared::SharedU64;

/// Key of what the data path knows of an announced address.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AnnounceKey {
    address: Addr,
    /// One word, because the verifier wants every access to the stack aligned.
    what: u64,
}

const _: () = assert!(size_of::<AnnounceKey>() == 24);

const LOCAL_PORT: u64 = 1 << 32;
const GUARDED: u64 = 1 << 33;

/// What an [`AnnounceKey`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// The interface with this index: the value is the number of an [`AnnounceRow`].
    Interface(u32),
    /// Something on this node serves the port (raw) of the protocol: it is the stack's.
    LocalPort(u8, u16),
    /// Ports of the address that nobody serves are refused.
    Guarded,
}

impl AnnounceKey {
    /// An address, and what of it.
    #[inline(always)]
    #[must_use]
    pub const fn new(address: Addr, subject: Subject) -> Self {
        let what = match subject {
            Subject::Interface(index) => index as u64,
            Subject::LocalPort(protocol, port) => LOCAL_PORT | (protocol as u64) << 16 | port as u64,
            Subject::Guarded => GUARDED,
        };
        Self { address, what }
    }

    /// The address.
    #[must_use]
    pub const fn address(&self) -> Addr {
        self.address
    }

    /// What of it.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "fields of a packed word")]
    pub const fn subject(&self) -> Subject {
        if self.what & GUARDED != 0 {
            Subject::Guarded
        } else if self.what & LOCAL_PORT != 0 {
            Subject::LocalPort((self.what >> 16) as u8, self.what as u16)
        } else {
            Subject::Interface(self.what as u32)
        }
    }
}

/// Value of keys that have no row.
pub const NO_ROW: u32 = u32::MAX;
/// Row that belongs to no address; its count of answers is that of malformed questions about announced addresses.
pub const MALFORMED_ROW: u32 = 0;

/// Of [`AnnounceRow`]'s state: questions are answered. The epoch is in the bits above.
const ANSWERS: u64 = 1;
/// Epochs are below this.
pub const EPOCHS: u64 = 1 << 63;

/// An announced address on one interface, one cache line.
#[repr(C, align(64))]
#[derive(Default)]
pub struct AnnounceRow {
    /// [`ANSWERS`] | epoch << 1
    state: SharedU64,
    /// The interface's MAC address, which is told.
    mac: SharedU64,
    /// Questions that were answered.
    answered: SharedU64,
    /// Times that another machine announced the address, and so got it.
    conflicts: SharedU64,
    /// MAC address of the last one that did.
    rival: SharedU64,
    /// When answering began, or ended by the agent's hand, in seconds since 1970. Of no use to the data path.
    pub since: SharedU64,
    reserved: [u64; 2],
}

const _: () = assert!(size_of::<AnnounceRow>() == 64);

/// A row's contents, loaded one after the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AnnounceView {
    /// Under which the address was taken over.
    pub epoch: u64,
    /// Questions are answered.
    pub answers: bool,
    /// What is told.
    pub mac: [u8; 6],
    /// Questions that were answered.
    pub answered: u64,
    /// Times that another machine announced the address.
    pub conflicts: u64,
    /// MAC address of the last one that did; zero: none.
    pub rival: [u8; 6],
    /// When answering began, in seconds since 1970.
    pub since: u64,
}

impl AnnounceRow {
    /// The MAC address to tell, while questions are to be answered.
    #[inline(always)]
    #[must_use]
    pub fn answer(&self) -> Option<MacWord> {
        let mac = MacWord::from_word(self.mac.load());
        (self.state.load() & ANSWERS != 0).then_some(mac)
    }

    /// Counts an answer.
    #[inline(always)]
    pub fn count(&self) {
        self.answered.fetch_add(1);
    }

    /// Another machine, with this MAC address, announces the address: it is no longer answered for here. False when it was not anyway.
    #[inline(always)]
    pub fn give_way(&self, rival: MacWord) -> bool {
        let state = self.state.load();
        // An agent that has just taken it over under a higher epoch comes later than what was heard.
        if state & ANSWERS == 0 || !self.state.compare_exchange(state, state & !ANSWERS) {
            return false;
        }
        self.rival.store(rival.with_value(0).word());
        self.conflicts.fetch_add(1);
        true
    }

    /// The contents.
    #[must_use]
    pub fn view(&self) -> AnnounceView {
        let state = self.state.load();
        AnnounceView {
            epoch: state >> 1,
            answers: state & ANSWERS != 0,
            mac: MacWord::from_word(self.mac.load()).mac(),
            answered: self.answered.load(),
            conflicts: self.conflicts.load(),
            rival: MacWord::from_word(self.rival.load()).mac(),
            since: self.since.load(),
        }
    }

    /// Takes the address over: from here on it is answered for, with this MAC address.
    pub fn take_over(&self, epoch: u64, mac: [u8; 6], now: u64) {
        self.mac.store(MacWord::new(mac, 0).word());
        self.since.store(now);
        self.state.store(epoch << 1 | ANSWERS);
    }

    /// The interface has another MAC address, or the owner a higher epoch; who answers stays as it is.
    pub fn update(&self, epoch: u64, mac: [u8; 6]) {
        self.mac.store(MacWord::new(mac, 0).word());
        loop {
            let state = self.state.load();
            if self.state.compare_exchange(state, epoch << 1 | state & ANSWERS) {
                return;
            }
        }
    }

    /// Questions are not answered any more: the address is another machine's, by whoever decides.
    pub fn silence(&self) {
        self.state.fetch_and(!ANSWERS);
    }

    /// The row is nobody's: to be called when no key leads to it.
    pub fn vacate(&self) {
        self.state.store(0);
        for word in [&self.mac, &self.answered, &self.conflicts, &self.rival, &self.since] {
            word.store(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

    #[test]
    fn keys_say_what_they_are_about() {
        let address = Addr::v4([203, 0, 113, 10]);
        for subject in [
            Subject::Interface(7),
            Subject::Interface(u32::MAX),
            Subject::LocalPort(17, 443u16.to_be()),
            Subject::Guarded,
        ] {
            let key = AnnounceKey::new(address, subject);
            assert_eq!((key.address(), key.subject()), (address, subject));
        }
    }

    #[test]
    fn an_address_is_given_up_once_and_taken_over_again() {
        let row = AnnounceRow::default();
        let rival = MacWord::new([2, 9, 9, 9, 9, 9], 0);
        assert!(row.answer().is_none() && !row.give_way(rival));
        row.take_over(3, MAC, 100);
        assert_eq!(row.answer(), Some(MacWord::new(MAC, 0)));
        row.count();
        assert!(row.give_way(rival) && !row.give_way(rival));
        let view = row.view();
        assert_eq!((view.epoch, view.answers, view.conflicts), (3, false, 1));
        assert_eq!((view.rival, view.answered, view.since), (rival.mac(), 1, 100));
        row.update(4, MAC);
        assert!(!row.view().answers && row.view().epoch == 4);
        row.take_over(5, MAC, 200);
        assert!(row.view().answers && row.view().conflicts == 1);
        row.update(6, rival.mac());
        assert!(row.view().answers && row.view().mac == rival.mac());
        row.vacate();
        assert_eq!(row.view(), AnnounceView::default());
    }
}
