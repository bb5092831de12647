//! Training losses on logits: cross-entropy with soft targets, and distillation at a temperature.
//!
//! - `CE = 1/B Σ_b Σ_c t log(1 / softmax(z))`; `∂CE/∂z = (softmax(z) Σ_c t - t) / B`.
//! - `KL = T²/B Σ_b Σ_c p (log p - log q)`, `p = softmax(t/T)`, `q = softmax(s/T)` (Hinton et al. 2015,
//!   arXiv 1503.02531); `∂KL/∂s = T (q - p) / B`.
//!
//! A loss reads a few thousand values, so it is computed in `f64` and only its result is rounded.

use super::{fused, naive, new_tensor, slice, values};
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

/// Mean over the batch of the cross-entropy `-Σ t log softmax(z)`; `targets` are constants.
///
/// # Shapes
/// - `logits`: `[batch, classes]`; `targets`: `[batch, classes]`, probabilities
/// - result: scalar
///
/// # Errors
/// If the shapes, dtypes or devices do not fit.
pub fn cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    check("cross_entropy", logits, targets)?;
    if !fused(&[logits, targets], &[]) {
        return naive::cross_entropy(logits, targets);
    }
    logits.contiguous()?.apply_op2(&targets.detach().contiguous()?, CrossEntropy)
}

/// Distillation: `T²` times the mean over the batch of `KL(softmax(t/T) ‖ softmax(s/T))`; the teacher is a constant.
///
/// # Shapes
/// - `teacher_logits`, `student_logits`: `[batch, classes]`
/// - result: scalar
///
/// # Errors
/// If the shapes, dtypes or devices do not fit.
pub fn kl_divergence(teacher_logits: &Tensor, student_logits: &Tensor, temperature: f64) -> Result<Tensor> {
    check("kl_divergence", student_logits, teacher_logits)?;
    if !fused(&[teacher_logits, student_logits], &[]) {
        return naive::kl_divergence(teacher_logits, student_logits, temperature);
    }
    let teacher = teacher_logits.detach().contiguous()?;
    student_logits.contiguous()?.apply_op2(&teacher, Divergence { temperature })
}

fn check(op: &str, logits: &Tensor, other: &Tensor) -> Result<()> {
    let (batch, classes) = logits.dims2()?;
    if other.dims() != logits.dims() || batch * classes == 0 {
        bail!("{op}: logits {:?} and targets {:?} do not fit", logits.dims(), other.dims());
    }
    Ok(())
}

struct CrossEntropy;

impl CustomOp2 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(
        &self,
        logits: &CpuStorage,
        layout: &Layout,
        targets: &CpuStorage,
        target_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (batch, classes) = layout.shape().dims2()?;
        let rows = slice(logits, layout)?.chunks_exact(classes);
        let targets = slice(targets, target_layout)?.chunks_exact(classes);
        let loss: f64 = rows
            .zip(targets)
            .map(|(logits, targets)| {
                let log_softmax = log_softmax(logits, 1.0);
                -log_softmax.iter().zip(targets).map(|(log, target)| log * f64::from(*target)).sum::<f64>()
            })
            .sum();
        Ok((CpuStorage::F32(vec![(loss / batch as f64) as f32]), Shape::from(())))
    }

    fn bwd(
        &self,
        logits: &Tensor,
        targets: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = f64::from(grad.to_scalar::<f32>()?);
        let dz = per_row(logits, targets, |logits, targets, batch| {
            let mass: f64 = targets.iter().map(|target| f64::from(*target)).sum();
            let entry = |log: f64, target: f32| grad * (log.exp() * mass - f64::from(target)) / batch;
            log_softmax(logits, 1.0)
                .iter()
                .zip(targets)
                .map(|(log, target)| entry(*log, *target) as f32)
                .collect()
        })?;
        Ok((Some(dz), None))
    }
}

struct Divergence {
    temperature: f64,
}

impl CustomOp2 for Divergence {
    fn name(&self) -> &'static str {
        "kl-divergence"
    }

    fn cpu_fwd(
        &self,
        student: &CpuStorage,
        layout: &Layout,
        teacher: &CpuStorage,
        teacher_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (batch, classes) = layout.shape().dims2()?;
        let student = slice(student, layout)?.chunks_exact(classes);
        let teacher = slice(teacher, teacher_layout)?.chunks_exact(classes);
        let divergence: f64 = student
            .zip(teacher)
            .map(|(student, teacher)| {
                let q = log_softmax(student, self.temperature);
                let p = log_softmax(teacher, self.temperature);
                p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>()
            })
            .sum();
        let loss = divergence * self.temperature * self.temperature / batch as f64;
        Ok((CpuStorage::F32(vec![loss as f32]), Shape::from(())))
    }

    fn bwd(
        &self,
        student: &Tensor,
        teacher: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = f64::from(grad.to_scalar::<f32>()?) * self.temperature;
        let ds = per_row(student, teacher, |student, teacher, batch| {
            let q = log_softmax(student, self.temperature);
            let p = log_softmax(teacher, self.temperature);
            q.iter().zip(&p).map(|(q, p)| (grad * (q.exp() - p.exp()) / batch) as f32).collect()
        })?;
        Ok((Some(ds), None))
    }
}

/// A tensor like `logits` whose rows are `row(logits, other, batch)`.
fn per_row(logits: &Tensor, other: &Tensor, row: impl Fn(&[f32], &[f32], f64) -> Vec<f32>) -> Result<Tensor> {
    let (batch, classes) = logits.dims2()?;
    let (logits_storage, logits_layout) = logits.storage_and_layout();
    let (other_storage, other_layout) = other.storage_and_layout();
    let logits_rows = values(&logits_storage, logits_layout)?.chunks_exact(classes);
    let other_rows = values(&other_storage, other_layout)?.chunks_exact(classes);
    let values =
        logits_rows.zip(other_rows).flat_map(|(logits, other)| row(logits, other, batch as f64)).collect();
    new_tensor(values, logits.shape())
}

/// `log softmax(z / temperature)` of one row.
fn log_softmax(logits: &[f32], temperature: f64) -> Vec<f64> {
    let max = logits.iter().fold(f32::NEG_INFINITY, |max, z| max.max(*z));
    let shifted: Vec<f64> = logits.iter().map(|z| f64::from(z - max) / temperature).collect();
    let log_sum = shifted.iter().map(|z| z.exp()).sum::<f64>().ln();
    shifted.iter().map(|z| z - log_sum).collect()
}
