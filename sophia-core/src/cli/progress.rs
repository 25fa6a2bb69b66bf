//! How far long work is: a bar on a terminal, nothing elsewhere.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Time between two looks of a bar that is not told anything.
const TICK: Duration = Duration::from_millis(200);

/// A bar on stderr.
#[derive(Debug)]
pub(super) struct Bar(ProgressBar);

impl Bar {
    /// Starts a bar over items of a kind, such as `"questions"`. Where stderr is no terminal it shows nothing.
    pub fn items(what: &'static str) -> Bar {
        // The total is heard with the first step.
        let bar = ProgressBar::new(1).with_message(what);
        if let Ok(style) = ProgressStyle::with_template("{bar:40} {percent}% {msg}, {eta} left") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(TICK);
        Bar(bar)
    }

    /// Says what is done, of how much.
    pub fn set(&self, done: u64, total: u64) {
        self.0.set_length(total.max(1));
        self.0.set_position(done);
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.0.finish_and_clear();
    }
}
