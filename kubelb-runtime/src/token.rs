//! What the token of a service account says of itself (KEP-1205): whose it is, since when and until when.
//!
//! Nothing is verified: who holds a token asks this to know when to get the next one, never to believe somebody.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// Namespace of the account.
    pub namespace: String,
    /// Name of the account.
    pub account: String,
    /// UID of the account, which an account that is deleted and made again does not have; old kinds of tokens name none.
    pub account_uid: Option<String>,
    /// From when it is good.
    pub issued: Option<Timestamp>,
    /// Until when it is good; `None`: for ever.
    pub expires: Option<Timestamp>,
}

#[derive(Deserialize)]
struct Payload {
    sub: String,
    iat: Option<i64>,
    exp: Option<i64>,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Option<Kubernetes>,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    legacy_uid: Option<String>,
}

#[derive(Deserialize)]
struct Kubernetes {
    serviceaccount: Option<Account>,
}

#[derive(Deserialize)]
struct Account {
    uid: String,
}

impl Claims {
    /// Reads a token; `None` when it is not one of a service account.
    #[must_use]
    pub fn read(token: &str) -> Option<Self> {
        let mut parts = token.trim().split('.');
        let (_header, payload, _signature) = (parts.next()?, parts.next()?, parts.next()?);
        let payload: Payload = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
        let (namespace, account) = payload.sub.strip_prefix("system:serviceaccount:")?.split_once(':')?;
        let bound = payload.kubernetes.and_then(|kubernetes| kubernetes.serviceaccount);
        let at = |seconds: Option<i64>| seconds.and_then(|seconds| Timestamp::from_second(seconds).ok());
        Some(Self {
            namespace: namespace.to_owned(),
            account: account.to_owned(),
            account_uid: bound.map(|account| account.uid).or(payload.legacy_uid),
            issued: at(payload.iat),
            expires: at(payload.exp),
        })
    }

    /// From its beginning to its end; `None`: it never ends.
    #[must_use]
    pub fn life(&self) -> Option<Duration> {
        let life = self.expires?.duration_since(self.issued?);
        Some(Duration::try_from(life).unwrap_or_default())
    }

    /// When to get the next one: in the middle of its life, or `earliest` after its beginning when that is sooner. One that never ends is to be
    /// replaced at once.
    #[must_use]
    pub fn renew_at(&self, earliest: Option<Duration>) -> Timestamp {
        let (Some(issued), Some(life)) = (self.issued, self.life()) else {
            return Timestamp::UNIX_EPOCH;
        };
        let half = life / 2;
        let after = earliest.map_or(half, |earliest| earliest.min(half));
        issued.checked_add(after).unwrap_or(issued)
    }

    /// Whether it is over.
    #[must_use]
    pub fn has_expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(payload: &str) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(payload))
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    const BOUND: &str = r#"{"aud":["https://kubernetes.default.svc"],"iat":1000,"exp":5000,"sub":"system:serviceaccount:tenant-a:kubelb-ccm",
        "kubernetes.io":{"namespace":"tenant-a","serviceaccount":{"name":"kubelb-ccm","uid":"u-1"}}}"#;
    const NEVER_ENDING: &str = r#"{"iss":"kubernetes/serviceaccount","sub":"system:serviceaccount:tenant-a:kubelb-ccm",
        "kubernetes.io/serviceaccount/service-account.uid":"u-2"}"#;

    #[test]
    fn a_bound_token_says_whose_it_is_and_for_how_long() {
        let claims = Claims::read(&token(BOUND)).unwrap();
        assert_eq!((&*claims.namespace, &*claims.account), ("tenant-a", "kubelb-ccm"));
        assert_eq!(claims.account_uid.as_deref(), Some("u-1"));
        assert_eq!(claims.renew_at(None), at(3000));
        assert_eq!(claims.renew_at(Some(Duration::from_secs(10))), at(1010));
        assert_eq!(claims.renew_at(Some(Duration::from_secs(4000))), at(3000));
        assert!(!claims.has_expired(at(4999)) && claims.has_expired(at(5000)));
    }

    #[test]
    fn a_token_that_never_ends_is_to_be_replaced() {
        let claims = Claims::read(&token(NEVER_ENDING)).unwrap();
        assert_eq!(claims.account_uid.as_deref(), Some("u-2"));
        assert_eq!(claims.renew_at(None), Timestamp::UNIX_EPOCH);
        assert!(!claims.has_expired(at(i64::from(u32::MAX))));
    }

    #[test]
    fn other_tokens_are_not_read() {
        for other in ["", "opaque", "a.b.c", &token("{}"), &token(r#"{"sub":"alice"}"#)] {
            assert_eq!(Claims::read(other), None, "{other}");
        }
    }
}
