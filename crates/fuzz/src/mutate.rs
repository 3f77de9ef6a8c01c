//! New inputs from old ones.

/// A small generator: the same seed, the same numbers, on every machine (splitmix64).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`; 0 if `end` is 0.
    pub const fn below(&mut self, end: usize) -> usize {
        if end == 0 { 0 } else { (self.next() % end as u64) as usize }
    }

    fn of<'a, T>(&mut self, list: &'a [T]) -> Option<&'a T> {
        let n = self.below(list.len());
        list.get(n)
    }
}

const BYTES: [u8; 16] = [0, 1, 0x7f, 0x80, 0xff, b' ', b'\n', b'"', b'\\', b'/', b'.', b'-', b'0', b'{', b'[', b':'];
const NUMBERS: [&str; 18] = [
    "0",
    "-1",
    "-0",
    "1",
    "127",
    "255",
    "256",
    "65535",
    "65536",
    "2147483647",
    "2147483648",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551616",
    "1e400",
    "0.5",
];

/// One input from the pool, changed in one to eight ways.
pub fn mutate(random: &mut Random, pool: &[Vec<u8>], words: &[Vec<u8>], longest: usize, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(random.of(pool).map_or(&[][..], Vec::as_slice));
    for _ in 0..1 << random.below(4) {
        change(random, pool, words, out);
        out.truncate(longest);
    }
}

fn change(random: &mut Random, pool: &[Vec<u8>], words: &[Vec<u8>], out: &mut Vec<u8>) {
    let at = random.below(out.len() + 1);
    let end = (at + 1 + random.below(32)).min(out.len());
    match random.below(12) {
        0 if at < out.len() => out[at] ^= 1 << random.below(8),
        1 if at < out.len() => out[at] = random.of(&BYTES).copied().unwrap_or_default(),
        2 if at < out.len() => out[at] = random.next() as u8,
        3 if at < end => drop(out.drain(at..end)),
        4 if at < end => {
            let copy = out[at..end].to_vec();
            insert(out, at, &copy);
        }
        5 => insert(out, at, &[random.of(&BYTES).copied().unwrap_or_default()]),
        6 | 7 if !words.is_empty() => {
            let word = random.of(words).cloned().unwrap_or_default();
            if random.below(2) == 0 {
                out.drain(at..(at + word.len()).min(out.len()));
            }
            insert(out, at, &word);
        }
        // A number of the text becomes one at an edge.
        8 => {
            let number = random.of(&NUMBERS).copied().unwrap_or("0");
            if let Some(from) = out[at..].iter().position(u8::is_ascii_digit).map(|n| n + at) {
                let to = out[from..].iter().position(|b| !b.is_ascii_digit()).map_or(out.len(), |n| n + from);
                out.splice(from..to, number.bytes());
            }
        }
        // The beginning of this one, the end of another.
        9 => {
            let other = random.of(pool).map_or(&[][..], Vec::as_slice);
            let from = random.below(other.len() + 1);
            out.truncate(at);
            out.extend_from_slice(&other[from..]);
        }
        // The same again and again: depth and length.
        10 if at < end => {
            let part = out[at..(at + 1 + random.below(4)).min(out.len())].to_vec();
            let times = 1 << random.below(10);
            insert(out, at, &part.repeat(times));
        }
        _ => {
            let other = random.of(pool).map_or(&[][..], Vec::as_slice);
            let from = random.below(other.len() + 1);
            let part = &other[from..(from + 1 + random.below(64)).min(other.len())];
            insert(out, at, part);
        }
    }
}

fn insert(out: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    out.splice(at..at, bytes.iter().copied());
}
