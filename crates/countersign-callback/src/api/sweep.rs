//! What an upstream's sweep asks: which of these messages lack a confirm, and would no replica ask
//! for?
//!
//! A confirm that lies in the broker is a confirm. After an outage of this service many do, and what
//! they are about looks forgotten. So whatever looks forgotten is looked up once more when a marker,
//! sent after the question, has come back through every confirm shard.

use std::sync::Arc;
use std::time::Duration;

use countersign_protocol::check::MAX_CONSUMERS;
use countersign_protocol::envelope::MAX_ENTRIES;
use countersign_protocol::grpc::find_unconfirmed_request::Message;
use countersign_protocol::grpc::{self, FindUnconfirmedRequest, FindUnconfirmedResponse};
use countersign_protocol::{DatabaseId, MessageId, Name, OutsideWindow, UnixMillis, Window};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tonic::Status;

use crate::horizon::Horizons;
use crate::ledger::{Expected, Ledger, SweepProgress};
use crate::log;
use crate::rules::overdue::{Correction, Key, Policy};
use crate::watch::markers::MarkerNeed;

/// Looks up what upstreams ask.
#[derive(Clone, Debug)]
pub(crate) struct Sweeps {
    /// Where.
    pub(crate) ledger: Ledger,
    /// Which ids it knows about.
    pub(crate) horizons: Horizons,
    /// Takes from a sweep that it needs a marker through them.
    pub(crate) markers: MarkerNeed,
    /// Starts a round when a row was opened again.
    pub(crate) wake: Arc<Notify>,
    /// How many resends a row gets that opens again.
    pub(crate) policy: Policy,
}

/// Why there is no answer now. The question is to be asked again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unanswered {
    /// It does not answer.
    #[error("the ledger's database does not answer: try again")]
    Database(#[from] sqlx::Error),
    /// Confirms may still lie in the broker, so the ledger cannot tell yet which messages lack one.
    #[error("confirms that lie in the broker are still being recorded: try again")]
    Recording,
}

/// How long a question may wait for markers: less than its asker waits for the answer.
const MARKERS_WITHIN: Duration = Duration::from_secs(8);
const LOOK_EVERY: Duration = Duration::from_millis(100);

impl Sweeps {
    /// Those of the messages in question that lack a confirm and that no replica would ask for.
    ///
    /// # Errors
    /// When that cannot be said now.
    pub(crate) async fn forgotten(
        &self,
        question: &Question,
    ) -> Result<Vec<MessageId>, Unanswered> {
        let Question { upstream, known, .. } = question;
        let forgotten = self.ledger.forgotten(upstream, known).await?;
        // The usual case: one statement, and no markers.
        if forgotten.is_empty() {
            return Ok(forgotten);
        }
        self.all_is_recorded().await?;
        let perhaps: Vec<Expected> = known
            .iter()
            .filter(|message| forgotten.binary_search(&message.key.message_id).is_ok())
            .cloned()
            .collect();
        Ok(self.ledger.forgotten(upstream, &perhaps).await?)
    }

    /// Those of the messages in question whose rows say otherwise than the asker's records, which say
    /// that they are committed.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn contradicted(&self, question: &Question) -> Result<Vec<Key>, Unanswered> {
        let Question { upstream, database, known, .. } = question;
        let ids = known.iter().map(|message| message.key.message_id);
        Ok(self.ledger.contradicted(upstream, ids, *database).await?)
    }

    /// Corrects these rows by the asker's records: those that were closed as never committed open
    /// again.
    ///
    /// # Errors
    /// When nothing was corrected, or the commit's outcome is unknown.
    pub(crate) async fn correct(
        &self,
        keys: &[Key],
        database: Option<DatabaseId>,
    ) -> Result<(), Unanswered> {
        if keys.is_empty() {
            return Ok(());
        }
        let Some(taken) = self.ledger.take(keys).await? else { return Ok(()) };
        let rows = taken.rows.iter();
        let corrections: Vec<Correction> = rows
            .filter_map(|(row, _)| row.committed_in(database, &self.policy, taken.now))
            .collect();
        if corrections.is_empty() {
            return Ok(taken.write(&[]).await?);
        }
        taken.correct(&corrections).await?;
        for Correction { conflict, opened, .. } in &corrections {
            conflict.iter().chain(opened).for_each(log::transition);
        }
        self.wake.notify_one();
        Ok(())
    }

    /// Keeps, for an operator, how far the asker says that it is.
    ///
    /// # Errors
    /// When it was not kept.
    pub(crate) async fn note(&self, question: &Question) -> Result<(), Unanswered> {
        let Question { upstream, database, progress, .. } = question;
        if let Some(progress) = progress {
            self.ledger.note_sweep(upstream, *database, progress).await?;
        }
        Ok(())
    }

    /// Waits until every confirm that is in the broker now is recorded.
    async fn all_is_recorded(&self) -> Result<(), Unanswered> {
        let end = Instant::now() + MARKERS_WITHIN;
        let asked_at = self.ledger.now().await?;
        self.markers.after(asked_at);
        while self.ledger.watermark().await?.is_none_or(|mark| mark <= asked_at) {
            if Instant::now() >= end {
                return Err(Unanswered::Recording);
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }
}

/// A question that can be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    /// The upstream that asks.
    pub(crate) upstream: Name,
    /// The database whose records say that the messages are committed.
    pub(crate) database: Option<DatabaseId>,
    /// What the ledger is asked about.
    pub(crate) known: Vec<Expected>,
    /// What nothing can be said of: confirms of that time are not kept any more.
    pub(crate) too_old: Vec<MessageId>,
    /// How far the asker is, if it says so.
    pub(crate) progress: Option<SweepProgress>,
}

impl Question {
    /// Reads a request. One message that makes no sense fails it as a whole: its sender is a program,
    /// and what it asks for wrongly would be missed for ever.
    ///
    /// # Errors
    /// When it cannot be answered: what is wrong, and what to do about it.
    pub(crate) fn read(request: FindUnconfirmedRequest, window: Window) -> Result<Self, Status> {
        let FindUnconfirmedRequest { upstream, messages, database, sweep } = request;
        let upstream: Name = upstream.parse().map_err(|why| {
            Status::invalid_argument(format!(
                "upstream: {why}; it is the name that its checks carry"
            ))
        })?;
        let database = (!database.is_empty()).then(|| database.parse()).transpose();
        let database =
            database.map_err(|why| Status::invalid_argument(format!("database: {why}")))?;
        let progress = sweep.map(read_progress);
        if (messages.is_empty() && progress.is_none()) || messages.len() > MAX_ENTRIES {
            return Err(Status::invalid_argument(format!(
                "messages: {} given; ask about 1 to {MAX_ENTRIES} at once",
                messages.len()
            )));
        }
        let (known, too_old) = (Vec::new(), Vec::new());
        let mut question = Self { upstream, database, known, too_old, progress };
        for (index, message) in messages.into_iter().enumerate() {
            let wrong = |why| Status::invalid_argument(format!("messages[{index}]: {why}"));
            let due = read_message(message, &question.upstream).map_err(wrong)?;
            let message_id = due.key.message_id;
            match window.admit(message_id) {
                Ok(()) => question.known.push(due),
                Err(OutsideWindow::TooOld) => question.too_old.push(message_id),
                Err(OutsideWindow::Ahead) => {
                    return Err(wrong(format!(
                        "message_id: {message_id} was made more than 24 hours ahead of this clock; set the upstream's clock right"
                    )));
                }
            }
        }
        Ok(question)
    }

    /// The answer, when the ledger has said which of the known ones no replica would ask for, and whose
    /// rows said otherwise than the asker.
    #[must_use]
    pub(crate) fn answer(
        self,
        unconfirmed: &[MessageId],
        contradicted: &[Key],
    ) -> FindUnconfirmedResponse {
        let texts = |ids: &[MessageId]| ids.iter().map(MessageId::to_string).collect();
        FindUnconfirmedResponse {
            unconfirmed: texts(unconfirmed),
            too_old: texts(&self.too_old),
            contradicted: contradicted.iter().map(|key| key.message_id.to_string()).collect(),
        }
    }
}

fn read_progress(progress: grpc::find_unconfirmed_request::SweepProgress) -> SweepProgress {
    let walks = progress.walk_began_at_ms > 0;
    let times = (progress.walk_at_ms, progress.walk_began_at_ms);
    let times = (UnixMillis::from_ms(times.0), UnixMillis::from_ms(times.1));
    SweepProgress {
        check_delay_ms: progress.check_delay_ms,
        behind_ms: progress.behind_ms,
        walk: walks.then_some(times),
    }
}

fn read_message(message: Message, upstream: &Name) -> Result<Expected, String> {
    let Message { message_id, consumers } = message;
    let message_id: MessageId =
        message_id.parse().map_err(|why| format!("message_id: {why}; send it as a UUIDv7"))?;
    if consumers.is_empty() || consumers.len() > MAX_CONSUMERS {
        return Err(format!(
            "consumers: {} given; name the 1 to {MAX_CONSUMERS} who have to confirm it",
            consumers.len()
        ));
    }
    let mut consumers = consumers
        .iter()
        .map(|name| name.parse().map_err(|why| format!("consumers: {why}")))
        .collect::<Result<Vec<Name>, String>>()?;
    consumers.sort_unstable();
    consumers.dedup();
    Ok(Expected { key: Key { message_id, upstream: upstream.clone() }, consumers })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic::Code;

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    const NOW: UnixMillis = UnixMillis::from_ms(1_795_000_000_000);
    const WINDOW: Window = Window::at(NOW, DAY);

    fn made(at: UnixMillis) -> String {
        MessageId::from_parts(at, [7; 10]).to_string()
    }

    fn message(message_id: &str, consumers: &[&str]) -> Message {
        let consumers = consumers.iter().map(|&name| name.to_owned()).collect();
        Message { message_id: message_id.to_owned(), consumers }
    }

    fn asking(upstream: &str, messages: Vec<Message>) -> FindUnconfirmedRequest {
        let upstream = upstream.to_owned();
        FindUnconfirmedRequest { upstream, messages, ..FindUnconfirmedRequest::default() }
    }

    #[test]
    fn what_is_older_than_anything_kept_is_told_apart_from_what_is_not_confirmed() {
        let (old, edge) = (made(NOW.before(DAY + Duration::from_millis(1))), made(NOW.before(DAY)));
        let messages = vec![message(&old, &["billing"]), message(&edge, &["b", "a", "b"])];
        let question = Question::read(asking("orders", messages), WINDOW).unwrap();
        let [due] = &*question.known else { panic!("{question:?}") };
        assert_eq!(due.key.message_id.to_string(), edge);
        assert_eq!(due.consumers, ["a".parse().unwrap(), "b".parse().unwrap()]);
        let answer = question.clone().answer(&[due.key.message_id], &[]);
        assert_eq!((answer.unconfirmed, answer.too_old), (vec![edge], vec![old]));
    }

    #[test]
    fn nonsense_is_refused_with_where_it_is_and_what_to_do() {
        let good = made(NOW);
        let ahead = made(NOW.after(DAY + Duration::from_millis(1)));
        let one = |id: &str, consumers: &[&str]| {
            asking("orders", vec![message(&good, &["a"]), message(id, consumers)])
        };
        let many: Vec<String> = (0..17).map(|n| format!("c{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        for (request, part) in [
            (asking("", vec![message(&good, &["a"])]), "upstream: "),
            (
                FindUnconfirmedRequest {
                    database: "orders".to_owned(),
                    ..asking("orders", vec![message(&good, &["a"])])
                },
                "database: not a UUID",
            ),
            (asking("orders", Vec::new()), "messages: 0 given; ask about 1 to 1000"),
            (asking("orders", vec![message(&good, &["a"]); 1_001]), "1001 given"),
            (one("nonsense", &["a"]), "messages[1]: message_id: not a UUID"),
            (one("6f9619ff-8b86-4011-b42d-00c04fc964ff", &["a"]), "not of version 7"),
            (one(&ahead, &["a"]), "set the upstream's clock right"),
            (one(&good, &[]), "consumers: 0 given; name the 1 to 16"),
            (one(&good, &many), "consumers: 17 given"),
            (one(&good, &["Logistics!"]), "messages[1]: consumers: \"Logistics!\""),
        ] {
            let status = Question::read(request, WINDOW).unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument);
            assert!(status.message().contains(part), "{part:?} is not in {:?}", status.message());
        }
    }
}
