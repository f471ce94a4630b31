//! The kubeconfig of a tenant's CCM: what is in it, and when its token has to be another one. No I/O, no clock.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::jiff::Timestamp;
use kubelb_api::names::CCM_ACCOUNT;
use kubelb_runtime::token::Claims;
use serde::{Deserialize, Serialize};

use super::api_servers::ApiServers;

/// A kubeconfig, as far as it is written and read here. `kubectl config view` knows the same fields.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    api_version: String,
    kind: String,
    clusters: Vec<NamedCluster>,
    users: Vec<NamedUser>,
    contexts: Vec<NamedContext>,
    #[serde(rename = "current-context")]
    current_context: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    #[serde(default)]
    certificate_authority_data: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct NamedUser {
    name: String,
    user: User,
}

#[derive(Debug, Serialize, Deserialize)]
struct User {
    token: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Debug, Serialize, Deserialize)]
struct Context {
    cluster: String,
    user: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
}

/// A kubeconfig has no text.
#[derive(Debug, thiserror::Error)]
#[error("the kubeconfig cannot be written")]
pub(crate) struct WriteError(#[from] serde_saphyr::ser_error::Error);

/// Writes a kubeconfig with one context for each address, the best one being current.
pub(crate) fn write(servers: &ApiServers, namespace: &str, token: &str) -> Result<String, WriteError> {
    let name = |index: usize| match index {
        0 => "kubelb".to_owned(),
        more => format!("kubelb-{}", more.saturating_add(1)),
    };
    let authority = STANDARD.encode(&servers.authority);
    let clusters = servers.urls.iter().enumerate().map(|(index, url)| NamedCluster {
        name: name(index),
        cluster: Cluster {
            server: url.clone(),
            certificate_authority_data: authority.clone(),
        },
    });
    let contexts = servers.urls.iter().enumerate().map(|(index, _)| NamedContext {
        name: name(index),
        context: Context {
            cluster: name(index),
            user: CCM_ACCOUNT.to_owned(),
            namespace: Some(namespace.to_owned()),
        },
    });
    let file = File {
        api_version: "v1".to_owned(),
        kind: "Config".to_owned(),
        clusters: clusters.collect(),
        users: vec![NamedUser {
            name: CCM_ACCOUNT.to_owned(),
            user: User {
                token: Some(token.to_owned()),
            },
        }],
        contexts: contexts.collect(),
        current_context: name(0),
    };
    Ok(serde_saphyr::to_string(&file)?)
}

/// The token that a kubeconfig's current context uses.
pub(crate) fn token(text: &str) -> Option<String> {
    let file: File = serde_saphyr::from_str(text).ok()?;
    let context = file
        .contexts
        .into_iter()
        .find(|context| context.name == file.current_context)?;
    let user = file.users.into_iter().find(|user| user.name == context.context.user)?;
    user.user.token
}

/// For how long tokens are good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Renewal {
    /// What is asked for.
    pub(crate) lifetime: Duration,
    /// A token is replaced at this age when that is before half of its life.
    pub(crate) after: Option<Duration>,
}

/// Whether a token goes on being used: until when, or `None` when another one is needed now.
pub(crate) fn good_until(token: &str, account_uid: &str, renewal: Renewal, now: Timestamp) -> Option<Timestamp> {
    let claims = Claims::read(token)?;
    let renew_at = claims.renew_at(renewal.after);
    // One that never ends, or was made when tokens were given for longer.
    let is_too_long = claims
        .life()
        .is_none_or(|life| life > renewal.lifetime.saturating_mul(2));
    // An account that was deleted and made again has taken all its tokens with it: that is how an administrator revokes them.
    let is_of_account = claims.account_uid.as_deref() == Some(account_uid);
    (is_of_account && !is_too_long && now < renew_at).then_some(renew_at)
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use kube::config::Kubeconfig;

    use super::*;

    fn servers(urls: &[&str]) -> ApiServers {
        ApiServers {
            urls: urls.iter().map(ToString::to_string).collect(),
            authority: "-----BEGIN CERTIFICATE-----\n".repeat(20),
        }
    }

    #[test]
    fn clients_read_what_is_written() {
        let text = write(
            &servers(&["https://a:6443", "https://[2001:db8::1]:6443"]),
            "tenant-x",
            "t.o.k",
        )
        .unwrap();
        let read = Kubeconfig::from_yaml(&text).unwrap();
        assert_eq!(read.current_context.as_deref(), Some("kubelb"));
        let urls: Vec<_> = read
            .clusters
            .iter()
            .map(|named| named.cluster.as_ref().unwrap().server.as_deref().unwrap())
            .collect();
        assert_eq!(urls, ["https://a:6443", "https://[2001:db8::1]:6443"]);
        let contexts: Vec<_> = read
            .contexts
            .iter()
            .map(|named| named.context.as_ref().unwrap())
            .collect();
        assert_eq!(contexts[1].cluster, "kubelb-2");
        assert_eq!(contexts[1].namespace.as_deref(), Some("tenant-x"));
        assert_eq!(token(&text).as_deref(), Some("t.o.k"));
        assert_eq!(
            write(
                &servers(&["https://a:6443", "https://[2001:db8::1]:6443"]),
                "tenant-x",
                "t.o.k"
            )
            .unwrap(),
            text
        );
    }

    #[test]
    fn the_token_of_kubelb_s_kubeconfig_is_found() {
        let text = "apiVersion: v1\nkind: Config\nclusters:\n- name: kubelb-cluster\n  cluster:\n    certificate-authority-data: QQ==\n    \
            server: https://a\ncontexts:\n- name: default-context\n  context:\n    cluster: kubelb-cluster\n    namespace: tenant-x\n    \
            user: default-user\ncurrent-context: default-context\nusers:\n- name: default-user\n  user:\n    token: old\n";
        assert_eq!(token(text).as_deref(), Some("old"));
        assert_eq!(token("nonsense: ["), None);
    }

    #[test]
    fn a_token_is_used_until_half_of_its_life_and_for_its_account_only() {
        let payload = r#"{"sub":"system:serviceaccount:tenant-x:kubelb-ccm","iat":1000,"exp":2000,
            "kubernetes.io":{"serviceaccount":{"name":"kubelb-ccm","uid":"u"}}}"#;
        let token = format!("a.{}.b", URL_SAFE_NO_PAD.encode(payload));
        let at = |seconds: i64| Timestamp::from_second(seconds).unwrap();
        let renewal = Renewal {
            lifetime: Duration::from_secs(1000),
            after: None,
        };
        assert_eq!(good_until(&token, "u", renewal, at(1499)), Some(at(1500)));
        assert_eq!(good_until(&token, "u", renewal, at(1500)), None);
        let early = Renewal {
            after: Some(Duration::from_secs(1)),
            ..renewal
        };
        assert_eq!(good_until(&token, "u", early, at(1001)), None);
        assert_eq!(good_until(&token, "made again", renewal, at(1001)), None);
        assert_eq!(good_until("opaque", "u", renewal, at(1001)), None);
        let shorter = Renewal {
            lifetime: Duration::from_secs(100),
            ..renewal
        };
        assert_eq!(good_until(&token, "u", shorter, at(1001)), None);
    }
}
