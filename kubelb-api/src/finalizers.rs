//! Finalizers: what must be taken away before an object may go.

use kube::core::ObjectMeta;

/// A finalizer that kubelb knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Finalizer(&'static str);

impl Finalizer {
    /// The objects in the other cluster that were made from this one are gone.
    pub const CLEANUP: Self = Self("kubelb.k8c.io/cleanup");
    /// The Ingress or HTTPRoute that serves a LoadBalancer's hostname is gone.
    pub const CLEANUP_HOSTNAME: Self = Self("kubelb.k8c.io/cleanup-hostname");
    /// Older releases of KubeLB set it on LoadBalancers; only removed.
    pub const LEGACY_CLEANUP_ENVOY_PROXY: Self = Self("kubelb.k8c.io/cleanup-envoy-proxy");
    /// Older releases of KubeLB set it on Services; replaced by [`Finalizer::CLEANUP`].
    pub const LEGACY_LOAD_BALANCER: Self = Self("kubelb.k8c.io/lb-finalizer");

    /// Every finalizer, in no particular order.
    pub const ALL: &[Self] = &[
        Self::CLEANUP,
        Self::CLEANUP_HOSTNAME,
        Self::LEGACY_CLEANUP_ENVOY_PROXY,
        Self::LEGACY_LOAD_BALANCER,
    ];

    /// The finalizer as it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.0
    }

    /// Whether it is on an object.
    #[must_use]
    pub fn is_on(self, meta: &ObjectMeta) -> bool {
        meta.finalizers.iter().flatten().any(|finalizer| finalizer == self.0)
    }

    /// Puts it on an object; whether that changed anything.
    pub fn put_on(self, meta: &mut ObjectMeta) -> bool {
        let missing = !self.is_on(meta);
        if missing {
            meta.finalizers.get_or_insert_with(Vec::new).push(self.0.to_owned());
        }
        missing
    }

    /// Takes it off an object, and leaves those of others; whether that changed anything.
    pub fn take_off(self, meta: &mut ObjectMeta) -> bool {
        let Some(finalizers) = meta.finalizers.as_mut() else {
            return false;
        };
        let before = finalizers.len();
        finalizers.retain(|finalizer| finalizer != self.0);
        before != finalizers.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finalizers_of_others_stay() {
        let mut meta = ObjectMeta {
            finalizers: Some(vec!["example.com/other".to_owned()]),
            ..ObjectMeta::default()
        };
        assert!(Finalizer::CLEANUP.put_on(&mut meta));
        assert!(!Finalizer::CLEANUP.put_on(&mut meta), "it is there already");
        assert!(Finalizer::CLEANUP.is_on(&meta));
        assert!(Finalizer::CLEANUP.take_off(&mut meta));
        assert!(!Finalizer::CLEANUP.take_off(&mut meta), "it is gone already");
        assert_eq!(meta.finalizers.as_deref(), Some(&["example.com/other".to_owned()][..]));
    }

    #[test]
    fn every_finalizer_is_one_that_kubernetes_accepts() {
        for finalizer in Finalizer::ALL {
            assert!(
                crate::names::is_qualified_name(finalizer.as_str()),
                "{}",
                finalizer.as_str()
            );
        }
    }
}
