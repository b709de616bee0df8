//! Makes ids that sort in the order of their making, and follows a clock that is set back.

/// How far the clock may fall behind the last id and still be taken for the same clock: two threads
/// read it in one order and make their ids in another. A clock that is set right steps by more.
const SAME_CLOCK_MS: i64 = 1_000;

/// The bits of the counter: the 12 and the first 30 of the 74 that a UUIDv7 leaves besides its time
/// (RFC 9562, section 6.2, method 1). The other 32 are random.
const COUNTER_BITS: u32 = 42;
const COUNTER_END: u64 = 1 << COUNTER_BITS;
/// A counter begins at random in the lower half of its range, so that there is room to count.
const SEEDS: u64 = 1 << (COUNTER_BITS - 1);

/// The moment of the last id, and its counter.
///
/// `Uuid::now_v7` never goes back: when the clock was ahead and is set right, its ids stay ahead, and
/// every party refuses them until the clock has caught up.
#[derive(Debug)]
pub(crate) struct IdGenerator {
    last_ms: i64,
    counter: u64,
}

impl IdGenerator {
    pub(crate) const fn new() -> Self {
        Self { last_ms: i64::MIN, counter: 0 }
    }

    /// The moment and the 74 bits of the next id, in the lower bits of 10 bytes. `random` is random.
    pub(crate) fn next(&mut self, now_ms: i64, random: u128) -> (i64, [u8; 10]) {
        let (seed, tail) = ((random >> 64) as u64 % SEEDS, random as u32);
        let is_set_back = now_ms < self.last_ms.saturating_sub(SAME_CLOCK_MS);
        if now_ms > self.last_ms || is_set_back {
            (self.last_ms, self.counter) = (now_ms, seed);
        } else {
            self.counter += 1;
            if self.counter == COUNTER_END {
                (self.last_ms, self.counter) = (self.last_ms + 1, seed);
            }
        }
        let first = (self.counter >> 30) as u16;
        let rest = (self.counter % (1 << 30)) << 32 | u64::from(tail);
        let mut bits = [0; 10];
        bits[..2].copy_from_slice(&first.to_be_bytes());
        bits[2..].copy_from_slice(&rest.to_be_bytes());
        (self.last_ms, bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::MessageId;
    use crate::time::UnixMillis;

    const NOW: i64 = 1_795_231_234_567;
    const ALL: u128 = u128::MAX;

    fn id(generator: &mut IdGenerator, now_ms: i64, random: u128) -> MessageId {
        let (ms, bits) = generator.next(now_ms, random);
        MessageId::from_parts(UnixMillis::from_ms(ms), bits)
    }

    #[test]
    fn ids_of_one_process_sort_in_the_order_of_their_making() {
        let mut generator = IdGenerator::new();
        let mut last = id(&mut generator, NOW, ALL);
        for (now, random) in [(NOW, 0), (NOW - 1, ALL), (NOW - 1_000, 7), (NOW + 1, 0), (NOW, ALL)]
        {
            let next = id(&mut generator, now, random);
            assert!(last < next, "{last}, {next}");
            last = next;
        }
    }

    #[test]
    fn a_counter_that_is_used_up_borrows_the_next_millisecond() {
        let mut generator = IdGenerator { last_ms: NOW, counter: COUNTER_END - 2 };
        let last = id(&mut generator, NOW, 0);
        let next = id(&mut generator, NOW, 0);
        assert!(last < next && next.time().ms() == NOW + 1, "{last}, {next}");
    }

    #[test]
    fn a_clock_that_is_set_back_is_followed() {
        let mut generator = IdGenerator::new();
        for back_ms in [1_001, 100_000, 3 * 24 * 3_600_000] {
            id(&mut generator, NOW, ALL);
            assert_eq!(id(&mut generator, NOW - back_ms, ALL).time().ms(), NOW - back_ms);
        }
    }
}
