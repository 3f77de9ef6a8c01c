//! What the history says of an instruction, word for word as BuildKit writes it.

use image::config::Healthcheck;

/// `["a" "b"]`: Go's `%q` of a list.
pub(super) fn quoted(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|w| go_quote(w)).collect();
    format!("[{}]", words.join(" "))
}

/// `[a b]`: Go's `%v` of a list.
pub(super) fn plain(words: &[String]) -> String {
    format!("[{}]", words.join(" "))
}

fn go_quote(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if (c as u32) < 0x20 || c == '\u{7f}' => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

pub(super) fn run(args: &[(String, String)], command: &[String]) -> String {
    let mut text = String::from("RUN ");
    if !args.is_empty() {
        text.push_str(&format!("|{}", args.len()));
        for (name, value) in args {
            text.push_str(&format!(" {name}={value}"));
        }
        text.push(' ');
    }
    text.push_str(&command.join(" "));
    text + " # buildkit"
}

/// Go's `%q` of a pointer to its struct.
pub(super) fn healthcheck(check: &Healthcheck) -> String {
    let duration = |d: std::time::Duration| go_quote(&go_duration(d));
    let retries = char::from_u32(check.retries).filter(|_| check.retries < 0x7f);
    let retries = match retries {
        Some(c) if (c as u32) < 0x20 => format!("'\\x{:02x}'", c as u32),
        Some(c) => format!("'{c}'"),
        None => check.retries.to_string(),
    };
    format!(
        "HEALTHCHECK &{{{} {} {} {} {} {retries}}}",
        quoted(&check.test),
        duration(check.interval),
        duration(check.timeout),
        duration(check.start_period),
        duration(check.start_interval),
    )
}

/// `1m30s`, as Go prints durations.
fn go_duration(d: std::time::Duration) -> String {
    if d.is_zero() {
        return "0s".into();
    }
    if d.as_secs() == 0 {
        let nanos = d.subsec_nanos();
        return match nanos {
            n if n >= 1_000_000 => format!("{}ms", trim(f64::from(n) / 1e6)),
            n if n >= 1_000 => format!("{}µs", trim(f64::from(n) / 1e3)),
            n => format!("{n}ns"),
        };
    }
    let (hours, minutes) = (d.as_secs() / 3600, d.as_secs() / 60 % 60);
    let seconds = trim((d.as_secs() % 60) as f64 + f64::from(d.subsec_nanos()) / 1e9);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, m) => format!("{m}m{seconds}s"),
        (h, m) => format!("{h}h{m}m{seconds}s"),
    }
}

fn trim(number: f64) -> String {
    let text = format!("{number:.9}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_those_of_buildkit() {
        let words = ["sh".to_owned(), "-c".into(), "echo \"a\"".into()];
        assert_eq!(quoted(&words), r#"["sh" "-c" "echo \"a\""]"#);
        assert_eq!(run(&[], &words), "RUN sh -c echo \"a\" # buildkit");
        assert_eq!(run(&[("A".into(), "b".into())], &words[..1]), "RUN |1 A=b sh # buildkit");
        let secs = std::time::Duration::from_secs;
        for (d, text) in [(secs(90), "1m30s"), (secs(3600), "1h0m0s"), (secs(5), "5s")] {
            assert_eq!(go_duration(d), text);
        }
        assert_eq!(go_duration(std::time::Duration::from_millis(1500)), "1.5s");
        assert_eq!(go_duration(std::time::Duration::from_micros(2500)), "2.5ms");
    }
}
