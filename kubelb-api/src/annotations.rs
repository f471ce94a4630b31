//! Keys and values of the annotations by which users ask for something, and by which kubelb answers.

use std::collections::BTreeMap;

use kube::core::ObjectMeta;

/// The key of an annotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Annotation(&'static str);

impl Annotation {
    /// On a Service: [`PROXY_PROTOCOL_V2`] makes its backends see the client's address in a PROXY protocol header.
    pub const PROXY_PROTOCOL: Self = Self("kubelb.k8c.io/proxy-protocol");
    /// On a Service: `true` asks for a hostname below the tenant's wildcard domain.
    pub const REQUEST_WILDCARD_DOMAIN: Self = Self("kubelb.k8c.io/request-wildcard-domain");
    /// On a Service: addresses of a pool that clients are to dial, at most one of each family, with commas between.
    pub const LOAD_BALANCER_IPS: Self = Self("kubelb.k8c.io/load-balancer-ips");
    /// On a Service: name of the pool that its addresses come from.
    pub const ADDRESS_POOL: Self = Self("kubelb.k8c.io/address-pool");
    /// On a Service: those of a tenant with the same value may get the same address, as long as their ports differ.
    pub const ALLOW_SHARED_IP: Self = Self("kubelb.k8c.io/allow-shared-ip");
    /// On an Ingress: `true` keeps it from being converted to Gateway API routes.
    pub const SKIP_CONVERSION: Self = Self("kubelb.k8c.io/skip-conversion");
    /// On an Ingress: how far its conversion is, a [`ConversionStatus`].
    pub const CONVERSION_STATUS: Self = Self("kubelb.k8c.io/conversion-status");
    /// On an Ingress: names of the HTTPRoutes made from it.
    pub const CONVERTED_HTTP_ROUTE: Self = Self("kubelb.k8c.io/converted-httproute");
    /// On an Ingress: names of the GRPCRoutes made from it.
    pub const CONVERTED_GRPC_ROUTE: Self = Self("kubelb.k8c.io/converted-grpcroute");
    /// On an Ingress: what of it has no counterpart.
    pub const CONVERSION_WARNINGS: Self = Self("kubelb.k8c.io/conversion-warnings");
    /// On an Ingress: when its routes were last seen to be accepted.
    pub const VERIFICATION_TIMESTAMP: Self = Self("kubelb.k8c.io/verification-timestamp");
    /// On an Ingress: why it was not converted.
    pub const CONVERSION_SKIP_REASON: Self = Self("kubelb.k8c.io/conversion-skip-reason");

    /// Every key, in no particular order.
    pub const ALL: &[Self] = &[
        Self::PROXY_PROTOCOL,
        Self::REQUEST_WILDCARD_DOMAIN,
        Self::LOAD_BALANCER_IPS,
        Self::ADDRESS_POOL,
        Self::ALLOW_SHARED_IP,
        Self::SKIP_CONVERSION,
        Self::CONVERSION_STATUS,
        Self::CONVERTED_HTTP_ROUTE,
        Self::CONVERTED_GRPC_ROUTE,
        Self::CONVERSION_WARNINGS,
        Self::VERIFICATION_TIMESTAMP,
        Self::CONVERSION_SKIP_REASON,
    ];

    /// The key as it is written.
    #[must_use]
    pub const fn key(self) -> &'static str {
        self.0
    }

    /// Value of this annotation on an object.
    #[must_use]
    pub fn get(self, meta: &ObjectMeta) -> Option<&str> {
        meta.annotations.as_ref()?.get(self.0).map(String::as_str)
    }

    /// Whether this annotation is `true` on an object.
    #[must_use]
    pub fn is_true(self, meta: &ObjectMeta) -> bool {
        self.get(meta) == Some("true")
    }

    /// Sets this annotation on an object.
    pub fn set(self, meta: &mut ObjectMeta, value: impl Into<String>) {
        let annotations = meta.annotations.get_or_insert_with(BTreeMap::new);
        annotations.insert(self.0.to_owned(), value.into());
    }
}

/// The only value of [`Annotation::PROXY_PROTOCOL`] with a meaning.
pub const PROXY_PROTOCOL_V2: &str = "v2";

/// Values of [`Annotation::CONVERSION_STATUS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConversionStatus {
    /// All of it.
    Converted,
    /// Some of it; the warnings say what is missing.
    Partial,
    /// The routes are there and not yet accepted.
    Pending,
    /// None of it.
    Failed,
    /// Left alone on request, or because it cannot be converted.
    Skipped,
}

impl ConversionStatus {
    /// The value as it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Converted => "converted",
            Self::Partial => "partial",
            Self::Pending => "pending",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_word_true_switches_on() {
        let mut meta = ObjectMeta::default();
        for (value, expected) in [("true", true), ("True", false), ("1", false), ("", false)] {
            Annotation::SKIP_CONVERSION.set(&mut meta, value);
            assert_eq!(Annotation::SKIP_CONVERSION.is_true(&meta), expected, "{value:?}");
        }
        assert!(!Annotation::REQUEST_WILDCARD_DOMAIN.is_true(&meta));
    }

    #[test]
    fn every_key_is_one_that_kubernetes_accepts() {
        for annotation in Annotation::ALL {
            assert!(
                crate::names::is_qualified_name(annotation.key()),
                "{}",
                annotation.key()
            );
        }
    }
}
