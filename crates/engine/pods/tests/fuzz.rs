//! Broken input for what this crate takes: lines of logs that another runtime has written.

#[test]
fn lines_of_logs_are_read_or_passed_over() {
    fuzz::Target::new("log-line", env!("CARGO_MANIFEST_DIR"))
        .seed("2026-11-30T01:02:03.000000004Z stdout F a line of text")
        .seed("2026-11-30T03:02:03+02:00 stderr P:x ")
        .words(["stdout", "stderr", " F ", " P ", ":", "Z", "2026-11-30T01:02:03Z"])
        .run(|bytes| {
            let line = pods::LogLine::parse(bytes)?;
            // Nothing of it is lost, and a whole line has one newline at its end.
            let whole = line.line.last() == Some(&b'\n');
            assert!(line.line.len() <= bytes.len() + 1);
            Some((line.stderr, whole, line.line.len().min(3)))
        });
}
