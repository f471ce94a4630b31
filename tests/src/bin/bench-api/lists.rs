//! Many objects made, and listed.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use hyper::body::Bytes;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, api::ListParams};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::Client;
use crate::figures::{Filled, Lists, float};
use crate::server::Server;

const PATH: &str = "/api/v1/namespaces/default/configmaps";
const SAMPLES: usize = 5;

/// Makes `objects` ConfigMaps, each of about 700 bytes with its metadata.
pub(crate) async fn fill(server: &Server, objects: usize, writers: usize) -> anyhow::Result<Filled> {
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for writer in 0..writers {
        let mut client = Client::connect(server).await?;
        tasks.spawn(async move {
            for number in (writer..objects).step_by(writers) {
                let object = json!({
                    "apiVersion": "v1", "kind": "ConfigMap",
                    "metadata": {"name": format!("listed-{number:05}"), "labels": {"app": "bench", "kind": "listed"}},
                    "data": {"address": "192.0.2.1", "port": number.to_string(), "text": "x".repeat(200)},
                });
                client.whole("POST", PATH, Bytes::from(object.to_string())).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(Filled {
        writes_per_second: float(objects) / began.elapsed().as_secs_f64(),
    })
}

/// Lists them all, a few times.
pub(crate) async fn take(server: &Server, objects: usize) -> anyhow::Result<Lists> {
    let mut client = Client::connect(server).await?;
    let (mut times, mut bytes) = (Vec::new(), 0);
    for _ in 0..SAMPLES {
        let began = Instant::now();
        bytes = client.whole("GET", PATH, Bytes::new()).await?.len();
        times.push(began.elapsed());
    }
    let config = Kubeconfig::read_from(server.kubeconfig())?;
    let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    let maps: Api<ConfigMap> = Api::namespaced(kube::Client::try_from(config)?, "default");
    let mut decoded = Vec::new();
    for _ in 0..SAMPLES {
        let began = Instant::now();
        let list = maps.list(&ListParams::default().labels("kind=listed")).await?;
        decoded.push(began.elapsed());
        ensure!(list.items.len() == objects, "{} objects listed", list.items.len());
    }
    Ok(Lists {
        json: median(times)?,
        bytes,
        kube: median(decoded)?,
    })
}

fn median(mut times: Vec<Duration>) -> anyhow::Result<f64> {
    times.sort_unstable();
    let middle = times.get(times.len() / 2).context("nothing was measured")?;
    Ok(middle.as_secs_f64())
}
