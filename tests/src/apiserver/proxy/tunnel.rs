//! Two upgraded connections joined: bytes go both ways unchanged, at the pace of the slower side.

use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, copy, split};
use tokio::sync::{OwnedSemaphorePermit, watch};

/// What one side still has to say after the other has ended is waited for this long.
const LINGER: Duration = Duration::from_secs(5);

/// Runs until both sides have ended, or `stop` changes. The permit is one of the server's for tunnels.
pub(super) async fn run(
    client: OnUpgrade,
    there: OnUpgrade,
    mut stop: watch::Receiver<bool>,
    permit: Option<OwnedSemaphorePermit>,
) {
    let both = async { Some((client.await.ok()?, there.await.ok()?)) };
    let joined = tokio::select! {
        joined = both => joined,
        _ = stop.changed() => None,
    };
    if let Some((client, there)) = joined {
        tokio::select! {
            () = join(TokioIo::new(client), TokioIo::new(there)) => {}
            _ = stop.changed() => {}
        }
    }
    drop(permit);
}

/// Copies both ways. When one side ends, the other is told, and may finish what it was saying.
async fn join<A, B>(one: A, other: B)
where
    A: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    let (mut one_says, mut one_hears) = split(one);
    let (mut other_says, mut other_hears) = split(other);
    let to_other = async {
        // A side that breaks off has ended as well.
        drop(copy(&mut one_says, &mut other_hears).await);
        drop(other_hears.shutdown().await);
    };
    let to_one = async {
        drop(copy(&mut other_says, &mut one_hears).await);
        drop(one_hears.shutdown().await);
    };
    tokio::pin!(to_other, to_one);
    tokio::select! {
        () = &mut to_other => drop(tokio::time::timeout(LINGER, to_one).await),
        () = &mut to_one => drop(tokio::time::timeout(LINGER, to_other).await),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn the_last_words_of_one_side_arrive_after_the_other_has_ended() {
        let (mut client, client_end) = duplex(16);
        let (there_end, mut there) = duplex(16);
        let joined = tokio::spawn(join(client_end, there_end));
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut heard = String::new();
        there.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "question");
        // Longer than what is buffered on the way.
        let answer = "answer ".repeat(100);
        let (said, heard) = tokio::join!(
            async {
                there.write_all(answer.as_bytes()).await.unwrap();
                there.shutdown().await.unwrap();
            },
            async {
                let mut heard = String::new();
                client.read_to_string(&mut heard).await.unwrap();
                heard
            }
        );
        let () = said;
        assert_eq!(heard, answer);
        joined.await.unwrap();
    }

    #[tokio::test]
    async fn a_client_that_is_gone_ends_the_other_side() {
        let (client, client_end) = duplex(16);
        let (there_end, mut there) = duplex(16);
        let joined = tokio::spawn(join(client_end, there_end));
        drop(client);
        assert_eq!(there.read(&mut [0; 8]).await.unwrap(), 0);
        drop(there);
        joined.await.unwrap();
    }
}
