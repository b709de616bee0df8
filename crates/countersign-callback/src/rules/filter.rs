//! A filter: which overdue messages an operator lists, counts or acts on.

use std::time::Duration;

use countersign_protocol::Name;

use crate::rules::cause::Cause;
use crate::rules::states::StateName;

/// The overdue messages to which every given condition applies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filter {
    /// The row is in one of these states: at least one.
    pub(crate) states: Vec<StateName>,
    /// This upstream sent the message.
    pub(crate) upstream: Option<Name>,
    /// This consumer has to confirm the message, perhaps among others.
    pub(crate) consumer: Option<Name>,
    /// The row is in its state for one of these causes; for any cause if there are none.
    pub(crate) causes: Vec<Cause>,
    /// The message has been overdue for at least this long.
    pub(crate) older_than: Option<Duration>,
    /// The message has been overdue for at most this long.
    pub(crate) younger_than: Option<Duration>,
}

impl Filter {
    /// The filter as a text, the same for the same filter: page tokens carry it, and a job's row
    /// tells it to operators.
    #[must_use]
    pub(crate) fn text(&self) -> String {
        let list = |words: Vec<&str>| words.join(",");
        let mut parts = vec![format!("states={}", list(texts(&self.states)))];
        let mut part = |name: &str, value: Option<String>| {
            parts.extend(value.map(|value| format!("{name}={value}")));
        };
        part("upstream", self.upstream.as_ref().map(Name::to_string));
        part("consumer", self.consumer.as_ref().map(Name::to_string));
        let causes = list(texts(&self.causes));
        part("causes", (!causes.is_empty()).then_some(causes));
        let ms = |age: Option<Duration>| age.map(|age| format!("{}ms", age.as_millis()));
        part("older_than", ms(self.older_than));
        part("younger_than", ms(self.younger_than));
        parts.join(" ")
    }
}

/// The stored words of all of these.
pub(crate) fn texts<T: Copy + Into<&'static str>>(all: &[T]) -> Vec<&'static str> {
    all.iter().map(|one| (*one).into()).collect()
}
