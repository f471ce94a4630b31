//! What an Envoy asks for before it starts, equal to `proto/kubelb/v1alpha1/limits.proto`. Owns the form only.

use prost::Message;

/// Path of the one method of the service: a [`LimitsRequest`], answered by [`ProcessLimits`].
pub const METHOD: &str = "/kubelb.v1alpha1.Limits/Get";

/// Who asks is known by its credential.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct LimitsRequest {}

/// Limits of the whole process of each Envoy; 0: nothing is said.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct ProcessLimits {
    /// Connections of clients that are accepted.
    #[prost(uint64, tag = "1")]
    pub max_connections: u64,
    /// Memory near which some is given back, and then nothing more is accepted, in bytes.
    #[prost(uint64, tag = "2")]
    pub max_heap_bytes: u64,
}
