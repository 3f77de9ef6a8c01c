//! What went through the interfaces of a network namespace. Pure.

use std::collections::BTreeMap;

use crate::runtime::Traffic;

/// `/proc/net/dev` without the loopback.
pub fn traffic(text: &str) -> BTreeMap<String, Traffic> {
    let lines = text.lines().filter_map(|line| {
        let (name, rest) = line.split_once(':')?;
        let n: Vec<u64> = rest.split_whitespace().map_while(|word| word.parse().ok()).collect();
        let name = name.trim();
        let row = || Traffic { rx_bytes: n[0], rx_errors: n[2], tx_bytes: n[8], tx_errors: n[10] };
        (name != "lo" && n.len() >= 12).then(|| (name.to_owned(), row()))
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_proc() {
        let dev =
            "Inter-| R\n face |b\n  lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n eth0: 10 2 1 3 0 0 0 0 20 4 5 6 0 0 0 0\n";
        let rows = traffic(dev);
        assert_eq!(rows.len(), 1);
        assert_eq!(rows["eth0"], Traffic { rx_bytes: 10, rx_errors: 1, tx_bytes: 20, tx_errors: 5 });
        for broken in ["", "x", "x:"] {
            assert!(traffic(broken).is_empty(), "{broken}");
        }
    }
}
