//! Proof that nothing is under way any more, although each look sees figures that are a little old.

use std::time::Duration;

use tokio::time::Instant;

/// How long every look has found nothing under way.
///
/// The broker's figures are up to [`FIGURES_AGE`](crate::Vhost::FIGURES_AGE) old, so one look that
/// finds nothing proves nothing. Rest that lasts longer than the figures are old does: the last
/// look then saw figures from after the first.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rest {
    since: Option<Instant>,
}

impl Rest {
    /// Takes a look into account. Returns how long there has been rest, `None` if there is none.
    pub fn look(&mut self, is_rest: bool, now: Instant) -> Option<Duration> {
        self.since = is_rest.then(|| self.since.unwrap_or(now));
        self.since.map(|since| now.duration_since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_that_finds_something_under_way_begins_the_rest_anew() {
        let (began, second) = (Instant::now(), Duration::from_secs(1));
        let mut rest = Rest::default();
        assert_eq!(rest.look(true, began), Some(Duration::ZERO));
        assert_eq!(rest.look(true, began + second), Some(second));
        assert_eq!(rest.look(false, began + second), None);
        assert_eq!(rest.look(true, began + 2 * second), Some(Duration::ZERO));
    }
}
