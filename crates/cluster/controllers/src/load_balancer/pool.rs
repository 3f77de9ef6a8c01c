//! Addresses from which services get theirs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Both ends belong to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolRange {
    pub first: IpAddr,
    pub last: IpAddr,
}

impl PoolRange {
    /// `192.0.2.10-192.0.2.20`, `192.0.2.0/28` or one address.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no range of addresses: FIRST-LAST, ADDRESS/PREFIX or ADDRESS");
        let address = |text: &str| text.trim().parse::<IpAddr>().map_err(|_| wrong());
        if let Some((first, last)) = text.split_once('-') {
            let (first, last) = (address(first)?, address(last)?);
            let ordered = first.is_ipv4() == last.is_ipv4() && first <= last;
            return if ordered { Ok(Self { first, last }) } else { Err(wrong()) };
        }
        let Some((base, prefix)) = text.split_once('/') else {
            let one = address(text)?;
            return Ok(Self { first: one, last: one });
        };
        let (base, prefix) = (address(base)?, prefix.parse::<u32>().map_err(|_| wrong())?);
        match base {
            IpAddr::V4(base) if prefix <= 32 => {
                let host = u32::MAX.checked_shr(prefix).unwrap_or(0);
                let first = u32::from(base) & !host;
                Ok(Self { first: Ipv4Addr::from(first).into(), last: Ipv4Addr::from(first | host).into() })
            }
            IpAddr::V6(base) if prefix <= 128 => {
                let host = u128::MAX.checked_shr(prefix).unwrap_or(0);
                let first = u128::from(base) & !host;
                Ok(Self { first: Ipv6Addr::from(first).into(), last: Ipv6Addr::from(first | host).into() })
            }
            _ => Err(wrong()),
        }
    }

    pub(super) fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.first.is_ipv4() && self.first <= address && address <= self.last
    }

    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let number = |address: IpAddr| match address {
            IpAddr::V4(address) => u128::from(u32::from(address)),
            IpAddr::V6(address) => u128::from(address),
        };
        let ipv4 = self.first.is_ipv4();
        (number(self.first)..=number(self.last)).map(move |number| match ipv4 {
            true => Ipv4Addr::from(number as u32).into(),
            false => Ipv6Addr::from(number).into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_strictly() {
        for bad in ["", "x", "10.0.0.2-10.0.0.1", "10.0.0.1-::1", "10.0.0.0/33", "10.0.0.0/x"] {
            assert!(PoolRange::parse(bad).is_err(), "{bad}");
        }
        let all: Vec<String> = PoolRange::parse("10.0.0.6/30").unwrap().addresses().map(|ip| ip.to_string()).collect();
        assert_eq!(all, ["10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.7"]);
    }
}
