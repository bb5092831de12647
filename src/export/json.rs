//! Configuration files as JSON.

/// A JSON file with sorted keys, so that the same model always has the same bytes.
pub(super) fn document(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}

/// The shortest decimals that round to these values, so that 0.1 in f32 is written as 0.1 and not as 0.10000000149.
pub(super) fn decimals(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| value.to_string().parse().unwrap_or(f64::from(*value))).collect()
}
