//! How a run shows: a bar on a terminal, plain lines otherwise; ctrl-c cancels it after the step in progress.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::train::{Event, run::Report};

use super::output;

/// Watches a run and can cancel it.
#[derive(Debug)]
pub(super) struct Watch {
    bar: ProgressBar,
    cancel: Arc<AtomicBool>,
}

impl Watch {
    pub(super) fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{bar:40} {pos}/{len} steps, {eta} left, {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        let cancel = Arc::new(AtomicBool::new(false));
        let flag = cancel.clone();
        // A thread of its own, because the run holds this one; it ends with the process.
        std::thread::spawn(move || {
            let Ok(runtime) = super::commands::small_runtime() else { return };
            if runtime.block_on(tokio::signal::ctrl_c()).is_ok() {
                flag.store(true, Ordering::Relaxed);
            }
        });
        Self { bar, cancel }
    }

    /// Set by ctrl-c.
    pub(super) fn cancel(&self) -> Arc<AtomicBool> {
        self.cancel.clone()
    }

    /// Shows a report.
    pub(super) fn report(&self, report: Report) {
        match report {
            Report::Trainer(Event::Resumed { step }) => self.line(format!("resumed at step {step}")),
            Report::Trainer(Event::Step { step, total, loss, .. }) => {
                self.bar.set_length(total);
                self.bar.set_position(step);
                self.bar.set_message(format!("loss {loss:.4}"));
            }
            Report::Trainer(Event::Epoch { epoch, loss, elapsed }) => {
                self.line(format!("epoch {epoch}: loss {loss:.4}, {:.0} s", elapsed.as_secs_f64()));
            }
            Report::HeldOut { epoch, accuracy } => self.line(format!(
                "epoch {epoch}: held-out accuracy {}, loss {:.4}",
                output::percent(Some(accuracy.share())),
                accuracy.loss
            )),
        }
    }

    /// Says `text` without tearing the bar.
    pub(super) fn line(&self, text: String) {
        self.bar.suspend(|| output::talk(text));
    }
}
