//! Frames for tests that need many: built plainly, checksums over everything.

use kubelb_common::addr::{Addr, TCP, UDP};

/// One TCP or UDP packet.
#[derive(Clone, Debug)]
pub(super) struct Mk {
    pub(super) source: (Addr, u16),
    pub(super) destination: (Addr, u16),
    pub(super) protocol: u8,
    pub(super) flags: u8,
    pub(super) sequence: u32,
    pub(super) acknowledgement: u32,
    pub(super) ttl: u8,
    pub(super) vlan: bool,
    pub(super) options: usize,
    pub(super) payload: Vec<u8>,
}

impl Mk {
    pub(super) fn new(protocol: u8, source: (Addr, u16), destination: (Addr, u16)) -> Self {
        Self {
            source,
            destination,
            protocol,
            flags: 0x02,
            sequence: 1,
            acknowledgement: 2,
            ttl: 64,
            vlan: false,
            options: 0,
            payload: Vec::new(),
        }
    }

    pub(super) fn frame(&self) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
        if self.vlan {
            frame.extend([0x81, 0, 0, 42]);
        }
        let segment = self.segment();
        let length = u16::try_from(segment.len()).unwrap();
        if self.source.0.is_v4() {
            frame.extend([0x08, 0x00]);
            let words = u8::try_from(5 + self.options).unwrap();
            let mut header = vec![0x40 | words, 0];
            header.extend((u16::from(words) * 4 + length).to_be_bytes());
            header.extend([0x12, 0x34, 0x40, 0, self.ttl, self.protocol, 0, 0]);
            header.extend(self.source.0.v4_bytes());
            header.extend(self.destination.0.v4_bytes());
            // No-operation options (RFC 791).
            header.extend(std::iter::repeat_n(1, self.options * 4));
            let sum = checksum(&header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            frame.extend(header);
        } else {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(length.to_be_bytes());
            frame.extend([self.protocol, self.ttl]);
            frame.extend(self.source.0.bytes());
            frame.extend(self.destination.0.bytes());
        }
        frame.extend(segment);
        frame
    }

    fn segment(&self) -> Vec<u8> {
        let mut segment = Vec::new();
        segment.extend(self.source.1.to_be_bytes());
        segment.extend(self.destination.1.to_be_bytes());
        let at = if self.protocol == TCP {
            segment.extend(self.sequence.to_be_bytes());
            segment.extend(self.acknowledgement.to_be_bytes());
            segment.extend([0x50, self.flags, 1, 0, 0, 0, 0, 0]);
            16
        } else {
            segment.extend(u16::try_from(8 + self.payload.len()).unwrap().to_be_bytes());
            segment.extend([0, 0]);
            6
        };
        segment.extend(&self.payload);
        let mut all = Vec::new();
        if self.source.0.is_v4() {
            all.extend(self.source.0.v4_bytes());
            all.extend(self.destination.0.v4_bytes());
        } else {
            all.extend(self.source.0.bytes());
            all.extend(self.destination.0.bytes());
        }
        all.extend(u32::try_from(segment.len()).unwrap().to_be_bytes());
        all.extend([0, 0, 0, self.protocol]);
        all.extend(&segment);
        let sum = match checksum(&all) {
            0 if self.protocol == UDP => 0xffff,
            sum => sum,
        };
        segment[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        segment
    }
}

/// RFC 1071, over bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !u16::try_from(sum).unwrap()
}
