//! The subset hint of a request.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
};

/// The endpoints that a subset hint allows.
///
/// `ip:port` allows one endpoint, `ip` allows all ports of the address. Other entries allow nothing, so an invalid hint
/// allows no endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subset {
    addresses: HashSet<SocketAddr>,
    ips: HashSet<IpAddr>,
}

impl Subset {
    /// Parses the entries of a hint. Each entry may be a comma-separated list.
    pub fn parse<'a>(entries: impl IntoIterator<Item = &'a str>) -> Self {
        let mut subset = Self::default();
        for entry in entries.into_iter().flat_map(|list| list.split(',')).map(str::trim) {
            if let Ok(address) = entry.parse() {
                subset.addresses.insert(address);
            } else if let Ok(ip) = entry.trim_matches(['[', ']']).parse() {
                subset.ips.insert(ip);
            }
        }
        subset
    }

    /// Whether the hint allows the endpoint.
    pub fn contains(&self, address: SocketAddr) -> bool {
        self.addresses.contains(&address) || self.ips.contains(&address.ip())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_addresses_and_ips_in_nested_lists() {
        let subset = Subset::parse(["10.0.0.1:8000, 10.0.0.2 ", "[fd00::1]:8000,fd00::2", "nonsense", ""]);
        let contains = |address: &str| subset.contains(address.parse().unwrap());
        for inside in ["10.0.0.1:8000", "10.0.0.2:1", "10.0.0.2:8000", "[fd00::1]:8000", "[fd00::2]:9"] {
            assert!(contains(inside), "{inside}");
        }
        for outside in ["10.0.0.1:8001", "10.0.0.3:8000", "[fd00::1]:8001"] {
            assert!(!contains(outside), "{outside}");
        }
        assert!(!Subset::parse([]).contains("10.0.0.1:8000".parse().unwrap()));
    }
}
