//! Overdue messages as people look at them: lists and counts.

use std::collections::BTreeMap;

use countersign_protocol::MessageId;
use countersign_protocol::grpc::count_overdue_response::Group;
use countersign_protocol::grpc::{
    CountOverdueResponse, ListOverdueRequest, ListOverdueResponse, OverdueMessage,
};
use strum::{IntoStaticStr, VariantArray};
use tonic::Status;
use uuid::Uuid;

use crate::api::filter;
use crate::api::page::{self, Page};
use crate::ledger::{Counted, Listed, Place};
use crate::rules::filter::Filter;

/// A page of overdue messages that an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OverduePage {
    /// Which messages.
    pub(crate) filter: Filter,
    /// The row of the page before, which may have gone by now.
    pub(crate) after: Option<Place>,
    page: Page<(i64, Uuid, String)>,
}

impl OverduePage {
    /// Reads what came over gRPC.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`, with the field and what may stand there.
    pub(crate) fn read(request: ListOverdueRequest) -> Result<Self, Status> {
        let filter = filter::read(request.filter)?;
        let page =
            Page::read("ListOverdue", filter.text(), &request.page_token, request.page_size)?;
        let after = page.after().map(place).transpose()?;
        Ok(Self { filter, after, page })
    }

    /// See [`Page::limit`].
    #[must_use]
    pub(crate) fn limit(&self) -> u32 {
        self.page.limit()
    }

    /// The page, out of the rows that were fetched.
    #[must_use]
    pub(crate) fn answer(&self, rows: Vec<Listed>) -> ListOverdueResponse {
        let place = |row: &Listed| (row.since_us, row.message_id, row.upstream.clone());
        let (rows, next_page_token) = self.page.cut(rows, place);
        let messages = rows.into_iter().map(OverdueMessage::from).collect();
        ListOverdueResponse { messages, next_page_token }
    }
}

fn place((since_us, message_id, upstream): (i64, Uuid, String)) -> Result<Place, Status> {
    let message_id = MessageId::try_from(message_id).map_err(|_| page::unreadable())?;
    let upstream = upstream.parse().map_err(|_| page::unreadable())?;
    let since_us = page::moment(since_us)?;
    Ok(Place { since_us, message_id, upstream })
}

impl From<Listed> for OverdueMessage {
    fn from(row: Listed) -> Self {
        Self {
            message_id: row.message_id.to_string(),
            upstream: row.upstream,
            consumers: row.consumers,
            state: row.state,
            cause: row.cause,
            reason: row.reason,
            resends: u32::try_from(row.resends).unwrap_or(0),
            since_ms: row.since_us.div_euclid(1_000),
            next_at_ms: row.due_at_ms.unwrap_or(0),
        }
    }
}

/// By what messages are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum By {
    State,
    Upstream,
    Consumer,
    Cause,
}

impl By {
    /// Reads what came over gRPC.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`, with what may stand there.
    pub(crate) fn read(group_by: &[String]) -> Result<Vec<Self>, Status> {
        filter::words("group_by", group_by)
    }
}

/// The counts, grouped as asked: the largest group first. A message that several consumers have to
/// confirm is in the group of each, and counted once in the total.
#[must_use]
pub(crate) fn grouped(counted: &[Counted], by: &[By]) -> CountOverdueResponse {
    let mut groups: BTreeMap<[&str; 4], (i64, i64)> = BTreeMap::new();
    for count in counted {
        let if_asked = |what: By, word| if by.contains(&what) { word } else { "" };
        let consumers = match by.contains(&By::Consumer) {
            true => count.consumers.iter().map(String::as_str).collect(),
            false => vec![""],
        };
        for consumer in consumers {
            let key = [
                if_asked(By::State, count.state.as_str()),
                if_asked(By::Upstream, count.upstream.as_str()),
                consumer,
                if_asked(By::Cause, count.cause.as_str()),
            ];
            let (messages, oldest) = groups.entry(key).or_insert((0, i64::MAX));
            *messages += count.messages;
            *oldest = (*oldest).min(count.oldest_since_ms);
        }
    }
    let group = |([state, upstream, consumer, cause], (messages, oldest_since_ms)): (
        [&str; 4],
        (i64, i64),
    )| Group {
        state: state.to_owned(),
        upstream: upstream.to_owned(),
        consumer: consumer.to_owned(),
        cause: cause.to_owned(),
        messages: number(messages),
        oldest_since_ms,
    };
    let mut groups: Vec<Group> = groups.into_iter().map(group).collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.messages));
    let total = number(counted.iter().map(|count| count.messages).sum());
    CountOverdueResponse { groups, total }
}

fn number(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(state: &str, consumers: &[&str], messages: i64, oldest: i64) -> Counted {
        Counted {
            state: state.to_owned(),
            upstream: "orders".to_owned(),
            cause: "rejected".to_owned(),
            consumers: consumers.iter().map(|&consumer| consumer.to_owned()).collect(),
            messages,
            oldest_since_ms: oldest,
        }
    }

    fn count(by: &[&str]) -> (Vec<(String, u64, i64)>, u64) {
        let rows = [
            counted("parked", &["logistics"], 5, 30),
            counted("parked", &["logistics", "audit"], 2, 10),
            counted("waiting", &["audit"], 9, 20),
        ];
        let by: Vec<String> = by.iter().map(|&word| word.to_owned()).collect();
        let response = grouped(&rows, &By::read(&by).unwrap());
        let group = |group: &Group| {
            let words = [&group.state, &group.upstream, &group.consumer, &group.cause];
            let words: Vec<&str> = words.iter().map(|word| word.as_str()).collect();
            (words.join("/"), group.messages, group.oldest_since_ms)
        };
        (response.groups.iter().map(group).collect(), response.total)
    }

    #[test]
    fn messages_are_counted_in_the_groups_asked_for() {
        let group = |words: &str, messages, oldest| (words.to_owned(), messages, oldest);
        assert_eq!(count(&[]), (vec![group("///", 16, 10)], 16));
        let by_state = vec![group("waiting///", 9, 20), group("parked///", 7, 10)];
        assert_eq!(count(&["state"]), (by_state, 16));
        let by_consumer = vec![group("//audit/", 11, 10), group("//logistics/", 7, 10)];
        assert_eq!(count(&["consumer"]), (by_consumer, 16), "in both groups, counted once");
        let by_two = vec![group("/orders//rejected", 16, 10)];
        assert_eq!(count(&["cause", "upstream"]), (by_two, 16));
    }

    #[test]
    fn what_cannot_be_grouped_by_is_refused() {
        let status = By::read(&["age".to_owned()]).unwrap_err();
        assert_eq!(
            status.message(),
            "group_by: \"age\" is none of state, upstream, consumer, cause"
        );
    }
}
