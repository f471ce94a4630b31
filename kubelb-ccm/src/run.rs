//! `kubelb-ccm`: the one place that builds clients and spawns tasks.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::{Namespace, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ObjectMeta, PartialObjectMeta};
use kube::runtime::Controller;
use kube::runtime::controller::Config as ControllerConfig;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Api, Client, Config};
use kubelb_api::labels::Label;
use kubelb_api::v1alpha1::{Addresses, LoadBalancer, Route, TenantState};
use kubelb_runtime::lease::{self, Election, Timing};
use kubelb_runtime::{admin, shutdown, telemetry};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::args::{Cli, Task, identity, log_filter};
use crate::cleanup;
use crate::desk::{Desk, View};
use crate::hub::Hub;
use crate::keeper::{self, Keeper};
use crate::layer7::writing::Objects;
use crate::layer7::{self, World};
use crate::nodes::NodeAddresses;
use crate::orphans::Orphans;
use crate::service::{self, Context};
use crate::services::Services;
use crate::tenancy::Tenancy;
use crate::watch::{Link, drain, follow};

/// Name of the Lease of several replicas, as KubeLB's CCM has it, so that one of the two works at a time.
const LEASE: &str = "19f32e7b.ccm.kubelb.k8c.io";
/// Services looked at in parallel.
const CONCURRENCY: u16 = 16;
/// How long a cleanup waits for a CCM that ends.
const LEASE_TIME: Duration = Duration::from_secs(60);
/// Label of an EndpointSlice with the name of its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start: a kubeconfig is missing or wrong, an address is taken. That the management cluster does not answer is none.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    telemetry::init(cli.log_format, &log_filter())?;
    let runtime = tokio::runtime::Runtime::new().context("starting the runtime")?;
    runtime.block_on(async {
        let shutdown = shutdown::on_signals().context("waiting for signals")?;
        match cli.task {
            None => start(cli, shutdown).await,
            Some(Task::Cleanup) => clean_up(&cli, shutdown).await,
        }
    })
}

/// Runs until `shutdown`.
///
/// # Errors
/// As [`run`].
pub async fn start(cli: Cli, shutdown: CancellationToken) -> anyhow::Result<()> {
    let desk = Arc::new(Desk::default());
    let mut tasks = JoinSet::new();
    let addresses = [cli.metrics_addr.0, cli.health_probe_bind_address.0];
    for address in addresses.into_iter().flatten() {
        let listener = admin::bind(address)
            .await
            .with_context(|| format!("listening at {address}"))?;
        let answers: Arc<dyn admin::Answers> = desk.clone();
        tasks.spawn(admin::serve(listener, answers, shutdown.clone()));
    }
    let tenant = client(cli.kubeconfig.as_deref()).await.context("--kubeconfig")?;
    let start = keeper::Start {
        file: cli.kubelb_kubeconfig.clone(),
        secret: cli.kubelb_kubeconfig_secret.clone(),
        renew_after: cli.kubelb_token_renew_after,
        tenant: tenant.clone(),
    };
    let keeper = Keeper::open(start).await.context("--kubelb-kubeconfig")?;
    let held = if cli.enable_leader_election {
        let seen = watch::Sender::new(None);
        let Some(held) = lease::acquire(tenant.clone(), election(&cli, &tenant), &seen, shutdown.clone()).await else {
            return Ok(());
        };
        Some(held)
    } else {
        None
    };
    desk.leads();
    work(&cli, &tenant, keeper, &desk, &mut tasks);
    let lost = held.as_ref().map(|held| held.lost().clone()).unwrap_or_default();
    let result = tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        () = lost.cancelled() => Err(anyhow::anyhow!("another replica may lead now")),
    };
    // What is under way is level-triggered: the next start goes on from what the servers hold.
    tasks.shutdown().await;
    if let Some(held) = held.filter(|_| result.is_ok()) {
        held.released().await;
    }
    result
}

/// Takes back what a CCM did, and ends.
///
/// # Errors
/// When a CCM still works after a minute, or the tenant's API server does not do its part. That the management cluster does not is none.
pub async fn clean_up(cli: &Cli, shutdown: CancellationToken) -> anyhow::Result<()> {
    let tenant = client(cli.kubeconfig.as_deref()).await.context("--kubeconfig")?;
    let done = shutdown.child_token();
    let held = if cli.enable_leader_election {
        let seen = watch::Sender::new(None);
        let acquired = lease::acquire(tenant.clone(), election(cli, &tenant), &seen, done.clone());
        let acquired = tokio::time::timeout(LEASE_TIME, acquired).await;
        Some(
            acquired
                .context("a CCM still works: it holds the Lease")?
                .context("ended by a signal")?,
        )
    } else {
        None
    };
    let start = keeper::Start {
        file: cli.kubelb_kubeconfig.clone(),
        secret: None,
        renew_after: None,
        tenant: tenant.clone(),
    };
    let hub = match Keeper::open(start).await {
        Ok(keeper) => Some(Hub::new(
            &keeper.client(),
            &cli.settings().tenant,
            Link::new("management"),
        )),
        Err(error) => {
            tracing::warn!(
                error = format!("{error:#}"),
                "there is no way to the management cluster; what is left there goes with the tenant"
            );
            None
        }
    };
    let result = tokio::select! {
        result = cleanup::run(&tenant, hub.as_ref()) => result,
        () = shutdown.cancelled() => Err(anyhow::anyhow!("ended by a signal")),
    };
    done.cancel();
    if let Some(held) = held {
        held.released().await;
    }
    result
}

fn election(cli: &Cli, tenant: &Client) -> Election {
    let namespace = cli.leader_election_namespace.clone();
    Election {
        namespace: namespace.unwrap_or_else(|| tenant.default_namespace().to_owned()),
        name: LEASE.to_owned(),
        identity: identity(),
        timing: Timing::DEFAULT,
        annotations: BTreeMap::new(),
    }
}

async fn client(kubeconfig: Option<&Path>) -> anyhow::Result<Client> {
    let config = match kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).with_context(|| path.display().to_string())?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .with_context(|| path.display().to_string())?
        }
        None => Config::infer()
            .await
            .context("no kubeconfig is given, and this is no Pod")?,
    };
    Client::try_from(config).context("making a client")
}

/// Spawns everything that follows the two clusters.
fn work(cli: &Cli, tenant: &Client, keeper: Keeper, desk: &Arc<Desk>, tasks: &mut JoinSet<()>) {
    let settings = cli.settings();
    let (here, there) = (Link::new("tenant"), Link::new("management"));
    let hub = Hub::new(&keeper.client(), &settings.tenant, Arc::clone(&there));
    let any = watcher::Config::default;
    let selected = match &cli.node_address_label_selector {
        Some(selector) => any().labels(selector),
        None => any(),
    };
    let (services, service_news) = follow::<Service>(Api::all(tenant.clone()), any(), Arc::clone(&here));
    let (nodes, node_news) = follow::<Node>(Api::all(tenant.clone()), selected, Arc::clone(&here));
    let (slices, slice_news) = follow::<EndpointSlice>(Api::all(tenant.clone()), any(), Arc::clone(&here));
    let (management, namespace) = (keeper.client(), hub.namespace());
    let copies = Api::namespaced(management.clone(), namespace);
    let (load_balancers, load_balancer_news) = follow::<LoadBalancer>(copies, any(), Arc::clone(&there));
    let addresses = Api::namespaced(management.clone(), namespace);
    let (present, address_news) = follow::<Addresses>(addresses, any(), Arc::clone(&there));
    // A manager that has none of these is no outage.
    let states = Api::namespaced(management.clone(), namespace);
    let (_, tenant_news) = follow::<TenantState>(states, any(), Link::new("management, TenantState"));
    let tenancy = Tenancy::new();
    let reporter = Reporter {
        controller: "kubelb-ccm".to_owned(),
        instance: Some(identity()),
    };
    let recorder = Recorder::new(tenant.clone(), reporter);
    let (routes_again, all_routes_again) = watch::channel(());
    let layer7 = cli.enable_gateway_api.then(|| {
        let metadata = Api::all(tenant.clone());
        let (namespaces, namespace_news) = follow::<PartialObjectMeta<Namespace>>(metadata, any(), Arc::clone(&here));
        let routes = Api::namespaced(management, namespace);
        let (routes, route_news) = follow::<Route>(routes, any(), Arc::clone(&there));
        let world = Arc::new(World {
            client: tenant.clone(),
            objects: Objects::new(tenant),
            tenant: Arc::clone(&here),
            hub: hub.clone(),
            tenancy: tenancy.clone(),
            settings: settings.clone(),
            gateways: cli.gateway_settings(),
            address_type: cli.node_address_type,
            cleanup_timeout: cli.cleanup_timeout,
            grace: cli.unused_backend_grace,
            services: services.clone(),
            slices: slices.store.clone(),
            nodes: nodes.clone(),
            namespaces,
            routes,
            addresses: present.store.clone(),
            shelves: Default::default(),
            index: Default::default(),
            bells: World::bells(),
            service_bell: Default::default(),
            materials_changed: Default::default(),
            lost_copies: Default::default(),
            orphans_changed: Default::default(),
            copies: Default::default(),
            recorder: recorder.clone(),
            failures: Default::default(),
        });
        let seen = Arc::clone(&world);
        tasks.spawn(drain(namespace_news, move |namespace| {
            seen.namespace_changed(namespace.metadata.name.as_deref().unwrap_or_default());
        }));
        let seen = Arc::clone(&world);
        tasks.spawn(drain(route_news, move |route| seen.route_changed(&route)));
        layer7::spawn(&world, &there, &all_routes_again, tasks);
        world
    });

    let nodes_changed = Arc::new(Notify::new());
    let (look_again, all_again) = watch::channel(());
    let (rung, again) = (Arc::clone(&nodes_changed), look_again.clone());
    let seen = layer7.clone();
    tasks.spawn(drain(node_news, move |_| {
        rung.notify_one();
        again.send_replace(());
        if let Some(world) = &seen {
            world.nodes_changed();
        }
    }));
    let (heard, again) = (tenancy.clone(), look_again.clone());
    let (rung, seen) = (Arc::clone(&nodes_changed), layer7.clone());
    let back = routes_again.clone();
    tasks.spawn(drain(tenant_news, move |state| {
        if heard.hear(&state) {
            tracing::warn!(is_deleted = heard.is_over(), "the tenant, in the management cluster");
            again.send_replace(());
            back.send_replace(());
            rung.notify_one();
            if let Some(world) = &seen {
                world.tenancy_changed();
            }
        }
    }));
    let (rung, seen) = (Arc::clone(&nodes_changed), layer7.clone());
    tasks.spawn(drain(address_news, move |addresses| {
        rung.notify_one();
        if let Some(world) = &seen {
            world.addresses_changed(&addresses);
        }
    }));
    if settings.to_nodes || layer7.is_some() {
        let addresses = NodeAddresses {
            hub: hub.clone(),
            tenancy: tenancy.clone(),
            type_: cli.node_address_type,
            nodes: nodes.clone(),
            present: present.store,
            changed: nodes_changed,
        };
        tasks.spawn(addresses.follow());
    }

    let copies_changed = Arc::new(Notify::new());
    let orphans = Orphans {
        hub: hub.clone(),
        tenancy: tenancy.clone(),
        services: services.clone(),
        load_balancers: load_balancers.clone(),
        changed: Arc::clone(&copies_changed),
    };
    tasks.spawn(orphans.follow());

    // All Services are looked at again when the management cluster is back.
    let mut state = there.subscribe();
    tasks.spawn(async move {
        let mut was_down = true;
        while state.changed().await.is_ok() {
            let is_down = state.borrow_and_update().error.is_some();
            if was_down && !is_down {
                look_again.send_replace(());
                routes_again.send_replace(());
            }
            was_down = is_down;
        }
    });

    desk.show(View {
        settings: settings.clone(),
        address_type: cli.node_address_type,
        services: services.store.clone(),
        nodes: nodes.store.clone(),
        load_balancers: load_balancers.store.clone(),
        tenant: here,
        hub: there,
        route: keeper.route(),
        credential: keeper.standing(),
    });
    tasks.spawn(keeper.keep());
    let context = Arc::new(Context {
        services: Services::new(tenant),
        hub,
        tenancy,
        settings,
        address_type: cli.node_address_type,
        cleanup_timeout: cli.cleanup_timeout,
        nodes: nodes.store,
        slices: slices.store,
        load_balancers: load_balancers.store,
        recorder,
        desk: Arc::clone(desk),
        failures: Default::default(),
    });
    let rung = Arc::clone(&copies_changed);
    let seen = layer7.clone();
    let service_news = service_news.inspect(move |item| {
        rung.notify_one();
        if let (Some(world), Ok(service)) = (&seen, item) {
            world.service_changed(service);
        }
    });
    let slice_news = slice_news.inspect(move |item| {
        if let (Some(world), Ok(slice)) = (&layer7, item)
            && let Some(service) = service_of_slice(&slice.metadata)
        {
            world.endpoints_changed(service.namespace.as_deref().unwrap_or_default(), &service.name);
        }
    });
    let load_balancer_news = load_balancer_news.inspect(move |_| copies_changed.notify_one());
    let controller = Controller::for_stream(service_news, services.store)
        .with_config(ControllerConfig::default().concurrency(CONCURRENCY))
        .watches_stream(slice_news, |slice| service_of_slice(&slice.metadata))
        .watches_stream(load_balancer_news, |copy: LoadBalancer| service_of_copy(&copy.metadata))
        .reconcile_all_on(news_of(all_again))
        .run(service::reconcile, service::retry, context);
    tasks.spawn(controller.for_each(|_| std::future::ready(())));
}

/// What came while nobody looked is one item.
pub(crate) fn news_of(receiver: watch::Receiver<()>) -> impl Stream<Item = ()> + Send {
    futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.changed().await.ok()?;
        Some(((), receiver))
    })
}

fn service_of_slice(slice: &ObjectMeta) -> Option<ObjectRef<Service>> {
    let name = slice.labels.as_ref()?.get(SERVICE_NAME)?;
    Some(ObjectRef::new(name).within(slice.namespace.as_deref()?))
}

fn service_of_copy(copy: &ObjectMeta) -> Option<ObjectRef<Service>> {
    let name = Label::ORIGIN_NAME.get(copy)?;
    Some(ObjectRef::new(name).within(Label::ORIGIN_NAMESPACE.get(copy)?))
}
