//! The paths of a resource and what can be done there, as OpenAPI 3 describes it.

mod below;

use serde_json::{Map, Value, json};

use super::super::object::{as_map, text};
use super::super::resource::Resource;
use super::super::schema::Definitions;
use super::wording::{article, camel, capital, content, schema, tag};
use super::{META, parameters, place};

/// Resources of which a deletion answers with what was deleted.
const SHOWN_WHEN_DELETED: &[&str] = &[
    "csidrivers",
    "csinodes",
    "persistentvolumeclaims",
    "persistentvolumes",
    "pods",
    "podtemplates",
    "resourcequotas",
    "serviceaccounts",
    "services",
    "storageclasses",
    "volumeattachments",
    "volumeattributesclasses",
];
/// Paths by their text.
pub(super) type Paths = Map<String, Value>;

/// The paths of one resource.
pub(super) struct Describer<'a> {
    definitions: &'a Definitions,
    resource: &'a Resource,
}

/// One operation before it is written down.
#[derive(Default)]
struct Operation<'a> {
    description: String,
    /// The name without group and version, `Namespaced` and kind, which come between the two.
    id: (&'a str, String),
    parameters: Vec<Value>,
    body: Option<Value>,
    /// Codes with what they are called.
    codes: &'a [(&'a str, &'a str)],
    answer: Value,
    action: &'a str,
    about: Value,
}

const OK: (&str, &str) = ("200", "OK");
const CREATED: (&str, &str) = ("201", "Created");
const ACCEPTED: (&str, &str) = ("202", "Accepted");

impl<'a> Describer<'a> {
    pub(super) fn new(definitions: &'a Definitions, resource: &'a Resource) -> Self {
        Self { definitions, resource }
    }

    /// Adds all paths of the resource.
    pub(super) fn describe(&self, paths: &mut Paths) {
        let resource = self.resource;
        let prefix = format!("/{}", place(&resource.group, &resource.version));
        let plural = &resource.plural;
        let collection = if resource.namespaced {
            format!("{prefix}/namespaces/{{namespace}}/{plural}")
        } else {
            format!("{prefix}/{plural}")
        };
        self.add(paths, &collection, self.of_collection());
        let lists = self.may("list");
        if resource.namespaced && lists {
            let everywhere = self.list("", "ForAllNamespaces");
            self.add(paths, &format!("{prefix}/{plural}"), vec![("get", everywhere)]);
        }
        let object = format!("{collection}/{{name}}");
        self.add(paths, &object, self.of_object());
        for sub in &resource.subresources {
            let at = format!("{object}/{}", sub.name);
            self.add(paths, &at, self.of_subresource(sub, ""));
            if sub.name == "proxy" {
                self.add(paths, &format!("{at}/{{path}}"), self.of_subresource(sub, "WithPath"));
            }
        }
        if resource.is_builtin() && self.may("watch") {
            let prefix = format!("{prefix}/watch");
            let within = if resource.namespaced {
                let all = self.watch("", "ListForAllNamespaces");
                self.add(paths, &format!("{prefix}/{plural}"), vec![("get", all)]);
                format!("{prefix}/namespaces/{{namespace}}/{plural}")
            } else {
                format!("{prefix}/{plural}")
            };
            self.add(paths, &within, vec![("get", self.watch(self.scope(), "List"))]);
            let one = vec![("get", self.watch(self.scope(), ""))];
            self.add(paths, &format!("{within}/{{name}}"), one);
        }
    }

    fn may(&self, verb: &str) -> bool {
        self.resource.verbs.contains(&verb)
    }

    fn scope(&self) -> &'static str {
        if self.resource.namespaced { "Namespaced" } else { "" }
    }

    fn types(&self) -> Vec<&'static str> {
        let mut types = vec!["application/json", "application/yaml"];
        if self.resource.is_builtin() {
            types.push("application/vnd.kubernetes.protobuf");
        }
        types
    }

    /// The same with those that a watch has.
    fn stream_types(&self) -> Vec<&'static str> {
        let mut types = self.types();
        if self.resource.is_builtin() {
            types.extend([
                "application/json;stream=watch",
                "application/vnd.kubernetes.protobuf;stream=watch",
            ]);
        }
        types
    }

    fn about(&self) -> Value {
        let resource = self.resource;
        json!({"group": resource.group, "version": resource.version, "kind": resource.kind})
    }

    fn queries(&self, names: &[&str]) -> Vec<Value> {
        names
            .iter()
            .map(|name| parameters::query(self.definitions, name))
            .collect()
    }

    fn shown(&self, definition: &str) -> Value {
        content(&self.types(), &schema(definition))
    }

    fn sent(&self, definition: &str) -> Value {
        let body = schema(definition);
        if self.resource.is_builtin() {
            content(&["*/*"], &body)
        } else {
            content(&self.types(), &body)
        }
    }

    fn required(&self, definition: &str) -> Option<Value> {
        Some(json!({"content": self.sent(definition), "required": true}))
    }

    fn list(&self, scope: &str, suffix: &str) -> Value {
        let what = if self.resource.is_builtin() && self.may("watch") {
            "list or watch"
        } else {
            "list"
        };
        let list = schema(&format!("{}List", self.resource.definition));
        self.write(Operation {
            description: format!("{what} objects of kind {}", self.resource.kind),
            id: ("list", format!("{scope}{}{suffix}", self.resource.kind)),
            parameters: self.queries(parameters::LIST),
            codes: &[OK],
            answer: content(&self.stream_types(), &list),
            action: "list",
            about: self.about(),
            ..Operation::default()
        })
    }

    fn watch(&self, scope: &str, suffix: &str) -> Value {
        let kind = &self.resource.kind;
        let (description, action) = if suffix.is_empty() {
            let instead = "filtered to a single item with the 'fieldSelector' parameter";
            let text = format!("watch changes to an object of kind {kind}");
            (
                format!("{text}. deprecated: use the 'watch' parameter with a list operation instead, {instead}."),
                "watch",
            )
        } else {
            let text = format!("watch individual changes to a list of {kind}");
            (
                format!("{text}. deprecated: use the 'watch' parameter with a list operation instead."),
                "watchlist",
            )
        };
        self.write(Operation {
            description,
            id: ("watch", format!("{scope}{kind}{suffix}")),
            parameters: self.queries(parameters::LIST),
            codes: &[OK],
            answer: content(&self.stream_types(), &schema(&format!("{META}.WatchEvent"))),
            action,
            about: self.about(),
            ..Operation::default()
        })
    }

    fn of_collection(&self) -> Vec<(&'static str, Value)> {
        let (resource, scope) = (self.resource, self.scope());
        let mut operations = Vec::new();
        if self.may("list") {
            operations.push(("get", self.list(scope, "")));
        }
        if self.may("create") {
            let create = Operation {
                description: format!("create {}{}", article(&resource.kind), resource.kind),
                id: ("create", format!("{scope}{}", resource.kind)),
                parameters: self.queries(parameters::WRITE),
                body: self.required(&resource.definition),
                codes: &[OK, CREATED, ACCEPTED],
                answer: self.shown(&resource.definition),
                action: "post",
                about: self.about(),
            };
            operations.push(("post", self.write(create)));
        }
        if self.may("deletecollection") {
            let mut names = parameters::LIST.to_vec();
            let mut body = None;
            if resource.is_builtin() {
                names.retain(|name| !matches!(*name, "allowWatchBookmarks" | "watch"));
                names.extend(parameters::DELETE);
                body = Some(json!({"content": self.sent(&format!("{META}.DeleteOptions"))}));
            }
            let delete = Operation {
                description: format!("delete collection of {}", resource.kind),
                id: ("delete", format!("Collection{scope}{}", resource.kind)),
                parameters: self.queries(&names),
                body,
                codes: &[OK],
                answer: self.shown(&format!("{META}.Status")),
                action: "deletecollection",
                about: self.about(),
            };
            operations.push(("delete", self.write(delete)));
        }
        operations
    }

    fn of_object(&self) -> Vec<(&'static str, Value)> {
        let (resource, scope) = (self.resource, self.scope());
        let of = (resource.definition.as_str(), self.about());
        let mut operations = self.reads_and_writes(&resource.verbs, &of, "", "");
        if self.may("delete") {
            let shown = resource.is_builtin() && SHOWN_WHEN_DELETED.contains(&resource.plural.as_str());
            let status = format!("{META}.Status");
            let delete = Operation {
                description: format!("delete {}{}", article(&resource.kind), resource.kind),
                id: ("delete", format!("{scope}{}", resource.kind)),
                parameters: self.queries(parameters::DELETE),
                body: Some(json!({"content": self.sent(&format!("{META}.DeleteOptions"))})),
                codes: &[OK, ACCEPTED],
                answer: self.shown(if shown { &resource.definition } else { &status }),
                action: "delete",
                about: self.about(),
            };
            operations.push(("delete", self.write(delete)));
        }
        operations
    }

    /// `get`, `put` and `patch` of an object or a part of it, which has a word in the text and one in the name.
    fn reads_and_writes(
        &self,
        verbs: &[&str],
        of: &(&str, Value),
        part: &str,
        suffix: &str,
    ) -> Vec<(&'static str, Value)> {
        let resource = self.resource;
        let kind = &resource.kind;
        let id = format!("{}{kind}{suffix}", self.scope());
        let part = if part.is_empty() {
            String::new()
        } else {
            format!("{part} of ")
        };
        let mut operations = Vec::new();
        let base = |word: &str| Operation {
            description: format!("{word} {part}the specified {kind}"),
            answer: self.shown(of.0),
            about: of.1.clone(),
            ..Operation::default()
        };
        if verbs.contains(&"get") {
            let names: &[&str] = if resource.is_builtin() {
                &[]
            } else {
                &["resourceVersion"]
            };
            operations.push((
                "get",
                self.write(Operation {
                    id: ("read", id.clone()),
                    parameters: self.queries(names),
                    codes: &[OK],
                    action: "get",
                    ..base("read")
                }),
            ));
        }
        if verbs.contains(&"update") {
            operations.push((
                "put",
                self.write(Operation {
                    id: ("replace", id.clone()),
                    parameters: self.queries(parameters::WRITE),
                    body: self.required(of.0),
                    codes: &[OK, CREATED],
                    action: "put",
                    ..base("replace")
                }),
            ));
        }
        if verbs.contains(&"patch") {
            let mut types = vec![
                "application/json-patch+json",
                "application/merge-patch+json",
                "application/apply-patch+yaml",
            ];
            let mut codes = vec![OK];
            if resource.is_builtin() {
                types.push("application/strategic-merge-patch+json");
                codes.push(CREATED);
            }
            let body = content(&types, &schema(&format!("{META}.Patch")));
            operations.push((
                "patch",
                self.write(Operation {
                    id: ("patch", id),
                    parameters: self.queries(parameters::PATCH),
                    body: Some(json!({"content": body, "required": true})),
                    codes: &codes,
                    action: "patch",
                    ..base("partially update")
                }),
            ));
        }
        operations
    }

    fn write(&self, operation: Operation<'_>) -> Value {
        let resource = self.resource;
        let (word, rest) = operation.id;
        // Where it is connected to, the method comes before the kind.
        let version = capital(&resource.version);
        let id = format!("{word}{}{version}{rest}", camel(&resource.group));
        let mut responses = Map::new();
        for (code, called) in operation.codes {
            let answer = json!({"description": called, "content": operation.answer});
            responses.insert((*code).to_owned(), answer);
        }
        responses.insert("401".to_owned(), json!({"description": "Unauthorized"}));
        let mut written = json!({
            "tags": [tag(&resource.group, &resource.version)],
            "description": operation.description,
            "operationId": id,
            "parameters": operation.parameters,
            "responses": responses,
            "x-kubernetes-action": operation.action,
            "x-kubernetes-group-version-kind": operation.about,
        });
        if let Some(body) = operation.body {
            as_map(&mut written).insert("requestBody".to_owned(), body);
        }
        written
    }

    /// Adds a path; what all its operations take is said once for all.
    fn add(&self, paths: &mut Paths, path: &str, mut operations: Vec<(&'static str, Value)>) {
        let Some((_, first)) = operations.first() else {
            return;
        };
        let of = text(first, "/x-kubernetes-group-version-kind/kind").to_owned();
        let mut extra = Vec::new();
        if !path.contains("/proxy") && text(first, "/x-kubernetes-action") != "connect" && !path.ends_with("/log") {
            extra.push(parameters::query(self.definitions, "pretty"));
        }
        for (mark, text) in [
            (
                "namespace",
                "object name and auth scope, such as for teams and projects".to_owned(),
            ),
            ("name", format!("name of the {of}")),
            ("path", "path to the resource".to_owned()),
        ] {
            if path.contains(&format!("{{{mark}}}")) {
                extra.push(parameters::of_path(mark, &text));
            }
        }
        let own = |operation: &Value| -> Vec<Value> {
            let list = operation.get("parameters").and_then(Value::as_array);
            list.cloned().unwrap_or_default()
        };
        let mut common: Vec<Value> = own(first);
        common.retain(|parameter| {
            operations
                .iter()
                .all(|(_, operation)| own(operation).contains(parameter))
        });
        let mut item = Map::new();
        for (method, mut operation) in operations.drain(..) {
            let mut left = own(&operation);
            left.retain(|parameter| !common.contains(parameter));
            sort(&mut left);
            let map = as_map(&mut operation);
            if left.is_empty() {
                map.remove("parameters");
            } else {
                map.insert("parameters".to_owned(), Value::Array(left));
            }
            item.insert(method.to_owned(), operation);
        }
        common.extend(extra);
        sort(&mut common);
        item.insert("parameters".to_owned(), Value::Array(common));
        paths.insert(path.to_owned(), Value::Object(item));
    }
}

fn sort(parameters: &mut [Value]) {
    parameters.sort_by_key(|parameter| (text(parameter, "/name").to_owned(), text(parameter, "/in").to_owned()));
}
