//! Memory that a process has and does not need.

use std::ffi::c_void;

/// Gives back what the C library's heap keeps although it is free, and unmaps the program's own code and constants, of which far more was
/// touched on the way here than is needed to go on. They stay in the page cache, and what is used next comes back by a fault.
///
/// Takes some milliseconds; for a process that has become idle.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: has no preconditions; it takes the heap's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
    let own = std::fs::read_link("/proc/self/exe").unwrap_or_default();
    for line in std::fs::read_to_string("/proc/self/maps").unwrap_or_default().lines() {
        let Some((start, length)) = program_part(line, &own.to_string_lossy()) else { continue };
        // SAFETY: the range is a private mapping of our own program that was never writable, so that every page of it reads the same after it was
        // dropped: it comes from the file, which is held in place by being executed.
        unsafe {
            libc::madvise(start as *mut c_void, length, libc::MADV_DONTNEED);
        }
    }
}

/// Address and length of a line of `/proc/PID/maps`, if it is a part of the program that cannot be written.
fn program_part(line: &str, program: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (range, rights) = (fields.next()?, fields.next()?);
    // Offset, device, inode.
    let path = fields.nth(3)?;
    if path != program || !matches!(rights, "r-xp" | "r--p") {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    Some((start, end.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_the_programs_and_cannot_be_written_is_dropped() {
        let rows = [
            ("00200000-0036a000 r--p 00000000 fe:00 12 /bin/knarr", Some((0x20_0000, 0x16_a000))),
            ("0036a000-00902000 r-xp 00169000 fe:00 12 /bin/knarr", Some((0x36_a000, 0x59_8000))),
            ("00902000-00910000 rw-p 00700000 fe:00 12 /bin/knarr", None),
            ("7f00-7f10 r-xp 00000000 fe:00 13 /bin/other", None),
            ("7f00-7f10 r--p 00000000 00:00 0 ", None),
            ("7f00-7f10 r-xp 00000000 00:00 0 [vdso]", None),
            ("", None),
        ];
        for (line, wanted) in rows {
            assert_eq!(program_part(line, "/bin/knarr"), wanted, "{line}");
        }
    }

    #[test]
    fn a_program_goes_on_after_it() {
        let text = vec![7u8; 1 << 20];
        drop(text.clone());
        give_back();
        assert!(text.iter().all(|b| *b == 7));
    }
}
