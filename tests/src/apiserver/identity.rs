//! Who asks: users, static tokens, and service-account tokens (signed, so that they outlive a restart).
//!
//! The caller gives the time, and looks the service account up: a token is only good while its account is there.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use ring::hmac;
use serde_json::{Map, Value, json};

/// The audience of tokens for this server itself.
pub(crate) const OWN_AUDIENCE: &str = "https://kubernetes.default.svc";
const AUTHENTICATED: &str = "system:authenticated";
/// Members may do everything.
pub(crate) const MASTERS: &str = "system:masters";

/// A user as RBAC and TokenReview see one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) groups: Vec<String>,
    /// Only service accounts have it: the id of the token.
    pub(crate) credential: Option<String>,
}

impl User {
    pub(crate) fn new(name: &str, uid: &str, groups: &[&str]) -> Self {
        let mut groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
        if !groups.iter().any(|group| group == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        Self {
            name: name.to_owned(),
            uid: uid.to_owned(),
            groups,
            credential: None,
        }
    }

    pub(crate) fn anonymous() -> Self {
        Self {
            name: "system:anonymous".to_owned(),
            uid: String::new(),
            groups: vec!["system:unauthenticated".to_owned()],
            credential: None,
        }
    }

    fn service_account(claims: &Claims) -> Self {
        let (namespace, name) = (&claims.namespace, &claims.name);
        let groups = ["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}")];
        Self {
            credential: Some(format!("JTI={}", claims.id)),
            ..Self::new(
                &format!("system:serviceaccount:{namespace}:{name}"),
                &claims.uid,
                &groups,
            )
        }
    }

    pub(crate) fn is_master(&self) -> bool {
        self.groups.iter().any(|group| group == MASTERS)
    }

    /// As TokenReview and SelfSubjectReview show one.
    pub(crate) fn to_json(&self) -> Value {
        let mut user = json!({"username": self.name, "groups": self.groups});
        if let Some(map) = user.as_object_mut() {
            if !self.uid.is_empty() {
                map.insert("uid".to_owned(), Value::from(self.uid.as_str()));
            }
            if let Some(credential) = &self.credential {
                let extra = json!({"authentication.kubernetes.io/credential-id": [credential]});
                map.insert("extra".to_owned(), extra);
            }
        }
        user
    }
}

/// What a service-account token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claims {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) audiences: Vec<String>,
    /// The Pod or Secret that the token ends with: kind, name, uid.
    pub(crate) bound: Option<(String, String, String)>,
    /// The node of that Pod (KEP-4193): name, uid.
    pub(crate) node: Option<(String, String)>,
    pub(crate) id: String,
    pub(crate) issued: Timestamp,
    pub(crate) expires: Timestamp,
}

/// Why a token opens nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("invalid bearer token")]
    Unknown,
    #[error("[invalid bearer token, token audiences {have:?} is invalid for the target audiences {want:?}]")]
    Audience { have: Vec<String>, want: Vec<String> },
}

/// All tokens that are known.
pub(crate) struct Tokens {
    fixed: Vec<(String, User)>,
    key: hmac::Key,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens")
            .field("fixed", &self.fixed.len())
            .finish_non_exhaustive()
    }
}

impl Tokens {
    /// `fixed` tokens with their users; service-account tokens are signed with `secret`.
    pub(crate) fn new(fixed: Vec<(String, User)>, secret: &[u8]) -> Self {
        Self {
            fixed,
            key: hmac::Key::new(hmac::HMAC_SHA256, secret),
        }
    }

    /// Signs a token (a JWT with HS256).
    pub(crate) fn issue(&self, claims: &Claims) -> String {
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!(
            "{}.{}",
            encode(&json!({"alg": "HS256", "typ": "JWT"})),
            encode(&claims_json(claims))
        );
        let signature = hmac::sign(&self.key, signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// Who a token is, for one of `audiences`, and the audiences that it is good for. `is_there` says whether the
    /// account of the claims still exists.
    ///
    /// # Errors
    /// When it is no token of ours, has expired, or is for others.
    pub(crate) fn user(
        &self,
        token: &str,
        audiences: &[String],
        now: Timestamp,
        is_there: impl FnOnce(&Claims) -> bool,
    ) -> Result<(User, Vec<String>), TokenError> {
        if let Some((_, user)) = self.fixed.iter().find(|(known, _)| known == token) {
            let own = audiences.is_empty() || audiences.iter().any(|audience| audience == OWN_AUDIENCE);
            return if own {
                Ok((user.clone(), vec![OWN_AUDIENCE.to_owned()]))
            } else {
                Err(TokenError::Unknown)
            };
        }
        let claims = self.claims(token).ok_or(TokenError::Unknown)?;
        if claims.expires <= now || !is_there(&claims) {
            return Err(TokenError::Unknown);
        }
        let own = [OWN_AUDIENCE.to_owned()];
        let wanted = if audiences.is_empty() { &own } else { audiences };
        let common: Vec<String> = wanted
            .iter()
            .filter(|audience| claims.audiences.contains(audience))
            .cloned()
            .collect();
        if common.is_empty() {
            return Err(TokenError::Audience {
                have: claims.audiences,
                want: wanted.to_vec(),
            });
        }
        Ok((User::service_account(&claims), common))
    }

    fn claims(&self, token: &str) -> Option<Claims> {
        let (signed, signature) = token.rsplit_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        hmac::verify(&self.key, signed.as_bytes(), &signature).ok()?;
        let (_, payload) = signed.split_once('.')?;
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
        let text = |path: &str| claims.pointer(path).and_then(Value::as_str).map(str::to_owned);
        let time = |key: &str| {
            let seconds = claims.get(key).and_then(Value::as_i64)?;
            Timestamp::from_second(seconds).ok()
        };
        let bound = ["pod", "secret"].into_iter().find_map(|kind| {
            let name = text(&format!("/kubernetes.io/{kind}/name"))?;
            Some((kind.to_owned(), name, text(&format!("/kubernetes.io/{kind}/uid"))?))
        });
        Some(Claims {
            namespace: text("/kubernetes.io/namespace")?,
            name: text("/kubernetes.io/serviceaccount/name")?,
            uid: text("/kubernetes.io/serviceaccount/uid")?,
            audiences: serde_json::from_value(claims.get("aud")?.clone()).ok()?,
            bound,
            node: text("/kubernetes.io/node/name").zip(text("/kubernetes.io/node/uid")),
            id: text("/jti")?,
            issued: time("iat")?,
            expires: time("exp")?,
        })
    }
}

fn claims_json(claims: &Claims) -> Value {
    let mut about = Map::new();
    about.insert("namespace".to_owned(), Value::from(claims.namespace.as_str()));
    about.insert(
        "serviceaccount".to_owned(),
        json!({"name": claims.name, "uid": claims.uid}),
    );
    if let Some((kind, name, uid)) = &claims.bound {
        about.insert(kind.clone(), json!({"name": name, "uid": uid}));
    }
    if let Some((name, uid)) = &claims.node {
        about.insert("node".to_owned(), json!({"name": name, "uid": uid}));
    }
    json!({
        "iss": OWN_AUDIENCE,
        "sub": format!("system:serviceaccount:{}:{}", claims.namespace, claims.name),
        "aud": claims.audiences,
        "iat": claims.issued.as_second(),
        "nbf": claims.issued.as_second(),
        "exp": claims.expires.as_second(),
        "jti": claims.id,
        "kubernetes.io": about,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> Claims {
        Claims {
            namespace: "n".to_owned(),
            name: "sa".to_owned(),
            uid: "u".to_owned(),
            audiences: vec!["kubelb".to_owned()],
            bound: Some(("pod".to_owned(), "p".to_owned(), "v".to_owned())),
            node: Some(("m".to_owned(), "w".to_owned())),
            id: "1".to_owned(),
            issued: Timestamp::from_second(100).unwrap(),
            expires: Timestamp::from_second(200).unwrap(),
        }
    }

    #[test]
    fn a_token_is_good_for_its_audience_until_it_ends_and_while_its_account_lives() {
        let tokens = Tokens::new(Vec::new(), b"secret");
        let token = tokens.issue(&claims());
        let now = Timestamp::from_second(150).unwrap();
        let wanted = ["kubelb".to_owned()];
        let (user, audiences) = tokens.user(&token, &wanted, now, |_| true).unwrap();
        assert_eq!(user.name, "system:serviceaccount:n:sa");
        assert_eq!(audiences, wanted);
        assert_eq!(tokens.claims(&token), Some(claims()));
        let late = Timestamp::from_second(200).unwrap();
        assert!(tokens.user(&token, &wanted, late, |_| true).is_err());
        assert!(tokens.user(&token, &wanted, now, |_| false).is_err());
        let error = tokens.user(&token, &["other".to_owned()], now, |_| true).unwrap_err();
        assert!(error.to_string().contains(r#"token audiences ["kubelb"] is invalid"#));
        let other = Tokens::new(Vec::new(), b"another");
        assert_eq!(
            other.user(&token, &wanted, now, |_| true).unwrap_err(),
            TokenError::Unknown
        );
    }
}
