//! `EXPOSE`: `80`, `80/udp`, `8000-8005/tcp`.

/// Every port of one word as `number/protocol`.
pub(super) fn parse(word: &str) -> Result<Vec<String>, String> {
    // A host part is taken and ignored, as Docker does.
    let bad = || format!("invalid containerPort: {word}");
    let container = word.rsplit(':').next().unwrap_or(word);
    let (range, protocol) = container.split_once('/').unwrap_or((container, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(format!("invalid proto: {protocol}"));
    }
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let number = |text: &str| text.parse::<u16>().map_err(|_| bad());
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err(bad());
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}
