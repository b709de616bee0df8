//! The story of a message, line by line.

use std::fmt::Write as _;

use crate::terminal::clock::{clock, span};
use countersign_protocol::MessageId;
use countersign_protocol::grpc::GetMessageResponse;

/// A line of the story.
struct Line {
    /// In milliseconds since 1970.
    at_ms: i64,
    what: String,
    more: String,
}

/// The state of the message, then everything that happened to it.
pub(crate) fn print(id: MessageId, message: &GetMessageResponse) -> String {
    let mut text = format!("{id}  {}", message.state);
    if !message.cause.is_empty() && message.cause != message.state {
        let _ = write!(text, "  [{}]", message.cause);
    }
    if !message.reason.is_empty() {
        let _ = write!(text, "\n  {}", message.reason);
    }

    if !message.upstream.is_empty() {
        let consumers = message.consumers.join(", ");
        let _ = write!(text, "\n  sent by {}, to be confirmed by {consumers}", message.upstream);
        if !message.database.is_empty() {
            let _ = write!(text, "\n  committed, if at all, in database {}", message.database);
        }
    }
    if message.next_at_ms > 0 {
        let _ = write!(text, "\n  judged again {}", clock(message.next_at_ms));
    }
    text.push('\n');
    let lines = lines(id, message);
    let width = lines.iter().map(|line| line.what.chars().count()).max().unwrap_or(0);
    let first = lines.first().map_or(0, |line| line.at_ms);
    for Line { at_ms, what, more } in lines {
        let since = since(at_ms - first);
        let line = format!("{}  {since:>9}  {what:width$}  {more}", clock(at_ms));
        let _ = write!(text, "\n  {}", line.trim_end());
    }
    text
}

/// Ordered by time. Lines of the same time keep the order of the chain below: a confirm comes before the
/// change of state that it causes.
fn lines(id: MessageId, message: &GetMessageResponse) -> Vec<Line> {
    let made = Line {
        at_ms: id.time().ms(),
        what: "made".to_owned(),
        more: "says its id, on the upstream's clock".to_owned(),
    };
    let confirms = message.confirms.iter().map(|confirm| Line {
        at_ms: confirm.recorded_at_ms,
        what: "confirm".to_owned(),
        more: match confirm.attempt {
            0 => format!("by {}", confirm.consumer),
            attempt => format!("by {} of attempt {attempt}", confirm.consumer),
        },
    });
    let reports = message.reports.iter().map(|report| Line {
        at_ms: report.recorded_at_ms,
        what: report.outcome.clone(),
        more: match report.until_ms {
            0 => format!("by {}: {}", report.consumer, report.reason),
            until => format!("by {}, until {}: {}", report.consumer, clock(until), report.reason),
        },
    });
    let history = message.history.iter().map(|event| Line {
        at_ms: event.at_ms,
        what: match (event.to_state.as_str(), event.resends) {
            ("asking", resends) => format!("asking for attempt {}", resends.saturating_add(1)),
            (state, _) => state.to_owned(),
        },
        more: match event.cause.as_str() {
            "" => event.reason.clone(),
            cause if cause == event.to_state => event.reason.clone(),
            cause => format!("[{cause}] {}", event.reason),
        },
    });
    let actions = message.actions.iter().map(|action| Line {
        at_ms: action.at_ms,
        what: format!("{} by {}", action.action, action.who),
        more: match action.result.as_str() {
            "" => format!("{} (job {})", action.why, action.job_id),
            result => format!("{} (job {}: {result})", action.why, action.job_id),
        },
    });
    let mut lines: Vec<Line> = std::iter::once(made)
        .chain(confirms)
        .chain(reports)
        .chain(actions)
        .chain(history)
        .collect();
    lines.sort_by_key(|line| line.at_ms);
    lines
}

/// The time since the first line. The upstream's clock gives the first line and the ledger's the
/// others: the difference can be negative.
fn since(ms: i64) -> String {
    let sign = if ms < 0 { '-' } else { '+' };
    format!("{sign}{}", span(ms.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use countersign_protocol::UnixMillis;
    use countersign_protocol::grpc::get_message_response::{Action, Confirmation, Event, Report};

    use super::*;

    const MADE: i64 = 1_795_231_234_567;

    #[test]
    fn a_life_is_told_in_order() {
        let id = MessageId::from_parts(UnixMillis::from_ms(MADE), [0; 10]);
        let event = |at: i64, from: &str, to: &str, resends, cause: &str, reason: &str| Event {
            at_ms: MADE + at,
            from_state: from.to_owned(),
            to_state: to.to_owned(),
            cause: cause.to_owned(),
            reason: reason.to_owned(),
            resends,
        };
        let not_confirmed = "not confirmed by logistics";
        let message = GetMessageResponse {
            cause: "republished".to_owned(),
            actions: vec![Action {
                at_ms: MADE + 3_699_000,
                action: "resend".to_owned(),
                who: "ann".to_owned(),
                why: "the lock is gone".to_owned(),
                job_id: "7".to_owned(),
                result: "begun".to_owned(),
            }],
            message_id: id.to_string(),
            state: "waiting".to_owned(),
            reason: "sent again by orders as attempt 2".to_owned(),
            upstream: "orders".to_owned(),
            database: "6f9619ff-8b86-4011-b42d-00c04fc964ff".to_owned(),
            consumers: vec!["billing".to_owned(), "logistics".to_owned()],
            resends: 1,
            next_at_ms: MADE + 334_000,
            confirms: vec![Confirmation {
                consumer: "billing".to_owned(),
                recorded_at_ms: MADE + 250,
                attempt: 1,
            }],
            reports: vec![Report {
                consumer: "logistics".to_owned(),
                outcome: "retrying".to_owned(),
                reason: "locked".to_owned(),
                until_ms: MADE + 2_000,
                recorded_at_ms: MADE + 1_000,
            }],
            history: vec![
                event(300_000, "", "waiting", 0, "not_confirmed", not_confirmed),
                event(300_001, "waiting", "asking", 1, "not_confirmed", not_confirmed),
                event(3_700_000, "asking", "waiting", 1, "republished", "sent again by orders"),
                event(3_700_100, "waiting", "confirmed", 1, "confirmed", "confirmed by logistics"),
            ],
        };
        let expected = "\
01a1fc1e-ba07-7000-8000-000000000000  waiting  [republished]
  sent again by orders as attempt 2
  sent by orders, to be confirmed by billing, logistics
  committed, if at all, in database 6f9619ff-8b86-4011-b42d-00c04fc964ff
  judged again 2026-11-21 03:26:08.567Z

  2026-11-21 03:20:34.567Z    +0.000s  made                  says its id, on the upstream's clock
  2026-11-21 03:20:34.817Z    +0.250s  confirm               by billing of attempt 1
  2026-11-21 03:20:35.567Z    +1.000s  retrying              by logistics, until 2026-11-21 03:20:36.567Z: locked
  2026-11-21 03:25:34.567Z    +5m 00s  waiting               [not_confirmed] not confirmed by logistics
  2026-11-21 03:25:34.568Z    +5m 00s  asking for attempt 2  [not_confirmed] not confirmed by logistics
  2026-11-21 04:22:13.567Z    +1h 01m  resend by ann         the lock is gone (job 7: begun)
  2026-11-21 04:22:14.567Z    +1h 01m  waiting               [republished] sent again by orders
  2026-11-21 04:22:14.667Z    +1h 01m  confirmed             confirmed by logistics";
        assert_eq!(print(id, &message), expected);
    }

    #[test]
    fn clocks_may_disagree() {
        assert_eq!(since(-1), "-0.001s");
        assert_eq!(since(-61_000), "-1m 01s");
        assert_eq!(since(59_999), "+59.999s");
    }
}
