//! Maps of sparse files in GNU's four encodings, and the one check that all of them go through.

use super::Extent;
use super::header::{BLOCK, number};

/// A map with more pieces than this is an attack on memory.
pub(super) const EXTENTS_MAX: usize = 1 << 18;

/// Sorted, not overlapping, inside the file, and exactly as long as the payload.
pub(super) fn check(extents: &[Extent], size: u64, stored: u64) -> Result<(), String> {
    let mut end = 0u64;
    let mut sum = 0u64;
    for extent in extents {
        if extent.offset < end {
            return Err("sparse map is not in order".into());
        }
        end = extent.offset.checked_add(extent.len).ok_or("sparse map overflows")?;
        sum += extent.len;
    }
    if end > size {
        return Err(format!("sparse map reaches to {end}, the file to {size}"));
    }
    if sum != stored {
        return Err(format!("sparse map tells of {sum} bytes, the payload has {stored}"));
    }
    Ok(())
}

/// The pairs in a block of the old GNU format: four in the header at 386, twenty-one in an extension block at 0.
/// Returns whether another extension block follows.
pub(super) fn old_gnu(block: &[u8; BLOCK], in_header: bool, extents: &mut Vec<Extent>) -> Result<bool, String> {
    let (start, count, extended) = if in_header { (386, 4, 482) } else { (0, 21, 504) };
    let mut ended = false;
    for at in (0..count).map(|i| start + i * 24) {
        let (offset, len) = (&block[at..at + 12], &block[at + 12..at + 24]);
        if offset.iter().all(|b| *b == 0) || len.iter().all(|b| *b == 0) {
            ended = true;
            continue;
        }
        if ended {
            return Err("sparse map has a gap".into());
        }
        extents.push(Extent { offset: positive(offset)?, len: positive(len)? });
    }
    if extents.len() > EXTENTS_MAX {
        return Err("sparse map is too long".into());
    }
    match block[extended] {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(format!("sparse extension flag is {other}")),
    }
}

fn positive(field: &[u8]) -> Result<u64, String> {
    u64::try_from(number(field, "sparse map")?).map_err(|_| "sparse map has a negative number".into())
}

/// `GNU.sparse.map` (0.1): `offset,length,offset,length`.
pub(super) fn list(text: &[u8], count: Option<u64>) -> Result<Vec<Extent>, String> {
    let parts: Vec<&[u8]> = if text.is_empty() { Vec::new() } else { text.split(|b| *b == b',').collect() };
    pairs(parts.iter().copied(), count)
}

/// Offsets and lengths in turn (0.0 and 0.1).
pub(super) fn pairs<'a>(
    parts: impl ExactSizeIterator<Item = &'a [u8]>,
    count: Option<u64>,
) -> Result<Vec<Extent>, String> {
    let n = parts.len();
    if !n.is_multiple_of(2) || n / 2 > EXTENTS_MAX || count.is_some_and(|count| count != n as u64 / 2) {
        return Err("sparse map has the wrong number of parts".into());
    }
    let numbers = parts.map(decimal).collect::<Option<Vec<u64>>>().ok_or("sparse map is no list of numbers")?;
    Ok(numbers.chunks_exact(2).map(|pair| Extent { offset: pair[0], len: pair[1] }).collect())
}

pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 19 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The map at the start of the payload (1.0): lines of decimal numbers, padded to a block.
#[derive(Default)]
pub(super) struct InData {
    line: Vec<u8>,
    numbers: Vec<u64>,
}

impl InData {
    /// Takes one block; true when the map is complete.
    pub(super) fn block(&mut self, block: &[u8]) -> Result<bool, String> {
        for byte in block {
            if self.wanted() == Some(self.numbers.len()) {
                return Ok(true);
            }
            match byte {
                b'\n' => {
                    let number = decimal(&self.line).ok_or("sparse map in the data is no list of numbers")?;
                    if self.numbers.is_empty() && number > EXTENTS_MAX as u64 {
                        return Err("sparse map is too long".into());
                    }
                    self.numbers.push(number);
                    self.line.clear();
                }
                _ if self.line.len() > 19 => return Err("sparse map in the data is no list of numbers".into()),
                digit => self.line.push(*digit),
            }
        }
        Ok(self.wanted() == Some(self.numbers.len()))
    }

    /// How many numbers there will be: the count and two for each piece.
    fn wanted(&self) -> Option<usize> {
        self.numbers.first().map(|count| 1 + 2 * *count as usize)
    }

    pub(super) fn extents(self) -> Vec<Extent> {
        self.numbers[1..].chunks_exact(2).map(|pair| Extent { offset: pair[0], len: pair[1] }).collect()
    }
}
