//! The states of a message, by the names that the API gives them, for `--help`.

use std::fmt::Write as _;

/// A state's name and meaning.
type State = (&'static str, &'static str);

/// The state of a message without a record.
const UNKNOWN: State =
    ("unknown", "no record: the check is not due yet, and no consumer has confirmed");

/// The states of a message with a record, in the order of the `.proto`.
const RECORDED: [State; 8] = [
    ("confirmed", "every consumer that has to confirm has; or, before the check is due, one has"),
    ("waiting", "overdue: the callback service decides again at the time shown"),
    ("asking", "overdue: the callback service is asking the upstream to send it again"),
    ("parked", "overdue and given up: an operator has to look; a late confirm still resolves it"),
    ("never_committed", "closed: the upstream's transaction did not commit"),
    ("withdrawn", "closed: the upstream no longer wants it sent"),
    ("conflict", "the upstream said \"never committed\", and a consumer confirmed it"),
    ("closed_by_hand", "closed by an operator: a late confirm changes nothing"),
];

/// The states that `countersign status` can show.
pub(crate) fn of_messages() -> String {
    table(std::iter::once(UNKNOWN).chain(RECORDED))
}

/// The states that `--state` takes.
pub(crate) fn of_records() -> String {
    table(RECORDED)
}

fn table(states: impl IntoIterator<Item = State>) -> String {
    let width = RECORDED.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = "States:".to_owned();
    for (name, meaning) in states {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n  {name:width$}  {meaning}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names in the comment of `GetMessageResponse.state`.
    fn names_in_the_proto() -> Vec<&'static str> {
        let proto = include_str!("../../../../proto/countersign/v1/callback.proto");
        let (comment, _) = proto.split_once("\n  string state = 2;").unwrap();
        let (_, list) = comment.rsplit_once("// One of:\n").unwrap();
        let lines = list.lines().filter_map(|line| line.trim().strip_prefix("//   "));
        // A line that continues the one before is indented further.
        let firsts = lines.filter(|line| !line.starts_with(' '));
        firsts.map(|line| line.split_once(' ').unwrap().0).collect()
    }

    #[test]
    fn the_states_in_the_help_are_those_of_the_api() {
        let names: Vec<_> =
            std::iter::once(UNKNOWN).chain(RECORDED).map(|(name, _)| name).collect();
        assert_eq!(names, names_in_the_proto());
    }
}
