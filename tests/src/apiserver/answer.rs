//! What a request is answered with, before it becomes HTTP.

use hyper::body::Bytes;
use serde_json::Value;

use super::call::{Form, Request};
use super::resource::Resource;
use super::status::ApiError;
use super::store::Stored;
use super::table;
use super::watch::Watch;

/// The body of an answer.
#[derive(Debug)]
pub(crate) enum Content {
    Whole(Bytes),
    Stream(Box<Watch>),
    /// Another server's answer, with its own status and headers.
    Passed(Box<hyper::Response<hyper::body::Incoming>>),
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) content_type: &'static str,
    pub(crate) content: Content,
    pub(crate) warnings: Vec<String>,
    pub(crate) retry_after: Option<u32>,
    pub(crate) etag: Option<String>,
    /// Where to ask instead.
    pub(crate) location: Option<String>,
    /// What must be on the disk before this may be said.
    pub(crate) revision: u64,
}

impl Answer {
    pub(crate) fn json(code: u16, value: &Value) -> Self {
        Self::bytes(code, "application/json", Bytes::from(value.to_string()))
    }

    pub(crate) fn bytes(code: u16, content_type: &'static str, bytes: Bytes) -> Self {
        Self {
            code,
            content_type,
            content: Content::Whole(bytes),
            warnings: Vec::new(),
            retry_after: None,
            etag: None,
            location: None,
            revision: 0,
        }
    }

    pub(crate) fn text(code: u16, text: &'static str) -> Self {
        Self::bytes(code, "text/plain; charset=utf-8", Bytes::from_static(text.as_bytes()))
    }

    /// Sends the client to another path.
    pub(crate) fn moved(path: &str) -> Self {
        Self {
            location: Some(path.to_owned()),
            ..Self::text(301, "")
        }
    }

    pub(crate) fn stream(watch: Watch) -> Self {
        Self {
            content: Content::Stream(Box::new(watch)),
            ..Self::text(200, "")
        }
        .typed("application/json")
    }

    fn typed(mut self, content_type: &'static str) -> Self {
        self.content_type = content_type;
        self
    }

    /// One object, in the form that was asked for.
    pub(crate) fn object(
        request: &Request,
        resource: &Resource,
        code: u16,
        object: &Stored,
        now: jiff::Timestamp,
    ) -> Self {
        let form = request.form();
        if form == Form::Full {
            return Self::bytes(code, "application/json", super::body::json(resource, object));
        }
        let shown = super::body::present(resource, object);
        match form {
            Form::Full => Self::json(code, &shown),
            Form::Metadata => Self::json(code, &table::partial(&shown)),
            Form::Table => {
                let revision = super::object::meta(&shown, "resourceVersion").to_owned();
                let metadata = serde_json::json!({"resourceVersion": revision});
                Self::json(code, &table::table(resource, [&shown], metadata, now, true))
            }
        }
    }

    pub(crate) fn after(mut self, revision: u64) -> Self {
        self.revision = revision;
        self
    }

    pub(crate) fn warning(mut self, warnings: Vec<String>) -> Self {
        self.warnings = warnings;
        self
    }
}

impl From<ApiError> for Answer {
    fn from(error: ApiError) -> Self {
        let mut answer = Self::json(error.code, &error.to_json());
        answer.retry_after = error.retry_after;
        answer
    }
}
