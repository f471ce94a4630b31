//! A cluster without nodes: its API server, and a client of it.
//!
//! For what talks to API servers alone. Everything here panics where a test would: it is part of the tests that use it.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests say what they expect"
)]

use std::fmt::Debug;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Client, Config, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::json;
use tempfile::TempDir;

use crate::apiserver;
use crate::control_plane::{ControlPlane, Host};

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// An API server and a client of it. It ends with this, and with the thread that started it.
pub struct Cluster {
    /// The server.
    pub server: ControlPlane,
    /// A client that may do everything.
    pub client: Client,
    _directory: TempDir,
}

impl Cluster {
    /// Starts one.
    pub async fn start() -> Self {
        let directory = TempDir::new().unwrap();
        // On the thread of the test, for the server ends with the thread that starts it.
        let server =
            ControlPlane::launch(apiserver::Config::new(&directory.path().join("server")), Host::Here).unwrap();
        let kubeconfig = Kubeconfig::read_from(server.kubeconfig()).unwrap();
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
        Self {
            client: Client::try_from(config.unwrap()).unwrap(),
            server,
            _directory: directory,
        }
    }

    /// Installs definitions, and waits until their kinds are served.
    pub async fn install(&self, definitions: impl IntoIterator<Item = CustomResourceDefinition>) {
        let api: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        for definition in definitions {
            let name = definition.name_any();
            api.create(&PostParams::default(), &definition).await.unwrap();
            let established = await_condition(api.clone(), &name, conditions::is_crd_established());
            tokio::time::timeout(PATIENCE, established)
                .await
                .expect("established")
                .unwrap();
        }
    }

    /// Creates a namespace.
    pub async fn create_namespace(&self, name: &str) {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let namespace = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
        namespaces.create(&PostParams::default(), &namespace).await.unwrap();
    }
}

/// Waits until an object is as wanted; `None` is an object that is not there.
pub async fn until<K>(api: &Api<K>, name: &str, what: &str, wanted: impl Fn(Option<&K>) -> bool) -> Option<K>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let condition = |object: Option<&K>| wanted(object);
    match tokio::time::timeout(PATIENCE, await_condition(api.clone(), name, condition)).await {
        Ok(Ok(object)) => object,
        Ok(Err(error)) => panic!("{what}: {error}"),
        Err(_) => panic!("{what}: {:#?}", api.get_opt(name).await),
    }
}
