//! The stream to the manager that leads: connected, opened, and what its end was. What is told on it comes by a channel.

use std::time::Duration;

use futures_util::stream;
use kubelb_xds::contract::relay::{METHOD, RelayEnd, Relayed};
use tokio::sync::mpsc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::dial::{endpoint, failed, shown};
use crate::identity::authority::Issued;

/// Longest time from the first packet to the end of the handshakes.
const CONNECT_TIME: Duration = Duration::from_secs(3);
/// Time until a silent connection is asked whether it lives, and until it is given up.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_millis(750), Duration::from_secs(1));

/// A stream that the other end has accepted.
#[derive(Debug)]
pub struct Accepted(Streaming<RelayEnd>);

impl Accepted {
    /// Why it has ended, once it has.
    pub async fn end(&mut self) -> String {
        match self.0.message().await {
            Ok(_) => "the other manager ended the stream".to_owned(),
            Err(status) => shown(&status),
        }
    }
}

/// Opens a stream to the manager at `address`, `HOST:PORT`, which shows a certificate of `authority` (PEM) for the host; `messages` are told.
///
/// # Errors
/// With the reason when there is none, or it does not listen to this one.
pub async fn open(
    address: &str,
    authority: &str,
    issued: &Issued,
    mut messages: mpsc::Receiver<Relayed>,
) -> Result<Accepted, String> {
    let endpoint = endpoint(address, authority, Some(issued))?
        .http2_keep_alive_interval(KEEP_ALIVE.0)
        .keep_alive_timeout(KEEP_ALIVE.1)
        .keep_alive_while_idle(true);
    let opened = async move {
        let channel: Channel = endpoint.connect().await.map_err(failed)?;
        let mut grpc = tonic::client::Grpc::new(channel);
        grpc.ready().await.map_err(failed)?;
        let request = Request::new(stream::poll_fn(move |context| messages.poll_recv(context)));
        let codec: ProstCodec<Relayed, RelayEnd> = ProstCodec::default();
        let response = grpc
            .streaming(request, PathAndQuery::from_static(METHOD), codec)
            .await?;
        Ok(Accepted(response.into_inner()))
    };
    match tokio::time::timeout(CONNECT_TIME, opened).await {
        Ok(opened) => opened.map_err(|status: Status| shown(&status)),
        Err(_elapsed) => Err(format!("no answer within {CONNECT_TIME:?}")),
    }
}
