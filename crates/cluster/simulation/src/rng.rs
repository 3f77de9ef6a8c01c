//! Random decisions from a seed.

use vocab::world::split_mix;

#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        let mut state = seed;
        // Neighbouring seeds begin far apart.
        Self(split_mix(&mut state))
    }

    pub fn next(&mut self) -> u64 {
        split_mix(&mut self.0)
    }

    /// A stream of its own, so that what one part draws does not shift what another gets.
    pub fn fork(&mut self) -> Self {
        Self(self.next())
    }

    /// From 0 up to but without `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        if end == 0 { 0 } else { self.next() % end }
    }

    /// From `low` through `high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}
