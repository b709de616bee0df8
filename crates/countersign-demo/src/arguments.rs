//! The demo's command line.

use clap::Parser;

/// How long placing takes when no rate is given, in seconds: with the start before and the healing
/// after it, the demo stays well below 90 s.
const PLACING_S: f64 = 30.0;

/// Places orders while their messages are destroyed and their services killed, and counts what
/// became of every one.
#[derive(Clone, Debug, Parser)]
#[command(name = "demo", version, max_term_width = 100)]
pub(crate) struct Arguments {
    /// How many orders to place: 20 to 1,000,000
    #[arg(long, value_name = "N", default_value_t = 3_000, value_parser = clap::value_parser!(u64).range(20..=1_000_000))]
    pub(crate) orders: u64,
    /// Orders per second [default: as many as take 30 s]
    #[arg(long, value_name = "R", value_parser = rate)]
    rate: Option<f64>,
    /// Draws the moments of the harm; the same seed draws the same ones [default: a new one each time]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Print the result as one line of JSON on standard output, instead of a table
    #[arg(long)]
    pub(crate) json: bool,
    /// Leave everything running at the end, until Ctrl-C, and print how to reach it
    #[arg(long)]
    pub(crate) keep: bool,
}

impl Arguments {
    /// Orders per second.
    pub(crate) fn rate(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "at most a million")]
        let orders = self.orders as f64;
        self.rate.unwrap_or(orders / PLACING_S)
    }

    /// The seed given, or one drawn now: short, because it is read and typed by people.
    pub(crate) fn seed(&self) -> u64 {
        self.seed.unwrap_or_else(|| fastrand::u64(..10_000))
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.1..=100_000.0).contains(&rate) => Ok(rate),
        _ => Err("0.1 to 100000 orders per second are possible".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(line.split(' '))
    }

    #[test]
    fn by_default_3_000_orders_take_half_a_minute() {
        let arguments = parse("demo").unwrap();
        assert_eq!(arguments.orders, 3_000);
        assert!((arguments.rate() - 100.0).abs() < 1e-9);
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        for line in ["demo --orders 19", "demo --rate 0", "demo --rate NaN", "demo --seed x"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
