//! Pages of a list: each begins after the last row of the one before, wherever that row is now.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tonic::Status;

/// Which list, and what it is a list of: a token of one is of no use in another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct List {
    /// Its name.
    pub(crate) name: &'static str,
    /// What is in it, such as the text of its filter.
    pub(crate) of: String,
}

/// The most rows of a page.
pub(crate) const MAX_PAGE: u32 = 1_000;

const DEFAULT_PAGE: u32 = 100;
const VERSION: &str = "1";

/// How many rows a page is to have.
///
/// # Errors
/// `INVALID_ARGUMENT` if it is too many.
pub(crate) fn size(asked: u32) -> Result<u32, Status> {
    match asked {
        0 => Ok(DEFAULT_PAGE),
        1..=MAX_PAGE => Ok(asked),
        _ => Err(Status::invalid_argument(format!(
            "page_size: {asked} is too many: give 1 to {MAX_PAGE}, or 0 for {DEFAULT_PAGE}, and ask for page after page"
        ))),
    }
}

impl List {
    /// The token of the page after a row, whose place in the list these words say.
    #[must_use]
    pub(crate) fn token(&self, place: &[String]) -> String {
        URL_SAFE_NO_PAD.encode(format!(
            "{VERSION} {} {:016x} {}",
            self.name,
            fingerprint(&self.of),
            place.join(" ")
        ))
    }

    /// The words of a token, as many as there are in a place of this list. `None` if it is empty:
    /// that is the first page.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if it is no token of this list.
    pub(crate) fn read<const WORDS: usize>(
        &self,
        token: &str,
    ) -> Result<Option<[String; WORDS]>, Status> {
        if token.is_empty() {
            return Ok(None);
        }
        let text = URL_SAFE_NO_PAD.decode(token).ok().and_then(|raw| String::from_utf8(raw).ok());
        let text = text.ok_or_else(no_token)?;
        let mut words = text.split(' ');
        if words.next() != Some(VERSION) {
            return Err(no_token());
        }
        if words.next() != Some(self.name) {
            return Err(Status::invalid_argument(format!(
                "page_token: it is of another list than {}; give next_page_token of the page before, or nothing for the first page",
                self.name
            )));
        }
        if words.next() != Some(&format!("{:016x}", fingerprint(&self.of))) {
            return Err(Status::invalid_argument(
                "page_token: it is of a list with another filter; ask with the same filter for every page, or without a token for the first page",
            ));
        }
        let place: Vec<String> = words.map(str::to_owned).collect();
        place.try_into().map(Some).map_err(|_| no_token())
    }
}

/// What a token is told when it cannot be read.
#[must_use]
pub(crate) fn no_token() -> Status {
    Status::invalid_argument(
        "page_token: it cannot be read; give next_page_token of the page before, or nothing for the first page",
    )
}

/// FNV-1a: the same in every build of every replica, which the standard library's is not.
fn fingerprint(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(name: &'static str, of: &str) -> List {
        List { name, of: of.to_owned() }
    }

    #[test]
    fn a_token_leads_to_its_place_in_its_own_list_only() {
        let overdue = list("overdue", "states=parked");
        let place = ["7".to_owned(), "orders".to_owned()];
        let token = overdue.token(&place);
        assert_eq!(overdue.read::<2>(&token).unwrap(), Some(place));
        assert_eq!(overdue.read::<2>("").unwrap(), None);
        for (list, token, part) in [
            (&overdue, "nonsense", "cannot be read"),
            (&overdue, "****", "cannot be read"),
            (&list("jobs", "states=parked"), token.as_str(), "of another list"),
            (&list("overdue", "states=waiting"), token.as_str(), "another filter"),
        ] {
            let status = list.read::<2>(token).unwrap_err();
            assert!(status.message().contains("page_token"), "{status:?}");
            assert!(status.message().contains(part), "{part}: {status:?}");
        }
        assert!(overdue.read::<3>(&token).is_err(), "not so many words");
    }

    #[test]
    fn a_page_has_a_size_that_can_be_kept() {
        assert_eq!([0, 1, 1_000].map(|asked| size(asked).unwrap()), [100, 1, 1_000]);
        assert!(size(1_001).unwrap_err().message().contains("page_size"));
    }
}
