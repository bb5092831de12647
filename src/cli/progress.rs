//! Shows the progress of runs and downloads, as a bar on a terminal and as plain lines otherwise. Ctrl-C cancels a run
//! after the current step.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{
    bank::Progress,
    client,
    train::{Event, run::RunEvent},
};

use super::output;

/// Shows the progress of a run, and cancels it on Ctrl-C.
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
        // The run blocks this thread, so another one waits for Ctrl-C. It ends with the process.
        std::thread::spawn(move || {
            let Ok(runtime) = super::commands::small_runtime() else { return };
            if runtime.block_on(tokio::signal::ctrl_c()).is_ok() {
                flag.store(true, Ordering::Relaxed);
            }
        });
        Self { bar, cancel }
    }

    /// The flag that Ctrl-C sets.
    pub(super) fn cancel(&self) -> Arc<AtomicBool> {
        self.cancel.clone()
    }

    /// Shows an event of the run.
    pub(super) fn report(&self, report: RunEvent) {
        match report {
            RunEvent::Trainer(Event::Resumed { step }) => self.line(format!("resumed at step {step}")),
            RunEvent::Trainer(Event::Step { step, total, loss, .. }) => {
                self.bar.set_length(total);
                self.bar.set_position(step);
                self.bar.set_message(format!("loss {loss:.4}"));
            }
            RunEvent::Trainer(Event::Epoch { epoch, loss, elapsed }) => {
                self.line(format!("epoch {epoch}: loss {loss:.4}, {:.0} s", elapsed.as_secs_f64()));
            }
            RunEvent::HeldOut { epoch, accuracy } => self.line(format!(
                "epoch {epoch}: held-out accuracy {}, loss {:.4}",
                output::percent(Some(accuracy.share())),
                accuracy.loss
            )),
            RunEvent::Vectors { epoch, width, cosine } => {
                self.line(format!(
                    "epoch {epoch}: width {width}, held-out cosine to the teacher {cosine:.4}"
                ));
            }
        }
    }

    /// Prints `text` without breaking the bar.
    pub(super) fn line(&self, text: String) {
        self.bar.suspend(|| output::talk(text));
    }
}

/// Shows the progress of a download.
#[derive(Debug)]
pub(super) struct Transfer {
    bar: ProgressBar,
}

impl Transfer {
    /// Shows a bar if `bar` is true and standard error is a terminal.
    pub(super) fn new(bar: bool) -> Self {
        let target = if bar { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self::on(target)
    }

    fn on(target: ProgressDrawTarget) -> Self {
        let bar = ProgressBar::with_draw_target(None, target);
        let style = ProgressStyle::with_template(
            "{bar:40} {binary_bytes}/{binary_total_bytes}, {binary_bytes_per_sec}, {eta} left",
        );
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { bar }
    }

    /// Shows an event of the download.
    pub(super) fn report(&mut self, event: client::Event) {
        match event {
            client::Event::Header(_) => {}
            client::Event::Progress(Progress { step, total_steps, loss }) => {
                self.line(format!("tuning: step {step} of {total_steps}, loss {loss:.4}"));
            }
            client::Event::Retry { reason, pause } => {
                self.line(format!("trying again in {:.1} s: {reason}", pause.as_secs_f64()));
            }
            client::Event::Resumed { bytes, of } => {
                self.bar.set_length(of);
                self.bar.set_position(bytes);
                // The rate should count only the bytes that arrive now.
                self.bar.reset_eta();
            }
            client::Event::Received { bytes, of } => {
                self.bar.set_length(of);
                self.bar.set_position(bytes);
            }
        }
    }

    fn line(&self, text: String) {
        self.bar.suspend(|| output::talk(text));
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        // A summary or an error follows, so the bar must go.
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_shows_what_has_come_and_nothing_without_a_terminal() {
        let mut transfer = Transfer::on(ProgressDrawTarget::hidden());
        transfer.report(client::Event::Resumed { bytes: 30, of: 100 });
        assert_eq!((transfer.bar.position(), transfer.bar.length()), (30, Some(100)));
        transfer.report(client::Event::Received { bytes: 70, of: 100 });
        assert_eq!(transfer.bar.position(), 70);
        // The size of the file is not known before tuning, so the total may change.
        transfer.report(client::Event::Received { bytes: 70, of: 80 });
        assert_eq!(transfer.bar.length(), Some(80));
        assert!(transfer.bar.is_hidden() && Transfer::new(false).bar.is_hidden());
    }
}
