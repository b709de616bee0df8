//! What can be sent, for the property tests.

use std::time::Duration;

use countersign_protocol::check::{CheckHeader, CheckedMessage, MAX_CONSUMERS};
use countersign_protocol::confirm::{ConfirmHeader, ConfirmedMessage};
use countersign_protocol::envelope::{MAX_REASON_CHARS, clean_reason};
use countersign_protocol::rolled_back::{RolledBackHeader, RolledBackMessage};
use countersign_protocol::{
    ArmingId, Attempt, Check, Confirm, DatabaseId, MessageId, Name, Outcome, RolledBack, Tier,
    UnixMillis, Window,
};
use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;

/// 18 November 2026.
pub(crate) const NOW: UnixMillis = UnixMillis::from_ms(1_795_000_000_000);
/// 30 days back, and a day ahead.
pub(crate) const WINDOW: Window = Window::at(NOW, Duration::from_secs(30 * 24 * 60 * 60));

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

/// Any id that there can be.
pub(crate) fn id() -> impl Strategy<Value = MessageId> {
    id_of(0..=UnixMillis::MAX_IN_ID.ms())
}

/// An id that a reader at [`WINDOW`] takes.
pub(crate) fn id_at_hand() -> impl Strategy<Value = MessageId> {
    let now = NOW.ms();
    id_of(now - 30 * DAY_MS..=now + DAY_MS)
}

fn id_of(ms: std::ops::RangeInclusive<i64>) -> impl Strategy<Value = MessageId> {
    (ms, any::<[u8; 10]>())
        .prop_map(|(ms, random)| MessageId::from_parts(UnixMillis::from_ms(ms), random))
}

pub(crate) fn name() -> impl Strategy<Value = Name> {
    "[a-z0-9][a-z0-9._-]{0,63}".prop_map(|text| text.parse().expect("the pattern is a name's"))
}

pub(crate) fn tier() -> impl Strategy<Value = Tier> {
    prop_oneof![100..=86_400_000_u64, (1..=86_400_u64).prop_map(|s| s * 1_000)]
        .prop_map(|ms| Tier::new(Duration::from_millis(ms)).expect("from 100 ms to a day"))
}

fn time() -> impl Strategy<Value = UnixMillis> {
    (0..=UnixMillis::MAX_IN_ID.ms()).prop_map(UnixMillis::from_ms)
}

pub(crate) fn check() -> impl Strategy<Value = Check> {
    let consumers =
        btree_set(name(), 1..=MAX_CONSUMERS).prop_map(|names| names.into_iter().collect());
    let message = (id_at_hand(), consumers, option::of(arming()))
        .prop_map(|(id, consumers, arming)| CheckedMessage { id, consumers, arming });
    (name(), option::of(database()), time(), vec(message, 1..6)).prop_map(
        |(upstream, database, armed_at, messages)| {
            Check::new(CheckHeader { upstream, database, armed_at }, messages)
        },
    )
}

fn database() -> impl Strategy<Value = DatabaseId> {
    any::<u128>().prop_map(|bits| DatabaseId::from_uuid(uuid::Uuid::from_u128(bits)))
}

pub(crate) fn arming() -> impl Strategy<Value = ArmingId> {
    any::<u64>().prop_map(ArmingId::from_bits)
}

pub(crate) fn rolled_back() -> impl Strategy<Value = RolledBack> {
    let message =
        (id_at_hand(), arming()).prop_map(|(id, arming)| RolledBackMessage { id, arming });
    (name(), vec(message, 1..6))
        .prop_map(|(upstream, messages)| RolledBack::new(RolledBackHeader { upstream }, messages))
}

/// A reason that needs no cleaning.
fn reason() -> impl Strategy<Value = String> {
    vec(any::<char>(), 0..=MAX_REASON_CHARS)
        .prop_map(|chars| clean_reason(&chars.into_iter().collect::<String>()))
}

fn outcome() -> impl Strategy<Value = Outcome> {
    let until = (0..=NOW.ms() + DAY_MS).prop_map(UnixMillis::from_ms);
    prop_oneof![
        4 => Just(Outcome::Processed),
        1 => reason().prop_map(|reason| Outcome::Rejected { reason }),
        1 => (until, reason()).prop_map(|(until, reason)| Outcome::Retrying { until, reason }),
    ]
}

pub(crate) fn confirm() -> impl Strategy<Value = Confirm> {
    let message = (
        id_at_hand(),
        outcome(),
        option::of(name()),
        option::of("[^\\pC]{0,60}"),
        option::of((1..=u32::MAX).prop_map(|n| Attempt::from_number(n).expect("from 1"))),
        option::of(time()),
        option::of(time()),
    )
        .prop_map(|(id, outcome, upstream, queue, attempt, published_at, at)| {
            ConfirmedMessage { id, outcome, upstream, queue, attempt, published_at, at }
        });
    (name(), vec(message, 1..6))
        .prop_map(|(consumer, messages)| Confirm::new(ConfirmHeader { consumer }, messages))
}
