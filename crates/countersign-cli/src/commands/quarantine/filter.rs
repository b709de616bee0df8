//! The quarantined messages that the flags match.

use std::time::Duration;

use clap::Args;

use super::item::Shown;
use crate::terminal::clock::{ms, written};

/// A message matches if it matches every given flag.
#[derive(Debug, Default, Args)]
pub(crate) struct Filter {
    /// The message's reason contains TEXT, in upper or lower case
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// The message came from QUEUE, such as countersign.confirm.0
    #[arg(long, value_name = "QUEUE")]
    source: Option<String>,
    /// The message's sender calls itself APP_ID
    #[arg(long, value_name = "APP_ID")]
    app_id: Option<String>,
    /// The message was put aside at least SPAN ago, such as 10m
    #[arg(long, value_name = "SPAN", value_parser = written)]
    older_than: Option<Duration>,
    /// The message was put aside less than SPAN ago
    #[arg(long, value_name = "SPAN", value_parser = written)]
    newer_than: Option<Duration>,
    /// The message has this id, as `quarantine list` shows it; can be given several times
    #[arg(long, value_name = "MESSAGE_ID")]
    id: Vec<String>,
}

impl Filter {
    /// Whether no flag is given.
    pub(crate) fn is_empty(&self) -> bool {
        let Self { reason, source, app_id, older_than, newer_than, id } = self;
        reason.is_none()
            && source.is_none()
            && app_id.is_none()
            && older_than.is_none()
            && newer_than.is_none()
            && id.is_empty()
    }

    /// Whether the message matches. A message of unknown age is neither older nor newer.
    pub(crate) fn matches(&self, item: &Shown, now_ms: i64) -> bool {
        let is = |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|w| w == found);
        let age =
            (item.quarantined_at_ms > 0).then(|| now_ms.saturating_sub(item.quarantined_at_ms));
        self.reason
            .as_ref()
            .is_none_or(|part| item.reason.to_lowercase().contains(&part.to_lowercase()))
            && is(&self.source, &item.source)
            && is(&self.app_id, &item.app_id)
            && self.older_than.is_none_or(|span| age.is_some_and(|age| age >= ms(span)))
            && self.newer_than.is_none_or(|span| age.is_some_and(|age| age < ms(span)))
            && (self.id.is_empty() || self.id.contains(&item.message_id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000_000;

    fn shown() -> Shown {
        Shown {
            message_id: "7".to_owned(),
            quarantined_at_ms: NOW - 60_000,
            source: "countersign.confirm.0".to_owned(),
            app_id: "logistics".to_owned(),
            reason: "version 2 is not known here".to_owned(),
            ..Shown::default()
        }
    }

    #[test]
    fn a_message_matches_if_it_matches_every_given_flag() {
        let text = |text: &str| Some(text.to_owned());
        let span = |seconds| Some(Duration::from_secs(seconds));
        let none = Filter::default;
        for (what, filter, meant) in [
            ("nothing said", none(), true),
            ("a part of the reason", Filter { reason: text("Version 2"), ..none() }, true),
            ("another reason", Filter { reason: text("not a UUID"), ..none() }, false),
            ("source", Filter { source: text("countersign.confirm.0"), ..none() }, true),
            ("half a source", Filter { source: text("countersign.confirm"), ..none() }, false),
            ("app id", Filter { app_id: text("orders"), ..none() }, false),
            ("older", Filter { older_than: span(60), ..none() }, true),
            ("not old enough", Filter { older_than: span(61), ..none() }, false),
            ("newer", Filter { newer_than: span(61), ..none() }, true),
            ("not new enough", Filter { newer_than: span(60), ..none() }, false),
            ("id", Filter { id: vec!["8".to_owned(), "7".to_owned()], ..none() }, true),
            ("another id", Filter { id: vec!["8".to_owned()], ..none() }, false),
            (
                "one of two does not apply",
                Filter { app_id: text("logistics"), source: text("elsewhere"), ..none() },
                false,
            ),
        ] {
            assert_eq!(filter.matches(&shown(), NOW), meant, "{what}");
        }
    }

    #[test]
    fn a_message_of_unknown_age_is_neither_older_nor_newer() {
        let ageless = Shown { quarantined_at_ms: 0, ..shown() };
        let span = Some(Duration::ZERO);
        for filter in [
            Filter { older_than: span, ..Filter::default() },
            Filter { newer_than: span, ..Filter::default() },
        ] {
            assert!(!filter.matches(&ageless, NOW));
        }
    }
}
