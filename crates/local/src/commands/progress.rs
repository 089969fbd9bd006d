//! What a waiting user sees: a spinner on a terminal, lines elsewhere. All of
//! it goes to standard error.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use owo_colors::OwoColorize;

/// The progress of one command.
pub(super) struct Progress {
    spinner: Option<ProgressBar>,
}

impl Progress {
    /// Starts with a headline.
    pub(super) fn start(headline: &str) -> Self {
        eprintln!("{headline}");
        let spinner = std::io::stderr().is_terminal().then(|| {
            let spinner = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template(" {spinner} {msg}") {
                spinner.set_style(style);
            }
            spinner.enable_steady_tick(Duration::from_millis(80));
            spinner
        });
        Self { spinner }
    }

    /// Says what is waited for.
    pub(super) fn wait_for(&self, what: &str) {
        if let Some(spinner) = &self.spinner {
            spinner.set_message(what.to_owned());
        }
    }

    /// Says what is done.
    pub(super) fn done(&self, what: &str) {
        match &self.spinner {
            Some(spinner) => spinner.suspend(|| eprintln!(" {} {what}", "✓".green())),
            None => eprintln!(" ✓ {what}"),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }
}
