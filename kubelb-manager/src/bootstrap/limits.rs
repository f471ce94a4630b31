//! Limits of an Envoy as a whole, which it has from its start on: those of the flags, else those of the Config, which managers are asked for, else the
//! usual ones.

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use clap::Args;
use kubelb_xds::contract::limits::ProcessLimits;
use tokio::time::Instant;

use super::{BootstrapArgs, BootstrapError, Endpoint};
use crate::identity::{Authority, SpiffeId};
use crate::xds::limits_client::{self, Proof};

const MIB: u64 = 1 << 20;
const USUAL: EnvoyLimits = EnvoyLimits {
    max_connections: 50_000,
    max_heap_bytes: 2_048 * MIB,
};

/// For so long an Envoy of a Pod asks before it starts with what it has: a manager that is about to start is worth waiting for, and no manager no reason to
/// forward nothing.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(500);
/// A certificate for one question.
const LIFETIME: Duration = Duration::from_secs(5 * 60);

/// Limits that keep an Envoy alive when its clients ask too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EnvoyLimits {
    /// Connections of clients that Envoy accepts.
    pub max_connections: u64,
    /// Memory near which Envoy gives some back and then accepts nothing more.
    pub max_heap_bytes: u64,
}

/// Flags that win over what managers say.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct LimitFlags {
    /// Connections of clients that Envoy accepts. Left out: as the Config says (spec.envoyProxy.overloadManager), else 50000.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub max_connections: Option<u64>,
    /// Memory, in MiB, near which Envoy gives some back and then accepts nothing more. Left out: as the Config says, else 2048.
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..1 << 40))]
    pub max_heap: Option<u64>,
}

/// What a manager said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told(ProcessLimits);

impl LimitFlags {
    /// What holds.
    pub(super) fn with(self, Told(told): Told) -> EnvoyLimits {
        let said = |number: u64| Some(number).filter(|number| *number > 0);
        let heap = self.max_heap.map(|mib| mib * MIB);
        EnvoyLimits {
            max_connections: self
                .max_connections
                .or(said(told.max_connections))
                .unwrap_or(USUAL.max_connections),
            max_heap_bytes: heap.or(said(told.max_heap_bytes)).unwrap_or(USUAL.max_heap_bytes),
        }
    }

    fn are_complete(self) -> bool {
        self.max_connections.is_some() && self.max_heap.is_some()
    }
}

/// Asks managers, as the Envoy that `args` are about would, for what its flags leave out. Who has the authority's directory asks each manager once, since it may be
/// about to start one; a Pod asks for ten seconds. Without an answer that is said to `warnings`, and nothing is told.
///
/// # Errors
/// When a name or address is none, or there is no authority.
pub fn ask(args: &BootstrapArgs, now: SystemTime, warnings: &mut impl io::Write) -> Result<Told, BootstrapError> {
    if args.fleet.is_none() || args.limits.are_complete() {
        return Ok(Told::default());
    }
    let (endpoints, id) = (args.endpoints()?, args.id()?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(BootstrapError::Runtime)?;
    let answer = match (&args.xds_ca, &args.state_dir) {
        (Some(authority), _) => runtime.block_on(ask_until_answered(&endpoints, authority, args.token_file.as_deref())),
        (None, Some(state)) => {
            let authority = Authority::open(state, now)?;
            runtime.block_on(ask_with_authority(
                &endpoints,
                &authority,
                &id,
                args.token_file.as_deref(),
                now,
            ))?
        }
        (None, None) => return Err(BootstrapError::NoState),
    };
    Ok(answer.unwrap_or_else(|why| {
        // Whoever cannot be warned is not kept from starting.
        let _unsaid = writeln!(
            warnings,
            "no manager says what limits the Config has (--max-connections and --max-heap would): {why}"
        );
        Told::default()
    }))
}

/// Files are read for each round: a token that has ended is replaced, and so is an authority.
async fn ask_until_answered(endpoints: &[Endpoint], authority: &Path, token: Option<&Path>) -> Result<Told, String> {
    let end = Instant::now() + PATIENCE;
    loop {
        let answer = async {
            let authority = text(authority)?;
            let token = text(token.unwrap_or(Path::new("")))?;
            ask_each(endpoints, &authority, Proof::Token(&token)).await
        };
        let why = match tokio::time::timeout_at(end, answer).await {
            Ok(Ok(told)) => return Ok(told),
            Ok(Err(why)) => why,
            Err(_elapsed) => format!("no answer within {PATIENCE:?}"),
        };
        if Instant::now() + PAUSE >= end {
            return Err(why);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn ask_with_authority(
    endpoints: &[Endpoint],
    authority: &Authority,
    id: &SpiffeId,
    token: Option<&Path>,
    now: SystemTime,
) -> Result<Result<Told, String>, BootstrapError> {
    if let Some(token) = token {
        return Ok(match text(token) {
            Ok(token) => ask_each(endpoints, authority.pem(), Proof::Token(&token)).await,
            Err(why) => Err(why),
        });
    }
    let issued = authority.issue_peer(id, LIFETIME, now)?;
    Ok(ask_each(endpoints, authority.pem(), Proof::Certificate(&issued)).await)
}

/// The first answer; why the last one of them gave none.
async fn ask_each(endpoints: &[Endpoint], authority: &str, proof: Proof<'_>) -> Result<Told, String> {
    let mut why = "there is no manager".to_owned();
    for endpoint in endpoints {
        let address = endpoint.to_string();
        match limits_client::ask(&address, authority, proof).await {
            Ok(limits) => return Ok(Told(limits)),
            Err(error) => why = format!("{address}: {error}"),
        }
    }
    Err(why)
}

fn text(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_wins_over_the_config_and_that_over_what_is_usual() {
        let told = Told(ProcessLimits {
            max_connections: 7,
            max_heap_bytes: 1_000_000_007,
        });
        let none = LimitFlags::default();
        assert_eq!(none.with(Told::default()), USUAL);
        let as_told = EnvoyLimits {
            max_connections: 7,
            max_heap_bytes: 1_000_000_007,
        };
        assert_eq!(none.with(told), as_told);
        let flags = LimitFlags {
            max_connections: None,
            max_heap: Some(64),
        };
        let mixed = EnvoyLimits {
            max_heap_bytes: 64 * MIB,
            ..as_told
        };
        assert_eq!(flags.with(told), mixed);
        assert!(!flags.are_complete());
    }
}
