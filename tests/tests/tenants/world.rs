//! A management cluster with the definitions, what controls a cluster, and the manager's controllers with no more rights than they say they need.

use std::fmt::Debug;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Event, Namespace, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::NamespaceResourceScope;
use kube::{Client, Config, Resource};
use kubelb_api::v1alpha1::{Config as KubelbConfig, LoadBalancer, Tenant, TenantPhase};
use kubelb_manager::controllers::permissions::{Scope, rules};
use kubelb_manager::controllers::{self, Settings};
pub(crate) use kubelb_tests::bare::until;
use kubelb_tests::bare::{Cluster, PATIENCE};
use kubelb_tests::control_plane::ControlPlane;
use kubelb_tests::controllers as cluster_controllers;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

/// The manager's namespace.
pub(crate) const MANAGER: &str = "kubelb";

/// A client from the text of a kubeconfig.
pub(crate) async fn client(kubeconfig: &str) -> Client {
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(Kubeconfig::from_yaml(kubeconfig).unwrap(), &options).await;
    Client::try_from(config.unwrap()).unwrap()
}

/// A cluster; all of it ends when it is dropped.
pub(crate) struct World {
    cluster: Cluster,
    pub(crate) client: Client,
    /// The manager's own, with its rights only.
    manager: Client,
    running: Option<(CancellationToken, JoinHandle<()>)>,
    _tasks: JoinSet<()>,
}

impl World {
    /// With the manager's controllers.
    pub(crate) async fn start() -> Self {
        let mut world = Self::new().await;
        world.start_manager(|_| {});
        world
    }

    /// Nothing of ours runs yet.
    pub(crate) async fn new() -> Self {
        let cluster = Cluster::start().await;
        let admin = cluster.client.clone();
        let mut tasks = JoinSet::new();
        let options = cluster_controllers::Options {
            api_ca: cluster.server.ca().unwrap().to_owned(),
            ..cluster_controllers::Options::default()
        };
        tasks.spawn(cluster_controllers::run(admin.clone(), options, std::future::pending()));
        let mut world = Self {
            manager: admin.clone(),
            client: admin,
            cluster,
            running: None,
            _tasks: tasks,
        };
        world.install().await;
        world
    }

    async fn install(&mut self) {
        self.cluster.install(kubelb_api::crds::all()).await;
        self.cluster.create_namespace(MANAGER).await;
        let config = json!({"apiVersion": "kubelb.k8c.io/v1alpha1", "kind": "Config", "metadata": {"name": "default"}, "spec": {}});
        self.create_in::<KubelbConfig>(MANAGER, config).await;
        let account = json!({"metadata": {"name": "manager"}});
        self.create_in::<ServiceAccount>(MANAGER, account).await;
        let subjects = json!([{"kind": "ServiceAccount", "name": "manager", "namespace": MANAGER}]);
        let reference = |kind: &str| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": "manager"});
        let role = json!({"metadata": {"name": "manager"}, "rules": rules(Scope::Cluster)});
        self.create_all::<ClusterRole>(role).await;
        let binding =
            json!({"metadata": {"name": "manager"}, "roleRef": reference("ClusterRole"), "subjects": subjects});
        self.create_all::<ClusterRoleBinding>(binding).await;
        let places = [
            (MANAGER, Scope::Manager),
            ("kube-public", Scope::Namespace("kube-public")),
            ("default", Scope::Namespace("default")),
        ];
        for (namespace, scope) in places {
            let role = json!({"metadata": {"name": "manager"}, "rules": rules(scope)});
            self.create_in::<Role>(namespace, role).await;
            let binding = json!({"metadata": {"name": "manager"}, "roleRef": reference("Role"), "subjects": subjects});
            self.create_in::<RoleBinding>(namespace, binding).await;
        }
        let token = self.token(MANAGER, "manager").await;
        let url = format!("https://{}", self.server().address());
        self.manager = client(&self.server().kubeconfig_with(&url, &token).unwrap()).await;
    }

    pub(crate) fn server(&self) -> &ControlPlane {
        &self.cluster.server
    }

    /// A token of any account.
    pub(crate) async fn token(&self, namespace: &str, account: &str) -> String {
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        let request = TokenRequest {
            spec: Some(TokenRequestSpec::default()),
            ..TokenRequest::default()
        };
        let answer = api
            .create_token_request(account, &PostParams::default(), &request)
            .await
            .unwrap();
        answer.status.unwrap().token.unwrap()
    }

    pub(crate) fn start_manager(&mut self, change: impl FnOnce(&mut Settings)) {
        let mut settings = Settings {
            namespace: MANAGER.to_owned(),
            instance: "manager-0".to_owned(),
            api_server_urls: vec![format!("https://{}", self.server().address())],
            // From kube-root-ca.crt, as in most clusters.
            api_server_ca: None,
            token_lifetime: Duration::from_secs(3600),
            renew_after: None,
        };
        change(&mut settings);
        let stop = CancellationToken::new();
        let running = tokio::spawn(controllers::run(self.manager.clone(), settings, stop.clone()));
        self.running = Some((stop, running));
    }

    pub(crate) async fn stop_manager(&mut self) {
        let (stop, running) = self.running.take().unwrap();
        stop.cancel();
        tokio::time::timeout(PATIENCE, running).await.expect("ends").unwrap();
    }

    pub(crate) async fn create_all<K>(&self, object: Value) -> K
    where
        K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
    {
        create(&Api::all(self.client.clone()), object).await
    }

    pub(crate) async fn create_in<K>(&self, namespace: &str, object: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned,
    {
        create(&Api::namespaced(self.client.clone(), namespace), object).await
    }

    pub(crate) fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    pub(crate) fn tenants(&self) -> Api<Tenant> {
        Api::all(self.client.clone())
    }

    pub(crate) fn namespaces(&self) -> Api<Namespace> {
        Api::all(self.client.clone())
    }

    /// Creates a Tenant.
    pub(crate) async fn create_tenant(&self, name: &str) -> Tenant {
        let tenant =
            json!({"apiVersion": "kubelb.k8c.io/v1alpha1", "kind": "Tenant", "metadata": {"name": name}, "spec": {}});
        self.create_all(tenant).await
    }

    /// Creates a Tenant, and waits until it is registered: a client with its credential.
    pub(crate) async fn register(&self, name: &str) -> Client {
        self.create_tenant(name).await;
        self.ready(name).await;
        client(&self.kubeconfig(name).await).await
    }

    /// Waits until it is registered as it is now.
    pub(crate) async fn ready(&self, name: &str) -> Tenant {
        let is_ready = |tenant: Option<&Tenant>| {
            let status = tenant.and_then(|tenant| tenant.status.as_ref());
            let is_phase = status.and_then(|status| status.phase) == Some(TenantPhase::Ready);
            is_phase
                && ready_of(tenant).is_some_and(|ready| {
                    ready.status == "True"
                        && ready.observed_generation == tenant.and_then(|tenant| tenant.metadata.generation)
                })
        };
        until(&self.tenants(), name, "registered", is_ready).await.unwrap()
    }

    /// Waits until the Ready condition has this reason: its message.
    pub(crate) async fn told(&self, name: &str, reason: &str) -> String {
        let is_told = |tenant: Option<&Tenant>| ready_of(tenant).is_some_and(|ready| ready.reason == reason);
        let tenant = until(&self.tenants(), name, reason, is_told).await;
        ready_of(tenant.as_ref()).unwrap().message
    }

    pub(crate) async fn kubeconfig(&self, tenant: &str) -> String {
        let secret = self
            .api::<Secret>(&format!("tenant-{tenant}"))
            .get("kubelb-ccm-kubeconfig")
            .await
            .unwrap();
        kubeconfig_of(&secret)
    }

    pub(crate) async fn delete_tenant(&self, name: &str) {
        self.tenants().delete(name, &DeleteParams::background()).await.unwrap();
    }

    /// Waits until a Tenant and its namespace are gone.
    pub(crate) async fn gone(&self, name: &str) {
        until(&self.tenants(), name, "the Tenant is gone", |tenant| tenant.is_none()).await;
        assert!(
            self.namespaces()
                .get_opt(&format!("tenant-{name}"))
                .await
                .unwrap()
                .is_none()
        );
    }

    /// Reasons and messages of the Events about Tenants.
    pub(crate) async fn events(&self) -> Vec<String> {
        let list = self.api::<Event>("default").list(&ListParams::default()).await.unwrap();
        let of_tenants = list
            .items
            .into_iter()
            .filter(|event| event.involved_object.kind.as_deref() == Some("Tenant"));
        let shown = of_tenants.map(|event| {
            let (reason, message) = (event.reason.unwrap_or_default(), event.message.unwrap_or_default());
            format!("{} {reason}: {message}", event.type_.unwrap_or_default())
        });
        shown.collect()
    }
}

/// Changes an object by a merge patch.
pub(crate) async fn merge<K: Clone + Debug + DeserializeOwned>(api: &Api<K>, name: &str, patch: Value) -> K {
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .unwrap()
}

async fn create<K>(api: &Api<K>, object: Value) -> K
where
    K: Clone + Debug + Serialize + DeserializeOwned,
{
    let object = serde_json::from_value(object).unwrap();
    api.create(&PostParams::default(), &object).await.unwrap()
}

/// A LoadBalancer as a CCM makes one.
pub(crate) fn load_balancer(name: &str) -> LoadBalancer {
    serde_json::from_value(json!({
        "apiVersion": "kubelb.k8c.io/v1alpha1", "kind": "LoadBalancer", "metadata": {"name": name},
        "spec": {
            "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
            "endpoints": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"name": "http", "port": 30080, "protocol": "TCP"}]}],
        },
    }))
    .unwrap()
}

/// The condition Ready.
pub(crate) fn ready_of(tenant: Option<&Tenant>) -> Option<Condition> {
    let status = tenant?.status.as_ref()?;
    status
        .conditions
        .iter()
        .find(|condition| condition.type_ == "Ready")
        .cloned()
}

pub(crate) fn kubeconfig_of(secret: &Secret) -> String {
    let data = secret.data.as_ref().unwrap();
    String::from_utf8(data["kubelb"].0.clone()).unwrap()
}

/// The code with which something was refused.
pub(crate) fn code<T: Debug>(result: kube::Result<T>) -> u16 {
    match result {
        Err(kube::Error::Api(status)) => status.code,
        other => panic!("not refused: {other:?}"),
    }
}

/// Waits until a credential opens nothing any more: API servers believe for ten seconds what they have found out of a token.
pub(crate) async fn revoked(load_balancers: &Api<LoadBalancer>) {
    let mut looks = tokio::time::interval(Duration::from_millis(100));
    let opens_nothing = async {
        loop {
            looks.tick().await;
            match load_balancers.list(&ListParams::default()).await {
                Err(kube::Error::Api(status)) => break status.code,
                Ok(_) => {}
                Err(error) => panic!("{error}"),
            }
        }
    };
    let code = tokio::time::timeout(PATIENCE, opens_nothing).await.expect("revoked");
    assert_eq!(code, 401);
}
