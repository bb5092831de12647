//! Configuration files as JSON.

/// A JSON file: keys in order, so that the same model has the same bytes.
pub(super) fn document(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}

/// The decimal numbers that people wrote, not those of the nearest doubles.
pub(super) fn decimals(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| value.to_string().parse().unwrap_or(f64::from(*value))).collect()
}
