//! Definitions as JSON, and every schema in them by its path: `.spec.ports[].name`, `{}` for the values of a map.

use serde_json::Value;

/// One definition.
pub(crate) struct Definition {
    pub(crate) kind: String,
    pub(crate) plural: String,
    pub(crate) json: Value,
}

/// One schema of a definition.
#[derive(Clone)]
pub(crate) struct Node<'a> {
    /// Empty for the root.
    pub(crate) path: String,
    pub(crate) schema: &'a Value,
    /// Whether its parent asks for it.
    pub(crate) required: bool,
    /// The schemas above it, the root first.
    pub(crate) above: Vec<&'a Value>,
}

/// Every definition.
pub(crate) fn all() -> Vec<Definition> {
    kubelb_api::crds::all()
        .iter()
        .map(|crd| Definition {
            kind: crd.spec.names.kind.clone(),
            plural: crd.spec.names.plural.clone(),
            json: serde_json::to_value(crd).unwrap(),
        })
        .collect()
}

impl Definition {
    /// Its one version.
    pub(crate) fn version(&self) -> &Value {
        let versions = self.json["spec"]["versions"].as_array().unwrap();
        assert_eq!(versions.len(), 1, "{}", self.kind);
        &versions[0]
    }

    /// The schema of whole objects.
    pub(crate) fn root(&self) -> &Value {
        &self.version()["schema"]["openAPIV3Schema"]
    }

    /// The root and everything below it.
    pub(crate) fn nodes(&self) -> Vec<Node<'_>> {
        let mut nodes = Vec::new();
        collect(
            Node {
                path: String::new(),
                schema: self.root(),
                required: false,
                above: Vec::new(),
            },
            &mut nodes,
        );
        nodes
    }
}

/// A list of words under a keyword; empty when it is missing.
pub(crate) fn words<'a>(schema: &'a Value, keyword: &str) -> Vec<&'a str> {
    let list = schema[keyword].as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().map(|word| word.as_str().unwrap()).collect()
}

fn collect<'a>(node: Node<'a>, nodes: &mut Vec<Node<'a>>) {
    let schema = node.schema;
    let mut above = node.above.clone();
    above.push(schema);
    let below = |path: String, schema: &'a Value, required: bool| Node {
        path: format!("{}{path}", node.path),
        schema,
        required,
        above: above.clone(),
    };
    let required = words(schema, "required");
    let mut children = Vec::new();
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        children.push(below(format!(".{name}"), property, required.contains(&name.as_str())));
    }
    if schema["items"].is_object() {
        children.push(below("[]".to_owned(), &schema["items"], false));
    }
    if schema["additionalProperties"].is_object() {
        children.push(below("{}".to_owned(), &schema["additionalProperties"], false));
    }
    nodes.push(node);
    for child in children {
        collect(child, nodes);
    }
}
