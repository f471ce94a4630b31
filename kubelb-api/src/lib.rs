//! The custom resources of kubelb, and every name that more than one part of it must agree on.
//!
//! Group `kubelb.k8c.io`, version [`v1alpha1`]. The kinds LoadBalancer, Route, Addresses, Tenant, TenantState, Config and
//! SyncSecret keep the wire format of KubeLB, so that its objects and its CCM work unchanged; AddressClaim and VirtualAddressOwner
//! are kubelb's own. [`crds::all`] makes the definitions that a cluster installs.
//!
//! Must not know: clients, clocks, files, and what anybody does with an object. What an API server can refuse, the schemas
//! refuse; what it cannot is found by those who read the objects.
#![forbid(unsafe_code)]

pub mod annotations;
pub mod conditions;
pub mod crds;
pub mod finalizers;
pub mod gateway_api;
pub mod labels;
pub mod names;
pub mod raw_object;
mod schema;
pub mod v1alpha1;

/// API group of every kind.
pub const GROUP: &str = "kubelb.k8c.io";

/// The one version that is served and stored.
pub const VERSION: &str = "v1alpha1";

/// `apiVersion` of every kind.
pub const API_VERSION: &str = "kubelb.k8c.io/v1alpha1";
