//! Reads a filter of overdue messages as it comes over gRPC.

use std::time::Duration;

use countersign_protocol::Name;
use countersign_protocol::grpc::OverdueFilter;
use strum::VariantArray;
use tonic::Status;

use crate::rules::filter::{Filter, texts};
use crate::rules::states::StateName;

/// Reads a filter. One without states is about the rows that are open or need an operator.
///
/// # Errors
/// `INVALID_ARGUMENT`, with the field and what may stand there.
pub(crate) fn read(filter: Option<OverdueFilter>) -> Result<Filter, Status> {
    let filter = filter.unwrap_or_default();
    let mut states = words("filter.states", &filter.states)?;
    if states.is_empty() {
        states = StateName::all_that(|are| are.unresolved);
    }
    let causes = words("filter.causes", &filter.causes)?;
    let older_than = age("filter.older_than_ms", filter.older_than_ms)?;
    let younger_than = age("filter.younger_than_ms", filter.younger_than_ms)?;
    if let (Some(older), Some(younger)) = (older_than, younger_than)
        && older > younger
    {
        return Err(Status::invalid_argument(
            "filter: nothing is older than older_than_ms and younger than younger_than_ms: the second has to be larger",
        ));
    }
    Ok(Filter {
        states,
        upstream: name("filter.upstream", &filter.upstream)?,
        consumer: name("filter.consumer", &filter.consumer)?,
        causes,
        older_than,
        younger_than,
    })
}

/// Words out of a few, each once and in their order.
pub(crate) fn words<T: Copy + Into<&'static str> + VariantArray>(
    field: &str,
    given: &[String],
) -> Result<Vec<T>, Status> {
    let known = texts(T::VARIANTS);
    if let Some(unknown) = given.iter().find(|word| !known.contains(&word.as_str())) {
        return Err(Status::invalid_argument(format!(
            "{field}: {unknown:?} is none of {}",
            known.join(", ")
        )));
    }
    let is_given = |one: &&T| given.iter().any(|word| word == (**one).into());
    Ok(T::VARIANTS.iter().filter(is_given).copied().collect())
}

fn name(field: &str, text: &str) -> Result<Option<Name>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    let name = text.parse().map_err(|why| Status::invalid_argument(format!("{field}: {why}")))?;
    Ok(Some(name))
}

fn age(field: &str, ms: i64) -> Result<Option<Duration>, Status> {
    let ms = u64::try_from(ms).map_err(|_| {
        Status::invalid_argument(format!(
            "{field}: {ms} is less than nothing: give milliseconds, or 0 for any age"
        ))
    })?;
    Ok((ms > 0).then(|| Duration::from_millis(ms)))
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn without_states_it_is_about_what_needs_somebody() {
        let filter = read(None).unwrap();
        assert_eq!(filter.text(), "states=waiting,asking,parked,conflict");
    }

    #[test]
    fn the_same_filter_has_the_same_text() {
        let filter = |states: &[&str]| {
            let given = OverdueFilter {
                states: states.iter().map(|&state| state.to_owned()).collect(),
                upstream: "orders".to_owned(),
                consumer: "logistics".to_owned(),
                causes: vec!["rejected".to_owned()],
                older_than_ms: 5,
                younger_than_ms: 7,
            };
            read(Some(given)).unwrap().text()
        };
        assert_eq!(filter(&["parked", "waiting", "parked"]), filter(&["waiting", "parked"]));
        assert_eq!(
            filter(&["parked"]),
            "states=parked upstream=orders consumer=logistics causes=rejected older_than=5ms younger_than=7ms"
        );
    }

    #[test]
    fn nonsense_is_refused_with_its_field_and_what_may_stand_there() {
        let some = OverdueFilter::default;
        let words = |word: &str| vec![word.to_owned()];
        for (filter, parts) in [
            (OverdueFilter { states: words("lost"), ..some() }, ["filter.states", "parked"]),
            (OverdueFilter { causes: words("why"), ..some() }, ["filter.causes", "rejected"]),
            (OverdueFilter { upstream: "O!".to_owned(), ..some() }, ["filter.upstream", "O!"]),
            (OverdueFilter { consumer: "\0".to_owned(), ..some() }, ["filter.consumer", "name"]),
            (OverdueFilter { older_than_ms: -1, ..some() }, ["filter.older_than_ms", "-1"]),
            (
                OverdueFilter { older_than_ms: 2, younger_than_ms: 1, ..some() },
                ["older_than_ms", "younger_than_ms"],
            ),
        ] {
            let status = read(Some(filter)).unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument);
            for part in parts {
                assert!(status.message().contains(part), "{part} is missing: {status:?}");
            }
        }
    }
}
