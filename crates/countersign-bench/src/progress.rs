//! Progress for a person at the terminal, on standard error: standard output is for results.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// A line for the person at the terminal.
#[expect(clippy::print_stderr, reason = "a command line program; standard output is for results")]
pub(crate) fn say(line: &str) {
    eprintln!("{line}");
}

/// A spinner for something that takes seconds.
pub(crate) fn spinner(what: &str) -> ProgressBar {
    let spinner = ProgressBar::new_spinner().with_message(what.to_owned());
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}

/// A bar for this many messages.
pub(crate) fn bar(what: &str, messages: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:40} {wide_bar} {human_pos}/{human_len}")
        .expect("the template is right, and the same every time");
    ProgressBar::new(messages).with_style(style).with_message(what.to_owned())
}
