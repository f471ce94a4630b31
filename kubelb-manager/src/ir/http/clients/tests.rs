use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use serde_json::{Value, json};

use crate::allocate::{self, Given};
use crate::ir;
use crate::ir::http::{Chains, GatewayOutcome, Http, Outcome};
use crate::object::{Object, decode};
use crate::store::Store;
use kubelb_api::names::TenantName;

fn made(name: &str) -> CertifiedKey<KeyPair> {
    generate_simple_self_signed(vec![name.to_owned()]).unwrap()
}

fn sync_secret(kind: &str, namespace: &str, name: &str, data: Value) -> Value {
    json!({
        "apiVersion": "kubelb.k8c.io/v1alpha1", "kind": "SyncSecret", "stringData": data,
        "metadata": {"namespace": "tenant-x", "name": format!("uid-{namespace}-{name}"), "labels": {
            "kubelb.k8c.io/origin-ns": namespace, "kubelb.k8c.io/origin-name": name, "kubelb.k8c.io/origin-resource-kind": kind}},
    })
}

fn config_map(namespace: &str, name: &str, bundle: &str) -> Value {
    sync_secret("ConfigMap", namespace, name, json!({"ca.crt": bundle}))
}

/// An HTTPS listener of the name of its port.
fn https(port: u16) -> Value {
    json!({"name": format!("at-{port}"), "port": port, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "cert"}]}})
}

fn to(name: &str) -> Value {
    json!({"group": "", "kind": "ConfigMap", "name": name})
}

fn asking(references: &[Value]) -> Value {
    json!({"validation": {"caCertificateRefs": references}})
}

/// A Gateway of the tenant `x` with a certificate and an address, and more objects.
fn build(spec: Value, refused: Value, more: impl IntoIterator<Item = Value>) -> (Http, GatewayOutcome) {
    let cert = made("gateway.example");
    let pair = json!({"tls.crt": cert.cert.pem(), "tls.key": cert.signing_key.serialize_pem()});
    let resource = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"namespace": "default", "name": "gw"}, "spec": spec,
    });
    let object = |kind: &str, namespace: &str, name: &str, spec: Value| {
        let metadata = json!({"namespace": namespace, "name": name});
        json!({"apiVersion": "kubelb.k8c.io/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec})
    };
    let source = json!({"kubernetes": {"resource": resource, "refused": refused}});
    let mut objects = vec![
        object(
            "Config",
            "kubelb",
            "default",
            json!({"addressPools": [{"name": "all", "ranges": ["203.0.113.1/32"]}]}),
        ),
        json!({"apiVersion": "kubelb.k8c.io/v1alpha1", "kind": "Tenant", "metadata": {"name": "x"}, "spec": {}}),
        object("Route", "tenant-x", "u-gw", json!({"endpoints": [], "source": source})),
        sync_secret("Secret", "default", "cert", pair),
    ];
    objects.extend(more);
    let mut store = Store::default();
    for object in objects {
        store.apply(Ok(decode(object).unwrap()));
    }
    for claim in allocate::plan(&store, "kubelb", Given::Held).write {
        store.apply(Ok(Object::AddressClaim(claim.into())));
    }
    let (ir, _) = ir::build(&store, "kubelb");
    let http = ir.http(&TenantName::new("x").unwrap()).unwrap();
    let Outcome::Gateway(gateway) = &*http.outcomes["u-gw"] else {
        panic!("{:?}", http.outcomes)
    };
    ((**http).clone(), gateway.clone())
}

/// Reasons of `Accepted` and `ResolvedRefs` of each listener, and whether something serves it.
fn told(gateway: &GatewayOutcome) -> Vec<(&str, &str, &str, bool)> {
    let listeners = gateway.listeners.iter();
    let told = listeners.map(|one| {
        let reasons = (one.accepted.reason, one.resolved.reason);
        (one.name.as_str(), reasons.0, reasons.1, !one.resources.is_empty())
    });
    told.collect()
}

#[test]
fn what_cannot_be_resolved_keeps_clients_out_of_its_own_ports_only() {
    let at = |port: u16, references: &[Value]| json!({"port": port, "tls": asking(references)});
    let service = json!({"group": "", "kind": "Service", "name": "web"});
    let foreign = |name: &str| json!({"group": "", "kind": "ConfigMap", "name": name, "namespace": "other"});
    let per_port = json!([
        at(7443, &[to("absent")]), at(8443, &[service]), at(6443, &[foreign("refused")]), at(5443, &[foreign("gone")]),
        at(4443, &[foreign("granted")]), at(80, &[to("absent")]), at(9443, &[]), {"port": 3443, "tls": {}},
        {"port": 2443, "tls": {"validation": {"mode": "Later", "caCertificateRefs": [to("ours")]}}},
    ]);
    let ports = [443, 7443, 8443, 6443, 5443, 4443, 9443, 3443, 2443];
    let mut listeners: Vec<Value> = ports.into_iter().map(https).collect();
    listeners.push(json!({"name": "plain", "port": 80, "protocol": "HTTP"}));
    let frontend = json!({"default": asking(&[to("ours")]), "perPort": per_port});
    let spec = json!({"gatewayClassName": "kubelb", "listeners": listeners, "tls": {"frontend": frontend}});
    let refused = |name: &str, reason: &str| json!({"kind": "ConfigMap", "namespace": "other", "name": name, "reason": reason, "message": "so"});
    let refused = json!([
        refused("refused", "RefNotPermitted"),
        refused("gone", "InvalidCACertificateRef")
    ]);
    let bundle = made("authority").cert.pem();
    let maps = [
        config_map("default", "ours", &bundle),
        config_map("other", "granted", &bundle),
        // What is refused is so although it is there.
        config_map("other", "refused", &bundle),
    ];
    let (http, gateway) = build(spec, refused, maps);
    let none = "NoValidCACertificate";
    assert_eq!(
        told(&gateway),
        [
            ("at-443", "Accepted", "ResolvedRefs", true),
            ("at-7443", none, "InvalidCACertificateRef", false),
            ("at-8443", none, "InvalidCACertificateKind", false),
            ("at-6443", none, "RefNotPermitted", false),
            ("at-5443", none, "InvalidCACertificateRef", false),
            ("at-4443", "Accepted", "ResolvedRefs", true),
            ("at-9443", none, "ResolvedRefs", false),
            ("at-3443", "Accepted", "ResolvedRefs", true),
            ("at-2443", "UnsupportedValue", "ResolvedRefs", false),
            ("plain", "Accepted", "ResolvedRefs", true),
        ]
    );
    let message = &gateway.listeners[1].resolved.message;
    assert_eq!(message, "ConfigMap default/absent: there is no such ConfigMap");
    assert!(!gateway.insecure_fallback);
    // Only where nobody is asked there is QUIC.
    let names: Vec<&str> = http.listeners.keys().map(AsRef::as_ref).collect();
    let wanted = ["3443", "3443/quic", "443", "4443", "80"].map(|port| format!("http/x/203.0.113.1/{port}"));
    assert_eq!(names, wanted);
}

#[test]
fn of_several_authorities_those_that_are_there_count() {
    let (one, two) = (made("one").cert.pem(), made("two").cert.pem());
    let mut https = https(443);
    // As releases of the Gateway API up to 1.3 have it; it is before that of the Gateway.
    let references = [to("one"), to("absent"), to("two"), to("one")];
    https["tls"]["frontendValidation"] = json!({"caCertificateRefs": references, "mode": "AllowInsecureFallback"});
    let tls = json!({"frontend": {"default": asking(&[to("absent")])}});
    let spec = json!({"gatewayClassName": "kubelb", "listeners": [https], "tls": tls});
    let maps = [
        config_map(
            "default",
            "one",
            &format!("Bag of attributes\n{}", one.replace('\n', "\r\n")),
        ),
        config_map("default", "two", &two),
    ];
    let (http, gateway) = build(spec, json!([]), maps);
    assert_eq!(
        told(&gateway),
        [("at-443", "Accepted", "InvalidCACertificateRef", true)]
    );
    assert!(gateway.insecure_fallback);
    let listener = &http.listeners["http/x/203.0.113.1/443"];
    let Chains::Tls(chains) = &listener.chains else {
        panic!("{listener:?}")
    };
    let clients = chains[0].clients.as_ref().unwrap();
    assert!(clients.insecure_fallback);
    assert!(gateway.listeners[0].resources.contains(&clients.authorities));
    // Certificates and nothing else, each once.
    assert_eq!(
        http.authorities[&clients.authorities].bundle,
        format!("{one}{two}").replace('\r', "")
    );
}

#[test]
fn only_certificates_are_authorities() {
    let known = made("known");
    let pem = known.cert.pem();
    let key = known.signing_key.serialize_pem();
    let cut = pem.lines().enumerate().filter(|(index, _)| *index != 2);
    let cut: String = cut.map(|(_, line)| format!("{line}\n")).collect();
    for (bundle, why) in [
        (String::new(), "ca.crt has no certificate"),
        ("nothing of it".to_owned(), "ca.crt has no certificate"),
        (
            format!("{pem}{key}"),
            "ca.crt: item 2 is no certificate; only certificates can be there",
        ),
        (format!("{pem}{cut}"), "ca.crt: certificate 2 cannot be read"),
        (pem.replace("-----END", "-----ENT"), "ca.crt is not PEM"),
        (pem.repeat(600), "ca.crt is longer than 262144 bytes"),
    ] {
        let tls = json!({"frontend": {"default": asking(&[to("ours")])}});
        let spec = json!({"gatewayClassName": "kubelb", "listeners": [https(443)], "tls": tls});
        let (http, gateway) = build(spec, json!([]), [config_map("default", "ours", &bundle)]);
        assert_eq!(
            told(&gateway),
            [("at-443", "NoValidCACertificate", "InvalidCACertificateRef", false)]
        );
        assert_eq!(
            gateway.listeners[0].accepted.message,
            format!("ConfigMap default/ours: {why}")
        );
        assert!(http.listeners.is_empty() && http.authorities.is_empty());
    }
}
