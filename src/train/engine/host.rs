//! The step on the CPU: shards on threads, one tape per shard, and sums in shard order.

use std::sync::Arc;

use candle_core::Device;

use crate::{
    data::Batch,
    error::{Error, Result},
    tensor::{Params, Tape, tape::Scratch},
    train::{
        Decay, Objective, Optim, Shard,
        objective::{STACK_BYTES, backward},
        optim::AdamW,
    },
};

/// Shards of a batch on the CPU. The number is fixed, so that results do not depend on the number of threads.
pub const SHARDS: usize = 4;

/// The optimiser and the tapes of the shards.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) adamw: AdamW,
    pub(super) tapes: Vec<Arc<Tape>>,
    threads: usize,
    /// Whether any step has added to the gradient, for each parameter.
    pub(super) alive: Vec<bool>,
}

impl Host {
    pub(super) fn new(params: &Params, decay: &Decay, optim: &Optim, threads: usize) -> Result<Self> {
        let threads = threads.clamp(1, SHARDS);
        let pools: Vec<Arc<Scratch>> = (0..threads).map(|_| Arc::default()).collect();
        let tape =
            |shard: usize| params.tape(optim.recompute, Arc::clone(&pools[shard / SHARDS.div_ceil(threads)]));
        let tapes = (0..SHARDS).map(tape).collect::<Result<_>>()?;
        let alive = vec![false; params.iter().len()];
        Ok(Self { adamw: AdamW::new(params, decay, threads), tapes, threads, alive })
    }

    pub(super) fn gradients(
        &mut self,
        params: &Params,
        objective: &dyn Objective,
        batch: &Batch,
        step: u64,
    ) -> Result<f64> {
        let images = batch.labels.len();
        let bounds: Vec<_> = (0..SHARDS).map(|s| (s * images / SHARDS, (s + 1) * images / SHARDS)).collect();
        let per_thread = SHARDS.div_ceil(self.threads);
        let mut losses: Vec<Result<f64>> = (0..SHARDS).map(|_| Ok(0.0)).collect();
        std::thread::scope(|scope| {
            let shards = losses.chunks_mut(per_thread).zip(bounds.chunks(per_thread));
            for ((losses, bounds), tapes) in shards.zip(self.tapes.chunks(per_thread)) {
                let work = move || {
                    for ((loss, (start, end)), tape) in losses.iter_mut().zip(bounds).zip(tapes) {
                        tape.gradients().clear();
                        if start < end {
                            let weights = params.weights(tape);
                            *loss = weights.and_then(|weights| {
                                let shard = Shard::of(batch, *start..*end, &Device::Cpu, step)?;
                                Ok(backward(objective, &weights, &shard, images)?.0)
                            });
                        }
                    }
                };
                std::thread::Builder::new()
                    .stack_size(STACK_BYTES)
                    .spawn_scoped(scope, work)
                    .map_err(Error::io("thread"))?;
            }
            Ok::<_, Error>(())
        })?;
        let loss = losses.into_iter().sum::<Result<f64>>()?;
        let mut touched = vec![false; self.alive.len()];
        for tape in &self.tapes {
            let mut gradients = tape.gradients();
            touched.iter_mut().zip(gradients.finish()).for_each(|(any, one)| *any |= one);
        }
        self.alive.iter_mut().zip(&touched).for_each(|(alive, now)| *alive |= now);
        if !objective.samples() {
            check_alive(params, &touched)?;
        }
        Ok(loss)
    }

    pub(super) fn reduce(&self) -> f64 {
        let [sum, others @ ..] = self.tapes.as_slice() else { return 0.0 };
        let others: Vec<_> = others.iter().map(|tape| tape.gradients()).collect();
        let others: Vec<&[f32]> = others.iter().map(|gradients| &***gradients).collect();
        self.adamw.reduce(&mut sum.gradients(), &others)
    }
}

/// Refuses a parameter without a gradient, because weight decay alone would change it.
pub(super) fn check_alive(params: &Params, touched: &[bool]) -> Result<()> {
    match params.iter().zip(touched).find(|(_, touched)| !**touched) {
        Some(((name, ..), _)) => Err(Error::MissingTensor { name: format!("gradient of {name}") }),
        None => Ok(()),
    }
}
