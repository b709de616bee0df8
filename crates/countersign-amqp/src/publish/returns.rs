//! From a batch's publisher confirms and returned messages to an outcome for each of its messages.
//!
//! A returned message does not come with its own confirm: the client attaches it to whichever
//! confirm is completed next on the channel (240 of 8,000 unroutable messages came back as a plain
//! ack, measured with lapin 4.12). What *is* reliable: the broker returns a message before it
//! confirms it, and the client hands out one returned message with each confirm as long as it has
//! any. So an acked message that was not returned is surely routed as soon as every message whose
//! return was seen has its own confirm in:
//!
//! Suppose that the return of an acked message still waits in the client. Since the client last had
//! no return waiting, each confirm has handed one out. So fewer confirms than returns have come, and
//! one of the confirms belongs to the acked message, whose own return was not handed out. Then
//! one of the returns that were handed out belongs to a message without a confirm.

use std::collections::HashMap;

use lapin::types::ShortString;

use crate::publish::outcome::PublishOutcome;

/// What tells a returned message from others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Label {
    pub(crate) id: ShortString,
    pub(crate) exchange: ShortString,
    pub(crate) key: ShortString,
}

/// A publisher confirm, and the returned message that came with it, if any.
#[derive(Clone, Debug)]
pub(crate) struct PublisherConfirm {
    pub(crate) acked: bool,
    pub(crate) returned: Option<Returned>,
}

/// A message that went to no queue.
#[derive(Clone, Debug)]
pub(crate) struct Returned {
    pub(crate) label: Label,
    pub(crate) why: String,
}

/// The outcome of each message of a batch. `None` stands for a confirm that has not arrived;
/// `missing` says why. The confirms are those of one moment, all that the client had then.
pub(crate) fn batch_outcomes(
    sent: &[Label],
    confirms: &[Option<PublisherConfirm>],
    missing: &str,
) -> Vec<PublishOutcome> {
    let unknown = |why: &str| PublishOutcome::Unknown { why: why.to_owned() };
    let returns = Returns::among(sent, confirms);
    let has_own_confirm = |(label, confirm): (&Label, &Option<PublisherConfirm>)| {
        confirm.is_some() || !returns.of.contains_key(label)
    };
    let none_waits = !returns.of_others && sent.iter().zip(confirms).all(has_own_confirm);
    sent.iter()
        .zip(confirms)
        .map(|(label, confirm)| match (returns.of.get(label), confirm) {
            (Some(returned), _) if returned.times >= returned.published => {
                PublishOutcome::Unroutable { why: returned.why.to_owned() }
            }
            (Some(_), _) => unknown("of several with this id, exchange and key some were returned"),
            (None, Some(PublisherConfirm { acked: false, .. })) => PublishOutcome::Refused,
            (None, Some(PublisherConfirm { acked: true, .. })) if none_waits => {
                PublishOutcome::Routed
            }
            (None, _) => unknown(missing),
        })
        .collect()
}

/// The returned messages of a batch.
struct Returns<'a> {
    of: HashMap<&'a Label, Times<'a>>,
    /// Whether the broker returned a message that this batch did not send. It never should; if it
    /// does, nothing about this batch is certain.
    of_others: bool,
}

struct Times<'a> {
    published: usize,
    times: usize,
    why: &'a str,
}

impl<'a> Returns<'a> {
    fn among(sent: &'a [Label], confirms: &'a [Option<PublisherConfirm>]) -> Self {
        let mut of: HashMap<&Label, Times<'_>> = HashMap::new();
        for Returned { label, why } in confirms.iter().flatten().filter_map(|a| a.returned.as_ref())
        {
            of.entry(label).or_insert(Times { published: 0, times: 0, why }).times += 1;
        }
        if !of.is_empty() {
            for label in sent {
                if let Some(times) = of.get_mut(label) {
                    times.published += 1;
                }
            }
        }
        let of_others = of.values().any(|times| times.published == 0);
        Self { of, of_others }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(id: &str) -> Label {
        Label { id: id.into(), exchange: "orders".into(), key: "placed".into() }
    }

    fn ack() -> Option<PublisherConfirm> {
        Some(PublisherConfirm { acked: true, returned: None })
    }

    fn nack() -> Option<PublisherConfirm> {
        Some(PublisherConfirm { acked: false, returned: None })
    }

    fn ack_with_return_of(id: &str) -> Option<PublisherConfirm> {
        let returned = Returned { label: label(id), why: "NO_ROUTE".to_owned() };
        Some(PublisherConfirm { acked: true, returned: Some(returned) })
    }

    fn outcomes(sent: &[&str], confirms: &[Option<PublisherConfirm>]) -> Vec<&'static str> {
        let sent: Vec<_> = sent.iter().map(|id| label(id)).collect();
        batch_outcomes(&sent, confirms, "lost")
            .into_iter()
            .map(|outcome| match outcome {
                PublishOutcome::Routed => "routed",
                PublishOutcome::Refused => "refused",
                PublishOutcome::Unroutable { why } if why == "NO_ROUTE" => "unroutable",
                PublishOutcome::Unknown { .. } => "unknown",
                PublishOutcome::Unroutable { .. } => panic!("another reason than the broker's"),
            })
            .collect()
    }

    #[test]
    fn acked_is_routed_and_nacked_is_refused() {
        assert_eq!(outcomes(&["a", "b"], &[ack(), nack()]), ["routed", "refused"]);
    }

    #[test]
    fn a_return_counts_for_its_own_message_whichever_confirm_it_came_with() {
        assert_eq!(
            outcomes(&["a", "b", "c"], &[ack(), ack(), ack_with_return_of("a")]),
            ["unroutable", "routed", "routed"]
        );
        assert_eq!(
            outcomes(&["a", "b", "c"], &[ack_with_return_of("c"), nack(), ack_with_return_of("a")]),
            ["unroutable", "refused", "unroutable"]
        );
    }

    #[test]
    fn the_same_id_with_another_key_is_another_message() {
        let sent = [label("a"), Label { key: "shipped".into(), ..label("a") }];
        let outcomes = batch_outcomes(&sent, &[ack_with_return_of("a"), ack()], "lost");
        assert!(matches!(
            outcomes[..],
            [PublishOutcome::Unroutable { .. }, PublishOutcome::Routed]
        ));
    }

    #[test]
    fn of_the_same_message_twice_all_or_none_is_certain_and_one_is_not() {
        let both = [ack_with_return_of("a"), ack_with_return_of("a"), ack()];
        assert_eq!(outcomes(&["a", "a", "b"], &both), ["unroutable", "unroutable", "routed"]);
        let one = [ack_with_return_of("a"), ack(), ack()];
        assert_eq!(outcomes(&["a", "a", "b"], &one), ["unknown", "unknown", "routed"]);
        assert_eq!(outcomes(&["a", "a"], &[ack(), nack()]), ["routed", "refused"]);
    }

    #[test]
    fn an_ack_is_certain_unless_a_returned_message_lacks_its_own_confirm() {
        assert_eq!(outcomes(&["a", "b"], &[None, ack()]), ["unknown", "routed"]);
        assert_eq!(
            outcomes(&["a", "b", "c", "d"], &[ack_with_return_of("c"), ack(), nack(), None]),
            ["routed", "routed", "unroutable", "unknown"]
        );
        // The return of a or b may still wait in the client: c's return took its place.
        assert_eq!(
            outcomes(&["a", "b", "c", "d"], &[ack_with_return_of("c"), ack(), None, nack()]),
            ["unknown", "unknown", "unroutable", "refused"]
        );
        assert_eq!(outcomes(&["a", "b"], &[None, nack()]), ["unknown", "refused"]);
    }

    #[test]
    fn a_return_of_something_else_makes_nothing_certain() {
        assert_eq!(
            outcomes(&["a", "b"], &[ack_with_return_of("z"), nack()]),
            ["unknown", "refused"]
        );
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Fate {
        Queued,
        Full,
        NoQueue,
    }

    /// What the broker says of a message, by its place in the batch.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    enum Said {
        Returned(usize),
        Confirmed(usize),
    }

    /// What the client has given out after the broker has said this: the first returned message
    /// that waits goes with whichever confirm comes next, as in lapin 4.12's `acknowledgement.rs`.
    fn as_the_client_gives_it_out(fates: &[Fate], said: &[Said]) -> Vec<Option<PublisherConfirm>> {
        let mut waiting = std::collections::VecDeque::new();
        let mut confirms = vec![None; fates.len()];
        for said in said {
            match *said {
                Said::Returned(place) => waiting.push_back(Returned {
                    label: label(&place.to_string()),
                    why: "NO_ROUTE".to_owned(),
                }),
                Said::Confirmed(place) => {
                    let acked = fates[place] != Fate::Full;
                    let returned = waiting.pop_front();
                    confirms[place] = Some(PublisherConfirm { acked, returned });
                }
            }
        }
        confirms
    }

    proptest::proptest! {
        #[test]
        fn whenever_the_broker_falls_silent_no_outcome_is_wrong(
            messages in proptest::collection::vec(
                (
                    proptest::sample::select(&[Fate::Queued, Fate::Full, Fate::NoQueue][..]),
                    0..40_u8,
                    0..40_u8,
                ),
                1..16,
            ),
            heard in 0..40_usize,
        ) {
            // The broker returns a message before it confirms it; apart from that, in any order.
            let mut said = Vec::new();
            for (place, &(fate, one, other)) in messages.iter().enumerate() {
                if fate == Fate::NoQueue {
                    said.push((one.min(other), Said::Returned(place)));
                }
                said.push((one.max(other), Said::Confirmed(place)));
            }
            said.sort_unstable();
            let all = said.len();
            let heard = all.min(heard);
            let said: Vec<_> = said.into_iter().map(|(_, said)| said).take(heard).collect();

            let fates: Vec<_> = messages.iter().map(|message| message.0).collect();
            let sent: Vec<_> = (0..fates.len()).map(|place| label(&place.to_string())).collect();
            let confirms = as_the_client_gives_it_out(&fates, &said);
            let outcomes = batch_outcomes(&sent, &confirms, "lost");
            let is_heard = |place| said.contains(&Said::Confirmed(place));
            for (place, outcome) in outcomes.iter().enumerate() {
                let right = match outcome {
                    PublishOutcome::Routed => fates[place] == Fate::Queued && is_heard(place),
                    PublishOutcome::Refused => fates[place] == Fate::Full && is_heard(place),
                    PublishOutcome::Unroutable { .. } => fates[place] == Fate::NoQueue,
                    PublishOutcome::Unknown { .. } => heard < all,
                };
                proptest::prop_assert!(right, "{place}: {outcome:?} of {fates:?} after {said:?}");
            }
        }
    }
}
