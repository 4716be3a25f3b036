//! What wire messages are made of when chance makes them: values at the edges, texts that are none, bytes that were others.

use atoll_wire::v1;
use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _};

/// Texts that somebody may take for something else.
const TEXTS: &[&str] = &[
    "",
    "a",
    "default",
    "n-0",
    "10.0.0.1",
    "::1",
    "2.50",
    "-1",
    "0.000001",
    "a.b",
    "..",
    "../x",
    "a/b",
    "A",
    "-a",
    "a-",
    "\u{0}",
    "a\nb",
    "\u{1b}[31m",
    "\u{202e}",
    "ä",
    "%00",
    "{}",
    "null",
    "train-1",
    "uid-train",
    "site-a",
    "GPU-1",
];

/// One of these, or one at an edge, or any.
pub fn number(random: &mut StdRng, usual: u64) -> u64 {
    match random.random_range(0..8) {
        0 => 0,
        1 => u64::MAX,
        2 => u64::from(u32::MAX),
        3 => i64::MAX.unsigned_abs(),
        4 => random.random(),
        _ => usual,
    }
}

/// The usual text mostly; else one that should not be there, sometimes a long one.
pub fn text(random: &mut StdRng, usual: &str) -> String {
    match random.random_range(0..10) {
        0 => TEXTS.get(random.random_range(0..TEXTS.len())).copied().unwrap_or_default().to_owned(),
        1 => "x".repeat(random.random_range(0..700)),
        2 => (0..random.random_range(0..9)).map(|_| random.random::<char>()).collect(),
        _ => usual.to_owned(),
    }
}

/// A key of a slice.
pub fn key(random: &mut StdRng, usual: &v1::SliceKey) -> Option<v1::SliceKey> {
    if random.random_bool(0.02) {
        return None;
    }
    Some(v1::SliceKey {
        namespace: text(random, &usual.namespace),
        name: text(random, &usual.name),
        cluster_uid: text(random, &usual.cluster_uid),
    })
}

/// Changes some bytes, or many: flips, cuts, repeats, puts others between.
pub fn mutate(random: &mut StdRng, bytes: &mut Vec<u8>) {
    for _ in 0..random.random_range(1..=4) {
        let at = random.random_range(0..=bytes.len());
        match random.random_range(0..6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            1 if at < bytes.len() => bytes[at] = random.random(),
            2 => bytes.truncate(at),
            3 => {
                let piece: Vec<u8> = bytes.iter().skip(at).take(random.random_range(0..64)).copied().collect();
                let to = random.random_range(0..=bytes.len());
                bytes.splice(to..to, piece);
            }
            4 => {
                let mut piece = vec![0; random.random_range(1..12)];
                random.fill_bytes(&mut piece);
                bytes.splice(at..at, piece);
            }
            // A number as long as one can be.
            _ => drop(bytes.splice(at..at, [0xff; 9].into_iter().chain([0x01]))),
        }
    }
}
