//! What a tenant's user writes of the Gateway API, and what there is of it in both clusters.

use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Resource as _;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kubelb_api::v1alpha1::{Addresses, Route, SyncSecret};
use kubelb_ccm::layer7::object::{Kind, Object};
use serde_json::{Value, json};

use crate::world::{NAMESPACE, World, until};

impl World {
    /// With the kinds of the Gateway API, and a CCM that runs and serves them.
    pub(crate) async fn start_layer7() -> Self {
        let mut world = Self::new().await;
        world.install_gateway_api().await;
        world.start_layer7_ccm();
        world
    }

    pub(crate) async fn install_gateway_api(&self) {
        self.tenant.install(kubelb_tests::gateway_api::definitions()).await;
    }

    pub(crate) fn start_layer7_ccm(&mut self) {
        self.start_ccm(&["--enable-gateway-api", "--unused-backend-grace=100ms"]);
    }

    pub(crate) fn objects(&self, kind: Kind, namespace: &str) -> Api<DynamicObject> {
        let resource = ApiResource {
            group: Object::group(&kind).into_owned(),
            version: kind.version().to_owned(),
            api_version: Object::api_version(&kind).into_owned(),
            kind: kind.as_str().to_owned(),
            plural: kind.plural().to_owned(),
        };
        match kind {
            Kind::GatewayClass => Api::all_with(self.tenant.client.clone(), &resource),
            Kind::Gateway | Kind::HttpRoute | Kind::GrpcRoute | Kind::ReferenceGrant => {
                Api::namespaced_with(self.tenant.client.clone(), namespace, &resource)
            }
        }
    }

    /// Creates an object; its uid.
    pub(crate) async fn create(&self, kind: Kind, namespace: &str, name: &str, spec: Value) -> String {
        let object = json!({
            "apiVersion": Object::api_version(&kind), "kind": kind.as_str(), "metadata": {"name": name}, "spec": spec,
        });
        let object = serde_json::from_value(object).unwrap();
        let created = self
            .objects(kind, namespace)
            .create(&PostParams::default(), &object)
            .await;
        created.unwrap().metadata.uid.unwrap()
    }

    pub(crate) async fn patch(&self, kind: Kind, namespace: &str, name: &str, patch: Value) {
        let api = self.objects(kind, namespace);
        api.patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .unwrap();
    }

    pub(crate) async fn delete(&self, kind: Kind, namespace: &str, name: &str) {
        self.objects(kind, namespace)
            .delete(name, &DeleteParams::default())
            .await
            .unwrap();
    }

    /// A Gateway of the class `kubelb` with one listener.
    pub(crate) async fn create_gateway(&self, namespace: &str, name: &str) -> String {
        let listener = json!({"name": "http", "port": 80, "protocol": "HTTP"});
        let spec = json!({"gatewayClassName": "kubelb", "listeners": [listener]});
        self.create(Kind::Gateway, namespace, name, spec).await
    }

    /// An HTTPRoute to one Service.
    pub(crate) async fn create_route(&self, name: &str, gateway: &str, backend: Value) -> String {
        let spec = json!({"parentRefs": [{"name": gateway}], "rules": [{"backendRefs": [backend]}]});
        self.create(Kind::HttpRoute, "default", name, spec).await
    }

    pub(crate) fn services_of(&self, namespace: &str) -> Api<Service> {
        Api::namespaced(self.tenant.client.clone(), namespace)
    }

    /// A Service of a type, with the port 80.
    pub(crate) async fn create_backend(&self, namespace: &str, name: &str, type_: &str) -> Service {
        let service = json!({
            "metadata": {"name": name},
            "spec": {"type": type_, "selector": {"app": name}, "ports": [
                {"name": "http", "port": 80, "targetPort": 8080, "appProtocol": "kubernetes.io/h2c"},
                {"name": "admin", "port": 9000},
            ]},
        });
        let service = serde_json::from_value(service).unwrap();
        self.services_of(namespace)
            .create(&PostParams::default(), &service)
            .await
            .unwrap()
    }

    /// Pods of a Service: as many on each node.
    pub(crate) async fn pods_are(&self, service: &str, nodes: &[&str]) {
        let endpoint = |(index, node): (usize, &&str)| json!({"addresses": [format!("10.1.0.{}", index + 1)], "nodeName": node, "conditions": {"ready": true}});
        let name = format!("{service}-1");
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
            "endpoints": nodes.iter().enumerate().map(endpoint).collect::<Vec<_>>(),
        });
        let slices: Api<EndpointSlice> = Api::default_namespaced(self.tenant.client.clone());
        let parameters = PatchParams::apply("test").force();
        slices.patch(&name, &parameters, &Patch::Apply(slice)).await.unwrap();
    }

    pub(crate) fn secrets(&self, namespace: &str) -> Api<Secret> {
        Api::namespaced(self.tenant.client.clone(), namespace)
    }

    pub(crate) async fn create_secret(&self, namespace: &str, name: &str, certificate: &str) -> String {
        let secret = json!({
            "metadata": {"name": name}, "type": "Opaque",
            "stringData": {"tls.crt": certificate, "tls.key": "key", "password": "not for others"},
        });
        let secret = serde_json::from_value(secret).unwrap();
        let created = self
            .secrets(namespace)
            .create(&PostParams::default(), &secret)
            .await
            .unwrap();
        created.metadata.uid.unwrap()
    }

    pub(crate) fn config_maps(&self, namespace: &str) -> Api<ConfigMap> {
        Api::namespaced(self.tenant.client.clone(), namespace)
    }

    pub(crate) async fn create_config_map(&self, namespace: &str, name: &str, authorities: &str) -> String {
        let data = json!({"ca.crt": authorities, "settings": "not for others"});
        let config_map = serde_json::from_value(json!({"metadata": {"name": name}, "data": data})).unwrap();
        let created = self
            .config_maps(namespace)
            .create(&PostParams::default(), &config_map)
            .await
            .unwrap();
        created.metadata.uid.unwrap()
    }

    pub(crate) fn routes(&self) -> Api<Route> {
        Api::namespaced(self.hub.client.clone(), NAMESPACE)
    }

    pub(crate) fn sync_secrets(&self) -> Api<SyncSecret> {
        Api::namespaced(self.hub.client.clone(), NAMESPACE)
    }

    /// What a manager would say of an object by its Route.
    pub(crate) async fn answer_route(&self, uid: &str, status: Value) {
        let patch = Patch::Merge(json!({"status": {"resources": {"route": {"status": status}}}}));
        self.routes()
            .patch_status(uid, &PatchParams::default(), &patch)
            .await
            .unwrap();
    }

    /// Waits for the Route of an object to be as wanted.
    pub(crate) async fn route_until(&self, uid: &str, what: &str, wanted: impl Fn(&Route) -> bool) -> Route {
        let found = until(&self.routes(), uid, what, |route| route.is_some_and(&wanted)).await;
        found.unwrap()
    }
}

/// Names and node ports of the Services that a Route carries.
pub(crate) fn services_in(route: &Route) -> Vec<(String, Vec<i32>)> {
    let source = route.spec.source.as_ref().unwrap().kubernetes.as_ref().unwrap();
    let services = source.services.iter().map(|service| {
        let service: Service = service.read().unwrap();
        let ports = service.spec.unwrap().ports.unwrap_or_default();
        let node_ports = ports.iter().filter_map(|port| port.node_port).collect();
        (service.metadata.name.unwrap(), node_ports)
    });
    services.collect()
}

/// Kind, name and reason of what a Route refuses.
pub(crate) fn refused_in(route: &Route) -> Vec<(String, String, String)> {
    let source = route.spec.source.as_ref().unwrap().kubernetes.as_ref().unwrap();
    let refused = source.refused.iter();
    refused
        .map(|refused| (refused.kind.clone(), refused.name.clone(), refused.reason.clone()))
        .collect()
}

/// Addresses with their weights.
pub(crate) fn weights_in(object: Option<&Addresses>) -> Vec<(String, i32)> {
    let all = object.iter().flat_map(|object| &object.spec.addresses);
    all.map(|address| (address.ip.clone().unwrap_or_default(), address.weight.unwrap_or(1)))
        .collect()
}
