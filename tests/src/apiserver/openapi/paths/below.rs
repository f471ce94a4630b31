//! What is below an object: parts of it that are read and written alone, and paths that lead on to another server.

use serde_json::{Value, json};

use super::super::super::resource::{Subresource, builtin};
use super::super::parameters;
use super::super::wording::{article, capital, content};
use super::{ACCEPTED, CREATED, Describer, OK, Operation};

/// Methods of a path that leads to another server, with the verb that is checked.
const CONNECT: &[(&str, &str)] = &[
    ("get", "get"),
    ("put", "update"),
    ("post", "create"),
    ("delete", "delete"),
    ("options", "get"),
    ("head", "get"),
    ("patch", "patch"),
];
/// What `exec` and its like take.
const STREAMS: &[(&str, &[(&str, &str)])] = &[
    (
        "attach",
        &[
            ("container", "string"),
            ("stderr", "boolean"),
            ("stdin", "boolean"),
            ("stdout", "boolean"),
            ("tty", "boolean"),
        ],
    ),
    (
        "exec",
        &[
            ("command", "string"),
            ("container", "string"),
            ("stderr", "boolean"),
            ("stdin", "boolean"),
            ("stdout", "boolean"),
            ("tty", "boolean"),
        ],
    ),
    ("portforward", &[("ports", "integer")]),
    (
        "log",
        &[
            ("container", "string"),
            ("follow", "boolean"),
            ("insecureSkipTLSVerifyBackend", "boolean"),
            ("limitBytes", "integer"),
            ("pretty", "string"),
            ("previous", "boolean"),
            ("sinceSeconds", "integer"),
            ("stream", "string"),
            ("tailLines", "integer"),
            ("timestamps", "boolean"),
        ],
    ),
];

impl Describer<'_> {
    pub(super) fn of_subresource(&self, sub: &Subresource, with: &str) -> Vec<(&'static str, Value)> {
        let (resource, scope) = (self.resource, self.scope());
        let kind = &resource.kind;
        let suffix = format!("{}{with}", capital(&sub.name));
        let about = json!({"group": sub.group, "version": sub.version, "kind": sub.kind});
        if matches!(sub.name.as_str(), "proxy" | "exec" | "attach" | "portforward") {
            let served = CONNECT.iter().filter(|(_, verb)| sub.verbs.contains(verb));
            let only = |method: &str| sub.name == "proxy" || !matches!(method, "options" | "head");
            return served
                .filter(|(method, _)| only(method))
                .map(|(method, _)| {
                    let connect = Operation {
                        description: format!("connect {} requests to {} of {kind}", method.to_uppercase(), sub.name),
                        id: ("connect", format!("{}{scope}{kind}{suffix}", capital(method))),
                        parameters: self.stream_parameters(sub),
                        codes: &[OK],
                        answer: content(&["*/*"], &json!({"type": "string"})),
                        action: "connect",
                        about: about.clone(),
                        ..Operation::default()
                    };
                    (*method, self.write(connect))
                })
                .collect();
        }
        if sub.name == "log" {
            let mut types = self.types();
            types.push("text/plain");
            let read = Operation {
                description: format!("read log of the specified {kind}"),
                id: ("read", format!("{scope}{kind}{suffix}")),
                parameters: self.stream_parameters(sub),
                codes: &[OK],
                answer: content(&types, &json!({"type": "string"})),
                action: "get",
                about,
                ..Operation::default()
            };
            return vec![("get", self.write(read))];
        }
        let definition = self.definition_of(sub);
        if sub.verbs.contains(&"create") {
            let create = Operation {
                description: format!("create {} of {}{kind}", sub.name, article(kind)),
                id: ("create", format!("{scope}{kind}{suffix}")),
                parameters: self.queries(parameters::WRITE),
                body: self.required(&definition),
                codes: &[OK, CREATED, ACCEPTED],
                answer: self.shown(&definition),
                action: "post",
                about,
            };
            return vec![("post", self.write(create))];
        }
        self.reads_and_writes(&sub.verbs, &(&definition, about), &sub.name, &suffix)
    }

    /// The type that is sent to and read from a subresource.
    fn definition_of(&self, sub: &Subresource) -> String {
        let resource = self.resource;
        if (&sub.group, &sub.version, &sub.kind) == (&resource.group, &resource.version, &resource.kind) {
            resource.definition.clone()
        } else {
            builtin::definition(&sub.group, &sub.version, &sub.kind)
        }
    }

    fn stream_parameters(&self, sub: &Subresource) -> Vec<Value> {
        if sub.name == "proxy" {
            let text = match self.resource.kind.as_str() {
                "Service" => {
                    "Path is the part of URLs that include service endpoints, suffixes, and parameters to use for \
                     the current proxy request to service. For example, the whole request URL is \
                     http://localhost/api/v1/namespaces/kube-system/services/elasticsearch-logging/_search?q=user:kimchy. \
                     Path is _search?q=user:kimchy."
                        .to_owned()
                }
                kind => format!(
                    "Path is the URL path to use for the current proxy request to {}.",
                    kind.to_lowercase()
                ),
            };
            return vec![parameters::described("path", "query", "string", &text)];
        }
        let of = STREAMS.iter().find(|(name, _)| *name == sub.name);
        let fields = of.map(|(_, fields)| *fields).unwrap_or_default();
        fields
            .iter()
            .map(|(name, kind)| match *name {
                "pretty" => parameters::query(self.definitions, "pretty"),
                name => parameters::described(name, "query", kind, ""),
            })
            .collect()
    }
}
