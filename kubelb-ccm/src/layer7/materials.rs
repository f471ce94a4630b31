//! Secrets with the certificates of Gateways, and ConfigMaps with the authorities of their clients: each that is referred to, and may be, is watched
//! by its name and copied as a SyncSecret. No other is read, and none is kept here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::{ByteString, NamespaceResourceScope};
use kube::core::ObjectMeta;
use kube::runtime::utils::StreamBackoff;
use kube::runtime::watcher::watch_object;
use kube::{Api, Resource};
use kubelb_api::labels::{Label, MANAGED_BY_KUBELB};
use kubelb_api::v1alpha1::{SyncSecret, SyncSecretContent};
use kubelb_runtime::error_chain::chain;
use kubelb_runtime::pace::Pace;
use serde::de::DeserializeOwned;
use tokio::task::AbortHandle;

use super::index::Topic;
use super::world::World;
use crate::hub::HubError;
use crate::plan::layer7::{Material, MaterialKind};

/// Most of them that are watched: each is a request of its own.
const MAX_WATCHED: usize = 2_048;
/// Longest value of a label, by which a copy is found.
const MAX_LABEL: usize = 63;
/// Pause after a failed write.
const RETRY: Duration = Duration::from_secs(2);
/// What a certificate is, of all that a Secret may hold.
const CERTIFICATE: [&str; 2] = ["tls.crt", "tls.key"];
/// Where authorities are, of all that a ConfigMap may hold.
const AUTHORITIES: &str = "ca.crt";

/// What became of what is referred to.
#[derive(Debug, Default)]
pub(crate) struct Copies(RwLock<BTreeMap<Material, Copy>>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Copy {
    /// The management cluster has it, by this name.
    There(String),
    /// There is none, or it cannot be copied.
    Missing,
}

impl Copies {
    /// Whether the management cluster has it; `None` while that is not known.
    pub(crate) fn is_there(&self, material: &Material) -> Option<bool> {
        let copies = self.0.read().unwrap_or_else(PoisonError::into_inner);
        copies.get(material).map(|copy| matches!(copy, Copy::There(_)))
    }

    /// The names of all copies; `None` while one of those that are wanted is not known.
    pub(crate) fn names(&self, wanted: &BTreeSet<Material>) -> Option<BTreeSet<String>> {
        let copies = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if !wanted.iter().all(|material| copies.contains_key(material)) {
            return None;
        }
        let names = copies.values().filter_map(|copy| match copy {
            Copy::There(uid) => Some(uid.clone()),
            Copy::Missing => None,
        });
        Some(names.collect())
    }

    /// What has a copy of this name.
    pub(crate) fn original(&self, copy: &str) -> Option<Material> {
        let copies = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut all = copies.iter();
        let found = all.find(|(_, known)| matches!(known, Copy::There(name) if name == copy));
        found.map(|(material, _)| material.clone())
    }

    fn set(&self, material: &Material, copy: Option<Copy>) -> bool {
        let mut copies = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match copy {
            Some(copy) => copies.insert(material.clone(), copy.clone()) != Some(copy),
            None => copies.remove(material).is_some(),
        }
    }
}

/// Follows them for ever.
pub(crate) async fn follow(world: Arc<World>) {
    world.settled().await;
    let mut watched: BTreeMap<Material, Watch> = BTreeMap::new();
    let mut leaving = FuturesUnordered::new();
    loop {
        if world.tenancy.is_over() {
            // Its copies go with it; with another tenant, all are written anew.
            for material in std::mem::take(&mut watched).into_keys() {
                world.copies.set(&material, None);
            }
        }
        let wanted = world.wanted_materials();
        for material in wanted.iter().take(MAX_WATCHED) {
            watched
                .entry(material.clone())
                .or_insert_with(|| Watch::start(&world, material));
        }
        for material in wanted.iter().skip(MAX_WATCHED) {
            warn(
                material,
                &format!("not copied: more than {MAX_WATCHED} are referred to"),
            );
            world.copies.set(material, Some(Copy::Missing));
        }
        for (material, watch) in watched
            .iter_mut()
            .filter(|(material, watch)| !watch.is_leaving && !wanted.contains(*material))
        {
            watch.is_leaving = true;
            let (grace, material) = (world.grace, material.clone());
            leaving.push(async move {
                tokio::time::sleep(grace).await;
                material
            });
        }
        for material in &wanted {
            if let Some(watch) = watched.get_mut(material) {
                watch.is_leaving = false;
            }
        }
        tokio::select! {
            () = world.materials_changed.notified() => {}
            lost = world.lost_copies.taken() => {
                // Somebody has deleted them in the management cluster: read again, they are written again.
                for material in lost {
                    watched.remove(&material);
                }
            }
            Some(material) = leaving.next() => {
                // Nothing has referred to it for a while; its copy is an orphan now.
                if watched.get(&material).is_some_and(|watch| watch.is_leaving) {
                    watched.remove(&material);
                    world.copies.set(&material, None);
                    world.orphans_changed.notify_one();
                }
            }
        }
    }
}

/// Something that is watched, until this is dropped.
struct Watch {
    task: AbortHandle,
    is_leaving: bool,
}

impl Watch {
    fn start(world: &Arc<World>, material: &Material) -> Self {
        let (world, material) = (Arc::clone(world), material.clone());
        let task = match material.kind {
            MaterialKind::Secret => tokio::spawn(watch(world, material, certificate)),
            MaterialKind::ConfigMap => tokio::spawn(watch(world, material, authorities)),
        };
        Self {
            task: task.abort_handle(),
            is_leaving: false,
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn warn(material: &Material, why: &str) {
    let (namespace, name) = &material.name;
    tracing::warn!(kind = material.kind.as_str(), namespace, name, why);
}

async fn watch<K>(world: Arc<World>, material: Material, carried: fn(K) -> BTreeMap<String, ByteString>)
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let (namespace, name) = &material.name;
    let api: Api<K> = Api::namespaced(world.client.clone(), namespace);
    let stream = StreamBackoff::new(watch_object(api, name), Pace::default());
    let mut stream = std::pin::pin!(stream);
    while let Some(seen) = stream.next().await {
        let copied = match seen {
            Ok(Some(object)) => {
                world.tenant.works();
                let original = object.meta().clone();
                match copy(world.hub.namespace(), material.kind, &original, carried(object)) {
                    Some(copy) => write(&world, &material, &copy).await,
                    None => {
                        let why = format!(
                            "not copied: a copy is found by a label, and the name has more than {MAX_LABEL} characters"
                        );
                        warn(&material, &why);
                        Copy::Missing
                    }
                }
            }
            Ok(None) => {
                world.tenant.works();
                Copy::Missing
            }
            Err(error) => {
                warn(&material, &format!("cannot be read; tried again: {}", chain(&error)));
                // What is known stays; what never was is not waited for.
                match world.copies.is_there(&material) {
                    Some(_) => continue,
                    None => Copy::Missing,
                }
            }
        };
        if world.copies.set(&material, Some(copied)) {
            world.tell(&Topic::Material(material.clone()));
            world.orphans_changed.notify_one();
        }
    }
}

/// Writes the copy, for as long as it takes.
async fn write(world: &World, material: &Material, copy: &SyncSecret) -> Copy {
    loop {
        match world.hub.apply_secret(copy).await {
            Ok(written) => return Copy::There(written.metadata.name.unwrap_or_default()),
            Err(HubError::Refused(why)) => {
                warn(material, &format!("could not be copied: {why}"));
                return Copy::Missing;
            }
            Err(HubError::Unauthorized(_) | HubError::Unreachable(_)) => tokio::time::sleep(RETRY).await,
        }
    }
}

/// The copy of an object with what is carried of it. `None` when it could not be found by its name.
fn copy(
    namespace: &str,
    kind: MaterialKind,
    original: &ObjectMeta,
    carried: BTreeMap<String, ByteString>,
) -> Option<SyncSecret> {
    let name = original.name.clone().filter(|name| name.len() <= MAX_LABEL)?;
    let mut metadata = ObjectMeta {
        name: Some(original.uid.clone()?),
        namespace: Some(namespace.to_owned()),
        ..ObjectMeta::default()
    };
    Label::ORIGIN_NAMESPACE.set(&mut metadata, original.namespace.clone()?);
    Label::ORIGIN_NAME.set(&mut metadata, name);
    Label::ORIGIN_RESOURCE_KIND.set(&mut metadata, kind.as_str());
    Label::MANAGED_BY.set(&mut metadata, MANAGED_BY_KUBELB);
    // An API server refuses a Secret of this type with one of them alone.
    let is_whole = CERTIFICATE.iter().all(|key| carried.contains_key(*key));
    let type_ = if is_whole { "kubernetes.io/tls" } else { "Opaque" };
    Some(SyncSecret {
        metadata,
        content: SyncSecretContent {
            data: carried,
            type_: Some(type_.to_owned()),
            ..SyncSecretContent::default()
        },
        status: None,
    })
}

/// Of a Secret what makes a certificate, whatever else it holds.
fn certificate(secret: Secret) -> BTreeMap<String, ByteString> {
    let mut data = secret.data.unwrap_or_default();
    data.retain(|key, _| CERTIFICATE.contains(&key.as_str()));
    data
}

/// Of a ConfigMap the authorities, whatever else it holds. A key is in one of its two parts.
fn authorities(config_map: ConfigMap) -> BTreeMap<String, ByteString> {
    let text = config_map.data.unwrap_or_default().remove(AUTHORITIES);
    let bytes = config_map.binary_data.unwrap_or_default().remove(AUTHORITIES);
    let found = text.map(|text| ByteString(text.into_bytes())).or(bytes);
    found.map(|found| (AUTHORITIES.to_owned(), found)).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_copy_has_the_certificate_and_nothing_else() {
        let secret: Secret = serde_json::from_value(json!({
            "metadata": {"namespace": "a", "name": "cert", "uid": "u", "annotations": {"x": "y"}},
            "type": "kubernetes.io/tls",
            "data": {"tls.crt": "YQ==", "tls.key": "Yg==", "password": "Yw=="},
        }))
        .unwrap();
        let metadata = secret.metadata.clone();
        let copy = copy("tenant-x", MaterialKind::Secret, &metadata, certificate(secret)).unwrap();
        let keys: Vec<&String> = copy.content.data.keys().collect();
        assert_eq!(keys, ["tls.crt", "tls.key"]);
        assert_eq!(copy.content.type_.as_deref(), Some("kubernetes.io/tls"));
        assert_eq!(copy.metadata.name.as_deref(), Some("u"));
        assert_eq!(copy.metadata.annotations, None);
    }

    #[test]
    fn of_a_config_map_only_authorities_are_copied_from_either_part() {
        for (part, value) in [("data", "authority"), ("binaryData", "YXV0aG9yaXR5")] {
            let config_map: ConfigMap = serde_json::from_value(json!({
                "metadata": {"namespace": "a", "name": "clients", "uid": "u"},
                part: {"ca.crt": value, "else": "YQ=="},
            }))
            .unwrap();
            let metadata = config_map.metadata.clone();
            let copy = copy("tenant-x", MaterialKind::ConfigMap, &metadata, authorities(config_map)).unwrap();
            let wanted = BTreeMap::from([("ca.crt".to_owned(), ByteString(b"authority".to_vec()))]);
            assert_eq!(copy.content.data, wanted, "{part}");
            assert_eq!(copy.content.type_.as_deref(), Some("Opaque"));
            assert_eq!(Label::ORIGIN_RESOURCE_KIND.get(&copy.metadata), Some("ConfigMap"));
        }
    }
}
