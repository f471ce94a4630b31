//! Names of L4 resources. Owns their form; an object's namespace is its tenant's, so names of two tenants never meet.
//!
//! A listener is called `<namespace>/<object>/<address>/<port>-<protocol>`. A cluster and its ClusterLoadAssignment are called
//! `<namespace>/<object>/<port>-<protocol>/<family>`: after the backends, not after the addresses that lead there.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::str::FromStr;

/// Transport protocol of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
}

/// Address family of a cluster's endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Name of an L4 listener.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerName {
    /// Namespace of the LoadBalancer; no `/`.
    pub namespace: String,
    /// Name of the LoadBalancer; no `/`.
    pub object: String,
    /// The VIP.
    pub address: IpAddr,
    /// The port that clients dial.
    pub port: NonZeroU16,
    /// The protocol that clients speak.
    pub protocol: Protocol,
}

/// Name of an L4 cluster and of its ClusterLoadAssignment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterName {
    /// Namespace of the LoadBalancer; no `/`.
    pub namespace: String,
    /// Name of the LoadBalancer; no `/`.
    pub object: String,
    /// The port that clients dial.
    pub port: NonZeroU16,
    /// The protocol that clients speak.
    pub protocol: Protocol,
    /// Family of all its endpoints.
    pub family: Family,
}

/// A name that has not the form of an L4 resource's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Too few or too many parts, or an empty one.
    #[error("not of the form {0}")]
    Form(&'static str),
    /// The address is none.
    #[error("{0:?} is not an IP address")]
    Address(String),
    /// The part with the port is not `<port>-<protocol>`.
    #[error("{0:?} is not a port from 1 to 65535 with `-tcp` or `-udp`")]
    Port(String),
    /// The family is unknown.
    #[error("{0:?} is neither `v4` nor `v6`")]
    Family(String),
}

impl Protocol {
    /// As in names.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl Family {
    /// As in names.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "v4",
            Self::V6 => "v6",
        }
    }

    /// Family of `address`.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

impl fmt::Display for ListenerName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            namespace,
            object,
            address,
            port,
            protocol,
        } = self;
        write!(formatter, "{namespace}/{object}/{address}/{port}-{}", protocol.as_str())
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            namespace,
            object,
            port,
            protocol,
            family,
        } = self;
        write!(
            formatter,
            "{namespace}/{object}/{port}-{}/{}",
            protocol.as_str(),
            family.as_str()
        )
    }
}

impl FromStr for ListenerName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let [namespace, object, address, port] = parts(text, "<namespace>/<object>/<address>/<port>-<protocol>")?;
        let (port, protocol) = port_and_protocol(port)?;
        Ok(Self {
            namespace: namespace.to_owned(),
            object: object.to_owned(),
            address: address
                .parse()
                .ok()
                .ok_or_else(|| NameError::Address(address.to_owned()))?,
            port,
            protocol,
        })
    }
}

impl FromStr for ClusterName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let [namespace, object, port, family] = parts(text, "<namespace>/<object>/<port>-<protocol>/<family>")?;
        let (port, protocol) = port_and_protocol(port)?;
        Ok(Self {
            namespace: namespace.to_owned(),
            object: object.to_owned(),
            port,
            protocol,
            family: match family {
                "v4" => Family::V4,
                "v6" => Family::V6,
                other => return Err(NameError::Family(other.to_owned())),
            },
        })
    }
}

fn parts<'a>(text: &'a str, form: &'static str) -> Result<[&'a str; 4], NameError> {
    let parts: Vec<&str> = text.split('/').take(5).collect();
    let parts: [&str; 4] = parts.try_into().ok().ok_or(NameError::Form(form))?;
    if parts.iter().any(|part| part.is_empty()) {
        return Err(NameError::Form(form));
    }
    Ok(parts)
}

fn port_and_protocol(text: &str) -> Result<(NonZeroU16, Protocol), NameError> {
    let error = || NameError::Port(text.to_owned());
    let (port, protocol) = text.split_once('-').ok_or_else(error)?;
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return Err(error()),
    };
    // `parse` would take a sign and leading zeros: two names for one thing.
    let port: NonZeroU16 = port
        .parse()
        .ok()
        .filter(|parsed: &NonZeroU16| parsed.to_string() == port)
        .ok_or_else(error)?;
    Ok((port, protocol))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for text in [
            "tenant-a/web/203.0.113.10/443-tcp",
            "tenant-a/dns.v2/2001:db8::10/53-udp",
        ] {
            assert_eq!(text.parse::<ListenerName>().unwrap().to_string(), text);
        }
        for text in ["tenant-a/web/443-tcp/v4", "tenant-a/dns/53-udp/v6"] {
            assert_eq!(text.parse::<ClusterName>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn other_names_are_refused() {
        for text in [
            "",
            "a/b/1.2.3.4",
            "a/b/1.2.3.4/80-tcp/v4",
            "a//1.2.3.4/80-tcp",
            "a/b/1.2.3/80-tcp",
            "a/b/1.2.3.4/0-tcp",
            "a/b/1.2.3.4/+80-tcp",
            "a/b/1.2.3.4/080-tcp",
            "a/b/1.2.3.4/80-sctp",
            "a/b/1.2.3.4/80",
        ] {
            assert!(text.parse::<ListenerName>().is_err(), "{text}");
        }
        for text in ["a/b/80-tcp", "a/b/80-tcp/v5", "a/b/65536-tcp/v4"] {
            assert!(text.parse::<ClusterName>().is_err(), "{text}");
        }
    }
}
