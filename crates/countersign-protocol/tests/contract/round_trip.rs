//! What is written can be read, and says the same.

use std::time::Duration;

use countersign_protocol::confirm::{ConfirmHeader, ConfirmedMessage};
use countersign_protocol::envelope::{MAX_BODY_BYTES, MAX_ENTRIES, MAX_REASON_CHARS};
use countersign_protocol::{
    ArmingId, Check, Confirm, MessageId, Name, Outcome, RolledBack, Tier, UnixMillis,
};
use proptest::prelude::*;

use crate::generate::{self, NOW, WINDOW};

proptest! {
    #[test]
    fn a_check_reads_as_it_was_written(check in generate::check()) {
        prop_assert_eq!(Check::read(&check.encode(), WINDOW), Ok((check, vec![])));
    }

    #[test]
    fn a_confirm_reads_as_it_was_written(confirm in generate::confirm()) {
        prop_assert_eq!(Confirm::read(&confirm.encode(), WINDOW), Ok((confirm, vec![])));
    }

    #[test]
    fn a_rolled_back_notice_reads_as_it_was_written(notice in generate::rolled_back()) {
        prop_assert_eq!(RolledBack::read(&notice.encode(), WINDOW), Ok((notice, vec![])));
    }

    #[test]
    fn only_armings_are_armings(arming in generate::arming(), text in "[0-9a-fA-F+ -]{15,17}") {
        prop_assert_eq!(arming.to_string().parse(), Ok(arming));
        let is_digit = |c: char| matches!(c, '0'..='9' | 'a'..='f');
        let is_arming = text.len() == 16 && text.chars().all(is_digit);
        prop_assert_eq!(text.parse::<ArmingId>().is_ok(), is_arming);
    }

    #[test]
    fn an_id_reads_as_it_was_written(id in generate::id()) {
        prop_assert_eq!(id.to_string().parse(), Ok(id));
        prop_assert_eq!(MessageId::try_from(id.uuid()), Ok(id));
    }

    #[test]
    fn an_id_says_when_it_was_made(ms in 0..=UnixMillis::MAX_IN_ID.ms(), random: [u8; 10]) {
        let at = UnixMillis::from_ms(ms);
        prop_assert_eq!(MessageId::from_parts(at, random).time(), at);
    }

    #[test]
    fn ids_sort_by_time_as_values_and_as_text(a in generate::id(), b in generate::id()) {
        prop_assume!(a.time() != b.time());
        prop_assert_eq!(a < b, a.time() < b.time());
        prop_assert_eq!(a.to_string() < b.to_string(), a.time() < b.time());
    }

    #[test]
    fn a_moment_that_no_id_can_hold_becomes_the_nearest(ms: i64, random: [u8; 10]) {
        let time = MessageId::from_parts(UnixMillis::from_ms(ms), random).time();
        prop_assert_eq!(time.ms(), ms.clamp(0, UnixMillis::MAX_IN_ID.ms()));
    }

    #[test]
    fn a_name_reads_as_it_was_written(name in generate::name()) {
        prop_assert_eq!(name.to_string().parse(), Ok(name));
    }

    #[test]
    fn only_names_are_names(text: String) {
        let mut chars = text.chars();
        let alphanumeric = |c: char| matches!(c, 'a'..='z' | '0'..='9');
        let is_name = chars.next().is_some_and(alphanumeric)
            && chars.all(|c| alphanumeric(c) || matches!(c, '.' | '_' | '-'))
            && text.len() <= 64;
        prop_assert_eq!(text.parse::<Name>().is_ok(), is_name);
    }

    #[test]
    fn a_tier_reads_as_it_was_written(tier in generate::tier()) {
        prop_assert_eq!(tier.to_string().parse(), Ok(tier));
    }

    #[test]
    fn a_tier_is_from_100_ms_to_a_day(ms in 0_u64..200_000_000) {
        let tier = Tier::new(Duration::from_millis(ms));
        prop_assert_eq!(tier.is_ok(), (100..=86_400_000).contains(&ms));
    }

    #[test]
    fn moments_never_overflow(ms: i64, delay: Duration) {
        let moment = UnixMillis::from_ms(ms);
        prop_assert!(moment.after(delay) >= moment);
        prop_assert!(moment.before(delay) <= moment);
        let _ = moment.since(UnixMillis::from_ms(i64::MIN)); // does not panic
        prop_assert_eq!(moment.since(moment.after(delay)), Duration::ZERO);
    }
}

#[test]
fn equal_delays_have_one_tier_with_one_name() {
    for (texts, name) in [
        (["300s", "5m", "4m 60s"], "5m"),
        (["90s", "1m 30s", "90000ms"], "90s"),
        (["24h", "1day", "86400s"], "24h"),
        (["100ms", "0h 100ms", "100000us"], "100ms"),
    ] {
        for text in texts {
            assert_eq!(text.parse::<Tier>().map(|tier| tier.to_string()), Ok(name.to_owned()));
        }
    }
}

#[test]
fn what_is_no_delay_is_no_tier() {
    for text in
        ["", "5", "-5s", "99ms", "25h", "0s", "s", "5 s s", "99999999999999999999s", "1y", "∞"]
    {
        let reason = text.parse::<Tier>().expect_err(text).to_string();
        assert!(reason.starts_with(&format!("{text:?} is not a check delay")), "{reason}");
    }
}

#[test]
fn ids_made_one_after_the_other_sort_in_that_order() {
    let ids: Vec<_> = (0..10_000).map(|_| MessageId::generate()).collect();
    assert!(ids.is_sorted_by(|a, b| a < b));
}

#[test]
fn a_writer_cleans_and_cuts_reasons_so_that_a_full_envelope_stays_small() {
    let reason = "\u{0}".repeat(MAX_REASON_CHARS * 10);
    let header = ConfirmHeader { consumer: "logistics".parse().unwrap() };
    let id = MessageId::from_parts(NOW, [0; 10]);
    let rejected = ConfirmedMessage::new(id, Outcome::Rejected { reason });
    let mut confirm = Confirm::new(header, vec![rejected]);
    let (read, refused) = Confirm::read(&confirm.encode(), WINDOW).unwrap();
    let cut = "\u{fffd}".repeat(MAX_REASON_CHARS);
    assert_eq!(read.entries[0].outcome, Outcome::Rejected { reason: cut });
    assert_eq!(refused, []);

    confirm.entries[0].outcome = Outcome::Processed;
    confirm.entries = vec![confirm.entries[0].clone(); MAX_ENTRIES];
    assert!(confirm.encode().len() < MAX_BODY_BYTES / 4);
}
