//! Names of peers in certificates: `spiffe://kubelb/agent/<node>` and `spiffe://kubelb/fleet/<fleet>`; and of managers among themselves:
//! `spiffe://kubelb/manager/<name>`, which opens no configuration.
//!
//! A fleet's name says whose configuration it gets: a tenant's name, several of them joined by `_` (which no name has), or `_all`.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kubelb_xds::{Scope, Tenants};
use tokio_rustls::rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{Identity, Refusal};

const TRUST_DOMAIN: &str = "spiffe://kubelb/";
const AGENT: &str = "agent/";
const FLEET: &str = "fleet/";
const MANAGER: &str = "manager/";
/// Joins the tenants of a fleet.
pub(super) const JOINT: char = '_';
const ALL: &str = "_all";
/// Longest id, in bytes (SPIFFE-ID, section 2.3).
const MAX_LENGTH: usize = 2048;
/// Longest DNS subdomain, in bytes (RFC 1123).
const MAX_NAME: usize = 253;

/// A peer's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpiffeId {
    /// A node's agent.
    Agent(String),
    /// An Envoy of the fleet that serves these tenants.
    Fleet(Tenants),
    /// A manager that has something to tell to the one that leads.
    Manager(String),
}

/// The text names no peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeIdError {
    /// Neither `agent/…` nor `fleet/…` of our trust domain.
    #[error("{0:?} is neither spiffe://kubelb/agent/NODE nor spiffe://kubelb/fleet/TENANTS")]
    Unknown(String),
    /// Not a name that an object can have.
    #[error("{0:?} is not the name of a node or tenant: use lowercase letters, digits, `-` and `.`")]
    Name(String),
    /// Too many tenants.
    #[error("too many tenants for one certificate; use *")]
    TooLong,
}

impl SpiffeId {
    /// An agent's, of the node of this name.
    ///
    /// # Errors
    /// When no node can have this name.
    pub fn agent(node: &str) -> Result<Self, SpiffeIdError> {
        Ok(Self::Agent(name(node)?))
    }

    /// A fleet's, of `*` or tenants with commas between them.
    ///
    /// # Errors
    /// When no tenant can have such a name.
    pub fn fleet(tenants: &str) -> Result<Self, SpiffeIdError> {
        let id = Self::Fleet(tenants_from(tenants, ',')?);
        if id.to_string().len() > MAX_LENGTH {
            return Err(SpiffeIdError::TooLong);
        }
        Ok(id)
    }

    /// A manager's. What of its identity no name can have is replaced: it is for people, and tells one from another.
    #[must_use]
    pub fn manager(identity: &str) -> Self {
        let fit = |char: char| {
            if char.is_ascii_alphanumeric() {
                char.to_ascii_lowercase()
            } else {
                '-'
            }
        };
        let fitted: String = identity.chars().map(fit).take(MAX_NAME).collect();
        let fitted = fitted.trim_matches('-');
        Self::Manager(if fitted.is_empty() { "unnamed" } else { fitted }.to_owned())
    }

    /// What it may see; `None`: nothing.
    #[must_use]
    pub fn scope(&self) -> Option<Scope> {
        match self {
            Self::Agent(_) => Some(Scope::Agent),
            Self::Fleet(tenants) => Some(Scope::Fleet(tenants.clone())),
            Self::Manager(_) => None,
        }
    }

    /// The node id that such a peer calls itself by: a name and nothing else.
    #[must_use]
    pub fn node_id(&self) -> String {
        match self {
            Self::Agent(node) => format!("{AGENT}{node}"),
            Self::Fleet(tenants) => format!("{FLEET}{}", fleet_name(tenants)),
            Self::Manager(name) => format!("{MANAGER}{name}"),
        }
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{TRUST_DOMAIN}{}", self.node_id())
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unknown = || SpiffeIdError::Unknown(text.to_owned());
        if text.len() > MAX_LENGTH {
            return Err(SpiffeIdError::TooLong);
        }
        let path = text.strip_prefix(TRUST_DOMAIN).ok_or_else(unknown)?;
        if let Some(node) = path.strip_prefix(AGENT) {
            return Self::agent(node);
        }
        if let Some(manager) = path.strip_prefix(MANAGER) {
            return Ok(Self::Manager(name(manager)?));
        }
        match path.strip_prefix(FLEET).ok_or_else(unknown)? {
            ALL => Ok(Self::Fleet(Tenants::All)),
            "*" => Err(unknown()),
            tenants => Ok(Self::Fleet(tenants_from(tenants, JOINT)?)),
        }
    }
}

/// The tenants that a list or `*` names.
///
/// # Errors
/// When no tenant can have such a name.
pub(super) fn tenants_from(text: &str, separator: char) -> Result<Tenants, SpiffeIdError> {
    if text == "*" {
        return Ok(Tenants::All);
    }
    let names: BTreeSet<Arc<str>> = text
        .split(separator)
        .map(|each| name(each).map(Arc::from))
        .collect::<Result<_, _>>()?;
    Ok(Tenants::Only(names))
}

fn fleet_name(tenants: &Tenants) -> String {
    match tenants {
        Tenants::All => ALL.to_owned(),
        Tenants::Only(names) => {
            let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
            names.join(&JOINT.to_string())
        }
    }
}

/// A DNS subdomain, as names of objects are.
fn name(text: &str) -> Result<String, SpiffeIdError> {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    let ends = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let bytes = text.as_bytes();
    let valid =
        bytes.len() <= MAX_NAME && bytes.iter().copied().all(inner) && ends(bytes.first()) && ends(bytes.last());
    if valid {
        Ok(text.to_owned())
    } else {
        Err(SpiffeIdError::Name(text.to_owned()))
    }
}

/// Who the owner of a verified certificate is, and until when.
///
/// # Errors
/// When it names nobody, or more than one.
pub(super) fn owner(certificate: &CertificateDer<'_>, now: SystemTime) -> Result<(SpiffeId, SystemTime), Refusal> {
    let refuse = |why: &str| Refusal::Certificate(why.to_owned());
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| refuse(&error.to_string()))?;
    let names = parsed
        .subject_alternative_name()
        .map_err(|error| refuse(&error.to_string()))?;
    let mut uris = names
        .iter()
        .flat_map(|extension| &extension.value.general_names)
        .filter_map(|name| {
            if let GeneralName::URI(uri) = name {
                Some(*uri)
            } else {
                None
            }
        });
    // X509-SVID, section 2: exactly one.
    let (Some(uri), None) = (uris.next(), uris.next()) else {
        return Err(refuse("does not have exactly one URI name"));
    };
    let id: SpiffeId = uri
        .parse()
        .map_err(|error: SpiffeIdError| refuse(&format!("has a foreign name: {error}")))?;
    let end = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or_default();
    let expires = SystemTime::UNIX_EPOCH + Duration::from_secs(end);
    if expires <= now {
        return Err(refuse("has expired"));
    }
    Ok((id, expires))
}

/// What peer the owner of a verified certificate is.
///
/// # Errors
/// When it names no peer, or more than one.
pub(super) fn identity(certificate: &CertificateDer<'_>, now: SystemTime) -> Result<Identity, Refusal> {
    let (id, expires) = owner(certificate, now)?;
    let subject = id.to_string();
    let Some(scope) = id.scope() else {
        return Err(Refusal::Manager(subject));
    };
    Ok(Identity {
        subject,
        scope,
        node: match id {
            SpiffeId::Agent(node) => Some(node),
            SpiffeId::Fleet(_) | SpiffeId::Manager(_) => None,
        },
        expires,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_what_they_print() {
        let all = SpiffeId::fleet("*").unwrap();
        assert_eq!(all.to_string(), "spiffe://kubelb/fleet/_all");
        let two = SpiffeId::fleet("b,a").unwrap();
        assert_eq!(two.to_string(), "spiffe://kubelb/fleet/a_b");
        let agent = SpiffeId::agent("node-1.example.com").unwrap();
        assert_eq!(agent.to_string(), "spiffe://kubelb/agent/node-1.example.com");
        let manager = SpiffeId::manager("Manager-0.x_17");
        assert_eq!(manager.to_string(), "spiffe://kubelb/manager/manager-0-x-17");
        assert_eq!(SpiffeId::manager("_").to_string(), "spiffe://kubelb/manager/unnamed");
        for id in [all, two, agent, manager] {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
    }

    #[test]
    fn nobody_gets_more_by_a_clever_name() {
        for bad in [
            "",
            "spiffe://kubelb/",
            "spiffe://kubelb/fleet/",
            "spiffe://kubelb/fleet/*",
            "spiffe://kubelb/fleet/a_",
            "spiffe://kubelb/fleet/_all_a",
            "spiffe://kubelb/fleet/a,b",
            "spiffe://kubelb/fleet/a/b",
            "spiffe://kubelb/agent/",
            "spiffe://kubelb/agent/../fleet/a",
            "spiffe://kubelb/agents/a",
            "spiffe://kubelb/manager/",
            "spiffe://kubelb/manager/a/../../agent/a",
            "spiffe://other/agent/a",
            "https://kubelb/agent/a",
        ] {
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad}");
        }
        assert!(SpiffeId::fleet("_all").is_err());
        assert!(SpiffeId::fleet("a,,b").is_err());
        assert!(SpiffeId::fleet("*,a").is_err());
        let many: Vec<String> = (0..500).map(|number| format!("tenant-{number}")).collect();
        assert_eq!(SpiffeId::fleet(&many.join(",")), Err(SpiffeIdError::TooLong));
    }
}
