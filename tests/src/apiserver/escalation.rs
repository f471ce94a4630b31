//! No one gives away what they do not have: Roles and bindings are refused that grant more than their writer may do, unless
//! the writer may `escalate` or `bind`. Pure.

use serde_json::{Value, json};

use super::identity::User;
use super::object::{items, name, text};
use super::rbac::{Attributes, allowed};
use super::resource::Resource;
use super::status::ApiError;
use super::store::Store;

const GROUP: &str = "rbac.authorization.k8s.io";

/// Checks an object that `user` wants to write; `live` is what it replaces.
///
/// # Errors
/// When it grants what the user does not have.
pub(crate) fn check(
    store: &Store,
    user: &User,
    resource: &Resource,
    namespace: &str,
    object: &Value,
    live: Option<&Value>,
) -> Result<(), ApiError> {
    if resource.group != GROUP || user.is_master() {
        return Ok(());
    }
    let (kind, role_name, verb, rules) = match resource.kind.as_str() {
        "Role" | "ClusterRole" => {
            let same = live.is_some_and(|live| live.get("rules") == object.get("rules"));
            if same {
                return Ok(());
            }
            (
                resource.kind.as_str(),
                name(object),
                "escalate",
                items(object, "/rules"),
            )
        }
        _ => {
            let same = live.is_some_and(|live| {
                ["roleRef", "subjects"]
                    .iter()
                    .all(|key| live.get(key) == object.get(key))
            });
            if same {
                return Ok(());
            }
            let (kind, role_name) = (text(object, "/roleRef/kind"), text(object, "/roleRef/name"));
            let role = match kind {
                "ClusterRole" => store.get("clusterroles.rbac.authorization.k8s.io", "", role_name),
                _ => store.get("roles.rbac.authorization.k8s.io", namespace, role_name),
            };
            (
                kind,
                role_name,
                "bind",
                role.map_or(&[][..], |role| items(role, "/rules")),
            )
        }
    };
    let plural = if kind == "ClusterRole" { "clusterroles" } else { "roles" };
    let leave = Attributes {
        verb: verb.to_owned(),
        group: GROUP.to_owned(),
        resource: plural.to_owned(),
        namespace: namespace.to_owned(),
        name: role_name.to_owned(),
        ..Attributes::default()
    };
    if allowed(store, user, &leave).is_some() {
        return Ok(());
    }
    let missing: Vec<String> = rules
        .iter()
        .filter(|rule| {
            !single(rule, namespace)
                .iter()
                .all(|wanted| allowed(store, user, wanted).is_some())
        })
        .map(shown)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let message = format!(
        "{} \"{}\" is forbidden: user \"{}\" (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        resource.qualified(),
        name(object),
        user.name,
        json!(user.groups),
        missing.join("\n")
    );
    Err(ApiError::forbidden(resource.details(Some(name(object))), message))
}

fn texts<'a>(rule: &'a Value, key: &str) -> Vec<&'a str> {
    let list = rule.get(key).and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).collect()
}

/// Everything that a rule allows, one by one.
fn single(rule: &Value, namespace: &str) -> Vec<Attributes> {
    let mut all = Vec::new();
    let names = match texts(rule, "resourceNames") {
        names if names.is_empty() => vec![""],
        names => names,
    };
    for verb in texts(rule, "verbs") {
        for path in texts(rule, "nonResourceURLs") {
            all.push(Attributes {
                verb: verb.to_owned(),
                path: Some(path.to_owned()),
                ..Attributes::default()
            });
        }
        for group in texts(rule, "apiGroups") {
            for resource in texts(rule, "resources") {
                let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
                all.extend(names.iter().map(|name| Attributes {
                    verb: verb.to_owned(),
                    group: group.to_owned(),
                    resource: resource.to_owned(),
                    subresource: subresource.to_owned(),
                    namespace: namespace.to_owned(),
                    name: (*name).to_owned(),
                    path: None,
                }));
            }
        }
    }
    all
}

fn shown(rule: &Value) -> String {
    let parts: Vec<String> = [
        ("APIGroups", "apiGroups"),
        ("Resources", "resources"),
        ("ResourceNames", "resourceNames"),
        ("NonResourceURLs", "nonResourceURLs"),
        ("Verbs", "verbs"),
    ]
    .into_iter()
    .filter(|(_, key)| !texts(rule, key).is_empty())
    .map(|(title, key)| {
        let texts: Vec<String> = texts(rule, key).iter().map(|text| json!(text).to_string()).collect();
        format!("{title}:[{}]", texts.join(" "))
    })
    .collect();
    format!("{{{}}}", parts.join(", "))
}
