//! Blocks of addresses: `10.0.0.0/8`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block {
    first: IpAddr,
    prefix: u8,
}

/// An address as a number.
pub fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

pub fn address(number: u128, ipv4: bool) -> IpAddr {
    match ipv4 {
        true => Ipv4Addr::from(number as u32).into(),
        false => Ipv6Addr::from(number).into(),
    }
}

pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

impl Block {
    /// The block of this prefix that the address lies in.
    pub fn of(within: IpAddr, prefix: u8) -> Option<Self> {
        let bits: u32 = if within.is_ipv4() { 32 } else { 128 };
        let host =
            bits.checked_sub(u32::from(prefix)).map(|host| 1u128.checked_shl(host).map_or(u128::MAX, |n| n - 1))?;
        Some(Self { first: address(number(within) & !host, within.is_ipv4()), prefix })
    }

    pub fn parse(text: &str) -> Option<Self> {
        let (within, prefix) = text.trim().split_once('/')?;
        Self::of(within.parse().ok()?, prefix.parse().ok()?)
    }

    pub fn is_ipv4(&self) -> bool {
        self.first.is_ipv4()
    }

    pub fn first(&self) -> IpAddr {
        self.first
    }

    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    fn host_bits(&self) -> u128 {
        let bits: u32 = if self.is_ipv4() { 32 } else { 128 };
        1u128.checked_shl(bits - u32::from(self.prefix)).map_or(u128::MAX, |n| n - 1)
    }

    /// First and last address as numbers.
    pub fn ends(&self) -> (u128, u128) {
        let first = number(self.first);
        (first, first | self.host_bits())
    }

    pub fn contains(&self, other: IpAddr) -> bool {
        let (first, last) = self.ends();
        other.is_ipv4() == self.is_ipv4() && (first..=last).contains(&number(other))
    }

    /// The bits that count, as a header's bytes.
    pub fn mask(&self) -> Vec<u8> {
        octets(address(!self.host_bits(), self.is_ipv4()))
    }

    pub fn octets(&self) -> Vec<u8> {
        octets(self.first)
    }
}

impl std::fmt::Display for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

/// Ranges, both ends included, without overlaps and neighbours: what `add` has and `without` has not.
pub fn merged(add: &[(u128, u128)], without: &[(u128, u128)]) -> Vec<(u128, u128)> {
    let mut sorted = add.to_vec();
    sorted.sort_unstable();
    let mut whole: Vec<(u128, u128)> = Vec::new();
    for (first, last) in sorted {
        match whole.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = (*end).max(last),
            _ => whole.push((first, last)),
        }
    }
    let mut holes = without.to_vec();
    holes.sort_unstable();
    for (low, high) in holes {
        let mut left = Vec::new();
        for (first, last) in whole {
            if high < first || last < low {
                left.push((first, last));
                continue;
            }
            if first < low {
                left.push((first, low - 1));
            }
            if high < last {
                left.push((high + 1, last));
            }
        }
        whole = left;
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_have_ends_and_masks() {
        let block = Block::parse("10.1.2.3/22").unwrap();
        assert_eq!((block.to_string(), block.mask()), ("10.1.0.0/22".into(), vec![255, 255, 252, 0]));
        assert!(block.contains("10.1.3.255".parse().unwrap()) && !block.contains("10.1.4.0".parse().unwrap()));
        assert!(!block.contains("::1".parse().unwrap()));
        assert_eq!(Block::parse("0.0.0.0/0").unwrap().ends(), (0, u128::from(u32::MAX)));
        assert_eq!(Block::parse("::/0").unwrap().ends(), (0, u128::MAX));
        assert_eq!(Block::parse("fd00::1/128").unwrap().mask(), vec![255; 16]);
        for bad in ["10.0.0.0", "10.0.0.0/33", "x/8", "::/129", "10.0.0.0/-1"] {
            assert_eq!(Block::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn ranges_merge_and_lose_their_holes() {
        assert_eq!(merged(&[(5, 9), (1, 4), (20, 30), (25, 40)], &[]), [(1, 9), (20, 40)]);
        assert_eq!(merged(&[(0, 100)], &[(10, 19), (90, 200)]), [(0, 9), (20, 89)]);
        assert_eq!(merged(&[(0, u128::MAX)], &[(0, 0), (u128::MAX, u128::MAX)]), [(1, u128::MAX - 1)]);
        assert_eq!(merged(&[(3, 5)], &[(0, 9)]), []);
    }
}
