//! Who a peer of the xDS server is, and what it may see.
//!
//! A peer shows a client certificate of the manager's own authority ([`authority`], [`spiffe`]) or the token of a service
//! account ([`token`]). Either gives an [`Identity`]; nothing that the peer says of itself does, its node id least of all: one that is
//! another's is refused ([`Identity::may_be_called`]).
//! Knows nothing of configuration or streams.

pub mod authority;
mod node_id;
pub mod review;
pub mod secret;
pub mod spiffe;
pub mod state_dir;
pub mod tls;
pub mod token;

use std::time::SystemTime;

use kubelb_xds::Scope;
use tokio_rustls::rustls::pki_types::CertificateDer;

pub use authority::Authority;
pub use spiffe::SpiffeId;
pub use token::{ServiceAccounts, TokenReviewer, Tokens};

/// A peer that has proved who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Name for logs and metrics: the SPIFFE id, or the service account's user name.
    pub subject: String,
    /// What it may see.
    pub scope: Scope,
    /// The node that the proof says an agent is on. Not what the agent says.
    pub node: Option<String>,
    /// When the proof ends, and with it every stream.
    pub expires: SystemTime,
}

/// Why a peer is not served. The label of the counter is [`Refusal::reason`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Neither a certificate nor a token.
    #[error("no client certificate and no bearer token")]
    NoCredential,
    /// The certificate is of our authority and names no peer.
    #[error("the client certificate {0}")]
    Certificate(String),
    /// The `authorization` header is not `Bearer …`.
    #[error("the authorization header holds no bearer token")]
    Malformed,
    /// There is nothing to check a token with.
    #[error("tokens are not accepted here, only client certificates")]
    TokensNotAccepted,
    /// The API server does not know the token, or not for this audience.
    #[error("the API server does not accept the token: {0}")]
    Token(String),
    /// The token is no longer, or no more, valid.
    #[error("the token has expired")]
    Expired,
    /// A good token of somebody who is given nothing.
    #[error("{0} is neither an agent nor a fleet; --agent-service-account and --fleet-service-account say who is")]
    Stranger(String),
    /// A manager's certificate, where configuration is asked for.
    #[error("{0} is a manager, which sees nothing here")]
    Manager(String),
    /// Somebody else's, or none, where managers talk to each other.
    #[error("only managers talk here")]
    NoManager,
    /// The API server could not be asked.
    #[error("the token could not be checked: {0}")]
    ReviewFailed(String),
}

impl Refusal {
    /// Every value of [`Refusal::reason`].
    pub const REASONS: [&'static str; 10] = [
        "no_credential",
        "certificate",
        "malformed",
        "tokens_not_accepted",
        "token",
        "expired",
        "stranger",
        "manager",
        "no_manager",
        "review_failed",
    ];

    /// A fixed word for each variant.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoCredential => "no_credential",
            Self::Certificate(_) => "certificate",
            Self::Malformed => "malformed",
            Self::TokensNotAccepted => "tokens_not_accepted",
            Self::Token(_) => "token",
            Self::Expired => "expired",
            Self::Stranger(_) => "stranger",
            Self::Manager(_) => "manager",
            Self::NoManager => "no_manager",
            Self::ReviewFailed(_) => "review_failed",
        }
    }

    /// Whether the peer could succeed with the same credential later.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::ReviewFailed(_))
    }
}

/// How peers are told apart.
#[derive(Debug)]
pub struct Authenticator {
    tokens: Option<Tokens>,
}

impl Authenticator {
    /// `tokens` is absent where there is no API server to check one with.
    #[must_use]
    pub fn new(tokens: Option<Tokens>) -> Self {
        Self { tokens }
    }

    /// The name of the manager that shows this certificate, and until when that is good. No token makes a manager.
    ///
    /// # Errors
    /// When it is no manager's.
    pub fn manager(certificate: Option<&CertificateDer<'_>>, now: SystemTime) -> Result<(String, SystemTime), Refusal> {
        let certificate = certificate.ok_or(Refusal::NoManager)?;
        match spiffe::owner(certificate, now)? {
            (SpiffeId::Manager(name), expires) => Ok((name, expires)),
            (SpiffeId::Agent(_) | SpiffeId::Fleet(_), _) => Err(Refusal::NoManager),
        }
    }

    /// Who the peer is. `certificate` is the end entity's of a chain that TLS has verified at `now`; it goes before `authorization`,
    /// the header of that name.
    ///
    /// # Errors
    /// When the peer has not proved to be somebody who is served.
    pub async fn authenticate(
        &self,
        certificate: Option<&CertificateDer<'_>>,
        authorization: Option<&str>,
        now: SystemTime,
    ) -> Result<Identity, Refusal> {
        if let Some(certificate) = certificate {
            return spiffe::identity(certificate, now);
        }
        let Some(header) = authorization else {
            return Err(Refusal::NoCredential);
        };
        // RFC 9110, section 11.1: the scheme's name is case-insensitive.
        let token = match header.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
            _ => return Err(Refusal::Malformed),
        };
        match &self.tokens {
            Some(tokens) => tokens.authenticate(token, now).await,
            None => Err(Refusal::TokensNotAccepted),
        }
    }
}
