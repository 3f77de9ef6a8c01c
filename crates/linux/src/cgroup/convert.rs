//! v1 numbers in v2's scales, as the newest runc converts them, so that a limit means the same under either runtime.

/// `cpu.shares` (2..=262144, default 1024) as `cpu.weight` (1..=10000, default 100). `None` for 0, "unset".
///
/// A curve through the three fixed points (2, 1), (1024, 100), (262144, 10000); the older straight line gave the default
/// share a weight of 39.
pub fn cpu_weight_from_shares(shares: u64) -> Option<u64> {
    match shares {
        0 => None,
        1..=2 => Some(1),
        262_144.. => Some(10_000),
        _ => {
            let l = (shares as f64).log2();
            let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
            Some(10f64.powf(exponent).ceil() as u64)
        }
    }
}

/// The inverse of [`cpu_weight_from_shares`], to the nearest value.
pub fn cpu_shares_from_weight(weight: u64) -> u64 {
    match weight {
        0..=1 => 2,
        10_000.. => 262_144,
        _ => {
            // l² + 125 l = 612 (log10(weight) + 7/34)
            let c = 612.0 * ((weight as f64).log10() + 7.0 / 34.0);
            let l = (-125.0 + (125.0f64 * 125.0 + 4.0 * c).sqrt()) / 2.0;
            l.exp2().round() as u64
        }
    }
}

/// `blkio.weight` (10..=1000) as `io.weight` (1..=10000). `None` for 0, "unset".
pub fn io_weight_from_blkio(weight: u16) -> Option<u64> {
    match weight {
        0 => None,
        _ => Some(1 + (u64::from(weight).clamp(10, 1000) - 10) * 9999 / 990),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_the_weights_that_runc_writes() {
        let rows = [
            (0, None),
            (1, Some(1)),
            (2, Some(1)),
            (3, Some(2)),
            (1024, Some(100)),
            (262_144, Some(10_000)),
            (300_000, Some(10_000)),
        ];
        for (shares, weight) in rows {
            assert_eq!(cpu_weight_from_shares(shares), weight, "{shares}");
        }
    }

    #[test]
    fn weights_grow_with_shares_and_the_way_back_is_close() {
        let mut last = 0;
        for shares in 2..=262_144u64 {
            let weight = cpu_weight_from_shares(shares).unwrap();
            assert!(weight >= last && (1..=10_000).contains(&weight), "{shares} -> {weight}");
            last = weight;
        }
        for weight in 1..=10_000 {
            let again = cpu_weight_from_shares(cpu_shares_from_weight(weight)).unwrap();
            assert!(again.abs_diff(weight) <= 1, "{weight} -> {again}");
        }
    }

    #[test]
    fn io_weights_span_the_scale() {
        assert_eq!([0, 10, 500, 1000].map(io_weight_from_blkio), [None, Some(1), Some(4950), Some(10_000)]);
    }
}
