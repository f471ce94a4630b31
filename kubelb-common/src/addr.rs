//! Addresses as map rows hold them: 16 bytes of the wire, IPv4 in its IPv4-mapped form (RFC 4291 §2.5.5.2).

/// An IPv4 or IPv6 address: the bytes in the order of the wire, held as two native words.
///
/// Words and not bytes, because the data path's compiler takes an array of bytes apart into sixteen values, and then
/// writes them one by one where it is to be read as words.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Addr {
    high: u64,
    low: u64,
}

const _: () = assert!(size_of::<Addr>() == 16 && align_of::<Addr>() == 8);

/// First eight bytes of an IPv4-mapped address.
const V4_HIGH: u64 = 0;
/// The four after them.
const V4_PREFIX: [u8; 4] = [0, 0, 0xff, 0xff];

impl Addr {
    /// From the four bytes of an IPv4 header field.
    #[inline(always)]
    #[must_use]
    pub const fn v4(b: [u8; 4]) -> Self {
        let [p, q, r, s] = V4_PREFIX;
        Self {
            high: V4_HIGH,
            low: u64::from_ne_bytes([p, q, r, s, b[0], b[1], b[2], b[3]]),
        }
    }

    /// From the sixteen bytes of an IPv6 header field.
    #[inline(always)]
    #[must_use]
    pub const fn v6(b: [u8; 16]) -> Self {
        Self {
            high: u64::from_ne_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]),
            low: u64::from_ne_bytes([b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]]),
        }
    }

    /// From two words as [`Addr::words`] gives them.
    #[inline(always)]
    #[must_use]
    pub const fn from_words(high: u64, low: u64) -> Self {
        Self { high, low }
    }

    /// The bytes, in the order of the wire, as two native words: the first eight and the last eight.
    #[inline(always)]
    #[must_use]
    pub const fn words(self) -> (u64, u64) {
        (self.high, self.low)
    }

    /// True for an IPv4 address.
    #[inline(always)]
    #[must_use]
    pub const fn is_v4(self) -> bool {
        let [p, q, r, s, ..] = self.low.to_ne_bytes();
        self.high == V4_HIGH && u32::from_ne_bytes([p, q, r, s]) == u32::from_ne_bytes(V4_PREFIX)
    }

    /// The bytes, in the order of the wire.
    #[inline(always)]
    #[must_use]
    pub const fn bytes(self) -> [u8; 16] {
        let (h, l) = (self.high.to_ne_bytes(), self.low.to_ne_bytes());
        [
            h[0], h[1], h[2], h[3], h[4], h[5], h[6], h[7], l[0], l[1], l[2], l[3], l[4], l[5], l[6], l[7],
        ]
    }

    /// The last four bytes: the whole address where it is IPv4.
    #[inline(always)]
    #[must_use]
    pub const fn v4_bytes(self) -> [u8; 4] {
        let [.., a, b, c, d] = self.low.to_ne_bytes();
        [a, b, c, d]
    }
}

/// In the order of the wire's bytes, on every host.
impl Ord for Addr {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        self.bytes().cmp(&other.bytes())
    }
}

impl PartialOrd for Addr {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
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
    fn are_in_the_order_of_their_bytes() {
        let addr = |text: &str| Addr::from(text.parse::<IpAddr>().unwrap());
        assert!(addr("1.0.0.2") < addr("2.0.0.1"));
        assert!(addr("2001:db8::2") < addr("2001:db9::1"));
        assert_eq!(addr("192.0.2.1").bytes(), addr("::ffff:192.0.2.1").bytes());
    }

    #[test]
    fn round_trips_and_tells_families_apart() {
        for text in ["203.0.113.10", "0.0.0.0", "2001:db8::10", "::", "::1"] {
            let ip: IpAddr = text.parse().unwrap();
            let addr = Addr::from(ip);
            assert_eq!(IpAddr::from(addr), ip);
            assert_eq!(addr.is_v4(), ip.is_ipv4(), "{text}");
            let (high, low) = addr.words();
            assert_eq!(Addr::from_words(high, low), addr);
            assert_eq!(Addr::v6(addr.bytes()), addr);
        }
    }
}
