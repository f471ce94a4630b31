//! One LoadBalancer whose address comes from elsewhere: its Service and EndpointSlices in the management cluster. Decisions are those of
//! [`crate::delegate`].
//!
//! Both are owned by the LoadBalancer, so that the cluster removes them with it. What becomes of the Service is read by those who make statuses.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use kube::core::{NamespaceResourceScope, ObjectMeta, PartialObjectMeta};
use kube::runtime::controller::{Action, Config as ControllerConfig, Controller};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher;
use kube::{Api, Client, Resource, ResourceExt as _};
use kubelb_api::labels::{Label, MANAGED_BY_KUBELB};
use kubelb_api::names::{DEFAULT_CONFIG, TenantName};
use kubelb_api::v1alpha1::{Addresses, Config, LoadBalancer, Tenant};
use kubelb_runtime::error_chain::chain;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::failure::{ControllerError, Failures, doing};
use super::watch::{News, follow, rings};
use super::{CONCURRENCY, DEBOUNCE, FIELD_MANAGER, LOOK_TIME, Settings};
use crate::delegate::{Wanted, is_delegated, is_of, service_name, wanted};

/// Longest text of an Event.
const MAX_NOTE: usize = 1_000;

/// Pause before it is seen again whether there is anything left to remove.
const PAUSE: Duration = Duration::from_secs(5);

/// Follows LoadBalancers for as long as their addresses come from elsewhere, or something of that is left. `bell` rings when the Config may have
/// changed.
pub(crate) async fn keep(client: &Client, settings: &Settings, configs: &Store<Config>, bell: &watch::Sender<()>) {
    let reference = ObjectRef::<Config>::new(DEFAULT_CONFIG).within(&settings.namespace);
    let delegates = || {
        let config = configs.get(&reference);
        config.is_some_and(|config| config.spec.address_pools.is_empty())
    };
    let mut changed = bell.subscribe();
    loop {
        if !delegates() {
            let all: Api<PartialObjectMeta<Service>> = Api::all(client.clone());
            let parameters = ListParams::default().labels(&ours()).limit(1);
            match all.list_metadata(&parameters).await {
                Ok(left) if left.items.is_empty() => {
                    if changed.changed().await.is_err() {
                        return;
                    }
                    continue;
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "Services cannot be listed; tried again");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            }
        }
        let (services, news) = follow::<Service>(
            Api::all(client.clone()),
            watcher::Config::default().labels(&ours()),
            "Services of LoadBalancers",
        );
        let known = services.clone();
        let over = async {
            let mut changed = bell.subscribe();
            loop {
                if delegates() {
                    if changed.changed().await.is_err() {
                        return;
                    }
                } else if known.wait_until_ready().await.is_ok() && known.state().is_empty() {
                    return;
                } else {
                    tokio::time::sleep(PAUSE).await;
                }
            }
        };
        tokio::select! {
            () = run(client, settings, configs, (services, news), bell) => {}
            () = over => {}
        }
    }
}

fn ours() -> String {
    Label::MANAGED_BY.selector(MANAGED_BY_KUBELB)
}

async fn run(
    client: &Client,
    settings: &Settings,
    configs: &Store<Config>,
    (services, service_news): (Store<Service>, impl Stream<Item = News<Service>> + Send + 'static),
    bell: &watch::Sender<()>,
) {
    let any = watcher::Config::default;
    let (tenants, tenant_news) = follow::<Tenant>(Api::all(client.clone()), any(), "Tenants");
    let (addresses, address_news) = follow::<Addresses>(Api::all(client.clone()), any(), "Addresses");
    let (slices, slice_news) =
        follow::<EndpointSlice>(Api::all(client.clone()), any().labels(&ours()), "EndpointSlices");
    let (objects, news) = follow::<LoadBalancer>(Api::all(client.clone()), any(), "LoadBalancers");
    let reporter = Reporter {
        controller: "kubelb-manager".to_owned(),
        instance: Some(settings.instance.clone()),
    };
    let known = objects.clone();
    let of_tenant = move |tenant: Tenant| of_tenant(&known, &tenant);
    let known = objects.clone();
    let referring = move |addresses: Addresses| {
        let (namespace, name) = (addresses.namespace(), addresses.name_any());
        let refers = |object: &LoadBalancer| {
            let group = object.spec.endpoints.first();
            let reference = group.and_then(|group| group.addresses_reference.as_ref());
            object.namespace() == namespace && reference.is_some_and(|to| to.name.as_deref() == Some(name.as_str()))
        };
        let all = known.state().into_iter().filter(|object| refers(object));
        all.map(|object| ObjectRef::from_obj(&*object)).collect::<Vec<_>>()
    };
    let context = Arc::new(Context {
        client: client.clone(),
        namespace: settings.namespace.clone(),
        configs: configs.clone(),
        tenants,
        addresses,
        services,
        slices,
        recorder: Recorder::new(client.clone(), reporter),
        failures: Failures::default(),
    });
    let controller = Controller::for_stream(news, objects)
        .with_config(ControllerConfig::default().concurrency(CONCURRENCY).debounce(DEBOUNCE))
        .watches_stream(tenant_news, of_tenant)
        .watches_stream(address_news, referring)
        .owns_stream(service_news)
        .owns_stream(slice_news)
        .reconcile_all_on(rings(bell.subscribe()))
        .run(reconcile, retry, context);
    controller.for_each(|_| std::future::ready(())).await;
}

/// Those that a Tenant's change is about.
fn of_tenant(all: &Store<LoadBalancer>, tenant: &Tenant) -> Vec<ObjectRef<LoadBalancer>> {
    let name = tenant.name_any();
    let is_its = |object: &LoadBalancer| {
        let namespace = object.namespace().unwrap_or_default();
        TenantName::from_namespace(&namespace).is_some_and(|tenant| tenant.as_str() == name)
    };
    let all = all.state().into_iter().filter(|object| is_its(object));
    all.map(|object| ObjectRef::from_obj(&*object)).collect()
}

/// What LoadBalancers are looked at with.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    pub(crate) configs: Store<Config>,
    pub(crate) tenants: Store<Tenant>,
    pub(crate) addresses: Store<Addresses>,
    /// Those that kubelb made.
    pub(crate) services: Store<Service>,
    pub(crate) slices: Store<EndpointSlice>,
    pub(crate) recorder: Recorder,
    pub(crate) failures: Failures,
}

fn key_of(object: &LoadBalancer) -> String {
    format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any())
}

/// Looks at one LoadBalancer.
pub(crate) async fn reconcile(object: Arc<LoadBalancer>, context: Arc<Context>) -> Result<Action, ControllerError> {
    let look = tokio::time::timeout(LOOK_TIME, context.look(&object));
    look.await.unwrap_or(Err(ControllerError::Slow(LOOK_TIME)))?;
    context.failures.forget(&key_of(&object));
    Ok(Action::await_change())
}

/// When to look at a LoadBalancer again after a failure.
pub(crate) fn retry(object: Arc<LoadBalancer>, error: &ControllerError, context: Arc<Context>) -> Action {
    Action::requeue(context.failures.pause(&key_of(&object), error))
}

impl Context {
    async fn listed(&self) {
        let ready = (
            self.tenants.wait_until_ready(),
            self.addresses.wait_until_ready(),
            self.services.wait_until_ready(),
            self.slices.wait_until_ready(),
        );
        // The stores end with the controller only.
        let _ended = tokio::join!(ready.0, ready.1, ready.2, ready.3);
    }

    async fn look(&self, object: &LoadBalancer) -> Result<(), ControllerError> {
        // With half of it, what belongs to the other half would look as if it were gone.
        self.listed().await;
        let namespace = object.namespace().unwrap_or_default();
        let name = service_name(&object.name_any());
        let present = self.services.get(&ObjectRef::new(&name).within(&namespace));
        let result = match self.wanted(object, &namespace) {
            Some(wanted) => self.write(&namespace, &wanted, present.as_deref()).await,
            None => Ok(()),
        };
        if let Err(error) = &result {
            self.complain(object, error).await;
        }
        result?;
        self.tidy(object, &namespace).await
    }

    /// What there is to be for it; `None`: nothing.
    fn wanted(&self, object: &LoadBalancer, namespace: &str) -> Option<Wanted> {
        let config = self
            .configs
            .get(&ObjectRef::new(DEFAULT_CONFIG).within(&self.namespace))?;
        let tenant = TenantName::from_namespace(namespace)?;
        let tenant = self.tenants.get(&ObjectRef::new(tenant.as_str()))?;
        if tenant.metadata.deletion_timestamp.is_some() || !is_delegated(&config.spec, &tenant.spec, object) {
            return None;
        }
        let reference = object.spec.endpoints.first()?.addresses_reference.as_ref();
        let addresses = reference.and_then(|reference| {
            let name = reference.name.as_deref().unwrap_or_default();
            self.addresses.get(&ObjectRef::new(name).within(namespace))
        });
        let wanted = wanted(object, addresses.as_deref(), &config.spec, &tenant.spec);
        // A Service has a port at least.
        let ports = wanted.service.spec.as_ref().and_then(|spec| spec.ports.as_ref());
        ports.is_some_and(|ports| !ports.is_empty()).then_some(wanted)
    }

    async fn write(&self, namespace: &str, wanted: &Wanted, present: Option<&Service>) -> Result<(), ControllerError> {
        let class = |service: &Service| service.spec.as_ref()?.load_balancer_class.clone();
        let services = Api::namespaced(self.client.clone(), namespace);
        // It cannot be changed.
        if let Some(present) = present.filter(|present| class(present) != class(&wanted.service)) {
            remove(&services, &present.metadata, "deleting the Service of another class").await?;
        }
        let slices = Api::namespaced(self.client.clone(), namespace);
        for slice in &wanted.slices {
            apply(&slices, slice, &slice.metadata, "writing an EndpointSlice").await?;
        }
        apply(
            &services,
            &wanted.service,
            &wanted.service.metadata,
            "writing the Service",
        )
        .await
    }

    /// Removes what was made for it and is not to be.
    async fn tidy(&self, object: &LoadBalancer, namespace: &str) -> Result<(), ControllerError> {
        let wanted = self.wanted(object, namespace);
        let names: Vec<&str> = match &wanted {
            Some(wanted) => wanted
                .slices
                .iter()
                .filter_map(|slice| slice.metadata.name.as_deref())
                .collect(),
            None => Vec::new(),
        };
        if wanted.is_none() {
            let name = service_name(&object.name_any());
            let present = self.services.get(&ObjectRef::new(&name).within(namespace));
            if let Some(present) = present.filter(|present| is_of(&present.metadata, object)) {
                let services: Api<Service> = Api::namespaced(self.client.clone(), namespace);
                remove(&services, &present.metadata, "deleting the Service").await?;
            }
        }
        let is_over = |slice: &EndpointSlice| {
            let name = slice.metadata.name.as_deref().unwrap_or_default();
            slice.metadata.namespace.as_deref() == Some(namespace)
                && is_of(&slice.metadata, object)
                && !names.contains(&name)
        };
        let slices: Api<EndpointSlice> = Api::namespaced(self.client.clone(), namespace);
        for slice in self.slices.state().iter().filter(|slice| is_over(slice)) {
            remove(&slices, &slice.metadata, "deleting an EndpointSlice").await?;
        }
        Ok(())
    }

    /// What an administrator has to know: the object's own status is made without this.
    async fn complain(&self, object: &LoadBalancer, error: &ControllerError) {
        let Some(why) = error.refusal() else { return };
        let event = Event {
            type_: EventType::Warning,
            reason: "ServiceRefused".to_owned(),
            note: Some(why.chars().take(MAX_NOTE / 4).collect()),
            action: "Delegate".to_owned(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, &object.object_ref(&())).await {
            tracing::debug!(%error, "an Event could not be written");
        }
    }
}

async fn apply<K>(api: &Api<K>, object: &K, metadata: &ObjectMeta, what: &'static str) -> Result<(), ControllerError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned,
{
    let name = metadata.name.as_deref().unwrap_or_default();
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    api.patch(name, &parameters, &Patch::Apply(object))
        .await
        .map(drop)
        .map_err(doing(what))
}

async fn remove<K>(api: &Api<K>, metadata: &ObjectMeta, what: &'static str) -> Result<(), ControllerError>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let parameters = DeleteParams::default().preconditions(Preconditions {
        uid: metadata.uid.clone(),
        resource_version: None,
    });
    match api
        .delete(metadata.name.as_deref().unwrap_or_default(), &parameters)
        .await
    {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(error) => Err(doing(what)(error)),
    }
}

#[cfg(test)]
mod tests {
    use kube::runtime::reflector;
    use kube::runtime::watcher::Event;
    use kubelb_api::API_VERSION;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_tenant_s_change_is_about_its_own_load_balancers_only() {
        let (store, mut writer) = reflector::store();
        for (namespace, name) in [("tenant-x", "a"), ("tenant-x", "b"), ("tenant-y", "a"), ("x", "c")] {
            let object = json!({
                "apiVersion": API_VERSION, "kind": "LoadBalancer", "metadata": {"name": name, "namespace": namespace},
                "spec": {"endpoints": [], "type": "LoadBalancer"},
            });
            writer.apply_watcher_event(&Event::Apply(serde_json::from_value::<LoadBalancer>(object).unwrap()));
        }
        let of = |name: &str| {
            let tenant = json!({"apiVersion": API_VERSION, "kind": "Tenant", "metadata": {"name": name}, "spec": {}});
            let found = of_tenant(&store, &serde_json::from_value(tenant).unwrap()).into_iter();
            let mut names: Vec<String> = found
                .map(|object| format!("{}/{}", object.namespace.unwrap(), object.name))
                .collect();
            names.sort();
            names
        };
        assert_eq!(of("x"), ["tenant-x/a", "tenant-x/b"]);
        assert_eq!(of("y"), ["tenant-y/a"]);
        assert_eq!(of("z"), Vec::<String>::new());
    }
}
