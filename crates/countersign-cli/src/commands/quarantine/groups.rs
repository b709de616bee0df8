//! Quarantined messages in groups: a person judges a thousand of them at a glance.

use std::collections::BTreeMap;

use super::item::Shown;
use crate::terminal::table::{Column, Rows, count, quantity};

/// More would not be read at a glance.
const SHOWN: usize = 20;

/// The groups, largest first.
pub(crate) fn table(shown: &[&Shown]) -> String {
    let mut groups: BTreeMap<(&str, &str, String), u64> = BTreeMap::new();
    for item in shown {
        *groups.entry((&item.source, &item.app_id, kind(&item.reason))).or_default() += 1;
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, messages)| std::cmp::Reverse(*messages));
    let mut rows = Rows::new(&[
        Column::Text("source"),
        Column::Text("app_id"),
        Column::Text("reason"),
        Column::Number("messages"),
    ]);
    let more = groups.len().saturating_sub(SHOWN);
    for ((source, app_id, reason), messages) in groups.into_iter().take(SHOWN) {
        rows.add([source.to_owned(), app_id.to_owned(), reason, count(messages)]);
    }
    let text = rows.print();
    if more > 0 { format!("{text}\nand {}", quantity(more, "more group")) } else { text }
}

/// The reason with `…` for each word that has a digit: an id, a number or a date, which differ from
/// message to message.
fn kind(reason: &str) -> String {
    let mask = |word: &str| {
        if word.contains(|c: char| c.is_ascii_digit()) { "…".to_owned() } else { word.to_owned() }
    };
    reason.split(' ').map(mask).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_that_differ_in_a_number_or_an_id_are_of_one_kind() {
        assert_eq!(kind("id: 7b0dd3ba-6b1a is older than 30d"), "id: … is older than …");
        assert_eq!(kind("not a confirm envelope"), "not a confirm envelope");
    }

    #[test]
    fn the_largest_group_comes_first() {
        let of = |reason: &str| Shown { reason: reason.to_owned(), ..Shown::default() };
        let (one, two, three) = (of("small"), of("large 1"), of("large 2"));
        let text = table(&[&one, &two, &three]);
        let (large, small) = (text.find("large …"), text.find("small"));
        assert!(large < small && large.is_some(), "{text}");
    }
}
