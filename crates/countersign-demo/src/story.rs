//! The story for a person, on standard error: lines, and in a terminal two bars and the ledger
//! below them. Without a terminal all of it is lines.

use std::cell::Cell;
use std::time::Duration;

use anyhow::Result;
use console::style;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::time::Instant;

use crate::databases::Progress;

/// Without a terminal: how often progress becomes a line.
const LINE_EVERY: Duration = Duration::from_secs(5);
const SPIN_EVERY: Duration = Duration::from_millis(80);

/// Tells the story.
#[derive(Debug)]
pub(crate) struct Story {
    began: Instant,
    screen: MultiProgress,
    bars: Option<Bars>,
    last_line: Cell<Instant>,
}

#[derive(Debug)]
struct Bars {
    placed: ProgressBar,
    shipped: ProgressBar,
    ledger: ProgressBar,
}

impl Story {
    /// Begins the story, with the clock at zero.
    pub(crate) fn begin() -> Self {
        let now = Instant::now();
        Self { began: now, screen: MultiProgress::new(), bars: None, last_line: Cell::new(now) }
    }

    /// The time since the beginning.
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Prints a line.
    #[expect(clippy::print_stderr, reason = "without a terminal there are no bars to keep intact")]
    pub(crate) fn say(&self, line: &str) {
        if self.screen.is_hidden() {
            eprintln!("{line}");
        } else {
            // The terminal may be gone: then no reader is left.
            let _ = self.screen.println(line);
        }
    }

    /// Prints a line about harm.
    pub(crate) fn harm(&self, what: &str, then: &str) {
        let mark = style("✗").for_stderr().red().bold();
        let what = style(what).for_stderr().red();
        self.say(&format!("{} {mark} {what}{then}", self.clock()));
    }

    /// Runs a step that takes a while, and prints a line when it is done.
    pub(crate) async fn step<T>(
        &self,
        what: &str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let spinner = self.screen.add(ProgressBar::new_spinner());
        spinner.set_style(template("         {spinner} {msg} …"));
        spinner.set_message(what.to_owned());
        spinner.enable_steady_tick(SPIN_EVERY);
        let done = work.await;
        spinner.finish_and_clear();
        self.screen.remove(&spinner);
        if done.is_ok() {
            self.done(what);
        }
        done
    }

    /// Prints a line about a success.
    pub(crate) fn done(&self, what: &str) {
        let mark = style("✓").for_stderr().green().bold();
        self.say(&format!("{} {mark} {what}", self.clock()));
    }

    /// Shows the bars, for this many orders.
    pub(crate) fn show_bars(&mut self, orders: u64) {
        let bar = |template_text: &str| {
            let bar = self.screen.add(ProgressBar::new(orders));
            bar.set_style(template(template_text).progress_chars("━╸─"));
            bar
        };
        self.bars = Some(Bars {
            placed: bar("         placed  {bar:40.cyan/dim} {human_pos}/{human_len}"),
            shipped: bar("         shipped {bar:40.green/dim} {human_pos}/{human_len}"),
            ledger: bar("         {msg:.dim}"),
        });
    }

    /// Moves the bars.
    pub(crate) fn progress(&self, progress: &Progress) {
        let Progress { placed, shipped, open, resends } = *progress;
        let ledger = format!(
            "overdue {}, resends asked {}",
            indicatif::HumanCount(open),
            indicatif::HumanCount(resends)
        );
        if self.screen.is_hidden() {
            if self.last_line.get().elapsed() >= LINE_EVERY {
                self.last_line.set(Instant::now());
                self.say(&format!(
                    "{}   placed {placed}, shipped {shipped}, {ledger}",
                    self.clock()
                ));
            }
        } else if let Some(bars) = &self.bars {
            // An order whose caller got no answer may come on top.
            for (bar, position) in [(&bars.placed, placed), (&bars.shipped, shipped)] {
                bar.set_length(bar.length().unwrap_or_default().max(position));
                bar.set_position(position);
            }
            bars.ledger.set_message(ledger);
        }
    }

    /// Takes the bars away; the lines stay.
    pub(crate) fn end(&mut self) {
        if let Some(Bars { placed, shipped, ledger }) = self.bars.take() {
            for bar in [placed, shipped, ledger] {
                bar.finish_and_clear();
            }
        }
    }

    fn clock(&self) -> console::StyledObject<String> {
        style(format!("{:>6.1} s", self.elapsed().as_secs_f64())).for_stderr().dim()
    }
}

fn template(text: &str) -> ProgressStyle {
    ProgressStyle::with_template(text).expect("the templates of this file are well-formed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_template_can_be_read() {
        let mut story = Story::begin();
        story.step("nothing", async { Ok(()) }).await.unwrap();
        story.show_bars(10);
        story.progress(&Progress { placed: 11, shipped: 3, open: 1, resends: 1 });
        story.end();
    }
}
