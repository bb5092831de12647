//! Numbers as people type them: `5000000`, `5M`, `1.5G`, `20MiB`.

/// Factors of a thousand.
const THOUSANDS: [(&str, u64); 3] = [("k", 1_000), ("M", 1_000_000), ("G", 1_000_000_000)];
/// Factors of 1024, for bytes.
const BINARY: [(&str, u64); 3] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

/// Factors as the Hub writes numbers of parameters.
const HUB: [(&str, u64); 4] =
    [("K", 1_000), ("M", 1_000_000), ("B", 1_000_000_000), ("T", 1_000_000_000_000)];

/// A count with a suffix k, M or G.
///
/// # Errors
/// What would be right.
pub fn count(text: &str) -> Result<u64, String> {
    scaled(text, &THOUSANDS)
        .ok_or_else(|| "use a number of at most 2^64 - 1, or one with k, M or G".to_owned())
}

/// A number of parameters with a suffix K, M, B or T.
///
/// # Errors
/// What would be right.
pub fn hub_parameters(text: &str) -> Result<u64, String> {
    scaled(text, &HUB).ok_or_else(|| "use a number of at most 2^64 - 1, or one with K, M, B or T".to_owned())
}

/// A number of milliseconds.
///
/// # Errors
/// What would be right.
pub fn milliseconds(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite() && *number > 0.0);
    number.ok_or_else(|| "use a number greater than 0".to_owned())
}

/// Bytes with a suffix k, M, G, KiB, MiB or GiB.
///
/// # Errors
/// What would be right.
pub fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || "use a number of at most 2^64 - 1, or one with k, M, G, KiB, MiB or GiB".to_owned();
    scaled(text, &[BINARY, THOUSANDS].concat()).ok_or_else(wrong)
}

/// A fraction of one is dropped, because the number is a limit.
fn scaled(text: &str, suffixes: &[(&str, u64)]) -> Option<u64> {
    let unit = suffixes.iter().find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, *factor)));
    let (number, factor) = unit.unwrap_or((text, 1));
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    // Integers lose no digit, and 19 digits fit in the 128 bits below.
    if !digits(whole) || !digits(part) || part.len() > 19 {
        return None;
    }
    let whole = whole.parse::<u64>().ok()?.checked_mul(factor)?;
    let part = part.parse::<u128>().ok()? * u128::from(factor) / 10u128.pow(part.len() as u32);
    whole.checked_add(part as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_scale() {
        for (text, number) in [
            ("0", 0),
            ("7", 7),
            ("18446744073709551615", u64::MAX),
            ("5k", 5_000),
            ("1.5M", 1_500_000),
            ("0.0019k", 1),
            ("2G", 2_000_000_000),
        ] {
            assert_eq!(count(text), Ok(number), "{text}");
            assert_eq!(bytes(text), Ok(number), "{text}");
        }
        assert_eq!(hub_parameters("0.5B"), Ok(500_000_000));
        assert_eq!(bytes("1.5KiB"), Ok(1536));
        assert_eq!(bytes("20MiB"), Ok(20 << 20));
        assert_eq!(bytes("4GiB"), Ok(4 << 30));
    }

    #[test]
    fn what_is_no_limit_is_refused() {
        for text in [
            "",
            "-1",
            "+1",
            "1e6",
            "nan",
            "NaN",
            "inf",
            "k",
            ".5k",
            "5.",
            "5 k",
            "5K",
            "5kk",
            "5m",
            "1,5M",
            "0x5",
            "18446744073709551616",
            "18446744073709551615k",
            "99999999999G",
            "1.00000000000000000001k",
            "٣",
        ] {
            count(text).unwrap_err();
            bytes(text).unwrap_err();
        }
        count("1KiB").unwrap_err();
    }
}
