//! Random objects, valid by their schemas and as strange as these allow: the real Envoy takes whatever the manager makes of them.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use fastrand::Rng;
use kubelb_manager::xds::server::Count;
use rcgen::{CertifiedKey, KeyPair};
use serde_json::{Value, json};

use super::backend;
use super::site::{Site, certificate, config_map, gateway_with, http, of_a, secret};
use crate::hub::Hub;
use crate::world::World;

/// Objects that are tried, at least.
const OBJECTS: usize = if cfg!(feature = "soak") { 1_000 } else { 60 };
/// How many instead.
const OBJECTS_VARIABLE: &str = "KUBELB_RANDOM_OBJECTS";
/// Where they begin; each long run tries others.
const SEED_VARIABLE: &str = "KUBELB_RANDOM_SEED";
/// Routes at a time.
const ROUTES: usize = 10;
/// For so many objects on a busy machine.
const TAKEN_WITHIN: Duration = Duration::from_secs(60);

/// Parts that values are made of.
const PIECES: &[&str] = &[
    "a",
    "B",
    "0",
    "-",
    "_",
    ".",
    "%",
    "%%",
    "%REQ(X)%",
    "%ENVIRONMENT(HOME)%",
    "%START_TIME%",
    "%RESPONSE_CODE%",
    "%REQ(",
    ")%",
    "{",
    "}",
    "\"",
    "'",
    "\\",
    "ü",
    "💥",
    " ",
    "\t",
    ";",
    ",",
    "=",
    "*",
    "|",
    "^",
    "$",
    "(",
    ")",
    "[",
    "]",
    "?",
    "+",
    "<",
    "&",
    "#",
    "@",
    "!",
    "~",
    "`",
    ":",
];
const REGEX_PIECES: &[&str] = &[
    "a",
    "B",
    ".",
    ".*",
    "[a-z]",
    "[^/]+",
    "[[:alpha:]]",
    "\\d",
    "\\w+",
    "\\S",
    "\\b",
    "\\.",
    "\\/",
    "(a|b)",
    "(?:x)",
    "(?i)a",
    "(?s).",
    "^",
    "$",
    "a{2}",
    "a{2,}",
    "a{0,999}",
    "(a{30}){30}",
    "[a-z]{40}",
    "(",
    ")",
    "[",
    "{",
    "a**",
    "a*?",
    "(?=a)",
    "(?P<n>a)",
    "(?<n>a)",
    "\\1",
    "\\pL",
    "\\p{Greek}",
    "[\\p{L}]",
    "ü",
    "[ü-ÿ]",
    "\\x41",
    "\\x{263a}",
    "\\Q.\\E",
    "\\C",
    "\\z",
    "\\A",
    "|",
    "||",
    "a{,3}",
    "\\u0041",
    "[]a]",
    "[a",
    "[a-\\d]",
    "[^\\W]",
    "-",
    "/",
    "%",
    "\\-",
    "\\ ",
    "~",
    "(?U)a+",
    "(?x)a",
];
const PATH_PIECES: &[&str] = &[
    "/", "a", "B", "%20", "%2F", "..", ".", "-", "_", "~", ":", "@", "!", "$", "&", "'", "(", ")", "*", "+", ",", ";",
    "=", "ü", "//", "[", "{",
];
const HOSTS: &[&str] = &[
    "a.example",
    "b.example",
    "*.example",
    "*.a.example",
    "x.a.example",
    "*.com",
    "xn--bcher-kva.example",
    "a-b.c-d.example",
    "1.2.3.example",
    "localhost",
];
const METHODS: &[&str] = &[
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
];
const DURATIONS: &[&str] = &["0s", "1ms", "500ms", "10s", "1m30s", "99999h", "1h2m3s4ms", "0h0m0s0ms"];
const HEADERS: &[&str] = &[
    "x-a",
    "X-B",
    "Host",
    "host",
    "content-length",
    "Transfer-Encoding",
    "connection",
    "Accept",
    "te",
    "x-envoy-upstream-rq-timeout-ms",
    "x-forwarded-for",
    "!#$%&'*+-.^_`|~",
    "Upgrade",
    "Cookie",
    "Set-Cookie",
    "alt-svc",
    "x",
];
const SERVICES: &[&str] = &["web", "h2", "gone", "ws", "dns"];

struct Maker(Rng);

impl Maker {
    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.0.usize(..of.len())]
    }

    fn some(&mut self, share: u32) -> bool {
        self.0.u32(..100) < share
    }

    fn text(&mut self, pieces: &[&str], most: usize) -> String {
        let count = self.0.usize(1..=most);
        (0..count).map(|_| self.one(pieces)).collect()
    }

    fn list(&mut self, most: usize, mut make: impl FnMut(&mut Self) -> Value) -> Value {
        let count = self.0.usize(..=most);
        (0..count).map(|_| make(self)).collect()
    }

    fn maybe(&mut self, object: &mut Value, field: &str, share: u32, make: impl FnOnce(&mut Self) -> Value) {
        if self.some(share) {
            object[field] = make(self);
        }
    }

    fn path(&mut self) -> String {
        if self.some(5) {
            return format!("/{}", "a".repeat(1_023));
        }
        format!("/{}", self.text(PATH_PIECES, 6))
    }

    fn path_match(&mut self) -> Value {
        match self.0.u32(..3) {
            0 => json!({"type": "Exact", "value": self.path()}),
            1 => json!({"type": "PathPrefix", "value": self.path()}),
            _ => json!({"type": "RegularExpression", "value": self.text(REGEX_PIECES, 5)}),
        }
    }

    fn named(&mut self) -> Value {
        let name = self.one(HEADERS);
        if self.some(40) {
            json!({"type": "RegularExpression", "name": name, "value": self.text(REGEX_PIECES, 4)})
        } else {
            json!({"name": name, "value": self.text(PIECES, 8)})
        }
    }

    fn query(&mut self) -> Value {
        let mut named = self.named();
        named["name"] = json!(self.text(&["a", "B", "-", "%20", "[]", "ü", "&", "=", "#"], 3));
        named
    }

    fn http_match(&mut self) -> Value {
        let mut made = json!({});
        self.maybe(&mut made, "path", 70, |maker| maker.path_match());
        self.maybe(&mut made, "headers", 40, |maker| maker.list(3, Self::named));
        self.maybe(&mut made, "queryParams", 30, |maker| maker.list(2, Self::query));
        self.maybe(&mut made, "method", 30, |maker| json!(maker.one(METHODS)));
        made
    }

    fn grpc_match(&mut self) -> Value {
        let mut made = json!({});
        self.maybe(&mut made, "headers", 40, |maker| maker.list(3, Self::named));
        self.maybe(&mut made, "method", 80, |maker| {
            let mut method = json!({});
            let is_regex = maker.some(40);
            if is_regex {
                method["type"] = json!("RegularExpression");
            }
            for field in ["service", "method"] {
                maker.maybe(&mut method, field, 70, |maker| match is_regex {
                    true => json!(maker.text(REGEX_PIECES, 4)),
                    false => json!(maker.text(&["foo", ".", "Bar", "_1"], 4)),
                });
            }
            method
        });
        made
    }

    fn modifier(&mut self) -> Value {
        let value = |maker: &mut Self| json!({"name": maker.one(HEADERS), "value": maker.text(PIECES, 12)});
        json!({"set": self.list(3, value), "add": self.list(3, value), "remove": self.list(2, |maker| json!(maker.one(HEADERS)))})
    }

    fn new_path(&mut self) -> Value {
        if self.some(50) {
            json!({"type": "ReplaceFullPath", "replaceFullPath": self.path()})
        } else {
            json!({"type": "ReplacePrefixMatch", "replacePrefixMatch": self.path()})
        }
    }

    fn redirect(&mut self) -> Value {
        let mut made = json!({});
        self.maybe(&mut made, "scheme", 50, |maker| json!(maker.one(&["http", "https"])));
        self.maybe(&mut made, "hostname", 50, |maker| json!(maker.one(HOSTS)));
        self.maybe(&mut made, "path", 50, Self::new_path);
        self.maybe(&mut made, "port", 50, |maker| json!(maker.0.u16(1..)));
        self.maybe(&mut made, "statusCode", 50, |maker| {
            json!([301, 302, 303, 307, 308][maker.0.usize(..5)])
        });
        made
    }

    fn cors(&mut self) -> Value {
        let origins = [
            "*",
            "https://a.example",
            "https://*.example",
            "http://[::1]:8080",
            "null",
            "https://a.*",
        ];
        json!({
            "allowOrigins": self.list(4, |maker| json!(maker.one(&origins))), "allowCredentials": self.0.bool(),
            "allowMethods": self.list(3, |maker| json!(maker.one(METHODS))), "allowHeaders": self.list(3, |maker| json!(maker.one(HEADERS))),
            "exposeHeaders": self.list(3, |maker| json!(maker.one(&["*", "x-a", "x-b"]))), "maxAge": self.0.i32(1..),
        })
    }

    fn filter(&mut self) -> Value {
        match self.0.u32(..8) {
            0 | 1 => json!({"type": "RequestHeaderModifier", "requestHeaderModifier": self.modifier()}),
            2 | 3 => json!({"type": "ResponseHeaderModifier", "responseHeaderModifier": self.modifier()}),
            4 => json!({"type": "RequestRedirect", "requestRedirect": self.redirect()}),
            5 => {
                let mut rewrite = json!({});
                self.maybe(&mut rewrite, "hostname", 50, |maker| json!(maker.one(HOSTS)));
                self.maybe(&mut rewrite, "path", 70, Self::new_path);
                json!({"type": "URLRewrite", "urlRewrite": rewrite})
            }
            6 => {
                let mut mirror = json!({"backendRef": self.backend(false)});
                self.maybe(&mut mirror, "percent", 40, |maker| json!(maker.0.u32(..=100)));
                json!({"type": "RequestMirror", "requestMirror": mirror})
            }
            _ => json!({"type": "CORS", "cors": self.cors()}),
        }
    }

    fn backend(&mut self, has_filters: bool) -> Value {
        let mut made = json!({"name": self.one(SERVICES), "port": 8080});
        self.maybe(&mut made, "weight", 50, |maker| {
            json!([0, 1, 10, 999_999, 1_000_000][maker.0.usize(..5)])
        });
        self.maybe(&mut made, "kind", 5, |_| json!("Nothing"));
        self.maybe(&mut made, "namespace", 5, |_| json!("elsewhere"));
        if has_filters {
            self.maybe(&mut made, "filters", 30, |maker| maker.list(2, Self::filter));
        }
        made
    }

    fn rule(&mut self, is_grpc: bool) -> Value {
        let mut rule = json!({
            "matches": self.list(4, if is_grpc { Self::grpc_match } else { Self::http_match }),
            "filters": self.list(3, Self::filter),
            "backendRefs": self.list(4, |maker| maker.backend(true)),
        });
        self.maybe(&mut rule, "name", 20, |maker| json!(maker.text(&["a", "b-", "1"], 3)));
        if !is_grpc {
            self.maybe(&mut rule, "timeouts", 40, |maker| {
                let mut timeouts = json!({});
                for field in ["request", "backendRequest"] {
                    maker.maybe(&mut timeouts, field, 60, |maker| json!(maker.one(DURATIONS)));
                }
                timeouts
            });
            self.maybe(&mut rule, "retry", 30, |maker| {
                let codes = maker.list(4, |maker| json!(maker.0.u32(400..600)));
                json!({"codes": codes, "attempts": maker.0.u32(..200), "backoff": maker.one(DURATIONS)})
            });
        }
        rule
    }

    fn route(&mut self, number: usize) -> Value {
        let is_grpc = self.some(25);
        let kind = if is_grpc { "GRPCRoute" } else { "HTTPRoute" };
        let listeners = ["http", "wild", "one", "two", "tls"];
        let mut parent = json!({"name": "my-gateway"});
        self.maybe(&mut parent, "sectionName", 40, |maker| json!(maker.one(&listeners)));
        let rules = (0..self.0.usize(1..=4)).map(|_| self.rule(is_grpc)).collect::<Value>();
        let spec =
            json!({"parentRefs": [parent], "hostnames": self.list(3, |maker| json!(maker.one(HOSTS))), "rules": rules});
        let mut annotations = json!({});
        self.maybe(&mut annotations, "gateway.envoyproxy.io/retry-on", 20, |maker| {
            json!(maker.one(&["5xx", "reset,connect-failure", "gateway-error, nonsense", "%"]))
        });
        self.maybe(&mut annotations, "gateway.envoyproxy.io/num-retries", 20, |maker| {
            json!(maker.one(&["3", "-1", "4294967296"]))
        });
        let mut route = of_a(kind, "default", &format!("random-{number}")).annotated(
            annotations,
            spec,
            &[("web", 30_001), ("h2", 30_002), ("ws", 30_003)],
        );
        route["spec"]["source"]["kubernetes"]["services"][1]["spec"]["ports"][0]["appProtocol"] =
            json!("kubernetes.io/h2c");
        route["spec"]["source"]["kubernetes"]["services"][2]["spec"]["ports"][0]["appProtocol"] =
            json!("kubernetes.io/ws");
        route
    }

    fn listeners(&mut self) -> Value {
        let https = |name: &str, hostname: Option<&str>, secret: &str| {
            let mut made =
                json!({"name": name, "port": 443, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": secret}]}});
            if let Some(hostname) = hostname {
                made["hostname"] = json!(hostname);
            }
            made
        };
        let mut all = http().as_array().cloned().unwrap_or_default();
        for (name, port) in [("wild", 80), ("more", self.0.u16(1_024..))] {
            if self.some(60) {
                all.push(json!({"name": name, "port": port, "protocol": "HTTP", "hostname": self.one(HOSTS)}));
            }
        }
        for (name, secret) in [("one", "cert-1"), ("two", "cert-2"), ("tls", "gone")] {
            if self.some(60) {
                let hostname = self.some(80).then(|| self.one(HOSTS));
                all.push(https(name, hostname, secret));
            }
        }
        all.into()
    }

    /// A Gateway, which may ask clients who they are.
    fn gateway(&mut self) -> Value {
        let mut spec = json!({"gatewayClassName": "kubelb", "listeners": self.listeners()});
        self.maybe(&mut spec, "tls", 50, |maker| {
            let mut asked = || {
                let references = maker.list(3, |maker| {
                    let name = maker.one(&["clients", "others", "damaged", "gone"]);
                    json!({"group": "", "kind": "ConfigMap", "name": name})
                });
                let mode = maker.one(&["AllowValidOnly", "AllowInsecureFallback"]);
                json!({"validation": {"caCertificateRefs": references, "mode": mode}})
            };
            json!({"frontend": {"default": asked(), "perPort": [{"port": 443, "tls": asked()}]}})
        });
        gateway_with("a", spec)
    }

    /// A certificate in PEM, in most cases with some bytes that are others.
    fn damaged(&mut self, known: &CertifiedKey<KeyPair>) -> String {
        let mut der = known.cert.der().to_vec();
        for _ in 0..self.0.usize(..3) {
            let place = self.0.usize(..der.len());
            der[place] = self.0.u8(..);
        }
        let text = BASE64_STANDARD.encode(der);
        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
    }

    /// What Gateways refer to.
    fn materials(&mut self, known: &CertifiedKey<KeyPair>) -> [Value; 4] {
        let whole = known.cert.pem();
        let mut bearer = secret("a", "cert-2", known);
        bearer["stringData"]["tls.crt"] = json!(format!("{}{}", self.damaged(known), self.damaged(known)));
        [
            bearer,
            config_map("a", "clients", &whole),
            config_map("a", "others", &format!("{whole}{whole}")),
            config_map(
                "a",
                "damaged",
                &format!("{}{}", self.damaged(known), self.damaged(known)),
            ),
        ]
    }

    /// What the Config says of Envoys.
    fn proxy(&mut self) -> Value {
        let mut made = json!({});
        self.maybe(
            &mut made,
            "accessLog",
            50,
            |maker| json!({"format": maker.one(&["JSON", "Text"]), "disabled": maker.0.bool()}),
        );
        self.maybe(&mut made, "http3", 50, |maker| json!(maker.0.bool()));
        self.maybe(&mut made, "connectionLimits", 50, |maker| {
            json!({"maxConnections": maker.0.i32(1..), "maxConcurrentStreams": maker.0.u16(1..), "bufferKb": maker.0.u32(16..=65_536),
                "idleTimeout": "1s", "streamIdleTimeout": "720h", "requestHeadersTimeout": "1s"})
        });
        self.maybe(&mut made, "circuitBreaker", 50, |maker| {
            json!({"maxConnections": maker.0.i32(1..), "maxPendingRequests": 1, "maxParallelRequests": i32::MAX, "maxParallelRetries": maker.0.i32(0..),
                "maxRequestsPerConnection": maker.0.i32(1..)})
        });
        self.maybe(&mut made, "outlierDetection", 50, |maker| {
            json!({"consecutiveFailures": maker.0.u32(1..=1_000), "ejectionTime": "720h", "maxEjectionPercent": maker.0.u32(1..=100)})
        });
        self.maybe(&mut made, "headerLimits", 50, |maker| {
            json!({"maxRequestHeadersKb": maker.0.u32(1..=8_192), "maxRequestHeadersCount": maker.0.i32(1..), "maxResponseHeadersKb": maker.0.u32(1..=8_192)})
        });
        made
    }
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn random_objects_are_taken_by_envoy() {
    let objects = variable(OBJECTS_VARIABLE).and_then(|count| usize::try_from(count).ok());
    let objects = objects.unwrap_or(OBJECTS);
    let usual = if cfg!(feature = "soak") { fastrand::u64(..) } else { 7 };
    let seed = variable(SEED_VARIABLE).unwrap_or(usual);
    eprintln!("{SEED_VARIABLE}={seed}");
    let mut maker = Maker(Rng::with_seed(seed));
    let world = World::new("l7-random");
    let mut site = Site::new(&world, http());
    backend::http1(&world.namespace, "web", 30_001);
    let known = certificate("a.example");
    site.apply(secret("a", "cert-1", &known));
    let hub = Hub::start(&world.namespace, world.state(), site.resources());
    let _envoy = world.envoy(&hub, "a");
    let mut tried = 0;
    while tried < objects {
        let mut made: Vec<Value> = super::site::base(&["a"], maker.proxy());
        made.extend(maker.materials(&known));
        made.push(maker.gateway());
        made.extend((0..ROUTES).map(|number| maker.route(number)));
        for object in &made {
            site.apply(object.clone());
        }
        hub.publish(site.resources());
        hub.until_synced_within(TAKEN_WITHIN);
        if hub.total(Count::Nacks) > 0 {
            let peers = hub.server().registry().peers();
            let rejections: Vec<_> = peers.iter().flat_map(|peer| peer.rejections.values()).collect();
            panic!(
                "{SEED_VARIABLE}={seed}: after {tried} objects: {rejections:#?}\n{}",
                json!(made)
            );
        }
        tried += ROUTES + 1;
    }
    eprintln!("{tried} objects, none refused");
}
