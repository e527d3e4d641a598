//! What tests draw by chance: the same for the same seed.

use super::now;

/// Numbers from a seed: the same ones for the same seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        // Spread, since small seeds begin with small numbers; never 0, which stays 0.
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 11
    }

    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }
}

/// A seed for everything that a test draws: `OSPS_SEED`, else a fresh one.
pub fn seed() -> u64 {
    let given = std::env::var("OSPS_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| now().0)
}
