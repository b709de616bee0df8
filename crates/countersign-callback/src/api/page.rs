//! Pages of a list: each begins behind the last row of the page before, even if that row has changed
//! or gone meanwhile.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tonic::Status;

/// A page that a caller asks for. `P` is a place in the list: what identifies a row in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Page<P> {
    list: &'static str,
    filter: String,
    after: Option<P>,
    size: u32,
}

/// What a page token says, as JSON in base64. A caller hands it back and need not read it.
#[derive(Debug, Deserialize, Serialize)]
struct Token<L, P> {
    list: L,
    filter: L,
    place: P,
}

/// The most rows of a page: an answer stays far below gRPC's 4 MiB.
pub(crate) const MAX_PAGE: u32 = 1_000;

/// A screenful or two.
const DEFAULT_PAGE: u32 = 100;

impl<P: Clone + DeserializeOwned + Serialize> Page<P> {
    /// Reads which page of `list` a caller asks for. `filter` says which rows the list has: a token
    /// of the same list with another filter is refused.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`, with the field and what may stand there.
    pub(crate) fn read(
        list: &'static str,
        filter: String,
        token: &str,
        size: u32,
    ) -> Result<Self, Status> {
        let after = match token {
            "" => None,
            token => Some(place(list, &filter, token)?),
        };
        Ok(Self { list, filter, after, size: rows(size)? })
    }

    /// The last row of the page before; `None` for the first page.
    #[must_use]
    pub(crate) fn after(&self) -> Option<P> {
        self.after.clone()
    }

    /// How many rows to fetch: one more than the page has, to know whether another page follows.
    #[must_use]
    pub(crate) fn limit(&self) -> u32 {
        self.size.saturating_add(1)
    }

    /// The rows of this page out of those that were fetched, and the token of the next page: empty
    /// if this page is the last.
    #[must_use]
    pub(crate) fn cut<R>(&self, mut rows: Vec<R>, place: impl Fn(&R) -> P) -> (Vec<R>, String) {
        let size = usize::try_from(self.size).unwrap_or(usize::MAX);
        let more = rows.len() > size;
        rows.truncate(size);
        let next = rows.last().filter(|_| more).map(|last| self.token(place(last)));
        (rows, next.unwrap_or_default())
    }

    fn token(&self, place: P) -> String {
        let token = Token { list: self.list, filter: self.filter.as_str(), place };
        let json = serde_json::to_vec(&token).expect("a token is plain JSON");
        URL_SAFE_NO_PAD.encode(json)
    }
}

fn place<P: DeserializeOwned>(list: &str, filter: &str, token: &str) -> Result<P, Status> {
    let json = URL_SAFE_NO_PAD.decode(token).map_err(|_| unreadable())?;
    let token: Token<String, serde_json::Value> =
        serde_json::from_slice(&json).map_err(|_| unreadable())?;
    if token.list != list {
        return Err(Status::invalid_argument(format!(
            "page_token: it is of another list than {list}; give next_page_token of the page before, or nothing for the first page"
        )));
    }
    if token.filter != filter {
        return Err(Status::invalid_argument(
            "page_token: it is of a list with another filter; ask with the same filter for every page, or without a token for the first page",
        ));
    }
    serde_json::from_value(token.place).map_err(|_| unreadable())
}

/// A moment of a place, in microseconds since 1970. A forged one would be out of the database's range.
///
/// # Errors
/// `INVALID_ARGUMENT`: no row has such a time.
pub(crate) fn moment(us: i64) -> Result<i64, Status> {
    /// The end of the year 9999.
    const LAST: i64 = 253_402_300_799_999_999;
    if (0..=LAST).contains(&us) { Ok(us) } else { Err(unreadable()) }
}

/// The refusal of a token that cannot be read.
#[must_use]
pub(crate) fn unreadable() -> Status {
    Status::invalid_argument(
        "page_token: it cannot be read; give next_page_token of the page before, or nothing for the first page",
    )
}

/// How many rows a page has.
fn rows(asked: u32) -> Result<u32, Status> {
    match asked {
        0 => Ok(DEFAULT_PAGE),
        1..=MAX_PAGE => Ok(asked),
        _ => Err(Status::invalid_argument(format!(
            "page_size: {asked} is too many: give 1 to {MAX_PAGE}, or 0 for {DEFAULT_PAGE}, and ask for page after page"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Place = (i64, String);

    fn page(list: &'static str, filter: &str, token: &str) -> Result<Page<Place>, Status> {
        Page::read(list, filter.to_owned(), token, 2)
    }

    #[test]
    fn a_token_leads_to_its_place_in_its_own_list_only() {
        let first = page("overdue", "states=parked", "").unwrap();
        assert_eq!((first.after(), first.limit()), (None, 3));
        let place = |row: &i64| (*row, "orders".to_owned());
        let (rows, token) = first.cut(vec![7, 8, 9], place);
        assert_eq!(rows, [7, 8]);
        let next = page("overdue", "states=parked", &token).unwrap();
        assert_eq!(next.after(), Some((8, "orders".to_owned())));
        for (list, filter, token, part) in [
            ("overdue", "states=parked", "nonsense", "cannot be read"),
            ("overdue", "states=parked", "****", "cannot be read"),
            ("jobs", "states=parked", token.as_str(), "of another list than jobs"),
            ("overdue", "states=waiting", token.as_str(), "another filter"),
        ] {
            let status = page(list, filter, token).unwrap_err();
            assert!(status.message().contains("page_token"), "{status:?}");
            assert!(status.message().contains(part), "{part}: {status:?}");
        }
        let other = Page::<(i64, String, i64)>::read("overdue", next.filter.clone(), &token, 2);
        assert!(other.is_err(), "no place of that form");
    }

    #[test]
    fn a_forged_time_is_refused_before_the_database_sees_it() {
        assert_eq!(moment(1_795_000_000_000_000).unwrap(), 1_795_000_000_000_000);
        for forged in [i64::MIN, -1, i64::MAX] {
            assert_eq!(moment(forged).unwrap_err().code(), tonic::Code::InvalidArgument);
        }
    }

    #[test]
    fn the_last_page_has_no_token() {
        let page = page("overdue", "", "").unwrap();
        for rows in [vec![], vec![7], vec![7, 8]] {
            assert_eq!(page.cut(rows.clone(), |row| (*row, String::new())), (rows, String::new()));
        }
    }

    #[test]
    fn a_page_has_a_size_that_can_be_kept() {
        assert_eq!([0, 1, 1_000].map(|asked| rows(asked).unwrap()), [100, 1, 1_000]);
        assert!(rows(1_001).unwrap_err().message().contains("page_size"));
    }
}
