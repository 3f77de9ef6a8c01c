//! Container names: which are allowed, and how one is made up.

use crate::{Error, Result};

/// Checks a name that a caller gave, with or without its leading slash, and returns it without.
pub(crate) fn parse_name(name: &str) -> Result<&str> {
    let bare = name.strip_prefix('/').unwrap_or(name);
    let tail = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    let mut bytes = bare.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
    if first && bare.len() >= 2 && bytes.all(tail) {
        Ok(bare)
    } else {
        Err(Error::Invalid(format!("Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")))
    }
}

/// A made-up name for the `attempt`-th try; `random` chooses. Later tries get a digit, so that they end.
pub(crate) fn generate_name(random: u64, attempt: u32) -> String {
    let adjective = ADJECTIVES[(random % ADJECTIVES.len() as u64) as usize];
    let surname = SURNAMES[(random / ADJECTIVES.len() as u64 % SURNAMES.len() as u64) as usize];
    match attempt {
        0..4 => format!("{adjective}_{surname}"),
        _ => format!("{adjective}_{surname}{}", (random >> 32) % 10u64.pow(attempt.min(12) - 3)),
    }
}

const ADJECTIVES: [&str; 72] = [
    "able", "airy", "alert", "amber", "ample", "apt", "balmy", "bold", "brave", "breezy", "brisk", "buoyant", "calm",
    "candid", "cheery", "civil", "clear", "clever", "coastal", "crisp", "daring", "deft", "eager", "earnest", "fair",
    "fleet", "fresh", "gallant", "gentle", "glad", "golden", "handy", "hardy", "hearty", "honest", "jolly", "keen",
    "kind", "lively", "loyal", "lucid", "mellow", "merry", "mighty", "modest", "nimble", "noble", "patient", "placid",
    "plucky", "polar", "polite", "proud", "quick", "quiet", "ready", "robust", "salty", "serene", "sharp", "silver",
    "sleek", "snug", "sober", "steady", "stout", "sturdy", "sunny", "swift", "trusty", "vivid", "witty",
];

/// Sailors, explorers and people of science.
const SURNAMES: [&str; 72] = [
    "amundsen",
    "avicenna",
    "banks",
    "barents",
    "bering",
    "bernoulli",
    "bessel",
    "bohr",
    "boole",
    "bougainville",
    "brahe",
    "cabot",
    "cartier",
    "celsius",
    "chandrasekhar",
    "cook",
    "cousteau",
    "dampier",
    "darwin",
    "drake",
    "eriksson",
    "euler",
    "faraday",
    "fermat",
    "fermi",
    "flinders",
    "franklin",
    "frobisher",
    "fourier",
    "galileo",
    "gama",
    "gauss",
    "germain",
    "halley",
    "hedin",
    "henson",
    "hilbert",
    "hooke",
    "hopper",
    "hubble",
    "hudson",
    "humboldt",
    "joule",
    "kepler",
    "kovalevskaya",
    "lagrange",
    "laperouse",
    "leavitt",
    "leibniz",
    "linnaeus",
    "lovelace",
    "magellan",
    "maury",
    "maxwell",
    "meitner",
    "mercator",
    "nansen",
    "napier",
    "noether",
    "nordenskiold",
    "ohm",
    "pascal",
    "peary",
    "planck",
    "polo",
    "ramanujan",
    "ross",
    "shackleton",
    "tasman",
    "turing",
    "vespucci",
    "wegener",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_dockers_rule() {
        for good in ["ab", "/ab", "a.b", "A-_.", "0x", &"a".repeat(300)] {
            assert_eq!(parse_name(good).unwrap(), good.trim_start_matches('/'));
        }
        for bad in ["", "/", "a", "-a", ".a", "_a", "a b", "a/b", "//ab", "..", "aé", "a\n", "a\0"] {
            let message = parse_name(bad).unwrap_err().to_string();
            assert_eq!(message, format!("Invalid container name ({bad}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"));
        }
    }

    #[test]
    fn made_up_names_are_valid_and_later_tries_differ() {
        for random in [0, 1, 71, 72, 5183, u64::MAX, 0x1234_5678_9abc_def0] {
            for attempt in 0..30 {
                let name = generate_name(random, attempt);
                assert_eq!(parse_name(&name).unwrap(), name);
                assert_eq!(attempt >= 4, name.ends_with(|c: char| c.is_ascii_digit()), "{name}");
            }
        }
    }
}
