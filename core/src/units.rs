//! Prices, durations and quantities as manifests spell them.

use std::borrow::Cow;
use std::fmt;

use thiserror::Error;

/// What cannot be read as a price, a duration or a quantity; every variant names the value.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UnitError {
    /// Not a price.
    #[error("{0:?} is not a price: it must be a decimal with at most 6 places, such as \"2.50\"")]
    Price(String),
    /// Not a duration.
    #[error("{0:?} is not a duration: it must be hours, minutes and seconds in this order, such as \"1h30m\"")]
    Duration(String),
    /// A duration of nothing, or of more than ten years.
    #[error("{0:?} is not a possible duration: it must be more than 0 and at most 10 years (87600h)")]
    DurationRange(String),
    /// Not an amount of memory.
    #[error("{0:?} is not an amount of memory: it must be bytes, with a suffix if any, such as \"24Gi\" or \"24G\"")]
    Memory(String),
    /// Not a Kubernetes quantity.
    #[error("{0:?} is not a quantity: it must be a number with a suffix if any, such as \"500m\" or \"16Gi\"")]
    Quantity(String),
    /// Understood, and beyond what can be counted.
    #[error("{0:?} is too large")]
    TooLarge(String),
}

/// An amount of money: millionths of a USDC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MicroUsd(pub u64);

impl MicroUsd {
    /// Reads a decimal with at most 6 places: no sign, no exponent, no blanks, digits on both sides of the point.
    pub fn parse(text: &str) -> Result<Self, UnitError> {
        let junk = || UnitError::Price(text.to_owned());
        let too_large = || UnitError::TooLarge(text.to_owned());
        let (whole, places) = match text.split_once('.') {
            Some((whole, places)) if !places.is_empty() => (whole, places),
            Some(_) => return Err(junk()),
            None => (text, ""),
        };
        let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || places.len() > 6 || !digits(whole) || !digits(places) {
            return Err(junk());
        }
        let whole: u64 = whole.parse().map_err(|_| too_large())?;
        let places: u64 = format!("{places:0<6}").parse().map_err(|_| junk())?;
        whole.checked_mul(1_000_000).and_then(|micros| micros.checked_add(places)).map(Self).ok_or_else(too_large)
    }

    /// So many times this amount, such as a price per GPU for `gpus` GPUs; None when that cannot be counted.
    #[must_use]
    pub fn checked_mul(self, gpus: u64) -> Option<Self> {
        self.0.checked_mul(gpus).map(Self)
    }

    /// The sum; None when that cannot be counted.
    #[must_use]
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }
}

impl fmt::Display for MicroUsd {
    /// The shortest decimal that [`MicroUsd::parse`] reads back: "2", "2.5", "0.000001".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, places) = (self.0 / 1_000_000, self.0 % 1_000_000);
        if places == 0 {
            return write!(f, "{whole}");
        }
        let places = format!("{places:06}");
        write!(f, "{whole}.{}", places.trim_end_matches('0'))
    }
}

/// The longest duration, ten years of 365 days.
const MAX_DURATION_SECONDS: u64 = 10 * 365 * 24 * 3600;

/// Seconds of "72h", "1h30m" or "90s": hours, minutes and seconds in this order, each at most once, no blanks.
pub fn parse_duration_seconds(text: &str) -> Result<u64, UnitError> {
    let junk = || UnitError::Duration(text.to_owned());
    let range = || UnitError::DurationRange(text.to_owned());
    let mut units = [('h', 3600u64), ('m', 60), ('s', 1)].into_iter();
    let mut rest = text;
    let mut seconds: u64 = 0;
    if rest.is_empty() {
        return Err(junk());
    }
    while !rest.is_empty() {
        let end = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(end);
        let unit = tail.chars().next().ok_or_else(junk)?;
        // The iterator goes on where the last unit was found, so that a unit out of order or twice is not found.
        let (_, factor) = units.find(|(u, _)| *u == unit).ok_or_else(junk)?;
        if number.is_empty() {
            return Err(junk());
        }
        let number: u64 = number.parse().map_err(|_| range())?;
        seconds = number.checked_mul(factor).and_then(|s| s.checked_add(seconds)).ok_or_else(range)?;
        rest = &tail[unit.len_utf8()..];
    }
    if seconds == 0 || seconds > MAX_DURATION_SECONDS { Err(range()) } else { Ok(seconds) }
}

/// MiB of "24Gi", "24G", "512Mi" or plain bytes, rounded down. Any quantity of at least 0 but those below a byte.
pub fn parse_memory_mib(text: &str) -> Result<u64, UnitError> {
    let junk = || UnitError::Memory(text.to_owned());
    if !text.starts_with(|c: char| c.is_ascii_digit()) || text.ends_with(['n', 'u', 'm']) {
        return Err(junk());
    }
    let milli = parse_quantity_milli(text).map_err(|e| match e {
        UnitError::TooLarge(_) => e,
        _ => junk(),
    })?;
    u64::try_from(milli / 1000 / (1 << 20)).map_err(|_| UnitError::TooLarge(text.to_owned()))
}

/// Thousandths of a Kubernetes quantity, rounded away from zero as Kubernetes does.
///
/// Understands every suffix (n, u, m, none, k, M, G, T, P, E, Ki to Ei) and decimal exponents ("1e3", "1E-3").
pub fn parse_quantity_milli(text: &str) -> Result<i128, UnitError> {
    let junk = || UnitError::Quantity(text.to_owned());
    let too_large = || UnitError::TooLarge(text.to_owned());
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = unsigned.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    let (number, suffix) = unsigned.split_at(end);
    let (whole, places) = number.split_once('.').unwrap_or((number, ""));
    if whole.len() + places.len() == 0 || places.contains('.') {
        return Err(junk());
    }
    let places = places.trim_end_matches('0');
    let digits = if places.is_empty() { Cow::Borrowed(whole) } else { Cow::Owned(format!("{whole}{places}")) };
    let mantissa: i128 = if digits.is_empty() { 0 } else { digits.parse().map_err(|_| too_large())? };
    let (base, power) = scale(suffix).ok_or_else(junk)?;

    // The value in thousandths is mantissa × base^power × 1000 / 10^places, rounded once at the end.
    let mut numerator = mantissa.checked_mul(1000).ok_or_else(too_large)?;
    let places = u32::try_from(places.len()).map_err(|_| too_large())?;
    let mut denominator = 10i128.checked_pow(places).ok_or_else(too_large)?;
    let factor = base.checked_pow(power.unsigned_abs()).ok_or_else(too_large)?;
    let side = if power < 0 { &mut denominator } else { &mut numerator };
    *side = side.checked_mul(factor).ok_or_else(too_large)?;
    let milli = numerator / denominator + i128::from(numerator % denominator != 0);
    Ok(if negative { -milli } else { milli })
}

/// Base and power of a quantity's suffix.
fn scale(suffix: &str) -> Option<(i128, i32)> {
    Some(match suffix {
        "" => (10, 0),
        "n" => (10, -9),
        "u" => (10, -6),
        "m" => (10, -3),
        "k" => (10, 3),
        "M" => (10, 6),
        "G" => (10, 9),
        "T" => (10, 12),
        "P" => (10, 15),
        "E" => (10, 18),
        "Ki" => (1024, 1),
        "Mi" => (1024, 2),
        "Gi" => (1024, 3),
        "Ti" => (1024, 4),
        "Pi" => (1024, 5),
        "Ei" => (1024, 6),
        exponent => {
            let power = exponent.strip_prefix(['e', 'E'])?;
            let digits = power.strip_prefix(['+', '-']).unwrap_or(power);
            // Two digits are far beyond what can be counted.
            if digits.is_empty() || digits.len() > 2 || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            (10, power.parse().ok()?)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn prices_are_read_strictly_and_shown_short() {
        for (text, micros, shown) in [
            ("0", 0, "0"),
            ("2", 2_000_000, "2"),
            ("2.0", 2_000_000, "2"),
            ("2.50", 2_500_000, "2.5"),
            ("0.000001", 1, "0.000001"),
            ("10.1", 10_100_000, "10.1"),
            ("18446744073709.551615", u64::MAX, "18446744073709.551615"),
        ] {
            assert_eq!(MicroUsd::parse(text), Ok(MicroUsd(micros)), "{text}");
            assert_eq!(MicroUsd(micros).to_string(), shown);
        }
        for text in [
            "",
            ".",
            ".5",
            "2.",
            "-1",
            "+1",
            "1e3",
            "1E3",
            " 1",
            "1 ",
            "1_000",
            "1,5",
            "$2",
            "0.0000001",
            "2.5.1",
            "NaN",
            "inf",
            "0x10",
            "٣",
            "2usd",
            "--2",
        ] {
            assert_eq!(MicroUsd::parse(text), Err(UnitError::Price(text.to_owned())), "{text}");
        }
        for text in ["18446744073709.551616", "99999999999999999999999"] {
            assert_eq!(MicroUsd::parse(text), Err(UnitError::TooLarge(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn amounts_beyond_counting_are_none() {
        assert_eq!(MicroUsd(3).checked_mul(8), Some(MicroUsd(24)));
        assert_eq!(MicroUsd(u64::MAX).checked_mul(2), None);
        assert_eq!(MicroUsd(u64::MAX).checked_add(MicroUsd(1)), None);
    }

    #[test]
    fn durations_are_hours_minutes_seconds_in_order() {
        for (text, seconds) in [
            ("72h", 259_200),
            ("1h30m", 5_400),
            ("90s", 90),
            ("1h1s", 3_601),
            ("1h2m3s", 3_723),
            ("0h1s", 1),
            ("87600h", MAX_DURATION_SECONDS),
        ] {
            assert_eq!(parse_duration_seconds(text), Ok(seconds), "{text}");
        }
        for text in
            ["", "h", "72", "1m1h", "1h1h", "1d", "1.5h", "-1h", "+1h", " 1h", "1h ", "1H", "1h30", "30s1m", "1ms", "é"]
        {
            assert_eq!(parse_duration_seconds(text), Err(UnitError::Duration(text.to_owned())), "{text}");
        }
        for text in ["0s", "0h0m0s", "87601h", "99999999999999999999h", "18446744073709551615h"] {
            assert_eq!(parse_duration_seconds(text), Err(UnitError::DurationRange(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn memory_is_mib_rounded_down() {
        for (text, mib) in [
            ("24Gi", 24_576),
            ("24G", 22_888),
            ("512Mi", 512),
            ("1.5Gi", 1_536),
            ("1048575", 0),
            ("1048576", 1),
            ("0", 0),
            ("1e9", 953),
            ("2Ti", 2 << 20),
        ] {
            assert_eq!(parse_memory_mib(text), Ok(mib), "{text}");
        }
        for text in ["", "Gi", "-1Gi", "+1Gi", "24GB", "24gi", "24 Gi", "1000m", ".5Gi", "1..5Gi"] {
            assert_eq!(parse_memory_mib(text), Err(UnitError::Memory(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn quantities_know_every_suffix() {
        for (text, milli) in [
            ("0", 0),
            ("1", 1_000),
            ("500m", 500),
            ("0.5", 500),
            (".5", 500),
            ("5.", 5_000),
            ("-2", -2_000),
            ("+2", 2_000),
            ("1n", 1),
            ("-1n", -1),
            ("1500u", 2),
            ("1001n", 1),
            ("0.0001", 1),
            ("1k", 1_000_000),
            ("1M", 1_000_000_000),
            ("1G", 1_000_000_000_000),
            ("1T", 1_000_000_000_000_000),
            ("1P", 1_000_000_000_000_000_000),
            ("1E", 1_000_000_000_000_000_000_000),
            ("1Ki", 1_024_000),
            ("1Mi", 1_048_576_000),
            ("1Gi", 1_073_741_824_000),
            ("1Ti", 1_099_511_627_776_000),
            ("1Pi", 1_125_899_906_842_624_000),
            ("1Ei", 1_152_921_504_606_846_976_000),
            ("1e3", 1_000_000),
            ("1E3", 1_000_000),
            ("1e-3", 1),
            ("12e+1", 120_000),
            ("1.500000000000000000000000000000", 1_500),
        ] {
            assert_eq!(parse_quantity_milli(text), Ok(milli), "{text}");
        }
        for text in
            ["", "m", ".", "1.2.3", "1K", "1KI", "1ki", "1mi", "1 Gi", " 1", "--1", "1e", "1e+", "1e1.5", "1e999", "x"]
        {
            assert_eq!(parse_quantity_milli(text), Err(UnitError::Quantity(text.to_owned())), "{text}");
        }
        for text in ["1e99", "99999999999999999999999999999999999999999", "170141183460469231731687303715884105727Ei"] {
            assert_eq!(parse_quantity_milli(text), Err(UnitError::TooLarge(text.to_owned())), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_shown_price_reads_back(micros: u64) {
            prop_assert_eq!(MicroUsd::parse(&MicroUsd(micros).to_string()), Ok(MicroUsd(micros)));
        }

        #[test]
        fn no_text_makes_a_parser_fail_otherwise_than_by_an_error(text in "\\PC{0,12}|[0-9.+eE-]{0,50}[a-zA-Z]{0,3}") {
            let _ = (MicroUsd::parse(&text), parse_duration_seconds(&text), parse_memory_mib(&text), parse_quantity_milli(&text));
        }
    }
}
