//! Keys of the labels that kubelb sets and selects by.

use std::collections::BTreeMap;

use kube::core::ObjectMeta;

/// The key of a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(&'static str);

impl Label {
    /// Namespace, in the tenant, of the object that this one was made from.
    pub const ORIGIN_NAMESPACE: Self = Self("kubelb.k8c.io/origin-ns");
    /// Name, in the tenant, of the object that this one was made from.
    pub const ORIGIN_NAME: Self = Self("kubelb.k8c.io/origin-name");
    /// Kind and group of that object, such as `Ingress.networking.k8s.io`.
    pub const ORIGIN_RESOURCE_KIND: Self = Self("kubelb.k8c.io/origin-resource-kind");
    /// On what the manager makes: name of the LoadBalancer that it is for.
    pub const LOAD_BALANCER_NAME: Self = Self("kubelb.k8c.io/lb-name");
    /// On what the manager makes: namespace of the LoadBalancer that it is for.
    pub const LOAD_BALANCER_NAMESPACE: Self = Self("kubelb.k8c.io/lb-namespace");
    /// Name of the tenant.
    pub const TENANT: Self = Self("kubelb.k8c.io/tenant");
    /// Who made the object; on a Secret, [`MANAGED_BY_KUBELB`] asks for its synchronization.
    pub const MANAGED_BY: Self = Self("kubelb.k8c.io/managed-by");
    /// On converted routes: the Ingress that they were made from.
    pub const SOURCE_INGRESS: Self = Self("kubelb.k8c.io/source-ingress");
    /// Kubernetes' recommended label for the name of an application.
    pub const APP_NAME: Self = Self("app.kubernetes.io/name");
    /// Kubernetes' recommended label for the tool that manages an object.
    pub const APP_MANAGED_BY: Self = Self("app.kubernetes.io/managed-by");

    /// Every key, in no particular order.
    pub const ALL: &[Self] = &[
        Self::ORIGIN_NAMESPACE,
        Self::ORIGIN_NAME,
        Self::ORIGIN_RESOURCE_KIND,
        Self::LOAD_BALANCER_NAME,
        Self::LOAD_BALANCER_NAMESPACE,
        Self::TENANT,
        Self::MANAGED_BY,
        Self::SOURCE_INGRESS,
        Self::APP_NAME,
        Self::APP_MANAGED_BY,
    ];

    /// The key as it is written.
    #[must_use]
    pub const fn key(self) -> &'static str {
        self.0
    }

    /// Value of this label on an object.
    #[must_use]
    pub fn get(self, meta: &ObjectMeta) -> Option<&str> {
        meta.labels.as_ref()?.get(self.0).map(String::as_str)
    }

    /// Sets this label on an object.
    pub fn set(self, meta: &mut ObjectMeta, value: impl Into<String>) {
        let labels = meta.labels.get_or_insert_with(BTreeMap::new);
        labels.insert(self.0.to_owned(), value.into());
    }

    /// A selector for objects with this value, as `labelSelector` takes it.
    #[must_use]
    pub fn selector(self, value: &str) -> String {
        format!("{}={value}", self.0)
    }
}

/// Value of [`Label::MANAGED_BY`] and [`Label::APP_MANAGED_BY`].
pub const MANAGED_BY_KUBELB: &str = "kubelb";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_read_where_it_was_set() {
        let mut meta = ObjectMeta::default();
        assert_eq!(Label::TENANT.get(&meta), None);
        Label::TENANT.set(&mut meta, "primary");
        assert_eq!(Label::TENANT.get(&meta), Some("primary"));
        assert_eq!(Label::ORIGIN_NAME.get(&meta), None);
        assert_eq!(Label::TENANT.selector("primary"), "kubelb.k8c.io/tenant=primary");
    }

    #[test]
    fn every_key_is_one_that_kubernetes_accepts() {
        for label in Label::ALL {
            assert!(crate::names::is_qualified_name(label.key()), "{}", label.key());
        }
    }
}
