//! What is wrong with an object, in words that fit a condition: which field, why, and how much of the object it costs.
//!
//! Must not know: who found it, and who reads it.

use std::fmt;

use kubelb_api::conditions::ConditionType;
use serde::Serialize;

use crate::object::{Malformed, ObjectKey};

/// Something that keeps an object, or a part of it, from being served.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// The object that its owner can put right.
    pub object: ObjectKey,
    /// Path of the field, such as `spec.endpoints[0].addresses[2].ip`; empty when the object as a whole is meant.
    pub field: String,
    /// One word for programs.
    pub reason: Reason,
    /// A sentence for people, which makes sense behind the field's path.
    pub message: String,
}

impl Problem {
    /// A problem of a field, or of the whole object when `field` is empty.
    #[must_use]
    pub fn new(object: &ObjectKey, field: impl Into<String>, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            object: object.clone(),
            field: field.into(),
            reason,
            message: message.into(),
        }
    }
}

impl From<&Malformed> for Problem {
    fn from(malformed: &Malformed) -> Self {
        Self::new(
            &malformed.key,
            malformed.field.clone(),
            Reason::Malformed,
            format!(
                "{}; the last version that could be read stays in force",
                malformed.reason
            ),
        )
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.object)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

/// What kind of problem it is. The words are those of conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Reason {
    /// Its type cannot read it.
    Malformed,
    /// The namespace belongs to no tenant.
    NotATenant,
    /// There is no Tenant for the namespace.
    TenantNotFound,
    /// The Tenant or the Config allows no load balancers.
    Disabled,
    /// The Config cannot be read, so that nobody knows what it forbids.
    ConfigInvalid,
    /// A value that has no meaning, or none in this place.
    InvalidValue,
    /// A port that is none, or that is there twice.
    InvalidPort,
    /// A port of the frontend without a port of the backends.
    NoBackendPort,
    /// Not an address.
    InvalidAddress,
    /// An address that tenants may not send traffic to.
    AddressNotAllowed,
    /// Something that is understood and not done.
    Unsupported,
    /// The object that is referred to is not there.
    RefNotFound,
    /// No backend at all.
    NoEndpoints,
    /// A VIP without a backend of its family.
    NoEndpointsOfFamily,
    /// Another object has this address, port and protocol.
    PortConflict,
    /// Another object has this address.
    AddressConflict,
    /// No pool has an address left.
    PoolExhausted,
    /// The address that is asked for is in no pool that the tenant may use.
    AddressNotInPool,
    /// There is no pool that the tenant may use.
    NoAddressPool,
}

impl Reason {
    /// The condition that it belongs to.
    #[must_use]
    pub const fn condition(self) -> ConditionType {
        match self {
            Self::Malformed
            | Self::NotATenant
            | Self::TenantNotFound
            | Self::Disabled
            | Self::ConfigInvalid
            | Self::InvalidValue
            | Self::InvalidPort
            | Self::NoBackendPort
            | Self::InvalidAddress
            | Self::AddressNotAllowed
            | Self::Unsupported
            | Self::PortConflict => ConditionType::Accepted,
            Self::RefNotFound => ConditionType::ResolvedRefs,
            Self::NoEndpoints | Self::NoEndpointsOfFamily => ConditionType::BackendsHealthy,
            Self::AddressConflict | Self::PoolExhausted | Self::AddressNotInPool | Self::NoAddressPool => {
                ConditionType::AddressAssigned
            }
        }
    }

    /// The word as conditions have it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "Malformed",
            Self::NotATenant => "NotATenant",
            Self::TenantNotFound => "TenantNotFound",
            Self::Disabled => "Disabled",
            Self::ConfigInvalid => "ConfigInvalid",
            Self::InvalidValue => "InvalidValue",
            Self::InvalidPort => "InvalidPort",
            Self::NoBackendPort => "NoBackendPort",
            Self::InvalidAddress => "InvalidAddress",
            Self::AddressNotAllowed => "AddressNotAllowed",
            Self::Unsupported => "Unsupported",
            Self::RefNotFound => "RefNotFound",
            Self::NoEndpoints => "NoEndpoints",
            Self::NoEndpointsOfFamily => "NoEndpointsOfFamily",
            Self::PortConflict => "PortConflict",
            Self::AddressConflict => "AddressConflict",
            Self::PoolExhausted => "PoolExhausted",
            Self::AddressNotInPool => "AddressNotInPool",
            Self::NoAddressPool => "NoAddressPool",
        }
    }
}
