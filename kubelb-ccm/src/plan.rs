//! What the management cluster shall hold, as a function of the tenant's objects. No I/O, no clock.
//!
//! Owns the translation of a Service's fields. What a Service asks for and is not done comes back as a [`Notice`]; it is never dropped
//! in silence.

pub mod layer7;
mod local;
mod nodes;
mod service;

use std::fmt;

pub use local::Local;
pub use nodes::{AddressType, Nodes, addresses};
pub use service::{Inputs, PlanError, Planned, Settings, is_ours, load_balancer};

/// Something that a Service asks for and does not get, or not wholly.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Notice {
    /// Path of the field, from the object's top: `spec.ports[1].protocol`.
    pub field: String,
    /// What becomes of it, and what to do.
    pub message: String,
}

impl Notice {
    fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            message: message.into(),
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}
