//! Names of what an instance makes in the kernel. Each carries the instance's tag (eight hex digits), so that leftovers of a
//! crash are told from what belongs to others. A name has at most 15 bytes.

/// How many containers one bridge takes before another is joined to it. The kernel's limit is 1,023 ports.
pub const SEGMENT_MAX: usize = 1000;

/// What a name of ours stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A network's bridge.
    Bridge,
    /// The host's end of a container's interface.
    Port,
    /// A further bridge of a large network, or an end of the pair that joins it to the first.
    Segment,
}

/// The suffix: five characters out of `0-9a-z`, from a random or a unique number.
pub fn suffix(mut number: u64) -> String {
    let mut text = String::new();
    for _ in 0..5 {
        text.push(char::from_digit((number % 36) as u32, 36).unwrap_or('0'));
        number /= 36;
    }
    text
}

pub fn bridge(tag: &str, number: u64) -> String {
    format!("k{tag}-{}", suffix(number))
}

/// The default network's.
pub fn default_bridge(tag: &str) -> String {
    format!("k{tag}-0")
}

pub fn port(tag: &str, number: u64) -> String {
    format!("v{tag}-{}", suffix(number))
}

/// What the host's end of every container's interface begins with, and nothing else.
pub fn port_prefix(tag: &str) -> String {
    format!("v{tag}-")
}

/// The bridge that carries the subnet of this node's pods.
pub fn pod_bridge(tag: &str) -> String {
    format!("k{tag}-pods")
}

/// The VXLAN link to other machines' pods.
pub fn overlay(tag: &str) -> String {
    format!("x{tag}-pods")
}

/// What the host's end of every pod's interface begins with, and nothing else.
pub fn pod_prefix(tag: &str) -> String {
    format!("p{tag}-")
}

pub fn pod_wire(tag: &str, number: u64) -> String {
    format!("{}{}", pod_prefix(tag), suffix(number))
}

/// A further bridge of the network whose first bridge is `bridge`, and both ends of the pair between them: at the first
/// bridge, at the further one.
pub fn segment(tag: &str, bridge: &str, number: usize) -> [String; 3] {
    let hash = bridge.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let hash = suffix(u64::from(hash));
    let part = char::from_digit((number % 36) as u32, 36).unwrap_or('0');
    ["o", "s", "t"].map(|letter| format!("{letter}{tag}-{}{part}", &hash[..4]))
}

/// What an interface's name stands for, if it is this instance's.
pub fn kind(tag: &str, name: &str) -> Option<Kind> {
    let (letter, rest) = name.split_at_checked(1)?;
    rest.strip_prefix(tag)?.strip_prefix('-')?;
    match letter {
        "k" => Some(Kind::Bridge),
        "v" | "p" => Some(Kind::Port),
        "o" | "s" | "t" => Some(Kind::Segment),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_say_whose_they_are() {
        let tag = "0123abcd";
        let mut all = vec![bridge(tag, u64::MAX), default_bridge(tag), port(tag, 7), pod_bridge(tag), pod_wire(tag, 8)];
        all.extend(segment(tag, "mybridge", 3));
        for name in &all {
            assert!(name.len() <= 15, "{name}");
            assert!(kind(tag, name).is_some(), "{name}");
            assert_eq!(kind("ffffffff", name), None, "{name}");
        }
        for other in ["", "k", "docker0", "k0123abcd", "é0123abcd-1", "x0123abcd-00000"] {
            assert_eq!(kind(tag, other), None, "{other}");
        }
    }
}
