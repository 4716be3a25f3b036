//! A hash for machines: made for speed, as machines are looked up many times in each decision and no foe chooses them.

use std::hash::Hasher;

/// Any odd number with its bits well spread.
const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;

/// Multiplies and rotates, word by word.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mixer(u64);

impl Mixer {
    fn mix(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(FACTOR);
    }
}

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        // The table takes the lowest bits, and the highest ones are mixed best.
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for word in bytes.chunks(8) {
            let mut whole = [0; 8];
            for (byte, from) in whole.iter_mut().zip(word) {
                *byte = *from;
            }
            self.mix(u64::from_le_bytes(whole));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.mix(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.mix(value);
    }

    fn write_i64(&mut self, value: i64) {
        self.mix(value.cast_unsigned());
    }

    fn write_usize(&mut self, value: usize) {
        self.mix(value as u64);
    }
}
