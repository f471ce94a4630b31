//! The kubeconfig of the management cluster: its token, and the addresses it names. No I/O, no clock.

use kube::config::Kubeconfig;
use kubelb_runtime::token::Claims;
use serde_json::Value;

/// Why a kubeconfig is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CredentialError {
    /// It is no YAML.
    #[error("it is no kubeconfig")]
    Yaml(#[source] Box<serde_saphyr::Error>),
    /// It cannot be written again.
    #[error("it cannot be written")]
    Write(#[from] serde_saphyr::ser_error::Error),
    /// Its fields are not those of a kubeconfig.
    #[error("it is no kubeconfig")]
    Fields(#[from] serde_json::Error),
    /// It leads nowhere.
    #[error("current-context: there is no context {0:?}")]
    NoContext(String),
}

/// A kubeconfig, as it was given but for the token.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Credential {
    document: Value,
    /// The context to begin with, and the others of the same user.
    contexts: Vec<String>,
    user: String,
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn items<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

impl Credential {
    /// Reads one.
    ///
    /// # Errors
    /// When it is not a kubeconfig with a current context.
    pub(crate) fn read(yaml: &str) -> Result<Self, CredentialError> {
        let document: Value = serde_saphyr::from_str(yaml).map_err(|error| CredentialError::Yaml(Box::new(error)))?;
        let current = text(&document, "/current-context").to_owned();
        let find = |name: &str| items(&document, "contexts").find(|context| text(context, "/name") == name);
        let Some(context) = find(&current) else {
            return Err(CredentialError::NoContext(current));
        };
        let user = text(context, "/context/user").to_owned();
        let others = items(&document, "contexts").filter(|context| text(context, "/context/user") == user);
        let others = others.map(|context| text(context, "/name").to_owned());
        let mut contexts = vec![current.clone()];
        contexts.extend(others.filter(|name| *name != current));
        Ok(Self {
            document,
            contexts,
            user,
        })
    }

    /// Contexts that lead to the same cluster as the same user, the best one first.
    pub(crate) fn contexts(&self) -> &[String] {
        &self.contexts
    }

    /// As clients take it.
    ///
    /// # Errors
    /// When a field has another type than clients know.
    pub(crate) fn kubeconfig(&self) -> Result<Kubeconfig, CredentialError> {
        Ok(serde_json::from_value(self.document.clone())?)
    }

    /// As it is written into a file.
    ///
    /// # Errors
    /// When it cannot be.
    pub(crate) fn to_yaml(&self) -> Result<String, CredentialError> {
        Ok(serde_saphyr::to_string(&self.document)?)
    }

    /// The token, when it has one.
    pub(crate) fn token(&self) -> Option<&str> {
        let user = items(&self.document, "users").find(|user| text(user, "/name") == self.user)?;
        user.pointer("/user/token").and_then(Value::as_str)
    }

    /// What the token says of itself; `None` when it is not one of a service account, and so is nobody's to renew here.
    pub(crate) fn claims(&self) -> Option<Claims> {
        Claims::read(self.token()?)
    }

    /// The same with another token.
    pub(crate) fn with_token(&self, token: &str) -> Self {
        let mut new = self.clone();
        let users = new.document.get_mut("users").and_then(Value::as_array_mut);
        let user = users
            .into_iter()
            .flatten()
            .find(|user| text(user, "/name") == self.user);
        if let Some(place) = user.and_then(|user| user.pointer_mut("/user/token")) {
            *place = Value::from(token);
        }
        new
    }

    /// What to go on with when the file says `new` now: its addresses, and the later token of the two when both are of one account.
    pub(crate) fn follow(&self, new: Self) -> Self {
        let (Some(ours), Some(theirs)) = (self.claims(), new.claims()) else {
            return new;
        };
        let is_same = (&ours.namespace, &ours.account, &ours.account_uid)
            == (&theirs.namespace, &theirs.account, &theirs.account_uid);
        match self.token() {
            Some(token) if is_same && ours.issued > theirs.issued && ours.expires.is_some() => new.with_token(token),
            Some(_) | None => new,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // {"sub":"system:serviceaccount:tenant-x:kubelb-ccm","iat":N,"exp":N+1000,"kubernetes.io":{"serviceaccount":{"uid":"u"}}}
    const AT_1: &str = "a.eyJzdWIiOiJzeXN0ZW06c2VydmljZWFjY291bnQ6dGVuYW50LXg6a3ViZWxiLWNjbSIsImlhdCI6MSwiZXhwIjoxMDAxLCJrdWJlcm5ldGVzLmlvIjp7InNlcnZpY2VhY2NvdW50Ijp7InVpZCI6InUifX19.b";
    const AT_9: &str = "a.eyJzdWIiOiJzeXN0ZW06c2VydmljZWFjY291bnQ6dGVuYW50LXg6a3ViZWxiLWNjbSIsImlhdCI6OSwiZXhwIjoxMDA5LCJrdWJlcm5ldGVzLmlvIjp7InNlcnZpY2VhY2NvdW50Ijp7InVpZCI6InUifX19.b";

    fn file(token: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: c1\n  cluster: {{server: https://a}}\n- name: c2\n  cluster: {{server: https://b}}\n\
             contexts:\n- name: other\n  context: {{cluster: c1, user: somebody}}\n- name: two\n  context: {{cluster: c2, user: ccm}}\n\
             - name: one\n  context: {{cluster: c1, user: ccm}}\ncurrent-context: one\nusers:\n- name: somebody\n  user: {{token: x}}\n\
             - name: ccm\n  user: {{token: {token}}}\n"
        )
    }

    #[test]
    fn the_addresses_of_one_user_are_used_and_the_current_one_first() {
        let credential = Credential::read(&file("t")).unwrap();
        assert_eq!(credential.contexts(), ["one", "two"]);
        assert_eq!(credential.token(), Some("t"));
        assert!(Credential::read("a: b").is_err());
    }

    #[test]
    fn another_token_changes_nothing_else() {
        let credential = Credential::read(&file("t")).unwrap().with_token("u");
        assert_eq!(Credential::read(&file("u")).unwrap(), credential);
        assert_eq!(Credential::read(&credential.to_yaml().unwrap()).unwrap(), credential);
        assert_eq!(credential.kubeconfig().unwrap().contexts.len(), 3);
    }

    #[test]
    fn the_later_token_is_kept_and_what_an_administrator_gives_is_taken() {
        let (old, new) = (
            Credential::read(&file(AT_1)).unwrap(),
            Credential::read(&file(AT_9)).unwrap(),
        );
        assert_eq!(new.follow(old.clone()).token(), Some(AT_9));
        assert_eq!(old.follow(new.clone()).token(), Some(AT_9));
        let other = Credential::read(&file("opaque")).unwrap();
        assert_eq!(new.follow(other).token(), Some("opaque"));
    }
}
