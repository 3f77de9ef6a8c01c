//! Identifiers that nobody guesses.

use sha2::{Digest as _, Sha256};
use std::sync::atomic::{AtomicU64, Ordering};

/// 25 letters and digits, as BuildKit's are.
pub(crate) fn new() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut random = [0u8; 32];
    // A kernel always has some; without it the counter still makes each different.
    let _ = std::fs::File::open("/dev/urandom").and_then(|mut file| std::io::Read::read_exact(&mut file, &mut random));
    let mut hash = Sha256::new();
    hash.update(random);
    hash.update(NEXT.fetch_add(1, Ordering::Relaxed).to_le_bytes());
    let letters = b"abcdefghijklmnopqrstuvwxyz0123456789";
    hash.finalize().iter().take(25).map(|byte| letters[*byte as usize % letters.len()] as char).collect()
}
