//! Which backends answer: active checks from user space.
//!
//! [`Checker`] decides what to check when and what the results mean, without I/O or a clock; [`probe`] asks one backend;
//! [`run`] drives both with a bounded number of checks at once and no thread or task per idle backend. Knows nothing of
//! frontends, maps or where targets come from.

mod budget;
mod checker;
mod driver;
mod local_port;
pub mod probe;

pub use checker::{Checker, Start, Token, Transition};
pub use driver::{
    Assignment, Counters, DEFAULT_CHECKS_PER_SECOND, DEFAULT_CONCURRENCY, Prober, Settings, SocketProber, run,
};
pub use probe::{ProbeBind, ProbeError};
