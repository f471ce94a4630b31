//! A server for one test, with a namespace and a tenant who may only read ConfigMaps in it.

use std::net::SocketAddr;
use std::path::Path;

use kubelb_tests::apiserver::{ApiServer, Config, StaticToken};
use kubelb_tests::control_plane::{ControlPlane, Host, Software};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::client::Client;

pub(crate) const TENANT_TOKEN: &str = "tenanttoken";
pub(crate) const TENANT: &str = "tenant-a";
/// The namespace that every test has.
pub(crate) const NAMESPACE: &str = "rec";
pub(crate) const THINGS: &str = "/apis/rec.example.com/v1/namespaces/rec/things";

#[expect(dead_code, reason = "held to be stopped with the test")]
enum Running {
    Own(ApiServer),
    Real(Box<ControlPlane>),
}

pub(crate) struct World {
    pub(crate) admin: Client,
    // Before the directory, which must outlive it.
    _running: Running,
    _directory: TempDir,
}

impl World {
    /// A fresh server with the namespace.
    pub(crate) async fn start() -> Self {
        let world = Self::start_empty().await;
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
        world.admin.post("/api/v1/namespaces", namespace).await.ok(201);
        world.default_account().await;
        world
    }

    /// What a controller makes in every namespace.
    async fn default_account(&self) {
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        let path = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts");
        self.admin.post(&path, account).await.ok(201);
    }

    /// A fresh server.
    pub(crate) async fn start_empty() -> Self {
        let directory = TempDir::new().unwrap();
        if Software::wanted() != Software::Own {
            let real = ControlPlane::launch(config(directory.path()), Host::Here).unwrap();
            let admin = client_of(&real);
            return Self {
                admin,
                _running: Running::Real(Box::new(real)),
                _directory: directory,
            };
        }
        let (server, admin) = own(directory.path(), None, 4096).await;
        Self {
            admin,
            _running: Running::Own(server),
            _directory: directory,
        }
    }

    /// The tenant, who may get, list and watch ConfigMaps of the namespace when the role was made.
    pub(crate) fn tenant(&self) -> Client {
        self.admin.with_token(Some(TENANT_TOKEN))
    }

    /// Gives the tenant its role.
    pub(crate) async fn allow_tenant(&self) -> (Value, Value) {
        let group = "rbac.authorization.k8s.io";
        let path = format!("/apis/{group}/v1/namespaces/{NAMESPACE}");
        let role = json!({
            "apiVersion": format!("{group}/v1"),
            "kind": "Role",
            "metadata": {"name": "r"},
            "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch"]}],
        });
        let binding = json!({
            "apiVersion": format!("{group}/v1"),
            "kind": "RoleBinding",
            "metadata": {"name": "r"},
            "roleRef": {"apiGroup": group, "kind": "Role", "name": "r"},
            "subjects": [{"kind": "User", "name": TENANT, "apiGroup": group}],
        });
        let role = self.admin.post(&format!("{path}/roles"), role).await.ok(201);
        let binding = self.admin.post(&format!("{path}/rolebindings"), binding).await.ok(201);
        (role, binding)
    }

    /// Defines the kind Thing and waits until it is served.
    pub(crate) async fn define_things(&self) {
        let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        self.admin
            .post(path, thing_definition("things.rec.example.com"))
            .await
            .ok(201);
        super::custom::until_served(&self.admin).await;
    }

    /// Creates a Thing.
    pub(crate) async fn thing(&self, metadata: Value, spec: Value) -> Value {
        self.admin.post(THINGS, thing(metadata, spec)).await.ok(201)
    }
}

/// A server with two address ranges and the tenant's token.
pub(crate) fn config(directory: &Path) -> Config {
    let mut config = Config::new(directory);
    config.service_ranges = vec!["10.96.0.0/16".parse().unwrap(), "fd00:96::/108".parse().unwrap()];
    config.tokens = vec![StaticToken {
        token: TENANT_TOKEN.to_owned(),
        user: TENANT.to_owned(),
        groups: Vec::new(),
    }];
    config
}

/// The administrator of a server that was started.
pub(crate) fn client_of(server: &ControlPlane) -> Client {
    let address = server.address().to_string();
    Client::new(&address, server.ca().unwrap(), Some(server.token().unwrap()))
}

/// Starts the own server in `directory`.
pub(crate) async fn own(directory: &Path, listen: Option<SocketAddr>, watch_log: usize) -> (ApiServer, Client) {
    let mut config = config(directory);
    config.listen = listen.unwrap_or(config.listen);
    config.watch_log = watch_log;
    let server = ApiServer::start(config).await.unwrap();
    let admin = Client::new(&server.address().to_string(), server.ca(), Some(server.token()));
    (server, admin)
}

pub(crate) fn thing(metadata: Value, spec: Value) -> Value {
    json!({"apiVersion": "rec.example.com/v1", "kind": "Thing", "metadata": metadata, "spec": spec})
}

/// A kind with a range, a default, a set, a rule, a status and a column.
pub(crate) fn thing_definition(name: &str) -> Value {
    let schema = json!({
        "type": "object",
        "properties": {
            "spec": {
                "type": "object",
                "required": ["port"],
                "properties": {
                    "port": {"type": "integer", "minimum": 1, "maximum": 65535},
                    "mode": {"type": "string", "enum": ["a", "b"], "default": "a"},
                    "list": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
                },
                "x-kubernetes-validations": [{"rule": "self.port != 666", "message": "port 666 is taken"}],
            },
            "status": {"type": "object", "properties": {"ready": {"type": "boolean"}}},
        },
    });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": name},
        "spec": {
            "group": "rec.example.com",
            "scope": "Namespaced",
            "names": {"plural": "things", "singular": "thing", "kind": "Thing", "shortNames": ["th"]},
            "versions": [{
                "name": "v1",
                "served": true,
                "storage": true,
                "schema": {"openAPIV3Schema": schema},
                "subresources": {"status": {}},
                "additionalPrinterColumns": [{"name": "Port", "type": "integer", "jsonPath": ".spec.port"}],
            }],
        },
    })
}
