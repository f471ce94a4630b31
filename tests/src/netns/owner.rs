//! Who made a namespace or directory, written into its name so that a later run can tell whether it is still wanted.

use anyhow::Context as _;

const PREFIX: &str = "kubelb-";

/// A process: its id and its start time, since ids are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    pid: u32,
    /// In clock ticks since boot (proc_pid_stat(5), field 22).
    started: u64,
}

impl Owner {
    /// This process.
    ///
    /// # Errors
    /// When `/proc` is not mounted.
    pub fn me() -> anyhow::Result<Self> {
        let pid = std::process::id();
        let started = start_time(pid).context("cannot read this process's start time from /proc")?;
        Ok(Self { pid, started })
    }

    /// A name of this owner's; `rest` makes it unique among them.
    #[must_use]
    pub fn name(self, rest: &str) -> String {
        format!("{PREFIX}{}-{:x}-{rest}", self.pid, self.started)
    }

    /// The owner that `name` was made by; `None` for names that are not of this kind.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix(PREFIX)?.splitn(3, '-');
        let pid = parts.next()?.parse().ok()?;
        let started = u64::from_str_radix(parts.next()?, 16).ok()?;
        parts.next().map(|_| Self { pid, started })
    }

    /// Whether that very process still runs.
    #[must_use]
    pub fn is_alive(self) -> bool {
        start_time(self.pid) == Some(self.started)
    }
}

fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, the program's name, may hold spaces and parentheses; the last ')' ends it.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::Owner;

    #[test]
    fn this_process_is_alive_and_reads_its_own_name() {
        let me = Owner::me().expect("/proc");
        assert!(me.is_alive());
        assert_eq!(Owner::of(&me.name("0-client")), Some(me));
    }

    #[test]
    fn a_reused_id_is_not_the_owner() {
        let me = Owner::me().expect("/proc");
        let earlier = Owner {
            started: me.started - 1,
            ..me
        };
        assert!(!earlier.is_alive());
    }

    #[test]
    fn foreign_names_have_no_owner() {
        for name in [
            "kubelb",
            "kubelb-",
            "kubelb-1",
            "kubelb-x-1-a",
            "kubelb-1-z-a",
            "cni-1-1-a",
        ] {
            assert_eq!(Owner::of(name), None, "{name}");
        }
    }
}
