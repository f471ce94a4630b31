//! Structured logs on standard error: readable text or one JSON object a line.
//!
//! Owns the subscriber of the process and the filter's syntax; standard output stays free for what a command prints.

use std::fmt;
use std::io::IsTerminal;
use std::str::FromStr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt as subscriber;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::util::TryInitError;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For log collectors: one JSON object a line, fields at the top level.
    Json,
}

/// The text is neither `text` nor `json`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown log format; use text or json")]
pub struct UnknownLogFormat;

impl FromStr for LogFormat {
    type Err = UnknownLogFormat;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(UnknownLogFormat),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter has a syntax error.
    #[error("log filter {filter:?} (from RUST_LOG, such as `info` or `info,my_crate=debug`) is not valid")]
    Filter {
        /// The offending text.
        filter: String,
        /// What is wrong with it.
        #[source]
        source: ParseError,
    },
    /// The process has a subscriber already.
    #[error("setting the process's log subscriber")]
    Init(#[source] TryInitError),
}

/// Starts logging for the whole process. `filter` has the syntax of `RUST_LOG`, which the caller reads.
///
/// # Errors
/// When the filter is not valid, or logging was started before.
pub fn init(format: LogFormat, filter: &str) -> Result<(), TelemetryError> {
    let directives = EnvFilter::builder()
        .parse(filter)
        .map_err(|source| TelemetryError::Filter {
            filter: filter.to_owned(),
            source,
        })?;
    let builder = subscriber().with_env_filter(directives).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).finish().try_init(),
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init(),
    }
    .map_err(TelemetryError::Init)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_read_back_what_they_print() {
        for format in [LogFormat::Text, LogFormat::Json] {
            assert_eq!(format.to_string().parse(), Ok(format));
        }
        assert_eq!("yaml".parse::<LogFormat>(), Err(UnknownLogFormat));
    }

    #[test]
    fn a_bad_filter_is_named() {
        let error = init(LogFormat::Text, "kubelb=loud").unwrap_err();
        assert!(error.to_string().contains("kubelb=loud"), "{error}");
    }
}
