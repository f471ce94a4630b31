//! Questions that are asked by creating an object which is not kept: who is this token, may this user do that; and
//! tokens for service accounts.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::answer::Answer;
use super::body;
use super::call::{Request, Target};
use super::identity::{Claims, OWN_AUDIENCE, User};
use super::managed;
use super::object::{as_map, carry_meta, field_mut, items, meta, new_uid, text};
use super::rbac::{self, Attributes};
use super::resource::Resource;
use super::schema::Shape;
use super::server::{Server, rfc3339};
use super::status::ApiError;
use super::store::Store;
use super::verbs;
use super::write;
use super::zeros;

/// Whether a resource is only asked, never kept.
pub(crate) fn is_review(resource: &Resource) -> bool {
    matches!(
        resource.group.as_str(),
        "authentication.k8s.io" | "authorization.k8s.io"
    )
}

/// Who a token is, for this server itself.
pub(crate) fn user_of(server: &Server, token: &str, now: Timestamp) -> Option<User> {
    let store = server.store();
    let user = server
        .tokens
        .user(token, &[], now, |claims| account_is_there(&store, claims));
    user.ok().map(|(user, _)| user)
}

fn account_is_there(store: &Store, claims: &Claims) -> bool {
    let same = |table: &str, name: &str, uid: &str| {
        let object = store.get(table, &claims.namespace, name);
        object.is_some_and(|object| meta(object, "uid") == uid)
    };
    let bound = claims.bound.as_ref().is_none_or(|(kind, name, uid)| {
        let table = if kind == "pod" { "pods" } else { "secrets" };
        same(table, name, uid)
    });
    bound && same("serviceaccounts", &claims.name, &claims.uid)
}

/// Answers a review.
pub(crate) fn review(server: &Server, request: &Request, target: &Target) -> Result<Answer, ApiError> {
    let resource = &target.resource;
    let mut object = body::read(request, &server.definitions, &resource.kind, &resource.definition)?;
    body::identify(target, &mut object)?;
    let warnings = body::clean(request, resource, &server.definitions, &mut object)?;
    let txn = server.begin(true);
    let (api_version, now) = (resource.api_version(), txn.timestamp());
    let manager = request.manager();
    let writer = write::writer(target, &manager, &api_version, &now);
    as_map(&mut object).entry("metadata").or_insert(json!({}));
    let blank = zeros::blank(&server.definitions.fields, &resource.definition);
    managed::record(&blank, &mut object, Shape::of(&server.definitions, resource), writer);
    let user = &request.user;
    let status = match resource.kind.as_str() {
        "TokenReview" => token_review(server, &txn.store, &object, txn.now),
        "SelfSubjectReview" => json!({"userInfo": user.to_json()}),
        "SelfSubjectAccessReview" => access(&txn.store, user, &object),
        "SelfSubjectRulesReview" => rules(&txn.store, user, text(&object, "/spec/namespace")),
        _ => {
            let groups: Vec<&str> = items(&object, "/spec/groups")
                .iter()
                .filter_map(Value::as_str)
                .collect();
            let mut other = User::new(text(&object, "/spec/user"), text(&object, "/spec/uid"), &groups);
            other.groups = groups.into_iter().map(str::to_owned).collect();
            access(&txn.store, &other, &object)
        }
    };
    as_map(&mut object).insert("status".to_owned(), status);
    Ok(Answer::json(201, &object).warning(warnings))
}

fn token_review(server: &Server, store: &Store, object: &Value, now: Timestamp) -> Value {
    let audiences: Vec<String> = items(object, "/spec/audiences")
        .iter()
        .filter_map(|audience| audience.as_str().map(str::to_owned))
        .collect();
    let token = text(object, "/spec/token");
    let there = |claims: &Claims| account_is_there(store, claims);
    match server.tokens.user(token, &audiences, now, there) {
        Ok((user, audiences)) => json!({"authenticated": true, "user": user.to_json(), "audiences": audiences}),
        Err(error) => json!({"user": {}, "error": error.to_string()}),
    }
}

fn access(store: &Store, user: &User, object: &Value) -> Value {
    let part = |key: &str| text(object, &format!("/spec/resourceAttributes/{key}")).to_owned();
    let path = text(object, "/spec/nonResourceAttributes/path");
    let wanted = if path.is_empty() {
        Attributes {
            verb: part("verb"),
            group: part("group"),
            resource: part("resource"),
            subresource: part("subresource"),
            namespace: part("namespace"),
            name: part("name"),
            path: None,
        }
    } else {
        Attributes {
            verb: text(object, "/spec/nonResourceAttributes/verb").to_owned(),
            path: Some(path.to_owned()),
            ..Attributes::default()
        }
    };
    let open = wanted.path.as_deref().is_some_and(|path| is_open_path(path, user));
    match rbac::allowed(store, user, &wanted) {
        Some(reason) if reason.is_empty() => json!({"allowed": true}),
        Some(reason) => json!({"allowed": true, "reason": reason}),
        None => json!({"allowed": open}),
    }
}

/// Paths beside resources: health for everyone, discovery for everyone with a name.
pub(crate) fn is_open_path(path: &str, user: &User) -> bool {
    let first = path.split('/').find(|part| !part.is_empty()).unwrap_or_default();
    match first {
        "healthz" | "livez" | "readyz" | "version" => true,
        "api" | "apis" | "openapi" | "" => *user != User::anonymous(),
        _ => false,
    }
}

fn rules(store: &Store, user: &User, namespace: &str) -> Value {
    let (mut resource_rules, mut path_rules) = (Vec::new(), Vec::new());
    for rule in rbac::rules(store, user, namespace) {
        if rule.get("nonResourceURLs").is_some() {
            path_rules.push(rule);
        } else {
            resource_rules.push(rule);
        }
    }
    json!({"resourceRules": resource_rules, "nonResourceRules": path_rules, "incomplete": false})
}

/// Makes a token for the service account of the path.
pub(crate) fn token(server: &Server, request: &Request, target: &Target) -> Result<Answer, ApiError> {
    let definition = "io.k8s.api.authentication.v1.TokenRequest";
    let mut object = body::read(request, &server.definitions, "TokenRequest", definition)?;
    body::identify_as(&mut object, "authentication.k8s.io/v1", "TokenRequest")?;
    let txn = server.begin(true);
    let account = verbs::live(&txn, target)?;
    let (api_version, now) = ("authentication.k8s.io/v1", txn.timestamp());
    let manager = request.manager();
    let writer = write::writer(target, &manager, api_version, &now);
    as_map(&mut object).entry("metadata").or_insert(json!({}));
    let blank = zeros::blank(&server.definitions.fields, definition);
    managed::record(
        &blank,
        &mut object,
        Shape::named(&server.definitions, definition),
        writer,
    );
    for key in ["name", "namespace", "uid"] {
        carry_meta(&account, &mut object, key);
    }
    super::object::set_meta(&mut object, "creationTimestamp", now);

    let spec = field_mut(&mut object, "spec");
    spec.entry("boundObjectRef").or_insert(Value::Null);
    super::object::default_to(spec, "expirationSeconds", 3600);
    if spec
        .get("audiences")
        .and_then(Value::as_array)
        .is_none_or(Vec::is_empty)
    {
        spec.insert("audiences".to_owned(), json!([OWN_AUDIENCE]));
    }
    let claims = claims(&txn.store, &object, &account, txn.now);
    let status = json!({
        "token": txn.tokens().issue(&claims),
        "expirationTimestamp": rfc3339(claims.expires),
    });
    as_map(&mut object).insert("status".to_owned(), status);
    Ok(Answer::json(201, &object))
}

fn claims(store: &Store, object: &Value, account: &Value, now: Timestamp) -> Claims {
    let seconds = object.pointer("/spec/expirationSeconds").and_then(Value::as_i64);
    let lasts = SignedDuration::from_secs(seconds.unwrap_or(3600).clamp(600, 1 << 32));
    let kind = text(object, "/spec/boundObjectRef/kind").to_lowercase();
    let pod = (kind == "pod").then(|| {
        let name = text(object, "/spec/boundObjectRef/name");
        store.get("pods", meta(account, "namespace"), name)
    });
    let node = pod.flatten().and_then(|pod| {
        let name = text(pod, "/spec/nodeName");
        let node = store.get("nodes", "", name)?;
        Some((name.to_owned(), meta(node, "uid").to_owned()))
    });
    Claims {
        namespace: meta(account, "namespace").to_owned(),
        name: meta(account, "name").to_owned(),
        uid: meta(account, "uid").to_owned(),
        audiences: items(object, "/spec/audiences")
            .iter()
            .filter_map(|audience| audience.as_str().map(str::to_owned))
            .collect(),
        bound: (!kind.is_empty()).then(|| {
            let part = |key: &str| text(object, &format!("/spec/boundObjectRef/{key}")).to_owned();
            (kind, part("name"), part("uid"))
        }),
        node,
        id: new_uid(),
        issued: now,
        expires: now.checked_add(lasts).unwrap_or(now),
    }
}
