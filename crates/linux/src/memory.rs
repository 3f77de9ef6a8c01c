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
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for (start, length) in never_written(&maps, &own.to_string_lossy()) {
        // SAFETY: the range is a private mapping of our own program that was never writable, so that every page of it reads the same after it was
        // dropped: it comes from the file, which is held in place by being executed.
        unsafe {
            libc::madvise(start as *mut c_void, length, libc::MADV_DONTNEED);
        }
    }
}

/// For a process that keeps very many small things for long, made by several threads: heaps of the C library that are few and grow by
/// large steps. Each thread's own heap would grow page by page, with a call of the kernel for each, and would keep what is short-lived
/// among what stays. To be called before threads are started.
pub fn expect_much() {
    #[cfg(target_env = "gnu")]
    {
        // One for each thread that runs at a time, and some to spare: threads that share one wait for each other at every turn.
        let heaps = std::thread::available_parallelism().map_or(4, |count| count.get() + 2);
        for (option, value) in [
            (libc::M_ARENA_MAX, heaps as i32),
            (libc::M_TOP_PAD, 1 << 20),
            (libc::M_TRIM_THRESHOLD, 16 << 20),
            (libc::M_MMAP_THRESHOLD, 1 << 20),
            // No list of small pieces that are put together all at once whenever somebody wants a large one, as every answer does.
            (libc::M_MXFAST, 0),
        ] {
            // SAFETY: takes two numbers, and has no other precondition than that no other thread allocates meanwhile, which callers heed.
            unsafe {
                libc::mallopt(option, value);
            }
        }
    }
}

/// Address and length of those parts of the program that have never been writable, from the text of `/proc/PID/maps`: its code, and what lies
/// below it (the linker's first segment: headers and constants). What is read-only above the code may have been written while the program was
/// started and protected afterwards, so that its pages are not the file's.
fn never_written(maps: &str, program: &str) -> Vec<(usize, usize)> {
    let mut below = Vec::new();
    for line in maps.lines() {
        match part(line, program) {
            Some(("r-xp", start, length)) => {
                below.push((start, length));
                return below;
            }
            Some(("r--p", start, length)) => below.push((start, length)),
            // Whatever this layout is, it is not the one that is meant here.
            Some(_) => return Vec::new(),
            None => {}
        }
    }
    Vec::new()
}

/// Rights, address and length of a line, if it is a part of the program.
fn part<'a>(line: &'a str, program: &str) -> Option<(&'a str, usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (range, rights) = (fields.next()?, fields.next()?);
    // Offset, device, inode.
    let path = fields.nth(3)?;
    if path != program {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    Some((rights, start, end.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_never_writable_is_dropped() {
        let constants = "00200000-0036a000 r--p 00000000 fe:00 12 /bin/knarr\n";
        let code = "0036a000-00902000 r-xp 00169000 fe:00 12 /bin/knarr\n";
        let protected = "00902000-00910000 r--p 00700000 fe:00 12 /bin/knarr\n";
        let data = "00910000-00920000 rw-p 0070e000 fe:00 12 /bin/knarr\n";
        let others = "7f00-7f10 r-xp 00000000 fe:00 13 /bin/other\n7f10-7f20 r-xp 00000000 00:00 0 [vdso]\n\n";
        let (low, high) = ((0x20_0000, 0x16_a000), (0x36_a000, 0x59_8000));
        let check = |lines: &[&str], wanted: &[(usize, usize)]| {
            assert_eq!(never_written(&lines.concat(), "/bin/knarr"), wanted, "{lines:?}");
        };
        check(&[constants, code, protected, data, others], &[low, high]);
        check(&[others, code, constants], &[high]);
        check(&[constants, data, code], &[]);
        check(&[constants, others], &[]);
        check(&[], &[]);
    }

    #[test]
    fn a_program_goes_on_after_it() {
        let text = vec![7u8; 1 << 20];
        drop(text.clone());
        give_back();
        assert!(text.iter().all(|b| *b == 7));
    }
}
