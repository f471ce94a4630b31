//! Addresses and networks in rules, as the API's own library for them has it: `ip(text)`, `cidr(text)` and what they
//! can be asked.

use std::net::IpAddr;
use std::sync::Arc;

use cel::extractors::This;
use cel::objects::Opaque;
use cel::{Context, ExecutionError, Value};

/// Functions that [`add`] brings.
pub(super) const FUNCTIONS: &[&str] = &[
    "cidr",
    "containsIP",
    "family",
    "ip",
    "isCIDR",
    "isGlobalUnicast",
    "isIP",
    "isLinkLocalMulticast",
    "isLinkLocalUnicast",
    "isLoopback",
    "isUnspecified",
    "prefixLength",
];

type Question = fn(IpAddr) -> bool;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Address(IpAddr);

impl Opaque for Address {
    fn runtime_type_name(&self) -> &str {
        "net.IP"
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    length: u8,
}

impl Opaque for Network {
    fn runtime_type_name(&self) -> &str {
        "net.CIDR"
    }
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let (address, length) = text.split_once('/')?;
        let (address, length) = (address.parse::<IpAddr>().ok()?, length.parse::<u8>().ok()?);
        let longest = if address.is_ipv4() { 32 } else { 128 };
        (length <= longest).then_some(Self { address, length })
    }

    fn contains(self, address: IpAddr) -> bool {
        let host_bits = |all: u8| u32::from(all.saturating_sub(self.length));
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let differ = own.to_bits() ^ other.to_bits();
                differ.checked_shr(host_bits(32)).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let differ = own.to_bits() ^ other.to_bits();
                differ.checked_shr(host_bits(128)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// Makes the functions known to a rule. Adding fails only where the language has one of that name, and it has none.
pub(super) fn add(context: &mut Context<'_, '_>) {
    drop(context.add_function("isIP", |text: Arc<String>| text.parse::<IpAddr>().is_ok()));
    drop(context.add_function("isCIDR", |text: Arc<String>| Network::parse(&text).is_some()));
    drop(
        context.add_function("ip", |text: Arc<String>| -> Result<Value, ExecutionError> {
            let address = text.parse::<IpAddr>();
            let address = address.map_err(|error| ExecutionError::function_error("ip", error))?;
            Ok(Value::Opaque(Arc::new(Address(address))))
        }),
    );
    drop(
        context.add_function("cidr", |text: Arc<String>| -> Result<Value, ExecutionError> {
            let network = Network::parse(&text);
            let network = network.ok_or_else(|| ExecutionError::function_error("cidr", "no network"))?;
            Ok(Value::Opaque(Arc::new(network)))
        }),
    );
    drop(
        context.add_function("containsIP", |This(this): This<Value>, other: Value| {
            let other = if let Value::String(text) = &other {
                text.parse().ok()
            } else {
                opaque::<Address>(&other).map(|address| address.0)
            };
            let network = opaque::<Network>(&this).ok_or_else(|| no_such("containsIP"))?;
            Ok::<bool, ExecutionError>(other.is_some_and(|other| network.contains(other)))
        }),
    );
    drop(context.add_function("prefixLength", |This(this): This<Value>| {
        let network = opaque::<Network>(&this).ok_or_else(|| no_such("prefixLength"))?;
        Ok::<i64, ExecutionError>(i64::from(network.length))
    }));
    drop(context.add_function("family", |This(this): This<Value>| {
        Ok::<i64, ExecutionError>(if address(&this, "family")?.is_ipv4() { 4 } else { 6 })
    }));
    let questions: [(&'static str, Question); 5] = [
        ("isGlobalUnicast", is_global_unicast),
        ("isLinkLocalMulticast", is_link_local_multicast),
        ("isLinkLocalUnicast", is_link_local_unicast),
        ("isLoopback", |address| address.is_loopback()),
        ("isUnspecified", |address| address.is_unspecified()),
    ];
    for (name, question) in questions {
        drop(context.add_function(name, move |This(this): This<Value>| {
            Ok::<bool, ExecutionError>(question(address(&this, name)?))
        }));
    }
}

fn opaque<T: Copy + 'static>(value: &Value) -> Option<T> {
    if let Value::Opaque(opaque) = value {
        opaque.downcast_ref::<T>().copied()
    } else {
        None
    }
}

fn no_such(function: &str) -> ExecutionError {
    ExecutionError::function_error(function, "no such overload")
}

fn address(value: &Value, function: &str) -> Result<IpAddr, ExecutionError> {
    let address = opaque::<Address>(value).ok_or_else(|| no_such(function))?;
    Ok(address.0)
}

/// As Go's net/netip has it: also private addresses are global unicast.
fn is_global_unicast(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    let not = address.is_unspecified() || address.is_loopback() || address.is_multicast();
    !not && !broadcast && !is_link_local_unicast(address)
}

fn is_link_local_unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

fn is_link_local_multicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.octets().starts_with(&[224, 0, 0]),
        IpAddr::V6(address) => address.segments().first().is_some_and(|first| first & 0xff0f == 0xff02),
    }
}
