//! Moments and spans of time, as a person reads and writes them.

use std::time::Duration;

use time::OffsetDateTime;
use time::macros::format_description;

/// A moment in UTC, to the millisecond.
pub(crate) fn clock(ms: i64) -> String {
    let format =
        format_description!("[year]-[month]-[day] [hour]:[minute]:[second].[subsecond digits:3]Z");
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000)
        .ok()
        .and_then(|moment| moment.format(format).ok())
        .unwrap_or_else(|| format!("{ms} ms"))
}

/// A span in its two largest units, such as `1h 02m` or `4.500s`.
pub(crate) fn span(ms: u64) -> String {
    let (seconds, minutes, hours, days) =
        (ms / 1_000, ms / 60_000, ms / 3_600_000, ms / 86_400_000);
    match ms {
        0..60_000 => format!("{seconds}.{:03}s", ms % 1_000),
        60_000..3_600_000 => format!("{minutes}m {:02}s", seconds % 60),
        3_600_000..172_800_000 => format!("{hours}h {:02}m", minutes % 60),
        _ => format!("{days}d {:02}h", hours % 24),
    }
}

/// How long ago a moment was. `-` for 0, which stands for no moment. A moment that another clock
/// says is still to come counts as now.
pub(crate) fn age(now_ms: i64, at_ms: i64) -> String {
    match at_ms {
        0 => "-".to_owned(),
        at_ms => span(u64::try_from(now_ms.saturating_sub(at_ms)).unwrap_or(0)),
    }
}

/// This machine's clock, in milliseconds since 1970.
#[expect(clippy::disallowed_methods, reason = "a person asks how long ago something was")]
pub(crate) fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, ms)
}

/// The number of milliseconds.
pub(crate) fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// A span as a person writes it: `10m`, `2h 30m`.
///
/// # Errors
/// When the text is no span.
pub(crate) fn written(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| format!("{text:?} is no span of time: use a number and a unit, such as 10m"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_and_spans_are_written_for_people() {
        assert_eq!(clock(1_795_231_234_567), "2026-11-21 03:20:34.567Z");
        assert_eq!(clock(i64::MAX), format!("{} ms", i64::MAX));
        for (ms, text) in [
            (0, "0.000s"),
            (59_999, "59.999s"),
            (61_000, "1m 01s"),
            (3_720_000, "1h 02m"),
            (172_800_000, "2d 00h"),
        ] {
            assert_eq!(span(ms), text);
        }
        assert_eq!(age(10_000, 5_000), "5.000s");
        assert_eq!(age(5_000, 10_000), "0.000s", "the clocks are not all the same");
        assert_eq!(age(5_000, 0), "-");
        assert!(written("10").is_err());
    }
}
