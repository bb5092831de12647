//! One byte range of a GET (RFC 9110, section 14).
//!
//! The typed `headers` crate would ignore `Bytes=0-1` and numbers beyond 64 bits, which the standard gives a meaning.

use std::ops::Range;

/// What a `Range` header asks of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    /// The whole file: there is no range, more than one, or one that this server does not understand.
    Whole,
    /// These bytes.
    Part(Range<u64>),
    /// No byte of the file.
    Unsatisfiable,
}

/// Reads the value of a `Range` header for a file of `size` bytes.
pub(super) fn asked(value: &str, size: u64) -> Asked {
    let Some((unit, spec)) = value.split_once('=') else { return Asked::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Asked::Whole;
    }
    // A list of ranges has a comma, and no number has.
    let Some((first, last)) = spec.trim().split_once('-') else { return Asked::Whole };
    match (first, last) {
        ("", suffix) => number(suffix).map_or(Asked::Whole, |n| part(size.saturating_sub(n), size)),
        (first, "") => number(first).map_or(Asked::Whole, |first| part(first, size)),
        (first, last) => match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => part(first, last.saturating_add(1).min(size)),
            _ => Asked::Whole,
        },
    }
}

const fn part(start: u64, end: u64) -> Asked {
    if start < end { Asked::Part(start..end) } else { Asked::Unsatisfiable }
}

/// A number beyond u64 is beyond any file.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn single_ranges_are_read_as_the_standard_says() {
        for (value, found) in [
            ("bytes=0-0", Asked::Part(0..1)),
            ("bytes=2-", Asked::Part(2..10)),
            ("bytes=-3", Asked::Part(7..10)),
            ("bytes=-30", Asked::Part(0..10)),
            ("bytes=4-99", Asked::Part(4..10)),
            ("Bytes=9-9", Asked::Part(9..10)),
            ("bytes=10-", Asked::Unsatisfiable),
            ("bytes=-0", Asked::Unsatisfiable),
            ("bytes=99999999999999999999-", Asked::Unsatisfiable),
            ("bytes=0-99999999999999999999", Asked::Part(0..10)),
        ] {
            assert_eq!(asked(value, 10), found, "{value}");
        }
    }

    #[test]
    fn other_ranges_are_ignored() {
        for value in
            ["", "bytes", "bytes=", "bytes=-", "bytes=3-2", "bytes=0-1,3-4", "lines=1-2", "bytes=+1-2"]
        {
            assert_eq!(asked(value, 10), Asked::Whole, "{value}");
        }
    }

    proptest! {
        #[test]
        fn a_part_is_never_empty_and_never_beyond_the_file(value in "(bytes=)?[0-9-]{0,24}", size in 0u64..100) {
            if let Asked::Part(part) = asked(&value, size) {
                prop_assert!(part.start < part.end && part.end <= size);
            }
        }
    }
}
