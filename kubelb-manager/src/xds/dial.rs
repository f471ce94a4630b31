//! How a manager is dialled, and what is said when that fails.

use std::time::Duration;

use tonic::Status;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use crate::identity::authority::Issued;

/// Longest time until the other end accepts.
const TCP_TIME: Duration = Duration::from_secs(1);

/// The manager at `address`, `HOST:PORT`, which shows a certificate of `authority` (PEM) for the host; it is shown `issued`, if that is there.
pub(super) fn endpoint(address: &str, authority: &str, issued: Option<&Issued>) -> Result<Endpoint, String> {
    let said = |error| shown(&failed(error));
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority));
    if let Some(issued) = issued {
        tls = tls.identity(Identity::from_pem(&issued.certificate, &issued.key));
    }
    Endpoint::from_shared(format!("https://{address}"))
        .map_err(said)?
        .connect_timeout(TCP_TIME)
        .tcp_nodelay(true)
        .tls_config(tls)
        .map_err(said)
}

pub(super) fn failed(error: tonic::transport::Error) -> Status {
    Status::from_error(Box::new(error))
}

pub(super) fn shown(status: &Status) -> String {
    let source = std::error::Error::source(status);
    let source = source.map(|source| format!(" ({})", kubelb_runtime::error_chain::chain(source)));
    format!("{}: {}{}", status.code(), status.message(), source.unwrap_or_default())
}
