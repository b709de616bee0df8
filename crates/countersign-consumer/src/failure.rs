//! Why a handler did not do its work, and what that means for the message.

use std::error::Error;
use std::fmt::{Display, Write};

use countersign_postgres::{Trouble, trouble};

/// Why a handler did not do its work. Its transaction is rolled back.
///
/// Every error turns into one with `?`: into [`Interrupted`](Failure::Interrupted) if the database
/// asks for another try, otherwise into [`Retry`](Failure::Retry). `Reject` is said on purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// It may go better later: the message waits in a delay queue and comes back. When all attempts
    /// are used up, it ends in the `.dead` queue.
    Retry(String),
    /// It will never go: the message ends in the `.dead` queue at once, and is not sent again.
    Reject(String),
    /// The database's trouble, not the message's (a deadlock, a serialization failure, a lost
    /// connection): done again at once, without using an attempt, a few times; then as `Retry`.
    Interrupted(String),
}

impl Failure {
    /// [`Failure::Retry`] for anything that can say why.
    #[must_use]
    pub fn retry(why: impl Display) -> Self {
        Self::Retry(why.to_string())
    }

    /// [`Failure::Reject`] for anything that can say why.
    #[must_use]
    pub fn reject(why: impl Display) -> Self {
        Self::Reject(why.to_string())
    }
}

impl<E: Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        let why = with_causes(&error);
        if is_interruption(&error) { Self::Interrupted(why) } else { Self::Retry(why) }
    }
}

/// Whether a database error that asks for another try is among the causes.
fn is_interruption(error: &(dyn Error + 'static)) -> bool {
    causes(error)
        .filter_map(|cause| cause.downcast_ref::<sqlx::Error>())
        .any(|cause| trouble(cause) == Trouble::Again)
}

/// The error and what caused it, in one line. A cause that the text before it holds already is left
/// out: many errors print theirs. Of what a database says, its own words are enough.
fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    for cause in causes(error) {
        let database = cause.downcast_ref::<sqlx::Error>().and_then(sqlx::Error::as_database_error);
        let words = database.map_or_else(|| cause.to_string(), |error| error.message().to_owned());
        if !text.contains(&words) {
            let colon = if text.is_empty() { "" } else { ": " };
            write!(text, "{colon}{words}").expect("writing to a string never fails");
        }
        if database.is_some() {
            break;
        }
    }
    text
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| Error::source(*error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot book the lorry")]
    struct Outer(#[source] sqlx::Error);

    #[test]
    fn any_error_is_a_retry_and_says_its_causes() {
        let failure: Failure = Outer(sqlx::Error::RowNotFound).into();
        let Failure::Retry(why) = failure else { panic!("not a retry: {failure:?}") };
        assert!(why.starts_with("cannot book the lorry: no rows"), "{why}");
    }

    #[test]
    fn a_lost_connection_deep_inside_is_an_interruption() {
        let lost = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        let failure: Failure = Outer(sqlx::Error::Io(lost)).into();
        assert!(matches!(failure, Failure::Interrupted(_)), "{failure:?}");
    }

    #[test]
    fn a_cause_that_is_printed_already_is_not_repeated() {
        let lost = std::io::Error::other("the cable is out");
        let why = with_causes(&sqlx::Error::Io(lost));
        assert_eq!(why.matches("the cable is out").count(), 1, "{why}");
    }
}
