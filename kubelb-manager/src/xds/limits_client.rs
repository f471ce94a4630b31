//! Asks a manager for the limits of an Envoy that is about to start. One question; when to ask again, and whom, is not its matter.

use std::time::Duration;

use kubelb_xds::contract::limits::{LimitsRequest, METHOD, ProcessLimits};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataValue;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use super::dial::{endpoint, failed, shown};
use crate::identity::authority::Issued;

/// Longest time from the first packet to the answer.
const ASK_TIME: Duration = Duration::from_secs(3);

/// What is shown to the manager.
#[derive(Clone, Copy, Debug)]
pub enum Proof<'a> {
    /// A certificate of its authority.
    Certificate(&'a Issued),
    /// The token of a service account.
    Token(&'a str),
}

/// What the manager at `address`, `HOST:PORT`, says, which shows a certificate of `authority` (PEM) for the host.
///
/// # Errors
/// With the reason when there is no answer.
pub async fn ask(address: &str, authority: &str, proof: Proof<'_>) -> Result<ProcessLimits, String> {
    let (issued, token) = match proof {
        Proof::Certificate(issued) => (Some(issued), None),
        Proof::Token(token) => (None, Some(token)),
    };
    let endpoint = endpoint(address, authority, issued)?;
    let mut request = Request::new(LimitsRequest {});
    if let Some(token) = token {
        let value = MetadataValue::try_from(format!("Bearer {}", token.trim()));
        let mut value = value.map_err(|_invalid| "the token is no text of one line".to_owned())?;
        value.set_sensitive(true);
        request.metadata_mut().insert("authorization", value);
    }
    let answer = async move {
        let channel = endpoint.connect().await.map_err(failed)?;
        let mut grpc = tonic::client::Grpc::new(channel);
        grpc.ready().await.map_err(failed)?;
        let codec: ProstCodec<LimitsRequest, ProcessLimits> = ProstCodec::default();
        let response = grpc.unary(request, PathAndQuery::from_static(METHOD), codec).await?;
        Ok(response.into_inner())
    };
    match tokio::time::timeout(ASK_TIME, answer).await {
        Ok(answer) => answer.map_err(|status: Status| shown(&status)),
        Err(_elapsed) => Err(format!("no answer within {ASK_TIME:?}")),
    }
}
