//! The comparison's result, for a person and for a script.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use serde::{Serialize, Serializer};

use crate::arguments::Load;
use crate::role::BODY_BYTES;
use crate::run::Finish;
use crate::scheme::Scheme;
use crate::usage::{SERVICE, Usage};

/// The figures of one run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Measured {
    pub(crate) scheme: Scheme,
    /// Messages finished in a second.
    pub(crate) per_second: f64,
    /// Messages in a second, as the callers see it.
    pub(crate) accepted_per_second: f64,
    /// Messages whose check was looked up before they were recorded.
    pub(crate) overdue: u64,
    /// The usage of each process, its start and the warm-up included.
    pub(crate) usage: Vec<Usage>,
}

impl Measured {
    pub(crate) fn new(
        scheme: Scheme,
        messages: u64,
        finish: Finish,
        overdue: u64,
        usage: Vec<Usage>,
    ) -> Self {
        Self {
            scheme,
            per_second: rate(messages, finish.finished),
            accepted_per_second: rate(messages, finish.accepted),
            overdue,
            usage,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 messages")]
fn rate(messages: u64, time: Duration) -> f64 {
    messages as f64 / time.as_secs_f64()
}

/// Each scheme once, one after the other.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct Round(pub(crate) Vec<Measured>);

impl Round {
    fn per_second(&self, scheme: Scheme) -> Option<f64> {
        self.0.iter().find(|run| run.scheme == scheme).map(|run| run.per_second)
    }

    /// How much faster Countersign was in this round.
    fn ratio_to(&self, other: Scheme) -> Option<f64> {
        Some(self.per_second(Scheme::Countersign)? / self.per_second(other)?)
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, run) in self.0.iter().enumerate() {
            let comma = if place == 0 { "" } else { ", " };
            write!(f, "{comma}{} {}/s", run.scheme, grouped(run.per_second))?;
        }
        Ok(())
    }
}

/// The median of some figures, and how far they lie apart.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    median: f64,
    lowest: f64,
    highest: f64,
}

impl Spread {
    fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        let (lowest, highest) = (*figures.first()?, *figures.last()?);
        let (low, high) = (figures[(figures.len() - 1) / 2], figures[figures.len() / 2]);
        Some(Self { median: f64::midpoint(low, high), lowest, highest })
    }
}

/// All rounds of a comparison.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Comparison {
    messages: u64,
    callers: u32,
    prefetch: u16,
    body_bytes: usize,
    check_delay_ms: u64,
    per_second: BTreeMap<Scheme, Spread>,
    /// Ratios within a round: rates move from round to round, ratios less.
    countersign_to_unprotected: Option<Spread>,
    countersign_to_textbook: Option<Spread>,
    rounds: Vec<Round>,
}

impl Comparison {
    pub(crate) fn of(rounds: Vec<Round>, messages: u64, load: &Load) -> Self {
        let rates = |scheme: Scheme| {
            let rates = rounds.iter().filter_map(|round| round.per_second(scheme));
            Some((scheme, Spread::of(rates)?))
        };
        let ratios =
            |other| Spread::of(rounds.iter().filter_map(|round: &Round| round.ratio_to(other)));
        Self {
            messages,
            callers: load.callers,
            prefetch: load.prefetch,
            body_bytes: BODY_BYTES,
            check_delay_ms: u64::try_from(load.tier.delay().as_millis()).unwrap_or(u64::MAX),
            per_second: Scheme::ALL.into_iter().filter_map(rates).collect(),
            countersign_to_unprotected: ratios(Scheme::Unprotected),
            countersign_to_textbook: ratios(Scheme::Textbook),
            rounds,
        }
    }

    /// Prints the report on standard output.
    ///
    /// # Errors
    /// When standard output is closed.
    pub(crate) fn print(&self, json: bool) -> Result<()> {
        let text = if json { serde_json::to_string_pretty(self)? } else { self.to_string() };
        print(&text)
    }

    fn runs(&self, scheme: Scheme) -> impl Iterator<Item = &Measured> {
        self.rounds.iter().flat_map(|round| &round.0).filter(move |run| run.scheme == scheme)
    }

    fn row(&self, scheme: Scheme, rates: &Spread) -> [String; 9] {
        let peak = |process| peak_mb(self.runs(scheme).flat_map(|run| &run.usage), process);
        let cost = |process| self.processor_us(scheme, process);
        [
            scheme.to_string(),
            grouped(rates.median),
            format!("{}–{}", grouped(rates.lowest), grouped(rates.highest)),
            cost("producer"),
            cost("consumer"),
            cost(SERVICE),
            peak("producer"),
            peak("consumer"),
            peak(SERVICE),
        ]
    }

    /// The processor time that a process took for each message, warm-up included, in microseconds.
    #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
    fn processor_us(&self, scheme: Scheme, process: &str) -> String {
        let cost = |run: &Measured| {
            let usage = run.usage.iter().find(|usage| usage.process == process)?;
            Some(usage.processor_ms as f64 * 1_000.0 / self.messages as f64)
        };
        let spread = Spread::of(self.runs(scheme).filter_map(cost));
        spread.map_or_else(String::new, |spread| format!("{:.0}", spread.median))
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED.with_rounded_corners()).set_header([
            "scheme",
            "messages/s",
            "lowest–highest",
            "producer\nµs CPU each",
            "consumer\nµs CPU each",
            "callback\nµs CPU each",
            "producer\npeak MB",
            "consumer\npeak MB",
            "callback\npeak MB",
        ]);
        table.add_rows(self.per_second.iter().map(|(scheme, rates)| self.row(*scheme, rates)));
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        writeln!(f, "{table}")?;
        writeln!(
            f,
            "Medians of {} rounds of {} messages of {} bytes from {} callers.",
            self.rounds.len(),
            self.messages,
            self.body_bytes,
            self.callers
        )?;
        let ratios = [
            ("no protection", self.countersign_to_unprotected),
            ("textbook", self.countersign_to_textbook),
        ];
        for (other, ratio) in ratios {
            if let Some(Spread { median, lowest, highest }) = ratio {
                writeln!(
                    f,
                    "Countersign / {other:13} {median:.2}   (rounds: {lowest:.2} to {highest:.2})"
                )?;
            }
        }
        let overdue = |scheme| self.runs(scheme).map(|run| run.overdue).sum::<u64>();
        write!(
            f,
            "Looked up before they were recorded: {} messages of Countersign, {} of the textbook scheme.",
            overdue(Scheme::Countersign),
            overdue(Scheme::Textbook)
        )
    }
}

/// The most that a process had resident in any of these runs, in millions of bytes.
pub(crate) fn peak_mb<'a>(usage: impl IntoIterator<Item = &'a Usage>, process: &str) -> String {
    let peaks = usage.into_iter().filter(|usage| usage.process == process);
    let peak = peaks.map(|usage| usage.peak_resident_bytes).max();
    peak.map_or_else(String::new, |bytes| format!("{:.0}", megabytes(bytes)))
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 bytes")]
pub(crate) fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Prints a result on standard output.
///
/// # Errors
/// When standard output is closed.
pub(crate) fn print(text: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{text}").context("the result could not be printed")
}

/// A rate as a person reads it: `12,345`.
pub(crate) fn grouped(figure: f64) -> String {
    let digits = format!("{figure:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

impl Serialize for Scheme {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.key())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(unprotected: f64, countersign: f64, textbook: f64) -> Round {
        let rates = [unprotected, countersign, textbook];
        let run = |(scheme, per_second)| Measured {
            scheme,
            per_second,
            accepted_per_second: per_second,
            overdue: 0,
            usage: Vec::new(),
        };
        Round(Scheme::ALL.into_iter().zip(rates).map(run).collect())
    }

    #[test]
    fn the_median_lies_in_the_middle_and_between_two_of_them() {
        let spread = |median, lowest, highest| Some(Spread { median, lowest, highest });
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), spread(2.0, 1.0, 3.0));
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]), spread(2.5, 1.0, 4.0));
    }

    #[test]
    fn ratios_are_those_of_a_round_and_not_of_the_medians() {
        // A machine that becomes slower and slower: in each round the ratio is the same.
        let ratios: Vec<_> = [round(100.0, 80.0, 20.0), round(50.0, 40.0, 10.0)]
            .iter()
            .map(|round| (round.ratio_to(Scheme::Unprotected), round.ratio_to(Scheme::Textbook)))
            .collect();
        assert_eq!(ratios, [(Some(0.8), Some(4.0)); 2]);
    }

    #[test]
    fn rates_are_grouped_by_thousands() {
        for (figure, text) in
            [(0.4, "0"), (999.0, "999"), (1_000.0, "1,000"), (1_234_567.0, "1,234,567")]
        {
            assert_eq!(grouped(figure), text);
        }
    }
}
