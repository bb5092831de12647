//! The names of classes, and their limits.

/// Largest number of labels of a head.
pub const MAX_LABELS: usize = 100_000;
/// Longest label, bytes.
pub const MAX_LABEL_BYTES: usize = 256;

/// Checks that every label has 1 to [`MAX_LABEL_BYTES`] bytes.
///
/// # Errors
/// The first label that has not, by its index, with its length and the limit.
pub fn check(labels: &[String]) -> Result<(), String> {
    let lengths = labels.iter().map(String::len).enumerate();
    match lengths.into_iter().find(|(_, length)| !(1..=MAX_LABEL_BYTES).contains(length)) {
        Some((index, length)) => {
            Err(format!("label {index} has {length} bytes, beyond 1..={MAX_LABEL_BYTES}"))
        }
        None => Ok(()),
    }
}
