//! The part of a list that a command shows.

use clap::Args;

/// `--limit` and `--all`. A list that is cut off always says so.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Page {
    /// Shows at most N of them
    #[arg(long, default_value_t = FIRST, value_name = "N", conflicts_with = "all")]
    limit: usize,
    /// Shows all of them
    #[arg(long)]
    all: bool,
}

/// A list, as far as it was fetched.
pub(crate) struct Fetched<T> {
    pub(crate) items: Vec<T>,
    /// Where the list goes on. Empty: it is whole.
    pub(crate) next_page_token: String,
}

/// Fits on a few screens.
const FIRST: usize = 100;
/// The callback service gives no more in one call.
const MOST_PER_CALL: usize = 1_000;

impl Page {
    /// What a command without these flags shows.
    pub(crate) const DEFAULT: Self = Self { limit: FIRST, all: false };

    /// The most items to show.
    pub(crate) fn most(self) -> usize {
        if self.all { usize::MAX } else { self.limit }
    }

    /// Fetches page after page: `fetch` gets the size and the token of a page, and returns the page
    /// and the token of the next one.
    ///
    /// # Errors
    /// The first one of `fetch`.
    pub(crate) async fn fetch<T>(
        self,
        mut fetch: impl AsyncFnMut(u32, String) -> anyhow::Result<(Vec<T>, String)>,
    ) -> anyhow::Result<Fetched<T>> {
        let mut fetched = Fetched { items: Vec::new(), next_page_token: String::new() };
        while let Some(page_size) = self.next_size(fetched.items.len()) {
            let (items, next) = fetch(page_size, fetched.next_page_token).await?;
            fetched.items.extend(items);
            fetched.next_page_token = next;
            if fetched.next_page_token.is_empty() {
                break;
            }
        }
        Ok(fetched)
    }

    /// The size of the next page after `have` items; `None` when they are enough.
    fn next_size(self, have: usize) -> Option<u32> {
        let left = self.most().saturating_sub(have).min(MOST_PER_CALL);
        (left > 0).then(|| u32::try_from(left).unwrap_or(u32::MAX))
    }
}

impl<T> Fetched<T> {
    /// Whether there is more.
    pub(crate) fn is_cut_off(&self) -> bool {
        !self.next_page_token.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_add_up_to_the_limit() {
        let page = |limit| Page { limit, all: false };
        for (page, have, next) in [
            (page(100), 0, Some(100)),
            (page(100), 100, None),
            (page(0), 0, None),
            (page(2_500), 0, Some(1_000)),
            (page(2_500), 2_000, Some(500)),
            (Page { limit: 100, all: true }, 5_000, Some(1_000)),
        ] {
            assert_eq!(page.next_size(have), next, "{page:?} {have}");
        }
    }
}
