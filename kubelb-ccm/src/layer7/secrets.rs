//! Secrets with the certificates of Gateways: each that is referred to, and may be, is watched by its name and copied as a SyncSecret. No other
//! Secret is read, and none is kept here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::core::ObjectMeta;
use kube::runtime::utils::StreamBackoff;
use kube::runtime::watcher::watch_object;
use kubelb_api::labels::{Label, MANAGED_BY_KUBELB};
use kubelb_api::v1alpha1::{SyncSecret, SyncSecretContent};
use kubelb_runtime::error_chain::chain;
use kubelb_runtime::pace::Pace;
use tokio::task::AbortHandle;

use super::index::Topic;
use super::world::World;
use crate::hub::HubError;
use crate::plan::layer7::Name;

/// Most Secrets that are watched: each is a request of its own.
const MAX_WATCHED: usize = 2_048;
/// Longest value of a label, by which a copy is found.
const MAX_LABEL: usize = 63;
/// Pause after a failed write.
const RETRY: Duration = Duration::from_secs(2);
/// What a certificate is, of all that a Secret may hold.
const CARRIED: [&str; 2] = ["tls.crt", "tls.key"];
/// What a Secret is called in the label of its copy.
pub(super) const SECRET: &str = "Secret";

/// What became of the Secrets that are referred to.
#[derive(Debug, Default)]
pub(crate) struct Copies(RwLock<BTreeMap<Name, Copy>>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Copy {
    /// The management cluster has it, by this name.
    There(String),
    /// There is none, or it cannot be copied.
    Missing,
}

impl Copies {
    /// Whether the management cluster has it; `None` while that is not known.
    pub(crate) fn is_there(&self, name: &Name) -> Option<bool> {
        let copies = self.0.read().unwrap_or_else(PoisonError::into_inner);
        copies.get(name).map(|copy| matches!(copy, Copy::There(_)))
    }

    /// The names of all copies; `None` while one of those that are wanted is not known.
    pub(crate) fn names(&self, wanted: &BTreeSet<Name>) -> Option<BTreeSet<String>> {
        let copies = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if !wanted.iter().all(|name| copies.contains_key(name)) {
            return None;
        }
        let names = copies.values().filter_map(|copy| match copy {
            Copy::There(uid) => Some(uid.clone()),
            Copy::Missing => None,
        });
        Some(names.collect())
    }

    /// The Secret that has a copy of this name.
    pub(crate) fn original(&self, copy: &str) -> Option<Name> {
        let copies = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut all = copies.iter();
        let found = all.find(|(_, known)| matches!(known, Copy::There(name) if name == copy));
        found.map(|(name, _)| name.clone())
    }

    fn set(&self, name: &Name, copy: Option<Copy>) -> bool {
        let mut copies = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match copy {
            Some(copy) => copies.insert(name.clone(), copy.clone()) != Some(copy),
            None => copies.remove(name).is_some(),
        }
    }
}

/// Follows them for ever.
pub(crate) async fn follow(world: Arc<World>) {
    world.settled().await;
    let mut watched: BTreeMap<Name, Watch> = BTreeMap::new();
    let mut leaving = FuturesUnordered::new();
    loop {
        if world.tenancy.is_over() {
            // Its copies go with it; with another tenant, all are written anew.
            for name in std::mem::take(&mut watched).into_keys() {
                world.copies.set(&name, None);
            }
        }
        let wanted = world.wanted_secrets();
        for name in wanted.iter().take(MAX_WATCHED) {
            watched
                .entry(name.clone())
                .or_insert_with(|| Watch::start(&world, name));
        }
        for name in wanted.iter().skip(MAX_WATCHED) {
            tracing::warn!(
                namespace = name.0,
                secret = name.1,
                "not copied: more than {MAX_WATCHED} are referred to"
            );
            world.copies.set(name, Some(Copy::Missing));
        }
        for (name, watch) in watched
            .iter_mut()
            .filter(|(name, watch)| !watch.is_leaving && !wanted.contains(*name))
        {
            watch.is_leaving = true;
            let (grace, name) = (world.grace, name.clone());
            leaving.push(async move {
                tokio::time::sleep(grace).await;
                name
            });
        }
        for name in &wanted {
            if let Some(watch) = watched.get_mut(name) {
                watch.is_leaving = false;
            }
        }
        tokio::select! {
            () = world.secrets_changed.notified() => {}
            names = world.lost_copies.taken() => {
                // Somebody has deleted them in the management cluster: read again, they are written again.
                for name in names {
                    watched.remove(&name);
                }
            }
            Some(name) = leaving.next() => {
                // Nothing has referred to it for a while; its copy is an orphan now.
                if watched.get(&name).is_some_and(|watch| watch.is_leaving) {
                    watched.remove(&name);
                    world.copies.set(&name, None);
                    world.orphans_changed.notify_one();
                }
            }
        }
    }
}

/// A Secret that is watched, until this is dropped.
struct Watch {
    task: AbortHandle,
    is_leaving: bool,
}

impl Watch {
    fn start(world: &Arc<World>, name: &Name) -> Self {
        let task = tokio::spawn(watch(Arc::clone(world), name.clone()));
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

async fn watch(world: Arc<World>, name: Name) {
    let api: Api<Secret> = Api::namespaced(world.client.clone(), &name.0);
    let stream = StreamBackoff::new(watch_object(api, &name.1), Pace::default());
    let mut stream = std::pin::pin!(stream);
    while let Some(seen) = stream.next().await {
        let copy = match seen {
            Ok(Some(secret)) => {
                world.tenant.works();
                write(&world, &name, &secret).await
            }
            Ok(None) => {
                world.tenant.works();
                Copy::Missing
            }
            Err(error) => {
                let why = chain(&error).to_string();
                tracing::warn!(namespace = name.0, secret = name.1, why, "cannot be read; tried again");
                // What is known stays; what never was is not waited for.
                match world.copies.is_there(&name) {
                    Some(_) => continue,
                    None => Copy::Missing,
                }
            }
        };
        if world.copies.set(&name, Some(copy)) {
            world.tell(&Topic::Secret(name.clone()));
            world.orphans_changed.notify_one();
        }
    }
}

/// Writes the copy, for as long as it takes.
async fn write(world: &World, name: &Name, secret: &Secret) -> Copy {
    let Some(copy) = copy(world.hub.namespace(), secret) else {
        tracing::warn!(
            namespace = name.0,
            secret = name.1,
            "not copied: a copy is found by a label, and the name has more than {MAX_LABEL} characters"
        );
        return Copy::Missing;
    };
    loop {
        match world.hub.apply_secret(&copy).await {
            Ok(written) => return Copy::There(written.metadata.name.unwrap_or_default()),
            Err(HubError::Refused(why)) => {
                tracing::warn!(namespace = name.0, secret = name.1, why, "could not be copied");
                return Copy::Missing;
            }
            Err(HubError::Unauthorized(_) | HubError::Unreachable(_)) => tokio::time::sleep(RETRY).await,
        }
    }
}

/// The copy of a Secret: of its content what makes a certificate, whatever else it holds. `None` when it could not be found by its name.
fn copy(namespace: &str, secret: &Secret) -> Option<SyncSecret> {
    let name = secret.metadata.name.clone()?;
    if name.len() > MAX_LABEL {
        return None;
    }
    let mut metadata = ObjectMeta {
        name: Some(secret.metadata.uid.clone()?),
        namespace: Some(namespace.to_owned()),
        ..ObjectMeta::default()
    };
    Label::ORIGIN_NAMESPACE.set(&mut metadata, secret.metadata.namespace.clone()?);
    Label::ORIGIN_NAME.set(&mut metadata, name);
    Label::ORIGIN_RESOURCE_KIND.set(&mut metadata, SECRET);
    Label::MANAGED_BY.set(&mut metadata, MANAGED_BY_KUBELB);
    let data = secret.data.clone().unwrap_or_default();
    let carried: BTreeMap<_, _> = data
        .into_iter()
        .filter(|(key, _)| CARRIED.contains(&key.as_str()))
        .collect();
    // An API server refuses a Secret of this type with one of them alone.
    let type_ = if carried.len() == CARRIED.len() {
        "kubernetes.io/tls"
    } else {
        "Opaque"
    };
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
        let copy = copy("tenant-x", &secret).unwrap();
        let keys: Vec<&String> = copy.content.data.keys().collect();
        assert_eq!(keys, ["tls.crt", "tls.key"]);
        assert_eq!(copy.metadata.name.as_deref(), Some("u"));
        assert_eq!(copy.metadata.annotations, None);
    }
}
