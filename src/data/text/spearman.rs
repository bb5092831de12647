//! Spearman's rank correlation, the metric of semantic similarity (Reimers & Gurevych 2019, arXiv 1908.10084, section 4).

/// The correlation of the ranks of `a` and `b`; equal values share the mean of their ranks. `None` if there are fewer
/// than two values, their numbers differ, one is not a number, or all values of one side are equal.
pub fn spearman(a: &[f64], b: &[f64]) -> Option<f64> {
    if a.len() != b.len() || a.len() < 2 || a.iter().chain(b).any(|value| value.is_nan()) {
        return None;
    }
    pearson(&ranks(a), &ranks(b))
}

/// The rank of each value, from 1; equal values share the mean of their ranks.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut first = 0;
    for equal in order.chunk_by(|a, b| values[*a] == values[*b]) {
        let rank = first as f64 + (equal.len() + 1) as f64 / 2.0;
        for index in equal {
            ranks[*index] = rank;
        }
        first += equal.len();
    }
    ranks
}

fn pearson(a: &[f64], b: &[f64]) -> Option<f64> {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (mean_a, mean_b) = (mean(a), mean(b));
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        let (a, b) = (a - mean_a, b - mean_b);
        ab += a * b;
        aa += a * a;
        bb += b * b;
    }
    (aa > 0.0 && bb > 0.0).then(|| ab / (aa * bb).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_count_and_not_values() {
        assert_eq!(ranks(&[10.0, 30.0, 20.0, 30.0, -0.0, 0.0]), [3.0, 5.5, 4.0, 5.5, 1.5, 1.5]);
        let found = spearman(&[1.0, 2.0, 3.0, 4.0], &[1.0, 10.0, 100.0, 1e9]).unwrap();
        assert!((found - 1.0).abs() < 1e-15);
        let found = spearman(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]).unwrap();
        assert!((found + 1.0).abs() < 1e-15);
    }

    /// With ranks (1, 2.5, 2.5, 4) and (2, 1, 3, 4): covariance 3, variances 4.5 and 5.
    #[test]
    fn ties_are_those_computed_by_hand() {
        let found = spearman(&[0.0, 5.0, 5.0, 9.0], &[0.2, 0.1, 0.3, 0.4]).unwrap();
        assert!((found - 3.0 / (4.5f64 * 5.0).sqrt()).abs() < 1e-15);
    }

    #[test]
    fn what_has_no_correlation_has_none() {
        for (a, b) in [
            (&[1.0][..], &[1.0][..]),
            (&[1.0, 1.0], &[1.0, 2.0]),
            (&[1.0, f64::NAN], &[1.0, 2.0]),
            (&[1.0, 2.0, 3.0], &[1.0, 2.0]),
        ] {
            assert_eq!(spearman(a, b), None);
        }
    }
}
