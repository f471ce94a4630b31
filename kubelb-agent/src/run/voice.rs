//! What a look at announced addresses has others do: the speaker on the links, and the node's own network stack. Logs what people want to know.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use tokio::sync::watch;

use crate::announce::speaker::Speech;
use crate::announce::{Place, Plan};
use crate::net::Link;
use crate::net::stack::Wanted;
use crate::sysctl;

/// See the module.
pub(super) struct Voice {
    speech: watch::Sender<Speech>,
    stack: watch::Sender<Option<Wanted>>,
    problems: Vec<String>,
    quiet: BTreeSet<String>,
}

impl Voice {
    pub(super) fn new(speech: watch::Sender<Speech>, stack: watch::Sender<Option<Wanted>>) -> Self {
        Self {
            speech,
            stack,
            problems: Vec::new(),
            quiet: BTreeSet::new(),
        }
    }

    /// Passes on what `plan` says; `interfaces` are those that the programs are attached to.
    pub(super) fn follow<'a>(
        &mut self,
        plan: &Plan,
        links: &BTreeMap<u32, Link>,
        interfaces: impl Iterator<Item = &'a str>,
    ) {
        tell(plan, links);
        if self.problems != plan.problems {
            self.problems.clone_from(&plan.problems);
            for problem in &plan.problems {
                tracing::error!("not announced: {problem}");
            }
        }
        if !plan.stack.local.is_empty() {
            for interface in interfaces {
                self.quieten(interface);
            }
        }
        self.speech.send_if_modified(|speech| {
            let before = speech.clone();
            speech.follow(&plan.announce, &plan.answered);
            *speech != before
        });
        let wanted = Wanted::new(&plan.stack, links);
        self.stack.send_if_modified(|stack| {
            let changed = stack.as_ref() != Some(&wanted);
            *stack = Some(wanted);
            changed
        });
    }

    /// Before an address comes to the loopback interface, for which the stack would answer on every other.
    fn quieten(&mut self, interface: &str) {
        if !self.quiet.insert(interface.to_owned()) {
            return;
        }
        if let Err(error) = sysctl::quiet_arp(Path::new(sysctl::PROC_SYS), interface) {
            tracing::warn!(
                interface,
                "the node may answer ARP for addresses that are announced elsewhere: sysctl -w \
                 net/ipv4/conf/{interface}/arp_ignore=1 net/ipv4/conf/{interface}/arp_announce=2 ({error})"
            );
        }
    }
}

fn tell(plan: &Plan, links: &BTreeMap<u32, Link>) {
    let name = |place: &Place| links.get(&place.1).map_or("", |link| link.name.as_str()).to_owned();
    for place in plan.announce.keys() {
        tracing::info!(address = %place.0, interface = name(place), "announcing the address");
    }
    for (place, [a, b, c, d, e, f]) in &plan.lost {
        let rival = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
        tracing::warn!(
            address = %place.0,
            interface = name(place),
            rival,
            "another machine announces the address; it is not answered for here until the manager says so or it is defended"
        );
    }
}
