//! Announced addresses: a part of the [report](super::Report). What this node answers for is in the maps, and who owns the others only
//! a manager says.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Report;
use super::xds::XdsReport;

/// An address that somebody announces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AddressReport {
    /// The address.
    pub address: IpAddr,
    /// Name of the node that announces it; `None`: nobody does, or nobody has said who.
    pub owner: Option<String>,
    /// Whether that is this node.
    pub is_ours: bool,
    /// Under which the owner has it.
    pub epoch: u64,
    /// The tenant that the address belongs to.
    pub tenant: Option<String>,
    /// Where this node answers for it, or did until another machine took it.
    pub links: Vec<AddressLinkReport>,
}

/// An address on an interface of this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AddressLinkReport {
    /// The interface.
    pub interface: String,
    /// Whether questions are answered.
    pub is_answering: bool,
    /// Under which it was taken over here.
    pub epoch: u64,
    /// When it was taken over, in seconds since 1970.
    pub since: u64,
    /// Questions that were answered.
    pub answered: u64,
    /// Times that another machine announced it, and so got it.
    pub conflicts: u64,
    /// MAC address of the last one that did.
    pub last_rival: Option<String>,
}

/// Who announces an address, by a manager.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerReport {
    /// The address.
    pub address: String,
    /// The node; empty: nobody.
    pub owner: String,
    /// Grows with each change of owner.
    pub epoch: u64,
    /// The tenant that the address belongs to.
    pub tenant: String,
}

impl Report {
    /// Adds what is known of managers, and so who announces what.
    pub fn tell_of(&mut self, managers: Option<XdsReport>) {
        if let Some(managers) = &managers {
            merge(&mut self.addresses, managers);
        }
        self.xds = managers;
    }
}

fn merge(addresses: &mut Vec<AddressReport>, managers: &XdsReport) {
    let mut all: BTreeMap<IpAddr, AddressReport> = addresses.drain(..).map(|report| (report.address, report)).collect();
    for said in &managers.owners {
        let Ok(address) = said.address.parse::<IpAddr>() else {
            continue;
        };
        let report = all.entry(address).or_insert_with(|| AddressReport {
            address,
            owner: None,
            is_ours: false,
            epoch: 0,
            tenant: None,
            links: Vec::new(),
        });
        let some = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        report.owner = some(&said.owner);
        report.tenant = some(&said.tenant);
        report.is_ours = said.owner == managers.node;
        report.epoch = said.epoch;
    }
    addresses.extend(all.into_values());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_come_from_managers_and_answers_from_the_maps() {
        let ours = IpAddr::from([203, 0, 113, 10]);
        let link = AddressLinkReport {
            interface: "eth0".to_owned(),
            is_answering: true,
            epoch: 3,
            since: 100,
            answered: 7,
            conflicts: 0,
            last_rival: None,
        };
        let mut addresses = vec![AddressReport {
            address: ours,
            owner: None,
            is_ours: true,
            epoch: 3,
            tenant: None,
            links: vec![link.clone()],
        }];
        let owner = |address: &str, owner: &str| OwnerReport {
            address: address.to_owned(),
            owner: owner.to_owned(),
            epoch: 3,
            tenant: "a".to_owned(),
        };
        let managers = XdsReport {
            node: "node-1".to_owned(),
            owners: vec![
                owner("203.0.113.9", "node-2"),
                owner("203.0.113.10", "node-1"),
                owner("203.0.113.11", ""),
            ],
            ..XdsReport::default()
        };
        merge(&mut addresses, &managers);
        let seen: Vec<_> = addresses
            .iter()
            .map(|report| {
                (
                    report.address.to_string(),
                    report.owner.as_deref(),
                    report.is_ours,
                    report.links.len(),
                )
            })
            .collect();
        assert_eq!(
            seen,
            [
                ("203.0.113.9".to_owned(), Some("node-2"), false, 0),
                ("203.0.113.10".to_owned(), Some("node-1"), true, 1),
                ("203.0.113.11".to_owned(), None, false, 0),
            ]
        );
        assert_eq!(addresses[1].links, [link]);
    }
}
