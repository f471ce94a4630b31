//! Paths that are no resource's: what there is, and of which version the server is.

use serde_json::json;

use super::paths::Paths;
use super::wording::{camel, capital, content, schema, tag};
use super::{META, place};

/// A path that only tells what there is.
pub(super) struct Page {
    pub(super) path: String,
    pub(super) group: String,
    pub(super) version: String,
    pub(super) id: String,
    pub(super) description: &'static str,
    /// What it answers; a text when empty.
    pub(super) definition: &'static str,
    /// In JSON alone.
    pub(super) only: Option<&'static str>,
}

impl Page {
    fn meta(group: &str, version: &str, path: String, id: String, what: (&'static str, &'static str)) -> Self {
        Self {
            path,
            group: group.to_owned(),
            version: version.to_owned(),
            id,
            description: what.0,
            definition: what.1,
            only: None,
        }
    }

    /// `/api/`.
    pub(super) fn core() -> Self {
        let what = ("get available API versions", "APIVersions");
        Self::meta("", "", "/api/".to_owned(), "getCoreAPIVersions".to_owned(), what)
    }

    /// `/apis/`.
    pub(super) fn groups() -> Self {
        let what = ("get available API versions", "APIGroupList");
        Self::meta("apis", "", "/apis/".to_owned(), "getAPIVersions".to_owned(), what)
    }

    /// `/apis/<group>/`.
    pub(super) fn group(group: &str) -> Self {
        let id = format!("get{}APIGroup", camel(group));
        Self::meta(
            group,
            "",
            format!("/apis/{group}/"),
            id,
            ("get information of a group", "APIGroup"),
        )
    }

    /// `/api/v1/`, `/apis/<group>/<version>/`.
    pub(super) fn resources(group: &str, version: &str) -> Self {
        let id = format!("get{}{}APIResources", camel(group), capital(version));
        let path = format!("/{}/", place(group, version));
        Self::meta(group, version, path, id, ("get available resources", "APIResourceList"))
    }

    /// What is neither group nor resource.
    pub(super) fn others() -> [Self; 3] {
        let other = |group: &str, path: &str, id: &str, description, definition, only| Self {
            only: Some(only),
            ..Self::meta(group, "", path.to_owned(), id.to_owned(), (description, definition))
        };
        [
            other(
                "WellKnown",
                "/.well-known/openid-configuration/",
                "getServiceAccountIssuerOpenIDConfiguration",
                "get service account issuer OpenID configuration, also known as the 'OIDC discovery doc'",
                "",
                "application/json",
            ),
            other(
                "openid",
                "/openid/v1/jwks/",
                "getServiceAccountIssuerOpenIDKeyset",
                "get service account issuer OpenID JSON Web Key Set (contains public token verification keys)",
                "",
                "application/jwk-set+json",
            ),
            other(
                "version",
                "/version/",
                "getCodeVersion",
                "get the version information for this server",
                "io.k8s.apimachinery.pkg.version.Info",
                "application/json",
            ),
        ]
    }

    pub(super) fn describe(&self, paths: &mut Paths) {
        let body = match self.definition {
            "" => json!({"type": "string"}),
            name if name.contains('.') => schema(name),
            name => schema(&format!("{META}.{name}")),
        };
        let types = match self.only {
            Some(only) => vec![only],
            None => vec![
                "application/json",
                "application/yaml",
                "application/vnd.kubernetes.protobuf",
            ],
        };
        let tag = match self.only {
            Some(_) => self.group.clone(),
            None => tag(&self.group, &self.version),
        };
        let get = json!({
            "tags": [tag],
            "description": self.description,
            "operationId": self.id,
            "responses": {
                "200": {"description": "OK", "content": content(&types, &body)},
                "401": {"description": "Unauthorized"},
            },
        });
        paths.insert(self.path.clone(), json!({"get": get}));
    }
}
