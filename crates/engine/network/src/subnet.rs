//! Subnets: address arithmetic, and which one a new network gets.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::NetworkError;

/// A network address and the length of its prefix (RFC 4632), host bits zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subnet {
    address: IpAddr,
    prefix: u8,
}

impl Subnet {
    /// The subnet that `address` lies in: host bits are cleared. `None` if the prefix is too long.
    pub fn of(address: IpAddr, prefix: u8) -> Option<Self> {
        if prefix > bits(address) {
            return None;
        }
        let kept = mask(bits(address), prefix);
        Some(Self { address: from_number(number(address) & kept, address), prefix })
    }

    pub fn address(&self) -> IpAddr {
        self.address
    }

    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    pub fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        Self::of(address, self.prefix).as_ref() == Some(self)
    }

    pub fn overlaps(&self, other: &Self) -> bool {
        let shorter = self.prefix.min(other.prefix);
        Self::of(self.address, shorter) == Self::of(other.address, shorter)
    }

    /// Number of addresses, saturating for IPv6.
    pub fn size(&self) -> u128 {
        1u128.checked_shl(u32::from(bits(self.address) - self.prefix)).unwrap_or(u128::MAX)
    }

    /// The address at an offset; `None` outside of the subnet.
    pub fn nth(&self, offset: u128) -> Option<IpAddr> {
        (offset < self.size()).then(|| from_number(number(self.address) + offset, self.address))
    }

    pub fn offset(&self, address: IpAddr) -> Option<u128> {
        self.contains(address).then(|| number(address) - number(self.address))
    }

    /// Whether a container may have this address: not the network's own and not the broadcast address.
    pub fn is_host(&self, address: IpAddr) -> bool {
        match self.offset(address) {
            None => false,
            Some(_) if self.is_ipv4() && self.prefix >= 31 => true,
            Some(0) => false,
            Some(offset) => !self.is_ipv4() || offset != self.size() - 1,
        }
    }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn mask(bits: u8, prefix: u8) -> u128 {
    let all = if bits == 32 { u128::from(u32::MAX) } else { u128::MAX };
    match bits - prefix {
        128 => 0,
        host => all >> host << host,
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

fn from_number(number: u128, like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::from(number as u32).into(),
        IpAddr::V6(_) => Ipv6Addr::from(number).into(),
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let bad = || NetworkError::BadSubnet(text.chars().take(100).collect());
        let (address, prefix) = text.split_once('/').ok_or_else(bad)?;
        // "+16" and "016" are numbers to Rust, and a second name for one subnet.
        if prefix.is_empty()
            || prefix.len() > 3
            || !prefix.bytes().all(|b| b.is_ascii_digit())
            || (prefix.len() > 1 && prefix.starts_with('0'))
        {
            return Err(bad());
        }
        let prefix = prefix.parse().map_err(|_| bad())?;
        Self::of(address.parse().map_err(|_| bad())?, prefix).ok_or_else(bad)
    }
}

impl Serialize for Subnet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Subnet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Docker's default pools: 172.17-31.0.0/16, then 192.168.0.0/16 in parts of /20.
fn default_pools() -> impl Iterator<Item = Subnet> {
    let v4 = |a, b, c, prefix| Subnet { address: Ipv4Addr::new(a, b, c, 0).into(), prefix };
    (17..=31).map(move |b| v4(172, b, 0, 16)).chain((0..16).map(move |c| v4(192, 168, c * 16, 20)))
}

/// The first default subnet that overlaps neither with another network nor with a route of this machine.
pub fn choose_pool(taken: &[Subnet]) -> Result<Subnet, NetworkError> {
    default_pools().find(|pool| !taken.iter().any(|other| other.overlaps(pool))).ok_or(NetworkError::PoolsExhausted)
}

/// The first free /64 of this machine's unique local prefix (RFC 4193), whose 40 bits come from `seed`.
pub fn unique_local(seed: &str, taken: &[Subnet]) -> Result<Subnet, NetworkError> {
    let hash = seed
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    let base = 0xfd_u128 << 120 | u128::from(hash >> 24) << 80;
    let subnets = (0..1u128 << 16).map(|n| Subnet { address: Ipv6Addr::from(base | n << 64).into(), prefix: 64 });
    subnets.into_iter().find(|pool| !taken.iter().any(|other| other.overlaps(pool))).ok_or(NetworkError::PoolsExhausted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn subnets_read_back_with_host_bits_cleared() {
        for (text, shown) in [
            ("172.17.0.0/16", "172.17.0.0/16"),
            ("10.1.2.3/24", "10.1.2.0/24"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("fd00:1::5/64", "fd00:1::/64"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(subnet(text).to_string(), shown);
        }
        for bad in
            ["", "10.0.0.0", "10.0.0.0/33", "10.0.0/8", "::/129", "10.0.0.0/+8", "10.0.0.0/08", "10.0.0.0/-1", "x/8"]
        {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
    }

    #[test]
    fn overlap_is_one_holding_the_other() {
        for (one, other, expected) in [
            ("10.0.0.0/8", "10.200.0.0/16", true),
            ("10.0.0.0/9", "10.128.0.0/9", false),
            ("10.0.0.0/8", "fd00::/8", false),
            ("0.0.0.0/0", "192.168.0.0/16", true),
        ] {
            assert_eq!(subnet(one).overlaps(&subnet(other)), expected, "{one} {other}");
            assert_eq!(subnet(other).overlaps(&subnet(one)), expected, "{other} {one}");
        }
    }

    #[test]
    fn network_and_broadcast_are_not_for_containers() {
        let rows = [
            ("10.0.0.0/24", "10.0.0.0", false),
            ("10.0.0.0/24", "10.0.0.1", true),
            ("10.0.0.0/24", "10.0.0.255", false),
            ("10.0.0.0/24", "10.0.1.1", false),
            ("10.0.0.0/31", "10.0.0.0", true),
            ("fd00::/64", "fd00::ffff:ffff:ffff:ffff", true),
            ("fd00::/64", "fd00::", false),
        ];
        for (net, address, expected) in rows {
            assert_eq!(subnet(net).is_host(address.parse().unwrap()), expected, "{address} in {net}");
        }
    }

    #[test]
    fn a_pool_avoids_what_is_taken() {
        assert_eq!(choose_pool(&[]).unwrap(), subnet("172.17.0.0/16"));
        assert_eq!(choose_pool(&[subnet("172.17.0.0/16"), subnet("172.18.5.0/24")]).unwrap(), subnet("172.19.0.0/16"));
        assert_eq!(choose_pool(&[subnet("172.16.0.0/12")]).unwrap(), subnet("192.168.0.0/20"));
        assert_eq!(choose_pool(&[subnet("0.0.0.0/0")]), Err(NetworkError::PoolsExhausted));
    }
}
