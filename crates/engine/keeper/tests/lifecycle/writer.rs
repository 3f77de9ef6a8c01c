//! Writes numbered lines as fast as it can, in pieces that end anywhere.

use std::ffi::OsString;
use std::io::Write;

use linux::signal::SignalFd;

/// `writer TAG COUNT BOTH`: COUNT lines to stdout, or with 0 until SIGUSR1 comes, then exit code 42; with BOTH = 1 the same to stderr.
pub(crate) fn run(args: &[OsString]) {
    let text = |n: usize| args[n].to_str().unwrap();
    let (tag, count, both) = (text(0), text(1).parse::<u64>().unwrap(), text(2) == "1");
    let signals = SignalFd::new(&[10]).unwrap();
    let mut number = 0;
    let mut piece = 1;
    let mut buf = Vec::new();
    loop {
        let last = number >= count && count != 0;
        let stop = count == 0 && number % 512 == 0 && signals.read().unwrap().is_some();
        if last || stop {
            break;
        }
        writeln!(buf, "{tag} {number:010}").unwrap();
        number += 1;
        if buf.len() > piece {
            // Cut in the middle of a line.
            let cut = buf.len() - piece % 7;
            std::io::stdout().write_all(&buf[..cut]).unwrap();
            std::io::stdout().flush().unwrap();
            if both {
                std::io::stderr().write_all(&buf[..cut]).unwrap();
            }
            buf.drain(..cut);
            piece = piece * 31 % 6007;
        }
    }
    std::io::stdout().write_all(&buf).unwrap();
    std::io::stdout().flush().unwrap();
    if both {
        std::io::stderr().write_all(&buf).unwrap();
    }
    std::process::exit(if count == 0 { 42 } else { 0 });
}

/// Every line in its place. Returns how many.
pub(crate) fn check_all(tag: &str, stream: &str, text: &str) -> u64 {
    let mut expected = 0u64;
    for line in text.lines() {
        assert_eq!(line, format!("{tag} {expected:010}"), "{stream} of {tag}");
        expected += 1;
    }
    assert!(expected > 0, "{stream} of {tag} is empty");
    expected
}

pub(crate) fn check(tag: &str, stream: &str, count: u64, text: &str) {
    assert_eq!(check_all(tag, stream, text), count, "{stream} of {tag}");
}

/// `flood BYTES LENGTH`: lines of LENGTH bytes to stdout, 64 KiB at a time.
pub(crate) fn flood(args: &[OsString]) {
    let number = |n: usize| args[n].to_str().unwrap().parse::<usize>().unwrap();
    let (bytes, length) = (number(0), number(1));
    let line: Vec<u8> = (b' '..b'~').cycle().filter(|b| *b != b'"').take(length - 1).chain([b'\n']).collect();
    let lines = line.repeat(65536 / length);
    let mut out = std::fs::File::from(std::os::fd::AsFd::as_fd(&std::io::stdout()).try_clone_to_owned().unwrap());
    let mut left = bytes;
    while left > 0 {
        let n = left.min(lines.len());
        out.write_all(&lines[..n]).unwrap();
        left -= n;
    }
}
