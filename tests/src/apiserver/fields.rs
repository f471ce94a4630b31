//! The table of fields of the built-in types (`fields.txt`): names, protobuf numbers, how lists merge, and what becomes of zero
//! values.
//!
//! A definition in OpenAPI lacks the merge keys (they are comments in the Go source) and says nothing of zero values, and
//! requests in protobuf need the numbers. Knows nothing of values.

use std::collections::BTreeMap;

const TABLE: &str = include_str!("fields.txt");

/// How often a field has its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arity {
    One,
    List,
    Map,
}

/// What a server writes for a field that is zero or not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Zero {
    /// Nothing.
    Omit,
    /// The zero value of its type.
    Show,
    Null,
}

/// One field of a message.
#[derive(Clone, Debug)]
pub(crate) struct Field {
    /// `-` when its fields belong to the message around it.
    pub(crate) name: &'static str,
    pub(crate) number: u32,
    pub(crate) arity: Arity,
    /// A scalar of protobuf, or the name of a message.
    pub(crate) kind: String,
    /// Merge keys of a list of objects; `Some(&[])` for a set.
    pub(crate) list_keys: Option<Vec<&'static str>>,
    /// A list that is replaced as a whole, and says so.
    pub(crate) atomic_list: bool,
    pub(crate) patch_strategy: Option<&'static str>,
    pub(crate) patch_key: Option<&'static str>,
    /// A map or object that is replaced as a whole.
    pub(crate) atomic: bool,
    /// `None` for a field that tells zero from not set.
    pub(crate) zero: Option<Zero>,
}

/// Fields of one type.
#[derive(Clone, Debug, Default)]
pub(crate) struct Message {
    pub(crate) fields: Vec<Field>,
    pub(crate) atomic: bool,
}

/// All types by name, as OpenAPI calls them in lower case (the spelling of acronyms differs between the two sources).
#[derive(Clone, Debug)]
pub(crate) struct Fields {
    messages: BTreeMap<String, Message>,
}

impl Fields {
    pub(crate) fn parse() -> Self {
        let mut messages: BTreeMap<String, Message> = BTreeMap::new();
        let mut current = String::new();
        for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
            if let Some(header) = line.strip_prefix('[') {
                let (name, more) = header.split_once(']').unwrap_or((header, ""));
                current = full_name(name).to_lowercase();
                messages.entry(current.clone()).or_default().atomic = more.contains("atomic");
            } else if let (Some(field), Some(message)) = (field(line), messages.get_mut(&current)) {
                message.fields.push(field);
            }
        }
        Self { messages }
    }

    pub(crate) fn message(&self, name: &str) -> Option<&Message> {
        self.messages.get(&name.to_lowercase())
    }
}

fn full_name(name: &str) -> String {
    for (short, long) in [
        ("meta.", "io.k8s.apimachinery.pkg.apis.meta.v1."),
        ("core.", "io.k8s.api.core.v1."),
    ] {
        if let Some(rest) = name.strip_prefix(short) {
            return format!("{long}{rest}");
        }
    }
    name.to_owned()
}

fn field(line: &'static str) -> Option<Field> {
    let mut words = line.split(' ');
    let name = words.next()?;
    let number = words.next()?.parse().ok()?;
    let kind = words.next()?;
    let (arity, kind) = match (kind.strip_prefix("[]"), kind.strip_prefix("{}")) {
        (Some(kind), _) => (Arity::List, kind),
        (None, Some(kind)) => (Arity::Map, kind),
        (None, None) => (Arity::One, kind),
    };
    let mut field = Field {
        name,
        number,
        arity,
        kind: full_name(kind),
        list_keys: None,
        atomic_list: false,
        patch_strategy: None,
        patch_key: None,
        atomic: false,
        zero: None,
    };
    for word in words {
        if let Some(list) = word.strip_prefix("list=") {
            field.atomic_list = list == "atomic";
            field.list_keys = match list.split_once(':') {
                Some(("map", keys)) => Some(keys.split(',').collect()),
                _ if list == "set" => Some(Vec::new()),
                _ => None,
            };
        } else if let Some(patch) = word.strip_prefix("patch=") {
            let (strategy, key) = patch
                .split_once(':')
                .map_or((patch, None), |(one, two)| (one, Some(two)));
            field.patch_strategy = Some(strategy);
            field.patch_key = key;
        } else if word == "atomic" {
            field.atomic = true;
        } else if let Some(zero) = word.strip_prefix("zero=") {
            field.zero = match zero {
                "omit" => Some(Zero::Omit),
                "show" => Some(Zero::Show),
                "null" => Some(Zero::Null),
                _ => None,
            };
        }
    }
    Some(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_a_service_merge_by_port_and_are_keyed_by_protocol_too() {
        let fields = Fields::parse();
        let spec = fields.message("io.k8s.api.core.v1.ServiceSpec").unwrap();
        let ports = spec.fields.iter().find(|field| field.name == "ports").unwrap();
        assert_eq!(ports.list_keys.as_deref(), Some(&["port", "protocol"][..]));
        assert_eq!(ports.patch_key, Some("port"));
        assert_eq!(ports.kind, "io.k8s.api.core.v1.ServicePort");
        assert_eq!((ports.number, ports.arity), (1, Arity::List));
        assert_eq!(ports.zero, Some(Zero::Omit));
    }
}
