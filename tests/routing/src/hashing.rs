//! Fast, fixed hashing. The standard library's default hasher is slower and randomly seeded.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// Map with integer keys.
pub(crate) type IntMap<V> = HashMap<u64, V, BuildHasherDefault<IntHasher>>;

#[derive(Default)]
pub(crate) struct IntHasher(u64);

impl Hasher for IntHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = mix(self.0, value);
    }
}

/// Combines a hash with a value. Not for untrusted input.
pub(crate) fn mix(hash: u64, value: u64) -> u64 {
    let product = u128::from(hash ^ value ^ MULTIPLIER) * u128::from(MULTIPLIER | (value << 1));
    ((product >> 64) as u64) ^ (product as u64)
}
