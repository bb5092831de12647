//! The step on the CPU: shards on threads, one tape per shard, and sums in shard order.

use std::sync::Arc;

use candle_core::Device;

use crate::{
    data::Batch,
    error::{Error, Result},
    tensor::{
        Params, Tape,
        tape::{Scratch, Written},
    },
    train::{
        Decay, Objective, Optim, Shard,
        objective::{STACK_BYTES, backward},
        optim::{AdamW, Segment},
    },
};

/// Shards of a batch on the CPU. The number is fixed, so that results do not depend on the number of threads.
pub const SHARDS: usize = 4;

/// The optimiser and the tapes of the shards.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) adamw: AdamW,
    pub(super) tapes: Vec<Arc<Tape>>,
    /// What the last step changes.
    pub(super) active: Vec<Segment>,
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
        let adamw = AdamW::new(params, decay, threads);
        Ok(Self { adamw, tapes, active: Vec::new(), threads, alive })
    }

    pub(super) fn gradients(
        &mut self,
        params: &Params,
        objective: &dyn Objective,
        batch: &Batch,
        step: u64,
    ) -> Result<f64> {
        let items = batch.len();
        let bounds: Vec<_> = (0..SHARDS).map(|s| (s * items / SHARDS, (s + 1) * items / SHARDS)).collect();
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
                                Ok(backward(objective, &weights, &shard, items)?.0)
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
        let mut written = vec![Written::Nothing; self.alive.len()];
        for tape in &self.tapes {
            for (all, one) in written.iter_mut().zip(tape.gradients().written()) {
                *all = std::mem::take(all).or(one);
            }
        }
        self.tapes.iter().for_each(|tape| tape.gradients().finish(&written));
        self.active = self.adamw.active(&written);
        let touched: Vec<bool> = written.iter().map(|written| *written != Written::Nothing).collect();
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
        self.adamw.reduce(&self.active, &mut sum.gradients(), &others)
    }

    /// The sum of the shards' gradients, with zeros where no shard wrote any.
    pub(super) fn gradient(&self) -> Vec<f32> {
        let Some(sum) = self.tapes.first().map(|tape| tape.gradients()) else { return Vec::new() };
        let mut all = vec![0.0; sum.len()];
        for Segment { span, .. } in &self.active {
            all[span.clone()].copy_from_slice(&sum[span.clone()]);
        }
        all
    }
}

/// Refuses a parameter without a gradient, because weight decay alone would change it.
pub(super) fn check_alive(params: &Params, touched: &[bool]) -> Result<()> {
    match params.iter().zip(touched).find(|(_, touched)| !**touched) {
        Some(((name, ..), _)) => Err(Error::MissingTensor { name: format!("gradient of {name}") }),
        None => Ok(()),
    }
}
