//! Where the last n records begin, found from the end.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

const BLOCK: usize = 64 << 10;

/// The offset at which the last `wanted` complete lines of the first `end` bytes begin, and how many were found.
pub(super) fn tail_offset(file: &File, end: u64, wanted: u64) -> io::Result<(u64, u64)> {
    if wanted == 0 {
        return Ok((end, 0));
    }
    let mut block = vec![0; BLOCK];
    let mut seen = 0;
    let mut position = end;
    while position > 0 {
        let count = position.min(BLOCK as u64) as usize;
        position -= count as u64;
        let part = &mut block[..count];
        file.read_exact_at(part, position)?;
        for at in (0..count).rev().filter(|at| part[*at] == b'\n') {
            // The newline that ends the wanted-plus-first line is just before the first wanted one.
            if seen == wanted {
                return Ok((position + at as u64 + 1, seen));
            }
            seen += 1;
        }
    }
    Ok((0, seen))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn the_last_lines_are_found_across_blocks() {
        let mut file = tempfile::tempfile().unwrap();
        let mut starts = Vec::new();
        let mut text = Vec::new();
        for n in 0..3000 {
            starts.push(text.len() as u64);
            text.extend_from_slice(format!("{n}-{}\n", "x".repeat(n % 97)).as_bytes());
        }
        file.write_all(&text).unwrap();
        let end = text.len() as u64;
        for wanted in [1, 2, 3, 500, 1499, 2999, 3000] {
            let found = tail_offset(&file, end, wanted).unwrap();
            assert_eq!(found, (starts[3000 - wanted as usize], wanted), "{wanted}");
        }
        assert_eq!(tail_offset(&file, end, 0).unwrap(), (end, 0));
        assert_eq!(tail_offset(&file, end, 4000).unwrap(), (0, 3000));
        assert_eq!(tail_offset(&file, 0, 3).unwrap(), (0, 0));
    }
}
