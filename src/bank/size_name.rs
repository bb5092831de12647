//! `d{depth}-w{width}`: a size as file names and repositories spell it.

/// Depth and width of a name. A size has one name: its numbers have no sign and no leading zero.
pub fn parse(name: &str) -> Option<(u64, u64)> {
    let (depth, width) = name.strip_prefix('d')?.split_once("-w")?;
    Some((number(depth)?, number(width)?))
}

fn number(text: &str) -> Option<u64> {
    text.parse().ok().filter(|number: &u64| number.to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_has_one_name() {
        assert_eq!(parse("d7-w96"), Some((7, 96)));
        assert_eq!(parse("d0-w18446744073709551615"), Some((0, u64::MAX)));
        for name in ["", "d7", "w96-d7", "7-w96", "d07-w96", "d+7-w96", "d7-w", "d7-w18446744073709551616"] {
            assert_eq!(parse(name), None, "{name}");
        }
    }
}
