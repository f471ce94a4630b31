//! Names of objects: valid by construction, and derived the same way by everybody.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Name of the one Config, in the manager's namespace.
pub const DEFAULT_CONFIG: &str = "default";
/// Name of the Addresses that a CCM keeps, in its tenant's namespace.
pub const DEFAULT_ADDRESSES: &str = "default";
/// Name of the TenantState, in the tenant's namespace.
pub const DEFAULT_TENANT_STATE: &str = "default";
/// Name, in the tenant's namespace of the management cluster, of the account of its CCM, and of the account's Role and RoleBinding.
pub const CCM_ACCOUNT: &str = "kubelb-ccm";
/// Name of the Secret beside that account with the kubeconfig for the CCM.
pub const CCM_KUBECONFIG_SECRET: &str = "kubelb-ccm-kubeconfig";
/// Name of the Secret in the tenant's cluster that the administrator copies that kubeconfig into.
pub const TENANT_KUBECONFIG_SECRET: &str = "kubelb-cluster";
/// Key of the kubeconfig in both Secrets.
pub const KUBECONFIG_KEY: &str = "kubelb";
/// Name of the Secret beside that account with a token that never ends, where KubeLB has registered the tenant.
pub const LEGACY_CCM_TOKEN_SECRET: &str = "kubelb-ccm";
/// Class by which Services, Ingresses and Gateways of a tenant ask for kubelb.
pub const CLASS: &str = "kubelb";

const TENANT_PREFIX: &str = "tenant-";
/// RFC 1123 labels, of which namespaces are made, have at most 63 characters.
const LABEL_LENGTH: usize = 63;
const SUBDOMAIN_LENGTH: usize = 253;

/// Why a name is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not a DNS label.
    #[error("{0:?} is not a name: a-z, 0-9 and '-', with a letter or digit at both ends")]
    NotALabel(String),
    /// The tenant's namespace would have too long a name.
    #[error("{name:?} has {length} characters; a tenant's name has at most {max}", length = name.len())]
    TooLong {
        /// The name.
        name: String,
        /// Its limit, in characters.
        max: usize,
    },
    /// Not the name of an address object.
    #[error("{0:?} is not `v4-` with four decimal numbers, or `v6-` with 32 hexadecimal digits")]
    NotAnAddress(String),
}

/// Name of a tenant, without the prefix of its namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TenantName(String);

impl TenantName {
    /// The longest name, in characters, for which `tenant-<name>` can be a namespace.
    pub const MAX_LENGTH: usize = LABEL_LENGTH - TENANT_PREFIX.len();

    /// # Errors
    /// When no namespace can be named after it.
    pub fn new(name: impl Into<String>) -> Result<Self, NameError> {
        let name = name.into();
        if name.len() > Self::MAX_LENGTH {
            return Err(NameError::TooLong {
                name,
                max: Self::MAX_LENGTH,
            });
        }
        if !is_label(&name) {
            return Err(NameError::NotALabel(name));
        }
        Ok(Self(name))
    }

    /// Accepts what users give a CCM: the tenant's name, with or without the prefix of its namespace.
    ///
    /// # Errors
    /// When no namespace can be named after it.
    pub fn from_cluster_name(name: &str) -> Result<Self, NameError> {
        Self::new(name.strip_prefix(TENANT_PREFIX).unwrap_or(name))
    }

    /// The tenant whose namespace this is; `None` when it belongs to no tenant.
    #[must_use]
    pub fn from_namespace(namespace: &str) -> Option<Self> {
        Self::new(namespace.strip_prefix(TENANT_PREFIX)?).ok()
    }

    /// The tenant's namespace in the management cluster.
    #[must_use]
    pub fn namespace(&self) -> String {
        format!("{TENANT_PREFIX}{}", self.0)
    }

    /// The name as it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Name of the AddressClaim and of the VirtualAddressOwner of an address. One address has one name, so that creating the object
/// is what decides who has the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressName(IpAddr);

impl AddressName {
    /// An IPv4 address written as IPv6 (`::ffff:192.0.2.1`) is that IPv4 address.
    #[must_use]
    pub fn new(address: IpAddr) -> Self {
        Self(address.to_canonical())
    }

    /// The address.
    #[must_use]
    pub fn address(self) -> IpAddr {
        self.0
    }
}

impl fmt::Display for AddressName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => {
                let [a, b, c, d] = address.octets();
                write!(f, "v4-{a}-{b}-{c}-{d}")
            }
            IpAddr::V6(address) => write!(f, "v6-{:032x}", address.to_bits()),
        }
    }
}

impl FromStr for AddressName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        let address = match name.split_once('-') {
            Some(("v4", numbers)) => numbers.replace('-', ".").parse().ok().map(Ipv4Addr::into),
            Some(("v6", digits)) => u128::from_str_radix(digits, 16)
                .ok()
                .map(|bits| Ipv6Addr::from_bits(bits).into()),
            _ => None,
        };
        address
            .map(Self::new)
            // One address has one name: no other spelling, and no IPv4 address as IPv6.
            .filter(|parsed: &Self| parsed.to_string() == name)
            .ok_or_else(|| NameError::NotAnAddress(name.to_owned()))
    }
}

impl TryFrom<String> for TenantName {
    type Error = NameError;

    fn try_from(name: String) -> Result<Self, NameError> {
        Self::new(name)
    }
}

impl From<TenantName> for String {
    fn from(name: TenantName) -> Self {
        name.0
    }
}

impl fmt::Display for TenantName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether this is a label of RFC 1123, which namespaces and Services are named by.
#[must_use]
pub fn is_label(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=LABEL_LENGTH).contains(&name.len())
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// Whether this is labels of RFC 1123 with dots between, which most objects are named by.
#[must_use]
pub fn is_subdomain(name: &str) -> bool {
    name.len() <= SUBDOMAIN_LENGTH && name.split('.').all(is_label)
}

/// Whether this can be the key of a label or an annotation: an optional subdomain and `/`, then a name.
#[must_use]
pub fn is_qualified_name(key: &str) -> bool {
    let (prefix, name) = key
        .split_once('/')
        .map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    prefix.is_none_or(is_subdomain)
        && name.len() <= LABEL_LENGTH
        && name.bytes().all(inner)
        && edge(name.bytes().next())
        && edge(name.bytes().next_back())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_is_named_with_or_without_the_prefix() {
        for given in ["primary", "tenant-primary"] {
            let tenant = TenantName::from_cluster_name(given).unwrap();
            assert_eq!(tenant.as_str(), "primary");
            assert_eq!(tenant.namespace(), "tenant-primary");
        }
        let tenant = TenantName::from_namespace("tenant-tenant-x").unwrap();
        assert_eq!(tenant.as_str(), "tenant-x");
        assert_eq!(TenantName::from_namespace("kube-system"), None);
        assert_eq!(TenantName::from_namespace("tenant-"), None);
    }

    #[test]
    fn a_tenant_without_a_possible_namespace_is_refused() {
        let longest = "a".repeat(TenantName::MAX_LENGTH);
        assert_eq!(TenantName::new(longest.clone()).unwrap().namespace().len(), 63);
        for name in [
            format!("{longest}a"),
            String::new(),
            "A".into(),
            "a.b".into(),
            "-a".into(),
            "a-".into(),
        ] {
            assert!(TenantName::new(name.clone()).is_err(), "{name:?}");
        }
        assert!(serde_json::from_str::<TenantName>("\"a_b\"").is_err());
    }

    #[test]
    fn an_address_has_one_name() {
        let cases = [
            ("203.0.113.10", "v4-203-0-113-10"),
            ("2001:db8::1", "v6-20010db8000000000000000000000001"),
            ("::", "v6-00000000000000000000000000000000"),
        ];
        for (address, name) in cases {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(AddressName::new(address).to_string(), name);
            assert_eq!(name.parse::<AddressName>().unwrap().address(), address);
        }
        let mapped = "::ffff:203.0.113.10".parse().unwrap();
        assert_eq!(AddressName::new(mapped).to_string(), "v4-203-0-113-10");
    }

    #[test]
    fn no_other_spelling_is_taken() {
        let wrong = [
            "v4-203-0-113-010",
            "v4-203-0-113",
            "v4-203.0.113.10",
            "v4-203-0-113-256",
            "v6-20010DB8000000000000000000000001",
            "v6-1",
            "v6-+0010db8000000000000000000000001",
            "v6-00000000000000000000ffffcb00710a",
            "203-0-113-10",
            "",
        ];
        for name in wrong {
            assert!(name.parse::<AddressName>().is_err(), "{name:?}");
        }
    }

    #[test]
    fn keys_are_checked_as_kubernetes_does() {
        for key in ["a", "a/b", "kubelb.k8c.io/origin-ns", "x.y/A_b.c"] {
            assert!(is_qualified_name(key), "{key:?}");
        }
        for key in ["", "/a", "a/", "a/b/c", "A.b/c", "a/-b", "a b"] {
            assert!(!is_qualified_name(key), "{key:?}");
        }
    }
}
