//! One change among thousands of resources of one sort, with the real Envoy under traffic: what Envoy takes for it, and what it costs Envoy.
//!
//! The layouts are those that a listener, a RouteConfiguration or a certificate can have at that size; which of them is fit for use is what is to be seen.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use kubelb_tests::envoy::{Envoy, Setup};
use kubelb_tests::netns::Namespace;
use kubelb_tests::traffic::{HttpLoad, Kind, Server, Trust, http_get, https_get};
use kubelb_tests::wait;
use kubelb_tests::xds::rows::{Door, Row, Site, WEB};

use crate::report::{Report, float};
use crate::served::Served;

const PART: &str = "scale";
/// Until Envoy has all of them.
const LOAD_WITHIN: Duration = Duration::from_secs(300);
/// Until it has a change, whatever the bar.
const CHANGE_WITHIN: Duration = Duration::from_secs(60);
/// Nothing may take longer. Milliseconds.
const MUST: f64 = 1_000.0;
/// Chains that one listener may have.
const CHAINS: u16 = 200;

/// What is tried, and with how many of them.
const ROWS: [(Row, u16); 9] = [
    (Row::Clusters, 1_000),
    (Row::Clusters, 5_000),
    (Row::Hosts, 1_000),
    (Row::Hosts, 5_000),
    (Row::Listeners, 1_000),
    (Row::Chains { each: 1_000 }, 1_000),
    (Row::Chains { each: 5_000 }, 5_000),
    (Row::Chains { each: CHAINS }, 5_000),
    (Row::OneCertificate, 5_000),
];
/// A quick run has this part of each.
const QUICK: u16 = 100;

fn name(row: Row, many: u16) -> String {
    match row {
        Row::Clusters => format!("{many} clusters"),
        Row::Hosts => format!("{many} hosts in one RouteConfiguration"),
        Row::Listeners => format!("{many} listeners"),
        Row::Chains { each } if each < many => format!("{many} chains, {each} in a listener"),
        Row::Chains { .. } => format!("{many} chains in one listener"),
        Row::OneCertificate => format!("{many} hosts of one certificate"),
    }
}

/// Takes the figures of `changes` changes to each row.
pub(crate) fn take(changes: usize, is_quick: bool, report: &mut Report) -> anyhow::Result<()> {
    for (row, many) in ROWS {
        let part = if is_quick { QUICK } else { 1 };
        let many = many / part;
        let row = if let Row::Chains { each } = row {
            Row::Chains { each: each / part }
        } else {
            row
        };
        let changes = u16::try_from(changes)?.max(1);
        one(row, many, changes, report).with_context(|| name(row, many))?;
    }
    Ok(())
}

fn one(row: Row, many: u16, changes: u16, report: &mut Report) -> anyhow::Result<()> {
    let namespace = Namespace::new("scale")?;
    let backend = Server::start(&namespace, Kind::Http, "one", 0)?;
    let site = Site::new(([127, 0, 0, 1], backend.port()).into())?;
    let served = Served::start(&namespace, site.resources(row, 0))?;
    let envoy = Envoy::start(&namespace, Setup::default(), &served.bootstrap()?)?;
    served.until_taken(LOAD_WITHIN)?;
    envoy.until_serving(LOAD_WITHIN)?;
    let mut loads = vec![HttpLoad::start(&namespace, WEB, "web", 1)?];

    let name = name(row, many);
    let named = |what: &str| format!("{name}: {what}");
    let before = allocated(&envoy)?;
    let started = served.publish(site.resources(row, many))?;
    served.until_taken(LOAD_WITHIN)?;
    report.add(PART, named("all at once"), started.elapsed().as_secs_f64(), "s");
    let (slowest, of) = served.slowest_acknowledgement();
    let slowest_is = named(&format!("its slowest acknowledgement ({of})"));
    report.add(PART, slowest_is, ms(slowest), "ms");
    let memory = allocated(&envoy)?.saturating_sub(before);
    let memory = float(usize::try_from(memory)?) / 1_024.0 / f64::from(many);
    report.add(PART, named("Envoy's memory for each"), memory, "KiB");

    let asking = Asking {
        namespace: &namespace,
        trust: Trust::only(site.certificate())?,
    };
    if let Some(door) = row.door(0) {
        loads.push(asking.load(&door)?);
    }
    let (mut acknowledged, mut serves) = (Duration::ZERO, Duration::ZERO);
    let mut change = |many: u16, asked: u16| -> anyhow::Result<()> {
        let started = served.publish(site.resources(row, many))?;
        served.until_taken(CHANGE_WITHIN)?;
        acknowledged = acknowledged.max(started.elapsed());
        if let Some(door) = row.door(asked) {
            wait::until(CHANGE_WITHIN, || asking.ask(&door))?;
            serves = serves.max(started.elapsed());
        }
        Ok(())
    };
    for more in 0..changes {
        change(many + more + 1, many + more)?;
    }
    change(many, many - 1)?;
    report
        .add(PART, named("a change is acknowledged, slowest"), ms(acknowledged), "ms")
        .must(MUST);
    if !serves.is_zero() {
        report
            .add(PART, named("a new one serves, slowest"), ms(serves), "ms")
            .must(MUST);
    }
    let mut failed = 0;
    for load in loads {
        load.until_more(1)?;
        let tally = load.finish()?;
        failed += tally.total() - tally.good();
        if let Err(error) = tally.all_good() {
            eprintln!("{PART}: {name}: {error:#}");
        }
    }
    report
        .add(
            PART,
            named("requests that failed meanwhile"),
            float(usize::try_from(failed)?),
            "",
        )
        .must(0.0);
    Ok(())
}

/// A client of what there is many of.
struct Asking<'a> {
    namespace: &'a Namespace,
    trust: Trust,
}

impl Asking<'_> {
    fn ask(&self, door: &Door) -> anyhow::Result<()> {
        let status = match door {
            Door::Http(to) => http_get(self.namespace, *to, "/")?.0,
            Door::Https(to, host) => https_get(self.namespace, *to, host, &self.trust)?,
        };
        ensure!(status == 200, "{door:?} says {status}");
        Ok(())
    }

    fn load(&self, door: &Door) -> anyhow::Result<HttpLoad> {
        match door {
            Door::Http(to) => HttpLoad::start(self.namespace, *to, "many", 1),
            Door::Https(to, host) => HttpLoad::start_tls(self.namespace, *to, host, &self.trust, 1),
        }
    }
}

fn allocated(envoy: &Envoy<'_>) -> anyhow::Result<u64> {
    let memory: serde_json::Value = serde_json::from_str(&envoy.get("/memory")?)?;
    let allocated = memory.get("allocated").and_then(serde_json::Value::as_str);
    Ok(allocated
        .context("Envoy does not say how much memory it has")?
        .parse()?)
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
