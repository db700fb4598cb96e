//! Almost valid inputs.

use rand::Rng;
use rand::rngs::StdRng;

/// Longest input, bytes.
const MAX_BYTES: usize = 16 << 10;

/// Lengths and counts that code gets wrong.
const NUMBERS: [u64; 12] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    u64::MAX,
];

/// Tokens that change the meaning of a text.
const WORDS: [&str; 18] = [
    "'",
    "\"",
    "(",
    ")",
    "[",
    "{",
    "- ",
    ": ",
    "&a ",
    "*a",
    "\n",
    "\0",
    "é",
    "SELECT ",
    "-- ",
    "$$",
    "9999999999",
    "null",
];

/// A sample with a few mistakes, some of them parts of another sample.
pub fn mutated(sample: &[u8], other: &[u8], random: &mut StdRng) -> Vec<u8> {
    let mut bytes = sample.to_vec();
    for _ in 0..random.random_range(1..=8) {
        mistake(&mut bytes, other, random);
        bytes.truncate(MAX_BYTES);
    }
    bytes
}

/// An offset between the bytes, and one a little after it.
fn range(length: usize, random: &mut StdRng) -> (usize, usize) {
    let from = random.random_range(0..=length);
    let most = (length - from).min(1 << random.random_range(0..10));
    (from, from + random.random_range(0..=most))
}

fn mistake(bytes: &mut Vec<u8>, other: &[u8], random: &mut StdRng) {
    let (from, to) = range(bytes.len(), random);
    match random.random_range(0..10) {
        0 | 1 if from < bytes.len() => bytes[from] ^= 1 << random.random_range(0..8),
        2 if from < bytes.len() => bytes[from] = random.random(),
        3 => bytes.truncate(from),
        4 => drop(bytes.drain(from..to)),
        5 => {
            let part = bytes[from..to].to_vec();
            let times = 1 << random.random_range(0..5);
            drop(bytes.splice(from..from, part.repeat(times)));
        }
        6 => {
            let number = NUMBERS[random.random_range(0..NUMBERS.len())].to_le_bytes();
            let width = [1, 2, 4, 8][random.random_range(0..4)];
            for (target, byte) in bytes.iter_mut().skip(from).zip(&number[..width]) {
                *target = *byte;
            }
        }
        7 => {
            let (start, end) = range(other.len(), random);
            drop(bytes.splice(from..to, other[start..end].iter().copied()));
        }
        8 => {
            let word = WORDS[random.random_range(0..WORDS.len())];
            drop(bytes.splice(from..from, word.bytes()));
        }
        _ => {
            let noise: Vec<u8> = (from..to).map(|_| random.random()).collect();
            drop(bytes.splice(from..to, noise));
        }
    }
}
