//! The resource types that kubelb serves. Owns their type URLs; must not know what is in a resource.

use std::fmt;

/// A resource type of the aggregated discovery service, in the order in which types are pushed: what is named comes before what names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceType {
    /// `envoy.config.cluster.v3.Cluster`.
    Cluster,
    /// `envoy.config.endpoint.v3.ClusterLoadAssignment`.
    Endpoints,
    /// `envoy.extensions.transport_sockets.tls.v3.Secret`.
    Secret,
    /// `envoy.config.listener.v3.Listener`.
    Listener,
    /// `envoy.config.route.v3.RouteConfiguration`.
    Route,
    /// `kubelb.v1alpha1.VirtualAddress`, kubelb's own.
    VirtualAddress,
}

impl ResourceType {
    /// Every type, in push order.
    pub const ALL: [Self; 6] = [
        Self::Cluster,
        Self::Endpoints,
        Self::Secret,
        Self::Listener,
        Self::Route,
        Self::VirtualAddress,
    ];

    /// `type_url` of requests, responses and `google.protobuf.Any`.
    #[must_use]
    pub const fn type_url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            Self::VirtualAddress => "type.googleapis.com/kubelb.v1alpha1.VirtualAddress",
        }
    }

    /// The type with this URL, `None` when kubelb does not serve it.
    #[must_use]
    pub fn from_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == url)
    }

    /// Short name for logs and metric labels.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Cluster => "cds",
            Self::Endpoints => "eds",
            Self::Secret => "sds",
            Self::Listener => "lds",
            Self::Route => "rds",
            Self::VirtualAddress => "virtual-address",
        }
    }

    /// Whether a first request without names asks for all of them (xDS protocol: Listener and Cluster; VirtualAddress is used alike), and
    /// whether a state-of-the-world response lists all of them.
    #[must_use]
    pub const fn is_full_state(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener | Self::VirtualAddress)
    }

    /// Types whose resources name resources of this one.
    #[must_use]
    pub const fn referrers(self) -> &'static [Self] {
        match self {
            Self::Cluster => &[Self::Listener, Self::Route],
            Self::Endpoints => &[Self::Cluster],
            Self::Secret => &[Self::Cluster, Self::Listener],
            Self::Route => &[Self::Listener],
            Self::Listener | Self::VirtualAddress => &[],
        }
    }

    /// Whether a proxy cannot use a resource that names one of this type which does not exist: Envoy would wait for it, 15 s long, and for clusters hold
    /// back its acknowledgement. (Endpoints may be answered for with nothing, and a route may lead to no cluster.)
    #[must_use]
    pub const fn is_required(self) -> bool {
        matches!(self, Self::Secret | Self::Route)
    }

    pub(crate) const fn index(self) -> usize {
        match self {
            Self::Cluster => 0,
            Self::Endpoints => 1,
            Self::Secret => 2,
            Self::Listener => 3,
            Self::Route => 4,
            Self::VirtualAddress => 5,
        }
    }
}

impl fmt::Display for ResourceType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.label())
    }
}

/// One value for each [`ResourceType`].
#[derive(Clone, Debug, Default)]
pub(crate) struct PerType<T>([T; ResourceType::ALL.len()]);

#[expect(
    clippy::indexing_slicing,
    reason = "an index is below the number of types by its definition"
)]
impl<T> PerType<T> {
    pub(crate) fn get(&self, kind: ResourceType) -> &T {
        &self.0[kind.index()]
    }

    pub(crate) fn get_mut(&mut self, kind: ResourceType) -> &mut T {
        &mut self.0[kind.index()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_found_by_its_url_and_has_its_own_place() {
        for (index, kind) in ResourceType::ALL.into_iter().enumerate() {
            assert_eq!(ResourceType::from_type_url(kind.type_url()), Some(kind));
            assert_eq!(kind.index(), index);
        }
        assert_eq!(
            ResourceType::from_type_url("type.googleapis.com/envoy.service.runtime.v3.Runtime"),
            None
        );
        assert_eq!(ResourceType::from_type_url(""), None);
    }

    #[test]
    fn types_are_ordered_so_that_what_is_named_comes_first_but_for_the_answers_that_peers_ask_for() {
        for referrer in ResourceType::Cluster.referrers() {
            assert!(ResourceType::Cluster < *referrer);
        }
    }
}
