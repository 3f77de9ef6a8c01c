//! Which address an endpoint gets: the next free one after the last given, as Docker does, so that an address is not
//! handed to the next container while peers still remember the last.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::{NetworkError, Subnet};

/// The addresses of one subnet.
#[derive(Debug, Clone)]
pub struct Ipam {
    subnet: Subnet,
    /// Only from this part, if given (`--ip-range`).
    range: Subnet,
    used: BTreeSet<u128>,
    /// Offset of the last address given.
    last: u128,
}

impl Ipam {
    /// `reserved` is the gateway and whatever else is not for containers.
    pub fn new(subnet: Subnet, range: Option<Subnet>, reserved: impl IntoIterator<Item = IpAddr>) -> Self {
        let used = reserved.into_iter().filter_map(|address| subnet.offset(address)).collect();
        Self { subnet, range: range.unwrap_or(subnet), used, last: 0 }
    }

    pub fn subnet(&self) -> Subnet {
        self.subnet
    }

    /// The next free address.
    pub fn allocate(&mut self) -> Result<IpAddr, NetworkError> {
        let exhausted = NetworkError::SubnetExhausted { subnet: self.range };
        let first = self.subnet.offset(self.range.address()).unwrap_or(0);
        let end = first + self.range.size().min(self.subnet.size() - first);
        let begin = (self.last + 1).clamp(first, end);
        let free = |from: u128, to: u128, used: &BTreeSet<u128>, subnet: Subnet| {
            // Skips over used addresses in order rather than asking for each of 65,536 in turn.
            let mut at = from;
            for &taken in used.range(from..to) {
                if taken != at && subnet.nth(at).is_some_and(|address| subnet.is_host(address)) {
                    return Some(at);
                }
                at = taken + 1;
            }
            (at..to.min(at.saturating_add(2))).find(|&at| subnet.nth(at).is_some_and(|address| subnet.is_host(address)))
        };
        let found = free(begin, end, &self.used, self.subnet)
            .or_else(|| free(first.max(1).min(end), begin, &self.used, self.subnet))
            .ok_or_else(|| exhausted.clone())?;
        self.used.insert(found);
        self.last = found;
        self.subnet.nth(found).ok_or(exhausted)
    }

    /// Takes exactly this address (`--ip`).
    pub fn take(&mut self, address: IpAddr) -> Result<(), NetworkError> {
        let outside = NetworkError::NotInSubnet { address, subnet: self.subnet };
        let offset = self.subnet.offset(address).filter(|_| self.subnet.is_host(address)).ok_or(outside)?;
        if !self.used.insert(offset) {
            return Err(NetworkError::AddressInUse(address));
        }
        Ok(())
    }

    pub fn release(&mut self, address: IpAddr) {
        if let Some(offset) = self.subnet.offset(address) {
            self.used.remove(&offset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn ipam(subnet: &str, range: Option<&str>) -> Ipam {
        let subnet: Subnet = subnet.parse().unwrap();
        Ipam::new(subnet, range.map(|range| range.parse().unwrap()), subnet.nth(1))
    }

    fn next(ipam: &mut Ipam) -> String {
        ipam.allocate().map_or_else(|error| error.to_string(), |address| address.to_string())
    }

    #[test]
    fn addresses_are_given_in_turn_and_a_freed_one_waits_its_turn() {
        let mut ipam = ipam("10.0.0.0/29", None);
        assert_eq!(next(&mut ipam), "10.0.0.2");
        assert_eq!(next(&mut ipam), "10.0.0.3");
        ipam.release(ip("10.0.0.2"));
        assert_eq!(next(&mut ipam), "10.0.0.4");
        assert_eq!(next(&mut ipam), "10.0.0.5");
        assert_eq!(next(&mut ipam), "10.0.0.6");
        assert_eq!(next(&mut ipam), "10.0.0.2");
        assert_eq!(next(&mut ipam), "no available IPv4 addresses on this network's address pools: 10.0.0.0/29");
        ipam.release(ip("10.0.0.5"));
        assert_eq!(next(&mut ipam), "10.0.0.5");
    }

    #[test]
    fn a_static_address_is_taken_once_and_stepped_over() {
        let mut ipam = ipam("10.0.0.0/24", None);
        ipam.take(ip("10.0.0.2")).unwrap();
        assert_eq!(ipam.take(ip("10.0.0.2")), Err(NetworkError::AddressInUse(ip("10.0.0.2"))));
        assert_eq!(ipam.take(ip("10.0.0.1")), Err(NetworkError::AddressInUse(ip("10.0.0.1"))), "the gateway's");
        for outside in ["10.0.1.1", "10.0.0.0", "10.0.0.255", "fd00::1"] {
            assert!(matches!(ipam.take(ip(outside)), Err(NetworkError::NotInSubnet { .. })), "{outside}");
        }
        assert_eq!(next(&mut ipam), "10.0.0.3");
    }

    #[test]
    fn a_range_is_kept_to() {
        let mut ipam = ipam("10.0.0.0/24", Some("10.0.0.128/30"));
        let given: Vec<_> = (0..5).map(|_| next(&mut ipam)).collect();
        assert_eq!(given[..4], ["10.0.0.128", "10.0.0.129", "10.0.0.130", "10.0.0.131"]);
        assert!(given[4].starts_with("no available"), "{given:?}");
        let mut last = ipam_range_at_the_end();
        assert_eq!([next(&mut last), next(&mut last), next(&mut last)], ["10.0.0.252", "10.0.0.253", "10.0.0.254"]);
        assert!(next(&mut last).starts_with("no available"), "the broadcast address is not given");
    }

    fn ipam_range_at_the_end() -> Ipam {
        ipam("10.0.0.0/24", Some("10.0.0.252/30"))
    }

    #[test]
    fn a_large_subnet_is_given_whole() {
        let mut ipam = ipam("10.0.0.0/20", None);
        let mut seen = BTreeSet::new();
        while let Ok(address) = ipam.allocate() {
            assert!(seen.insert(address), "{address} twice");
        }
        assert_eq!(seen.len(), 4096 - 3, "all but network, gateway and broadcast");
        let mut v6 = Ipam::new("fd00::/64".parse().unwrap(), None, [ip("fd00::1")]);
        assert_eq!(next(&mut v6), "fd00::2");
    }
}
