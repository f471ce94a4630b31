//! Role-based access control: who may do what, from the Roles and bindings in the store. Pure.

use serde_json::{Value, json};

use super::identity::User;
use super::resource::details;
use super::status::ApiError;
use super::store::Store;

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) verb: String,
    pub(crate) group: String,
    pub(crate) resource: String,
    /// Empty when none.
    pub(crate) subresource: String,
    /// Empty at the cluster's scope.
    pub(crate) namespace: String,
    /// Empty for a collection.
    pub(crate) name: String,
    /// Set instead of all but the verb for a path that is no resource.
    pub(crate) path: Option<String>,
}

impl Attributes {
    fn full_resource(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.clone()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }

    /// The answer to one who may not.
    pub(crate) fn refusal(&self, user: &User) -> ApiError {
        if let Some(path) = &self.path {
            let message = format!("forbidden: User \"{}\" cannot {} path \"{path}\"", user.name, self.verb);
            return ApiError::forbidden(json!({}), message);
        }
        let object = match (self.group.as_str(), self.name.as_str()) {
            ("", "") => self.resource.clone(),
            ("", name) => format!("{} \"{name}\"", self.resource),
            (group, "") => format!("{}.{group}", self.resource),
            (group, name) => format!("{}.{group} \"{name}\"", self.resource),
        };
        let scope = if self.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace \"{}\"", self.namespace)
        };
        let message = format!(
            "{object} is forbidden: User \"{}\" cannot {} resource \"{}\" in API group \"{}\" {scope}",
            user.name,
            self.verb,
            self.full_resource(),
            self.group
        );
        let name = Some(self.name.as_str());
        ApiError::forbidden(details(name, &self.group, &self.resource), message)
    }
}

/// Why `user` may, or `None` when not.
pub(crate) fn allowed(store: &Store, user: &User, wanted: &Attributes) -> Option<String> {
    if user.is_master() {
        return Some(String::new());
    }
    bindings(store, wanted).find_map(|binding| {
        let subject = subjects(binding.object).find(|subject| is_subject(subject, user, binding.namespace))?;
        let (kind, name, rules) = role(store, &binding)?;
        let rule = rules.iter().any(|rule| covers(rule, wanted));
        rule.then(|| reason(&binding, kind, name, subject))
    })
}

/// Rules that hold for `user` in `namespace`, for SelfSubjectRulesReview.
pub(crate) fn rules(store: &Store, user: &User, namespace: &str) -> Vec<Value> {
    if user.is_master() {
        return vec![
            json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}),
            json!({"verbs": ["*"], "nonResourceURLs": ["*"]}),
        ];
    }
    let scope = Attributes {
        namespace: namespace.to_owned(),
        ..Attributes::default()
    };
    bindings(store, &scope)
        .filter(|binding| subjects(binding.object).any(|subject| is_subject(subject, user, binding.namespace)))
        .filter_map(|binding| role(store, &binding))
        .flat_map(|(_, _, rules)| rules.clone())
        .collect()
}

struct Binding<'a> {
    kind: &'static str,
    namespace: &'a str,
    name: &'a str,
    object: &'a Value,
}

fn bindings<'a>(store: &'a Store, wanted: &'a Attributes) -> impl Iterator<Item = Binding<'a>> {
    let cluster = store.list("clusterrolebindings.rbac.authorization.k8s.io", None);
    let cluster = cluster.map(|((_, name), object)| Binding {
        kind: "ClusterRoleBinding",
        namespace: "",
        name,
        object,
    });
    let local = (!wanted.namespace.is_empty())
        .then(|| store.list("rolebindings.rbac.authorization.k8s.io", Some(&wanted.namespace)));
    let local = local.into_iter().flatten();
    cluster.chain(local.map(|((namespace, name), object)| Binding {
        kind: "RoleBinding",
        namespace,
        name,
        object,
    }))
}

fn subjects(binding: &Value) -> impl Iterator<Item = &Value> {
    binding.get("subjects").and_then(Value::as_array).into_iter().flatten()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn is_subject(subject: &Value, user: &User, namespace: &str) -> bool {
    let name = text(subject, "name");
    match text(subject, "kind") {
        "User" => name == user.name,
        "Group" => user.groups.iter().any(|group| group == name),
        "ServiceAccount" => {
            let of = match text(subject, "namespace") {
                "" => namespace,
                of => of,
            };
            user.name == format!("system:serviceaccount:{of}:{name}")
        }
        _ => false,
    }
}

fn role<'a>(store: &'a Store, binding: &Binding<'a>) -> Option<(&'a str, &'a str, &'a Vec<Value>)> {
    let reference = binding.object.get("roleRef")?;
    let (kind, name) = (text(reference, "kind"), text(reference, "name"));
    let object = match kind {
        "ClusterRole" => store.get("clusterroles.rbac.authorization.k8s.io", "", name),
        _ => store.get("roles.rbac.authorization.k8s.io", binding.namespace, name),
    }?;
    Some((kind, name, object.get("rules")?.as_array()?))
}

fn covers(rule: &Value, wanted: &Attributes) -> bool {
    let has = |key: &str, fits: &dyn Fn(&str) -> bool| {
        rule.get(key)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .any(|entry| entry == "*" || fits(entry))
    };
    if !has("verbs", &|verb| verb == wanted.verb) {
        return false;
    }
    if let Some(path) = &wanted.path {
        return has("nonResourceURLs", &|url| {
            url == path || url.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
        });
    }
    let full = wanted.full_resource();
    let any_with_subresource = format!("*/{}", wanted.subresource);
    let names = rule.get("resourceNames").and_then(Value::as_array);
    has("apiGroups", &|group| group == wanted.group)
        && has("resources", &|resource| {
            resource == full || (!wanted.subresource.is_empty() && resource == any_with_subresource)
        })
        && names.is_none_or(|names| names.is_empty() || names.iter().any(|name| *name == wanted.name))
}

fn reason(binding: &Binding<'_>, role_kind: &str, role: &str, subject: &Value) -> String {
    let name = match binding.namespace {
        "" => binding.name.to_owned(),
        namespace => format!("{}/{namespace}", binding.name),
    };
    let who = match (text(subject, "kind"), text(subject, "namespace")) {
        ("ServiceAccount", namespace) => format!("ServiceAccount \"{}/{namespace}\"", text(subject, "name")),
        (kind, _) => format!("{kind} \"{}\"", text(subject, "name")),
    };
    format!(
        "RBAC: allowed by {} \"{name}\" of {role_kind} \"{role}\" to {who}",
        binding.kind
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> Store {
        let mut store = Store::new(0, 10);
        let role = json!({"metadata": {}, "rules": [
            {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"]},
            {"apiGroups": ["kubelb.k8c.io"], "resources": ["loadbalancers/status"], "verbs": ["*"], "resourceNames": ["a"]},
        ]});
        store.put("roles.rbac.authorization.k8s.io", "n", "r", role);
        let binding = json!({"metadata": {}, "roleRef": {"kind": "Role", "name": "r"},
            "subjects": [{"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "sa", "namespace": "n"}]});
        store.put("rolebindings.rbac.authorization.k8s.io", "n", "b", binding);
        store
    }

    fn asks(user: &str, verb: &str, group: &str, resource: &str, namespace: &str, name: &str) -> Option<String> {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let wanted = Attributes {
            verb: verb.to_owned(),
            group: group.to_owned(),
            resource: resource.to_owned(),
            subresource: subresource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            path: None,
        };
        allowed(&store(), &User::new(user, "", &[]), &wanted)
    }

    #[test]
    fn a_role_holds_in_its_namespace_for_its_subjects_verbs_and_names() {
        let why = asks("u", "list", "", "configmaps", "n", "").unwrap();
        assert_eq!(why, r#"RBAC: allowed by RoleBinding "b/n" of Role "r" to User "u""#);
        assert!(asks("system:serviceaccount:n:sa", "get", "", "configmaps", "n", "x").is_some());
        assert!(asks("u", "list", "", "configmaps", "m", "").is_none());
        assert!(asks("u", "delete", "", "configmaps", "n", "x").is_none());
        assert!(asks("v", "get", "", "configmaps", "n", "x").is_none());
        assert!(asks("u", "patch", "kubelb.k8c.io", "loadbalancers/status", "n", "a").is_some());
        assert!(asks("u", "patch", "kubelb.k8c.io", "loadbalancers/status", "n", "b").is_none());
        assert!(asks("u", "patch", "kubelb.k8c.io", "loadbalancers", "n", "a").is_none());
    }
}
