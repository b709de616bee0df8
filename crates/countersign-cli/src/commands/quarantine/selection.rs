//! Which of the quarantined messages are meant.

use std::time::Duration;

use clap::Args;

use super::item::Shown;
use crate::terminal::clock::{ms, written};

/// All that every given flag applies to.
#[derive(Debug, Default, Args)]
pub(crate) struct Selection {
    /// Whose reason contains this, whatever its case
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// That came from this queue, such as countersign.confirm.0
    #[arg(long, value_name = "QUEUE")]
    source: Option<String>,
    /// Whose sender calls itself this
    #[arg(long, value_name = "APP_ID")]
    app_id: Option<String>,
    /// Put aside longer ago than this, such as 10m
    #[arg(long, value_name = "SPAN", value_parser = written)]
    older_than: Option<Duration>,
    /// Put aside less long ago than this
    #[arg(long, value_name = "SPAN", value_parser = written)]
    newer_than: Option<Duration>,
    /// With this id, as `quarantine list` shows it; can be given several times
    #[arg(long, value_name = "MESSAGE_ID")]
    id: Vec<String>,
}

impl Selection {
    /// Whether nothing was said.
    pub(crate) fn is_empty(&self) -> bool {
        let Self { reason, source, app_id, older_than, newer_than, id } = self;
        reason.is_none()
            && source.is_none()
            && app_id.is_none()
            && older_than.is_none()
            && newer_than.is_none()
            && id.is_empty()
    }

    /// Whether this one is meant.
    pub(crate) fn holds(&self, item: &Shown, now_ms: i64) -> bool {
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
    fn what_every_given_flag_applies_to_is_meant() {
        let text = |text: &str| Some(text.to_owned());
        let span = |seconds| Some(Duration::from_secs(seconds));
        let none = Selection::default;
        for (what, selection, meant) in [
            ("nothing said", none(), true),
            ("a part of the reason", Selection { reason: text("Version 2"), ..none() }, true),
            ("another reason", Selection { reason: text("not a UUID"), ..none() }, false),
            ("source", Selection { source: text("countersign.confirm.0"), ..none() }, true),
            ("half a source", Selection { source: text("countersign.confirm"), ..none() }, false),
            ("app id", Selection { app_id: text("orders"), ..none() }, false),
            ("older", Selection { older_than: span(60), ..none() }, true),
            ("not old enough", Selection { older_than: span(61), ..none() }, false),
            ("newer", Selection { newer_than: span(61), ..none() }, true),
            ("not new enough", Selection { newer_than: span(60), ..none() }, false),
            ("id", Selection { id: vec!["8".to_owned(), "7".to_owned()], ..none() }, true),
            ("another id", Selection { id: vec!["8".to_owned()], ..none() }, false),
            (
                "one of two does not apply",
                Selection { app_id: text("logistics"), source: text("elsewhere"), ..none() },
                false,
            ),
        ] {
            assert_eq!(selection.holds(&shown(), NOW), meant, "{what}");
        }
    }

    #[test]
    fn of_unknown_age_is_neither_older_nor_newer() {
        let ageless = Shown { quarantined_at_ms: 0, ..shown() };
        let span = Some(Duration::ZERO);
        for selection in [
            Selection { older_than: span, ..Selection::default() },
            Selection { newer_than: span, ..Selection::default() },
        ] {
            assert!(!selection.holds(&ageless, NOW));
        }
    }
}
