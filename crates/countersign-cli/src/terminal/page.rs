//! How much of a list is shown.

use clap::Args;

/// A list is never cut off in silence.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Page {
    /// How many are shown at most
    #[arg(long, default_value_t = 100, value_name = "N", conflicts_with = "all")]
    limit: usize,
    /// Shows all of them
    #[arg(long)]
    all: bool,
}

/// What one call may bring.
const MOST: usize = 1_000;

impl Page {
    /// The first of them, as long as no more was said.
    pub(crate) const FIRST: Self = Self { limit: 100, all: false };

    /// How many more are wanted at once, having so many; `None` when it is enough.
    pub(crate) fn next(self, have: usize) -> Option<u32> {
        let left = if self.all { MOST } else { self.limit.saturating_sub(have) };
        (left > 0).then(|| u32::try_from(left.min(MOST)).unwrap_or(u32::MAX))
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
            assert_eq!(page.next(have), next, "{page:?} {have}");
        }
    }
}
