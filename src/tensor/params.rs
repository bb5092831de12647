//! Trainable parameters: ordered, strict, and explicit about aliasing.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Tensor, Var};

use crate::error::{Context, Error, Result};

use super::{Tape, Weight, Weights, tape::Scratch};

/// Trainable parameters by name.
///
/// On the CPU all values lie in one flat store, in name order. Gradients and moments use the same order, so an
/// optimiser step is one loop over slices. On a device each parameter is a candle variable.
#[derive(Debug)]
pub struct Params {
    entries: BTreeMap<String, Entry>,
    store: Store,
}

#[derive(Debug)]
struct Entry {
    shape: Vec<usize>,
    span: Range<usize>,
}

#[derive(Debug)]
enum Store {
    Flat(Tensor), // [len]
    Vars(BTreeMap<String, Var>),
}

impl Params {
    /// Makes one parameter of every weight. Values are copied, so training never changes `weights`.
    ///
    /// # Errors
    /// [`Error::Tensor`] if a copy fails.
    pub fn new(weights: &Weights) -> Result<Self> {
        if weights.iter().any(|(_, weight)| !weight.device().is_cpu()) {
            return Self::variables(weights);
        }
        let (entries, len) = entries(weights);
        let mut flat = Vec::with_capacity(len);
        for (name, weight) in weights.iter() {
            let values = weight.tensor().and_then(|t| t.detach().flatten_all()?.to_vec1::<f32>());
            flat.extend(values.context(name)?);
        }
        let flat = Tensor::from_vec(flat, len, &Device::Cpu).context("parameters")?;
        Ok(Self { entries, store: Store::Flat(flat) })
    }

    /// Like [`Params::new`], but with candle variables on the device of the weights.
    ///
    /// # Errors
    /// [`Error::Tensor`] if a copy fails.
    pub fn variables(weights: &Weights) -> Result<Self> {
        let vars = weights.iter().map(|(name, weight)| {
            // `Var::from_tensor` of a variable aliases it; a forced copy never does.
            let var = weight.tensor().and_then(|t| Var::from_tensor(&t.detach().force_contiguous()?));
            Ok((name.to_owned(), var.context(name)?))
        });
        Ok(Self { entries: entries(weights).0, store: Store::Vars(vars.collect::<Result<_>>()?) })
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.entries.values().map(|entry| entry.span.len()).sum()
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Names, shapes and spans in the flat order, by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &[usize], Range<usize>)> {
        self.entries.iter().map(|(name, entry)| (name.as_str(), entry.shape.as_slice(), entry.span.clone()))
    }

    /// The candle variables; `None` if the parameters lie in the flat store.
    pub const fn vars(&self) -> Option<&BTreeMap<String, Var>> {
        match &self.store {
            Store::Flat(_) => None,
            Store::Vars(vars) => Some(vars),
        }
    }

    /// A tape for the gradients of these parameters; see [`Tape::new`].
    ///
    /// # Errors
    /// [`Error::Tensor`] if candle cannot create it.
    pub fn tape(&self, recompute: bool, pool: Arc<Scratch>) -> Result<Arc<Tape>> {
        let spans = self.entries.values().map(|entry| entry.span.clone()).collect();
        Tape::new(spans, recompute, pool).map(Arc::new).context("gradients")
    }

    /// The parameters as weights that share their storage, with gradients on `tape`. Variables on a device get their
    /// gradients through candle's graph instead.
    ///
    /// # Errors
    /// [`Error::Tensor`] if candle cannot make a view.
    pub fn weights(&self, tape: &Arc<Tape>) -> Result<Weights> {
        self.views(|view| Weight::on_tape(view, Arc::clone(tape)))
    }

    /// Detached copies. Later steps do not change them, and they record no graph.
    ///
    /// # Errors
    /// [`Error::Tensor`] if a copy fails.
    pub fn snapshot(&self) -> Result<Weights> {
        // `copy` would copy the whole store.
        self.views(|view| Weight::new(&view.detach().force_contiguous()?))
    }

    /// Turns the parameters into plain weights, which take over the storage.
    ///
    /// # Errors
    /// [`Error::Tensor`] if candle cannot make a view.
    pub fn into_weights(self) -> Result<Weights> {
        self.views(|view| Weight::new(&view.detach()))
    }

    fn views(&self, weight: impl Fn(&Tensor) -> candle_core::Result<Weight>) -> Result<Weights> {
        let one = |(name, entry): (&String, &Entry)| {
            let view = match &self.store {
                Store::Flat(flat) => flat
                    .narrow(0, entry.span.start, entry.span.len())
                    .and_then(|t| weight(&t.reshape(entry.shape.as_slice())?)),
                Store::Vars(vars) => weight(vars[name].as_tensor()),
            };
            Ok((name.clone(), view.context(name)?))
        };
        self.entries.iter().map(one).collect()
    }

    /// All values, copied to the CPU in the flat order.
    ///
    /// # Errors
    /// [`Error::Tensor`] if they cannot be read.
    pub fn values(&self) -> Result<Vec<f32>> {
        let read = |tensor: &Tensor| tensor.detach().flatten_all()?.to_vec1::<f32>();
        match &self.store {
            Store::Flat(flat) => read(flat).context("parameters"),
            Store::Vars(vars) => {
                let mut all = Vec::with_capacity(self.len());
                for (name, var) in vars {
                    all.extend(read(var.as_tensor()).context(name)?);
                }
                Ok(all)
            }
        }
    }

    /// Replaces all values, given in the flat order.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the number of values differs, [`Error::Tensor`] if the device refuses.
    pub fn set(&self, values: &[f32]) -> Result<()> {
        if values.len() != self.len() {
            let reason = format!("{} values for {} parameters", values.len(), self.len());
            return Err(Error::invalid("parameters", reason));
        }
        match &self.store {
            Store::Flat(_) => self.update(|flat| flat.copy_from_slice(values)),
            Store::Vars(vars) => vars.iter().try_for_each(|(name, var)| {
                let values = &values[self.entries[name].span.clone()];
                Tensor::from_slice(values, var.shape(), var.device()).and_then(|t| var.set(&t)).context(name)
            }),
        }
    }

    /// Changes the flat values in place. Views of them see the change.
    ///
    /// # Errors
    /// [`Error::Invalid`] for parameters on a device, [`Error::Tensor`] if candle refuses.
    pub fn update(&self, change: impl FnOnce(&mut [f32])) -> Result<()> {
        let Store::Flat(flat) = &self.store else {
            return Err(Error::invalid("parameters", "those of a device have no flat values"));
        };
        flat.inplace_op1(&Change(std::sync::Mutex::new(Some(change)))).context("parameters")
    }
}

/// The span of every weight in the flat order, and the total number of values.
fn entries(weights: &Weights) -> (BTreeMap<String, Entry>, usize) {
    let mut len = 0;
    let entries = weights.iter().map(|(name, weight)| {
        let span = len..len + weight.elem_count();
        len = span.end;
        (name.to_owned(), Entry { shape: weight.dims().to_vec(), span })
    });
    (entries.collect(), len)
}

/// Changes the values of a tensor in place, which candle allows only inside an operation.
struct Change<F>(std::sync::Mutex<Option<F>>);

impl<F: FnOnce(&mut [f32])> InplaceOp1 for Change<F> {
    fn name(&self) -> &'static str {
        "change"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let (CpuStorage::F32(values), Some((start, end))) = (storage, layout.contiguous_offsets()) else {
            candle_core::bail!("parameters are not flat f32");
        };
        if let Some(change) = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take() {
            change(&mut values[start..end]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshot_does_not_follow_training() {
        let tensor = Tensor::new(&[1f32, 2.0], &Device::Cpu).unwrap();
        let weights: Weights = [("w".to_owned(), Weight::new(&tensor).unwrap())].into_iter().collect();
        let params = Params::new(&weights).unwrap();
        let snapshot = params.snapshot().unwrap();
        let shared = params.weights(&params.tape(false, Arc::default()).unwrap()).unwrap();
        params.set(&[5.0, 6.0]).unwrap();
        params.update(|values| values[0] = 7.0).unwrap();
        let read = |w: &Weights| w.tensor("w").unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(read(&snapshot), [1.0, 2.0]);
        assert_eq!(read(&weights), [1.0, 2.0]);
        assert_eq!(read(&shared), [7.0, 6.0]);
        assert!(!snapshot.tensor("w").unwrap().track_op());
        assert!(params.set(&[1.0]).unwrap_err().to_string().contains("1 values for 2 parameters"));
    }
}
