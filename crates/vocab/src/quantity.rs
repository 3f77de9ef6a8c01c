//! Quantities: decimal or binary fixed-point numbers with a suffix (`100m`, `1.5Gi`, `2e3`).

use std::cmp::Ordering;

/// The suffix family a quantity is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Decimal,
    Binary,
    Exponent,
}

/// A number in units of 10^-9, which is the finest that Kubernetes keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantity {
    nanos: i128,
    pub format: Format,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Form,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

const NANO: i128 = 1_000_000_000;
const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
const BINARY: [(&str, u32); 6] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];

impl Quantity {
    pub fn from_nanos(nanos: i128, format: Format) -> Self {
        Self { nanos, format }
    }

    pub fn nanos(&self) -> i128 {
        self.nanos
    }

    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }

    /// Rounded up to whole units, as Kubernetes does.
    pub fn ceil(&self) -> i128 {
        self.nanos.div_euclid(NANO) + i128::from(self.nanos.rem_euclid(NANO) != 0)
    }

    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let split = text.find(|c: char| !matches!(c, '0'..='9' | '.' | '+' | '-')).unwrap_or(text.len());
        let (number, suffix) = text.split_at(split);
        let (negative, digits) = match number.as_bytes().first() {
            Some(b'-') => (true, &number[1..]),
            Some(b'+') => (false, &number[1..]),
            _ => (false, number),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let plain = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        if (whole.is_empty() && fraction.is_empty()) || !plain(whole) || !plain(fraction) || text.len() > 60 {
            return Err(QuantityError::Form);
        }
        let (format, power10, power2) = parse_suffix(suffix)?;
        // Value * 10^-9 in integers: digits as one integer, scaled by the suffix and the places after the point.
        let mut value: i128 = 0;
        for digit in whole.bytes().chain(fraction.bytes()) {
            value = value.saturating_mul(10).saturating_add(i128::from(digit - b'0'));
        }
        let scale = power10 + 9 - fraction.len() as i32;
        value = value.saturating_mul(1i128.checked_shl(power2).unwrap_or(i128::MAX));
        value = if scale >= 0 {
            value.saturating_mul(10i128.checked_pow(scale as u32).unwrap_or(i128::MAX))
        } else {
            let divisor = 10i128.checked_pow(scale.unsigned_abs()).unwrap_or(i128::MAX);
            value / divisor + i128::from(value % divisor != 0)
        };
        Ok(Self { nanos: if negative { -value } else { value }, format })
    }

    /// The canonical text: no fraction, the largest suffix that keeps the number whole.
    pub fn canonical(&self) -> String {
        if self.nanos == 0 {
            return "0".into();
        }
        if self.format == Format::Binary && self.nanos % NANO == 0 && (self.nanos / NANO).abs() >= 1024 {
            let units = self.nanos / NANO;
            let best = BINARY.iter().rev().find(|(_, power)| units % (1i128 << power) == 0);
            return match best {
                Some((suffix, power)) => format!("{}{suffix}", units >> power),
                None => units.to_string(),
            };
        }
        let best = DECIMAL.iter().rev().find(|(_, power)| self.nanos % 10i128.pow((power + 9) as u32) == 0);
        let (suffix, power) = best.copied().unwrap_or(("n", -9));
        let number = self.nanos / 10i128.pow((power + 9) as u32);
        match (self.format, power) {
            (Format::Exponent, 0) => number.to_string(),
            (Format::Exponent, power) => format!("{number}e{power}"),
            _ => format!("{number}{suffix}"),
        }
    }
}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.nanos.cmp(&other.nanos))
    }
}

/// Format, power of ten, power of two.
fn parse_suffix(suffix: &str) -> Result<(Format, i32, u32), QuantityError> {
    if let Some((_, power)) = BINARY.iter().find(|(name, _)| *name == suffix) {
        return Ok((Format::Binary, 0, *power));
    }
    if let Some((_, power)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Ok((Format::Decimal, *power, 0));
    }
    match suffix.strip_prefix(['e', 'E']) {
        Some(exponent) => match exponent.parse::<i32>() {
            Ok(power) if (-18..=18).contains(&power) => Ok((Format::Exponent, power, 0)),
            _ => Err(QuantityError::Suffix),
        },
        None if suffix.bytes().all(|b| b"eEinumkKMGTP0123456789+-".contains(&b)) => Err(QuantityError::Suffix),
        None => Err(QuantityError::Form),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_written_canonically() {
        let rows = [
            ("0", "0"),
            ("100m", "100m"),
            ("0.1", "100m"),
            ("1000m", "1"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("1Ki", "1Ki"),
            ("1000Ki", "1000Ki"),
            ("2000", "2k"),
            ("1e3", "1e3"),
            ("12e6", "12e6"),
            ("123456789", "123456789"),
            ("0.5Mi", "512Ki"),
            ("-5", "-5"),
            ("1.0", "1"),
            ("100Mi", "100Mi"),
            ("5u", "5u"),
            ("0.0000000001", "1n"),
        ];
        for (given, canonical) in rows {
            assert_eq!(Quantity::parse(given).unwrap().canonical(), canonical, "{given}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for bad in ["", "abc", "1.2.3", "1 Gi", "--1", "1gi", "1KiB", ".", "1e99", "Gi", "1e", "٣"] {
            assert!(Quantity::parse(bad).is_err(), "{bad:?}");
        }
        assert!(Quantity::parse("1Gi").unwrap() > Quantity::parse("1000M").unwrap());
        assert_eq!(Quantity::parse("1500m").unwrap().ceil(), 2);
    }
}
