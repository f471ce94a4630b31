//! Lists: filtered, in pages that show one moment, in the form asked for.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD, URL_SAFE_NO_PAD};
use hyper::body::Bytes;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::answer::Answer;
use super::body;
use super::call::{Form, Request, Target};
use super::json_text;
use super::object::{meta, name};
use super::selectors::{Fields, Labels};
use super::server::Server;
use super::status::ApiError;
use super::store::{Key, Store, Stored};
use super::table;

/// Which objects a request is about.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    namespace: String,
    labels: Labels,
    fields: Fields,
    /// Of a watch on a single object.
    name: String,
}

impl Filter {
    pub(crate) fn of(request: &Request, target: &Target) -> Result<Self, ApiError> {
        Ok(Self {
            namespace: target.namespace.clone(),
            labels: Labels::parse(request.query.get("labelSelector"))?,
            fields: Fields::parse(request.query.get("fieldSelector"), &target.resource)?,
            name: target.name.clone(),
        })
    }

    /// `None` for all.
    pub(crate) fn namespace(&self) -> Option<&str> {
        (!self.namespace.is_empty()).then_some(self.namespace.as_str())
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        (self.namespace.is_empty() || meta(object, "namespace") == self.namespace)
            && (self.name.is_empty() || name(object) == self.name)
            && self.fields.name().is_none_or(|wanted| name(object) == wanted)
            && self.labels.matches(object)
            && self.fields.matches(object)
    }
}

/// A place in a list: the moment that it shows, and the last key that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Continue {
    revision: u64,
    after: Key,
}

impl Continue {
    fn parse(token: &str) -> Result<Option<Self>, ApiError> {
        if token.is_empty() {
            return Ok(None);
        }
        // As forgiving as Go's, so that it is the text that is wrong.
        let lenient = GeneralPurpose::new(&URL_SAFE, NO_PAD.with_decode_allow_trailing_bits(true));
        let text = lenient.decode(token).unwrap_or_default();
        let read = || -> Option<Self> {
            let value: Value = serde_json::from_slice(&text).ok()?;
            let (namespace, name) = value.get("start")?.as_str()?.split_once('/')?;
            Some(Self {
                revision: value.get("rv")?.as_u64()?,
                after: (namespace.to_owned(), name.to_owned()),
            })
        };
        let invalid = || {
            let why = json_text::complaint(&text)
                .map(|why| format!(": {why}"))
                .unwrap_or_default();
            ApiError::bad_request(format!("invalid continue token: continue key is not valid{why}"))
        };
        read().map(Some).ok_or_else(invalid)
    }

    fn token(&self) -> String {
        let start = format!("{}/{}", self.after.0, self.after.1);
        let token = json!({"v": "meta.k8s.io/v1", "rv": self.revision, "start": start});
        URL_SAFE_NO_PAD.encode(token.to_string())
    }
}

/// The revision in a query; `None` when there is none.
///
/// # Errors
/// When it is no number.
pub(crate) fn revision_of(request: &Request) -> Result<Option<u64>, ApiError> {
    let text = request.query.get("resourceVersion");
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_no_number| {
        let shown = Value::from(text);
        let message =
            format!("resourceVersion: Invalid value: {shown}: strconv.ParseUint: parsing {shown}: invalid syntax");
        ApiError::new(500, "", message)
    })
}

/// Answers a list.
pub(crate) fn list(server: &Server, request: &Request, target: &Target) -> Result<Answer, ApiError> {
    let filter = Filter::of(request, target)?;
    let limit: usize = request.query.get("limit").parse().unwrap_or(0);
    let from = Continue::parse(request.query.get("continue"))?;
    let asked = revision_of(request)?;
    let exact = request.query.get("resourceVersionMatch") == "Exact";
    let page = {
        let store = server.store();
        let current = store.revision();
        if let Some(asked) = asked
            && asked > current
        {
            return Err(ApiError::too_large(asked, current));
        }
        let at = match (&from, asked) {
            (Some(from), _) => from.revision,
            (None, Some(asked)) if exact => asked,
            _ => current,
        };
        page(&store, target, &filter, at, from.as_ref(), limit)?
    };
    let mut metadata = Map::new();
    metadata.insert("resourceVersion".to_owned(), Value::from(page.revision.to_string()));
    if let Some(next) = &page.next {
        metadata.insert("continue".to_owned(), Value::from(next.token()));
        if request.query.get("labelSelector").is_empty() && request.query.get("fieldSelector").is_empty() {
            metadata.insert("remainingItemCount".to_owned(), Value::from(page.remaining));
        }
    }
    let answer = render(request, target, &page.items, Value::Object(metadata));
    Ok(answer.after(page.revision))
}

struct Page {
    revision: u64,
    items: Vec<Arc<Stored>>,
    next: Option<Continue>,
    remaining: usize,
}

fn page(
    store: &Store,
    target: &Target,
    filter: &Filter,
    revision: u64,
    from: Option<&Continue>,
    limit: usize,
) -> Result<Page, ApiError> {
    let table = target.resource.table();
    let past = past(store, &table, revision)?;
    let mut objects: BTreeMap<&Key, &Arc<Stored>> = store.list(&table, filter.namespace()).collect();
    for (key, object) in &past {
        match object {
            Some(object) => objects.insert(key, object),
            None => objects.remove(key),
        };
    }
    let mut chosen = objects
        .into_iter()
        .filter(|(key, object)| from.is_none_or(|from| **key > from.after) && filter.matches(object));
    let mut items = Vec::new();
    let mut last = None;
    while limit == 0 || items.len() < limit {
        let Some((key, object)) = chosen.next() else {
            break;
        };
        last = Some(key.clone());
        items.push(Arc::clone(object));
    }
    let remaining = chosen.count();
    let next = last.filter(|_| remaining > 0).map(|after| Continue { revision, after });
    Ok(Page {
        revision,
        items,
        next,
        remaining,
    })
}

/// How objects of `table` that changed after `revision` were then; `None` for those that were not there.
fn past(store: &Store, table: &str, revision: u64) -> Result<BTreeMap<Key, Option<Arc<Stored>>>, ApiError> {
    let mut past = BTreeMap::new();
    if revision == store.revision() {
        return Ok(past);
    }
    let changes = store.changes(revision, u64::MAX, usize::MAX).map_err(|_compacted| {
        let message = "The provided continue parameter is too old to display a consistent list result. You can start \
                           a new list without the continue parameter, or use the continue token in this response to \
                           retrieve the remainder of the results.";
        ApiError::expired(message)
    })?;
    for event in changes.into_iter().filter(|event| &*event.resource == table) {
        let key = (event.namespace.to_string(), event.name.to_string());
        past.entry(key).or_insert(event.before);
    }
    Ok(past)
}

fn render(request: &Request, target: &Target, items: &[Arc<Stored>], metadata: Value) -> Answer {
    let resource = &target.resource;
    match request.form() {
        Form::Table => {
            let shown: Vec<Value> = items.iter().map(|item| body::present(resource, item)).collect();
            let include = request.query.get("includeObject") != "None";
            let now = super::server::now();
            Answer::json(200, &table::table(resource, &shown, metadata, now, include))
        }
        Form::Metadata => {
            let items: Vec<Value> = items
                .iter()
                .map(|item| table::partial(&body::present(resource, item)))
                .collect();
            let list = json!({
                "kind": "PartialObjectMetadataList",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": metadata,
                "items": items,
            });
            Answer::json(200, &list)
        }
        Form::Full => {
            // Written piece by piece: a list of ten thousand objects is not built twice in memory.
            let mut text = format!(
                "{{\"kind\":{},\"apiVersion\":{},\"metadata\":{metadata},\"items\":[",
                Value::from(resource.list_kind.as_str()),
                Value::from(resource.api_version()),
            );
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                if resource.is_builtin() && !resource.is_view() {
                    // The list says what its items are.
                    text.push_str(&serde_json::to_string(&Item(item)).unwrap_or_default());
                } else if resource.is_builtin() {
                    let item = body::present(resource, item);
                    text.push_str(&serde_json::to_string(&Item(&item)).unwrap_or_default());
                } else {
                    text.push_str(&String::from_utf8_lossy(&body::json(resource, item)));
                }
            }
            text.push_str("]}");
            Answer::bytes(200, "application/json", Bytes::from(text))
        }
    }
}

/// An object without what it is.
struct Item<'a>(&'a Value);

impl Serialize for Item<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fields = self.0.as_object().into_iter().flatten();
        serializer.collect_map(fields.filter(|(key, _)| !matches!(key.as_str(), "kind" | "apiVersion")))
    }
}
