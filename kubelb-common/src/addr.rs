//! Addresses as map rows hold them: 16 bytes of the wire, IPv4 in its IPv4-mapped form (RFC 4291 §2.5.5.2).

/// An IPv4 or IPv6 address. Aligned to 8 bytes so that two loads compare it.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Addr([u8; 16]);

const _: () = assert!(size_of::<Addr>() == 16 && align_of::<Addr>() == 8);

const V4_PREFIX: u64 = u64::from_ne_bytes([0, 0, 0, 0, 0, 0, 0, 0]);

impl Addr {
    /// From the four bytes of an IPv4 header field.
    #[inline(always)]
    #[must_use]
    pub const fn v4(b: [u8; 4]) -> Self {
        Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, b[0], b[1], b[2], b[3]])
    }

    /// From the sixteen bytes of an IPv6 header field.
    #[inline(always)]
    #[must_use]
    pub const fn v6(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// From two words as [`Addr::words`] gives them.
    #[inline(always)]
    #[must_use]
    pub const fn from_words(high: u64, low: u64) -> Self {
        let (h, l) = (high.to_ne_bytes(), low.to_ne_bytes());
        Self([
            h[0], h[1], h[2], h[3], h[4], h[5], h[6], h[7], l[0], l[1], l[2], l[3], l[4], l[5], l[6], l[7],
        ])
    }

    /// The bytes, in the order of the wire, as two native words: the first eight and the last eight.
    #[inline(always)]
    #[must_use]
    pub const fn words(self) -> (u64, u64) {
        let b = self.0;
        (
            u64::from_ne_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]),
            u64::from_ne_bytes([b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]]),
        )
    }

    /// True for an IPv4 address.
    #[inline(always)]
    #[must_use]
    pub const fn is_v4(self) -> bool {
        let b = self.0;
        self.words().0 == V4_PREFIX && b[8] == 0 && b[9] == 0 && b[10] == 0xff && b[11] == 0xff
    }

    /// The bytes, in the order of the wire.
    #[inline(always)]
    #[must_use]
    pub const fn bytes(self) -> [u8; 16] {
        self.0
    }

    /// The last four bytes: the whole address where it is IPv4.
    #[inline(always)]
    #[must_use]
    pub const fn v4_bytes(self) -> [u8; 4] {
        [self.0[12], self.0[13], self.0[14], self.0[15]]
    }
}

impl From<core::net::IpAddr> for Addr {
    fn from(ip: core::net::IpAddr) -> Self {
        match ip {
            core::net::IpAddr::V4(v4) => Self::v4(v4.octets()),
            core::net::IpAddr::V6(v6) => Self::v6(v6.octets()),
        }
    }
}

impl From<Addr> for core::net::IpAddr {
    fn from(addr: Addr) -> Self {
        if addr.is_v4() {
            Self::V4(addr.v4_bytes().into())
        } else {
            Self::V6(addr.bytes().into())
        }
    }
}

/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;
/// IP protocol number of ICMP.
pub const ICMP: u8 = 1;
/// Next-header value of ICMPv6.
pub const ICMPV6: u8 = 58;

#[cfg(test)]
mod tests {
    use super::Addr;
    use core::net::IpAddr;

    #[test]
    fn round_trips_and_tells_families_apart() {
        for text in ["203.0.113.10", "0.0.0.0", "2001:db8::10", "::", "::1"] {
            let ip: IpAddr = text.parse().unwrap();
            let addr = Addr::from(ip);
            assert_eq!(IpAddr::from(addr), ip);
            assert_eq!(addr.is_v4(), ip.is_ipv4(), "{text}");
            let (high, low) = addr.words();
            assert_eq!(Addr::from_words(high, low), addr);
        }
    }
}
