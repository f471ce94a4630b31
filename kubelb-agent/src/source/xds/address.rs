//! VirtualAddress → who announces an address. Must not know listeners.

use std::collections::BTreeSet;
use std::net::IpAddr;

use kubelb_common::announce::EPOCHS;
use kubelb_xds::contract::VirtualAddress as Wire;
use kubelb_xds::contract::messages::LocalPortProtocol;

use super::refusal::{Refusal, refuse};
use super::wire;
use crate::model::{Owner, Protocol, VirtualAddress};

/// Most local ports of an address.
const MAX_LOCAL_PORTS: usize = 128;
/// Most interfaces that can be named.
const MAX_INTERFACES: usize = 32;

/// # Errors
/// With the first field that is wrong.
pub(super) fn decode(bytes: &[u8], node: &str) -> Result<(IpAddr, VirtualAddress), Refusal> {
    let message: Wire = wire::decode(bytes, "")?;
    let address = wire::unicast("address", &message.address)?;
    if message.epoch >= EPOCHS {
        return refuse("epoch", format!("{} is not below 2^63", message.epoch));
    }
    if message.local_ports.len() > MAX_LOCAL_PORTS {
        return refuse("local_ports", format!("are more than {MAX_LOCAL_PORTS}"));
    }
    if message.interfaces.len() > MAX_INTERFACES {
        return refuse("interfaces", format!("are more than {MAX_INTERFACES}"));
    }
    let mut local_ports = BTreeSet::new();
    for (index, local) in message.local_ports.iter().enumerate() {
        let field = |name| format!("local_ports[{index}].{name}");
        let protocol = match LocalPortProtocol::try_from(local.protocol) {
            Ok(LocalPortProtocol::Tcp) => Protocol::Tcp,
            Ok(LocalPortProtocol::Udp) => Protocol::Udp,
            Ok(LocalPortProtocol::Unspecified) | Err(_) => {
                return refuse(field("protocol"), "is neither TCP nor UDP");
            }
        };
        local_ports.insert((protocol, wire::port(&field("port"), local.port)?));
    }
    let owner = match message.owner_node {
        nobody if nobody.is_empty() => Owner::Nobody,
        this if this == node => Owner::This,
        other => Owner::Other(other),
    };
    let virtual_address = VirtualAddress {
        owner,
        epoch: message.epoch,
        interfaces: message.interfaces,
        tenant: message.tenant,
        local_ports,
    };
    Ok((address, virtual_address))
}

#[cfg(test)]
mod tests {
    use kubelb_xds::contract::messages::LocalPort;
    use prost::Message;

    use super::*;

    fn wire() -> Wire {
        Wire {
            address: "203.0.113.10".to_owned(),
            owner_node: "node-1".to_owned(),
            epoch: 7,
            interfaces: vec!["eth0".to_owned()],
            tenant: "a".to_owned(),
            local_ports: vec![LocalPort {
                protocol: LocalPortProtocol::Tcp.into(),
                port: 443,
            }],
        }
    }

    #[test]
    fn a_node_knows_its_own_name() {
        let decode = |owner: &str| {
            let message = Wire {
                owner_node: owner.to_owned(),
                ..wire()
            };
            decode(&message.encode_to_vec(), "node-1").unwrap()
        };
        let (address, this) = decode("node-1");
        assert_eq!(address, IpAddr::from([203, 0, 113, 10]));
        assert_eq!((this.owner, this.epoch), (Owner::This, 7));
        assert_eq!(this.local_ports, [(Protocol::Tcp, 443.try_into().unwrap())].into());
        assert_eq!(decode("node-2").1.owner, Owner::Other("node-2".to_owned()));
        assert_eq!(decode("").1.owner, Owner::Nobody);
    }

    #[test]
    fn what_cannot_be_announced_is_refused_by_field() {
        let refused = |change: &dyn Fn(&mut Wire)| {
            let mut message = wire();
            change(&mut message);
            decode(&message.encode_to_vec(), "node-1").unwrap_err().field
        };
        assert_eq!(refused(&|message| message.address = "ff02::1".to_owned()), "address");
        assert_eq!(refused(&|message| message.address = "web".to_owned()), "address");
        assert_eq!(refused(&|message| message.epoch = 1 << 63), "epoch");
        assert_eq!(
            refused(&|message| message.local_ports[0].port = 0),
            "local_ports[0].port"
        );
        assert_eq!(
            refused(&|message| message.local_ports[0].protocol = 9),
            "local_ports[0].protocol"
        );
        assert_eq!(
            refused(&|message| message.interfaces = vec![String::new(); 33]),
            "interfaces"
        );
    }
}
