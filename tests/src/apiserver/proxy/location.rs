//! Where a path leads: to which host, and as which path there. Pure: reads the store, goes nowhere.

use serde_json::{Value, json};

use super::super::call::{Query, Request, Target, escape};
use super::super::object::{items, name, text};
use super::super::status::{ApiError, Cause};
use super::super::store::Store;

/// What is passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Logs,
    Exec,
    Attach,
    PortForward,
    /// HTTP of any kind.
    Proxy,
}

impl Way {
    pub(super) fn of(target: &Target) -> Option<Self> {
        if !target.resource.group.is_empty() || target.name.is_empty() {
            return None;
        }
        match (target.resource.plural.as_str(), target.subresource.as_str()) {
            ("pods", "log") => Some(Self::Logs),
            ("pods", "exec") => Some(Self::Exec),
            ("pods", "attach") => Some(Self::Attach),
            ("pods", "portforward") => Some(Self::PortForward),
            ("pods" | "nodes" | "services", "proxy") => Some(Self::Proxy),
            _ => None,
        }
    }

    /// Bytes go both ways, over an upgraded connection.
    pub(super) fn is_stream(self) -> bool {
        matches!(self, Self::Exec | Self::Attach | Self::PortForward)
    }
}

/// Another server and a path there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) tls: bool,
    /// `10.0.0.1:10250`, `[fd00::1]:10250`.
    pub(super) authority: String,
    /// With the query.
    pub(super) path: String,
    /// The client's path up to where the other server's begins.
    pub(super) prefix: String,
}

impl Location {
    pub(super) fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority, self.path)
    }
}

/// Where a request leads; `None` for the logs of a Pod that no node has.
pub(super) fn find(store: &Store, way: Way, target: &Target, request: &Request) -> Result<Option<Location>, ApiError> {
    if way == Way::Proxy {
        return proxied(store, target, request).map(Some);
    }
    let pod = store
        .get("pods", &target.namespace, &target.name)
        .ok_or_else(|| ApiError::not_found(&target.resource, &target.name))?;
    let query = &request.query;
    let (first, wanted) = match way {
        Way::Logs => ("containerLogs", log_options(target, query)?),
        Way::Exec => ("exec", stream_options(query)),
        Way::Attach => ("attach", stream_options(query)),
        Way::PortForward | Way::Proxy => ("portForward", given(query, &["port"])),
    };
    let mut path = format!("/{first}/{}/{}", target.namespace, target.name);
    if way != Way::PortForward {
        path.push('/');
        path.push_str(&container(pod, query.get("container"))?);
    }
    let node = text(pod, "/spec/nodeName");
    if node.is_empty() {
        return match way {
            Way::Logs => Ok(None),
            Way::Exec | Way::Attach | Way::PortForward | Way::Proxy => Err(ApiError::bad_request(format!(
                "pod {} does not have a host assigned",
                target.name
            ))),
        };
    }
    let authority = kubelet(store, node)?;
    if !wanted.is_empty() {
        path.push('?');
        path.push_str(&wanted);
    }
    Ok(Some(Location {
        tls: true,
        authority,
        path,
        prefix: String::new(),
    }))
}

/// The container that is meant.
fn container(pod: &Value, asked: &str) -> Result<String, ApiError> {
    let of = |list: &str| -> Vec<String> {
        let list = items(pod, &format!("/spec/{list}")).iter();
        list.map(|container| text(container, "/name").to_owned()).collect()
    };
    let mut all = of("initContainers");
    let usual = of("containers");
    all.extend(usual.iter().cloned());
    all.extend(of("ephemeralContainers"));
    if !asked.is_empty() {
        return if all.iter().any(|name| name == asked) {
            Ok(asked.to_owned())
        } else {
            let message = format!("container {asked} is not valid for pod {}", name(pod));
            Err(ApiError::bad_request(message))
        };
    }
    match usual.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(ApiError::bad_request(format!(
            "a container name must be specified for pod {}",
            name(pod)
        ))),
        _ => Err(ApiError::bad_request(format!(
            "a container name must be specified for pod {}, choose one of: [{}]",
            name(pod),
            all.join(" ")
        ))),
    }
}

/// The parameters among `keys` that were given, in order.
fn given(query: &Query, keys: &[&str]) -> String {
    let pairs: Vec<String> = keys
        .iter()
        .flat_map(|key| query.all(key).map(move |value| format!("{key}={}", escape(value))))
        .collect();
    pairs.join("&")
}

fn log_options(target: &Target, query: &Query) -> Result<String, ApiError> {
    let mut causes = Vec::new();
    for (key, least, why) in [
        ("limitBytes", 1, "must be greater than 0"),
        ("sinceSeconds", 1, "must be greater than 0"),
        ("tailLines", 0, "must be greater than or equal to 0"),
    ] {
        let asked = query.get(key);
        match asked.parse::<i64>() {
            Ok(number) if number < least => causes.push(Cause::invalid(key, &json!(number), why)),
            Err(_) if !asked.is_empty() => {
                let message = format!("strconv.ParseInt: parsing {}: invalid syntax", json!(asked));
                return Err(ApiError::bad_request(message));
            }
            Ok(_) | Err(_) => {}
        }
    }
    if !query.get("sinceSeconds").is_empty() && !query.get("sinceTime").is_empty() {
        let why = "at most one of `sinceTime` or `sinceSeconds` may be specified";
        causes.push(Cause::forbidden("", why));
    }
    if !causes.is_empty() {
        return Err(ApiError::invalid_named("PodLogOptions", &target.name, &causes));
    }
    let numbers = given(
        query,
        &["limitBytes", "sinceSeconds", "sinceTime", "stream", "tailLines"],
    );
    let mut parts: Vec<String> = ["follow", "previous", "timestamps"]
        .into_iter()
        .filter(|key| query.is_true(key))
        .map(|key| format!("{key}=true"))
        .collect();
    if !numbers.is_empty() {
        parts.push(numbers);
    }
    Ok(parts.join("&"))
}

/// As a kubelet calls the streams.
fn stream_options(query: &Query) -> String {
    let mut parts: Vec<String> = query
        .all("command")
        .map(|word| format!("command={}", escape(word)))
        .collect();
    for (asked, there) in [
        ("stderr", "error"),
        ("stdin", "input"),
        ("stdout", "output"),
        ("tty", "tty"),
    ] {
        if query.is_true(asked) {
            parts.push(format!("{there}=1"));
        }
    }
    parts.join("&")
}

fn node_address<'a>(node: &'a Value, kind: &str) -> Option<&'a str> {
    let address = items(node, "/status/addresses")
        .iter()
        .find(|address| text(address, "/type") == kind)?;
    Some(text(address, "/address"))
}

/// Where the kubelet of a node listens.
fn kubelet(store: &Store, node_name: &str) -> Result<String, ApiError> {
    let Some(node) = store.get("nodes", "", node_name) else {
        let mut error = ApiError::new(404, "NotFound", format!("nodes \"{node_name}\" not found"));
        error.details = json!({"name": node_name, "kind": "nodes"});
        return Err(error);
    };
    let address = node_address(node, "InternalIP").or_else(|| node_address(node, "ExternalIP"));
    let Some(address) = address else {
        let known = node.pointer("/status/addresses").cloned().unwrap_or(json!([]));
        let message = format!("no preferred addresses found; known addresses: {known}");
        return Err(ApiError::new(500, "", message));
    };
    let port = node
        .pointer("/status/daemonEndpoints/kubeletEndpoint/Port")
        .and_then(Value::as_u64)
        .filter(|port| *port != 0)
        .unwrap_or(10_250);
    Ok(authority(address, &port.to_string()))
}

fn authority(host: &str, port: &str) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// `[scheme:]name[:port]`.
fn parts(id: &str) -> (&str, &str, &str) {
    match id.split(':').collect::<Vec<&str>>().as_slice() {
        [scheme, name, port] => (scheme, name, port),
        [name, port] => ("", name, port),
        _ => ("", id, ""),
    }
}

fn proxied(store: &Store, target: &Target, request: &Request) -> Result<Location, ApiError> {
    let (scheme, named, port) = parts(&target.name);
    let (namespace, resource) = (target.namespace.as_str(), &target.resource);
    let not_found = || ApiError::not_found(resource, named);
    let kind = resource.plural.as_str();
    let authority = match kind {
        "nodes" if port.is_empty() => kubelet(store, named)?,
        "nodes" => {
            let node = store.get("nodes", "", named).ok_or_else(not_found)?;
            authority(node_address(node, "InternalIP").unwrap_or_default(), port)
        }
        "pods" => {
            let pod = store.get("pods", namespace, named).ok_or_else(not_found)?;
            let address = text(pod, "/status/podIP");
            if address.is_empty() {
                return Err(ApiError::bad_request("address not allowed"));
            }
            let first = pod.pointer("/spec/containers/0/ports/0/containerPort");
            let own = first.and_then(Value::as_u64).unwrap_or(80).to_string();
            authority(address, if port.is_empty() { &own } else { port })
        }
        _ => {
            let service = store.get("services", namespace, named).ok_or_else(not_found)?;
            endpoint(store, namespace, service, port)?
        }
    };
    let prefix_length = request
        .path
        .find("/proxy")
        .map_or(0, |at| at.saturating_add("/proxy".len()));
    let (prefix, rest) = request.path.split_at_checked(prefix_length).unwrap_or(("", "/"));
    let mut path = if rest.is_empty() { "/" } else { rest }.to_owned();
    let query = request.query.encoded();
    if !query.is_empty() {
        path.push('?');
        path.push_str(&query);
    }
    Ok(Location {
        tls: scheme == "https" || (kind == "nodes" && port.is_empty()),
        authority,
        path,
        prefix: prefix.to_owned(),
    })
}

/// One of the endpoints of a Service that are ready.
fn endpoint(store: &Store, namespace: &str, service: &Value, port: &str) -> Result<String, ApiError> {
    let named = name(service);
    let wanted: Option<&str> = items(service, "/spec/ports")
        .iter()
        .find(|one| {
            let number = one.get("port").and_then(Value::as_u64).map(|number| number.to_string());
            port.is_empty() || text(one, "/name") == port || number.as_deref() == Some(port)
        })
        .map(|one| text(one, "/name"));
    let mut ready = Vec::new();
    let slices = store.list("endpointslices.discovery.k8s.io", Some(namespace));
    let own = slices.filter(|(_, slice)| text(slice, "/metadata/labels/kubernetes.io~1service-name") == named);
    for (_, slice) in own {
        let number = items(slice, "/ports")
            .iter()
            .find(|one| Some(text(one, "/name")) == wanted)
            .and_then(|one| one.get("port")?.as_u64());
        let Some(number) = number else { continue };
        for endpoint in items(slice, "/endpoints") {
            let address = text(endpoint, "/addresses/0");
            if endpoint.pointer("/conditions/ready") != Some(&Value::Bool(false)) && !address.is_empty() {
                ready.push(authority(address, &number.to_string()));
            }
        }
    }
    fastrand::choice(ready).ok_or_else(|| {
        let message = format!("no endpoints available for service {}", json!(named));
        ApiError::new(503, "ServiceUnavailable", message)
    })
}

#[cfg(test)]
mod tests;
