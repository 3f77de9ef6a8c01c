//! Whose heap a process uses, and memory that it has and does not need.
//!
//! A cluster's API keeps very many small things for long, made by several threads and freed by others. The C library's heap takes a third of the
//! time of a write for that, and the kernel more, as the threads' heaps grow page by page; mimalloc takes half of it. But mimalloc writes to
//! seventy pages before its first answer, which every command would feel, and a container's start thrice. So each process has the heap that
//! suits it: see docs/decisions/0012.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering};

use mimalloc::MiMalloc;

unsafe extern "C" {
    /// mimalloc's own name for giving back; its crate does not have it.
    fn mi_collect(force: bool);
}

/// The program's heap: mimalloc's in the role that is [`KEEPS_MUCH`], else the C library's.
pub struct Allocator;

/// The command of a process that keeps a cluster.
const KEEPS_MUCH: &[u8] = b"server";

/// Decided once, before anything is allocated: what one heap gave must never be returned to the other.
static KEEPS: AtomicBool = AtomicBool::new(false);

/// Whether a program that was called so keeps much.
fn keeps_much<'a>(mut words: impl Iterator<Item = &'a [u8]>) -> bool {
    words.nth(1) == Some(KEEPS_MUCH)
}

extern "C" fn decide(count: c_int, words: *const *const c_char, _environment: *const *const c_char) {
    let count = usize::try_from(count).unwrap_or(0);
    // SAFETY: glibc hands its initialisers what it hands to `main`: `count` pointers to strings that end in a zero and are never freed.
    let words = (0..count).map(|at| unsafe { CStr::from_ptr(*words.add(at)) }.to_bytes());
    KEEPS.store(keeps_much(words), Ordering::Relaxed);
}

/// glibc calls initialisers in the order of their numbers, with the arguments of `main`. Rust's own has 99 and does not allocate; other C
/// libraries hand over nothing, and their heap is used.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[used]
// SAFETY: the section is an array of pointers to functions of this type, and this is one.
#[unsafe(link_section = ".init_array.00098")]
static DECIDE: extern "C" fn(c_int, *const *const c_char, *const *const c_char) = decide;

// SAFETY: both heaps keep the contract of `GlobalAlloc`, and whichever answers the first call answers all: `KEEPS` is written once, before `main`
// and before any allocation, by the only thread.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: what the caller promises is what is asked for here; so in the three below.
        unsafe { if KEEPS.load(Ordering::Relaxed) { MiMalloc.alloc(layout) } else { System.alloc(layout) } }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe {
            if KEEPS.load(Ordering::Relaxed) { MiMalloc.alloc_zeroed(layout) } else { System.alloc_zeroed(layout) }
        }
    }

    #[inline]
    unsafe fn dealloc(&self, given: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe {
            if KEEPS.load(Ordering::Relaxed) { MiMalloc.dealloc(given, layout) } else { System.dealloc(given, layout) }
        }
    }

    #[inline]
    unsafe fn realloc(&self, given: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        unsafe {
            if KEEPS.load(Ordering::Relaxed) {
                MiMalloc.realloc(given, layout, size)
            } else {
                System.realloc(given, layout, size)
            }
        }
    }
}

/// Gives back what the heap keeps although it is free, and unmaps the program's own code and constants, of which far more was
/// touched on the way here than is needed to go on. They stay in the page cache, and what is used next comes back by a fault.
///
/// Takes some milliseconds; for a process that has become idle.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: has no preconditions; it takes the heap's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
    if KEEPS.load(Ordering::Relaxed) {
        // What this thread holds, and whatever no thread does; others give back by themselves when they are next used.
        // SAFETY: has no preconditions.
        unsafe {
            mi_collect(true);
        }
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
    fn the_command_decides_about_the_heap() {
        let check = |line: &str, wanted: bool| {
            assert_eq!(keeps_much(line.split(' ').map(str::as_bytes)), wanted, "{line}");
        };
        check("knarr server --no-node", true);
        check("/usr/bin/knarr server backup", true);
        check("knarr engine --root /r", false);
        check("knarr keeper --run /r", false);
        check("knarr runtime --root /r create --bundle /b server", false);
        check("knarr exec web server", false);
        check("server", false);
        check("knarr", false);
    }

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
