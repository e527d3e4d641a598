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

    /// Any word.
    pub fn word(&mut self) -> u64 {
        self.next() << 32 ^ self.next()
    }

    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next().to_le_bytes()[0]).collect()
    }

    pub fn choose<'a, T>(&mut self, among: &'a [T]) -> &'a T {
        &among[self.below(among.len())]
    }
}

/// A seed for everything that a test draws: `OSPS_SEED`, else a fresh one.
pub fn seed() -> u64 {
    let given = std::env::var("OSPS_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| now().0)
}

/// The same, told: `what` says who draws from it.
pub fn told_seed(what: &str) -> u64 {
    let seed = seed();
    eprintln!("OSPS_SEED={seed} ({what})");
    seed
}
