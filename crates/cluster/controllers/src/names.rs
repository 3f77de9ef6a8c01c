//! Names of what controllers make: from a seed, so that a simulation replays them; and hashes of templates.

use resources::Value;

/// Letters and digits that spell no words.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// A source of name suffixes.
#[derive(Debug, Clone)]
pub struct Names {
    state: u64,
}

impl Names {
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Five letters and digits.
    pub fn suffix(&mut self) -> String {
        // splitmix64.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        spell(mixed ^ (mixed >> 31), 5)
    }
}

/// The hash of a template that distinguishes the replica sets of a deployment; `collisions` makes it another one.
pub fn template_hash(template: &Value, collisions: i64) -> String {
    let text = format!("{template}{collisions}");
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    spell(hash ^ (hash >> 29), 10)
}

fn spell(mut number: u64, letters: usize) -> String {
    let base = LETTERS.len() as u64;
    let mut text = String::with_capacity(letters);
    for _ in 0..letters {
        text.push(char::from(LETTERS[(number % base) as usize]));
        number /= base;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_from_the_seed_and_differ() {
        let (mut one, mut other) = (Names::new(7), Names::new(7));
        let first = one.suffix();
        assert_eq!(first, other.suffix());
        assert_ne!(first, one.suffix());
        assert_eq!(first.len(), 5);
        let template = serde_json::json!({"spec": {"containers": []}});
        assert_ne!(template_hash(&template, 0), template_hash(&template, 1));
        assert_eq!(template_hash(&template, 0).len(), 10);
    }
}
