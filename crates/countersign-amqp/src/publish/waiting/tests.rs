use futures_util::FutureExt;

use super::*;

const PLENTY: Limits = Limits { entries: 1_000, bytes: 1_000_000 };

fn push(waiting: &Waiting<u32>, item: u32, bytes: usize) -> Result<Pending, NotTaken> {
    waiting.push(Way::Together, item, bytes, || None)
}

fn taken(waiting: &Arc<Waiting<u32>>, most: Limits) -> Option<Batch<u32>> {
    waiting.take(Way::Together, most).now_or_never().flatten()
}

#[test]
fn what_waits_leaves_together_up_to_the_limits() {
    let waiting = Waiting::new(PLENTY);
    let _pending: Vec<_> = (0..10).map(|i| push(&waiting, i, 10).unwrap()).collect();
    let first = taken(&waiting, Limits { entries: 4, bytes: 1_000 }).unwrap();
    assert_eq!(first.items, [0, 1, 2, 3]);
    let second = taken(&waiting, Limits { entries: 100, bytes: 25 }).unwrap();
    assert_eq!(second.items, [4, 5]);
    let oversized = taken(&waiting, Limits { entries: 100, bytes: 5 }).unwrap();
    assert_eq!(oversized.items, [6], "one entry leaves whatever its size");
    assert_eq!(taken(&waiting, PLENTY).unwrap().items, [7, 8, 9]);
    assert!(waiting.take(Way::Together, PLENTY).now_or_never().is_none());
}

#[test]
fn the_limits_count_what_is_on_its_way_too() {
    let waiting = Waiting::new(Limits { entries: 2, bytes: 100 });
    let _first = push(&waiting, 1, 60).unwrap();
    assert_eq!(push(&waiting, 2, 41).unwrap_err(), NotTaken::Overloaded, "bytes");
    let batch = taken(&waiting, PLENTY).unwrap();
    let _second = push(&waiting, 3, 40).unwrap();
    assert_eq!(push(&waiting, 4, 0).unwrap_err(), NotTaken::Overloaded, "entries");
    batch.owed.settle_all(PublishOutcome::Routed);
    let _third = push(&waiting, 5, 60).unwrap();
}

#[test]
fn everyone_gets_the_verdict_of_his_place() {
    let waiting = Waiting::new(PLENTY);
    let pending: Vec<_> = (0..3).map(|i| push(&waiting, i, 1).unwrap()).collect();
    let mut first = taken(&waiting, PLENTY).unwrap().owed;
    let last = first.split_off(2);
    first.settle([PublishOutcome::Routed, PublishOutcome::Refused]);
    drop(last);
    let outcomes: Vec<_> = pending.into_iter().map(|p| p.now_or_never().unwrap()).collect();
    assert_eq!(outcomes[..2], [PublishOutcome::Routed, PublishOutcome::Refused]);
    assert!(matches!(outcomes[2], PublishOutcome::Unknown { .. }));
    let state = waiting.lock();
    assert_eq!((state.unsettled.together, state.untold), (Limits::default(), 0));
}

#[test]
fn what_waits_has_its_outcome_when_it_is_given_up_and_nothing_else() {
    let waiting = Waiting::new(PLENTY);
    let on_its_way = push(&waiting, 1, 1).unwrap();
    let batch = taken(&waiting, PLENTY).unwrap();
    let left = push(&waiting, 2, 1).unwrap();
    waiting.give_up(|| None);
    waiting.give_up(|| Some("gone".to_owned()));
    assert_eq!(left.now_or_never(), Some(PublishOutcome::Unknown { why: "gone".to_owned() }));
    batch.owed.settle_all(PublishOutcome::Routed);
    assert_eq!(on_its_way.now_or_never(), Some(PublishOutcome::Routed));
}

#[test]
fn nothing_is_taken_while_away_or_after_close() {
    let waiting = Waiting::<u32>::new(PLENTY);
    let away = waiting.push(Way::Together, 1, 1, || Some("blocked".to_owned())).unwrap_err();
    assert_eq!(away, NotTaken::Away { why: "blocked".to_owned() });
    waiting.close();
    assert_eq!(push(&waiting, 1, 1).unwrap_err(), NotTaken::Closed);
}

#[test]
fn it_is_finished_when_it_is_closed_and_all_have_their_outcome() {
    let waiting = Waiting::new(PLENTY);
    let _pending = push(&waiting, 1, 1).unwrap();
    waiting.close();
    assert!(waiting.finished().now_or_never().is_none());
    let batch = taken(&waiting, PLENTY).unwrap();
    assert!(waiting.take(Way::Together, PLENTY).now_or_never().is_none(), "it may come back");
    assert!(waiting.finished().now_or_never().is_none());
    batch.owed.settle_all(PublishOutcome::Routed);
    assert!(waiting.finished().now_or_never().is_some());
    for way in [Way::Together, Way::Alone, Way::Together, Way::Alone] {
        assert!(waiting.take(way, PLENTY).now_or_never().unwrap().is_none(), "each taker is told");
    }
}

#[tokio::test]
async fn one_entry_wakes_one_taker_and_a_rest_the_next() {
    let waiting = Waiting::new(PLENTY);
    let one = Limits { entries: 1, bytes: 1_000 };
    let takers: Vec<_> = (0..3)
        .map(|_| {
            let waiting = Arc::clone(&waiting);
            tokio::spawn(
                async move { waiting.take(Way::Together, one).await.map(|batch| batch.items) },
            )
        })
        .collect();
    tokio::task::yield_now().await;
    let _pending: Vec<_> = (0..3).map(|i| push(&waiting, i, 1).unwrap()).collect();
    let mut taken = Vec::new();
    for taker in takers {
        taken.extend(taker.await.unwrap().unwrap());
    }
    taken.sort_unstable();
    assert_eq!(taken, [0, 1, 2]);
}

#[test]
fn entries_that_leave_alone_take_half_of_the_room_at_most() {
    let waiting = Waiting::new(Limits { entries: 4, bytes: 100 });
    let alone = |bytes| waiting.push(Way::Alone, 0, bytes, || None);
    let _first = alone(60).unwrap();
    assert_eq!(alone(1).unwrap_err(), NotTaken::Overloaded, "bytes; the first may be larger");
    taken_alone(&waiting).unwrap().owed.settle_all(PublishOutcome::Routed);
    let _two = [alone(1).unwrap(), alone(1).unwrap()];
    assert_eq!(alone(1).unwrap_err(), NotTaken::Overloaded, "entries");
    let _others = [push(&waiting, 1, 1).unwrap(), push(&waiting, 2, 1).unwrap()];
    assert_eq!(push(&waiting, 3, 1).unwrap_err(), NotTaken::Overloaded, "all entries");
}

fn taken_alone(waiting: &Arc<Waiting<u32>>) -> Option<Batch<u32>> {
    waiting.take(Way::Alone, PLENTY).now_or_never().flatten()
}

#[test]
fn entries_change_their_way_with_their_callers_and_their_room() {
    let waiting = Waiting::new(Limits { entries: 4, bytes: 100 });
    let pending: Vec<_> = (0..4).map(|i| push(&waiting, i, 10).unwrap()).collect();
    let mut batch = taken(&waiting, PLENTY).unwrap();
    assert!(batch.split_off(|_| true).is_none());
    let odd = batch.split_off(|item| item % 2 == 0).unwrap();
    assert_eq!((&batch.items[..], &odd.items[..]), (&[0, 2][..], &[1, 3][..]));
    waiting.change_way(odd, || None);
    assert_eq!(waiting.lock().unsettled.alone, Limits { entries: 2, bytes: 20 });
    assert_eq!(push(&waiting, 4, 1).unwrap_err(), NotTaken::Overloaded, "the room is the same");
    waiting.close();
    batch.owed.settle_all(PublishOutcome::Routed);
    assert!(waiting.take(Way::Together, PLENTY).now_or_never().is_none(), "they may come back");
    let odd = taken_alone(&waiting).unwrap();
    waiting.change_way(odd, || None);
    let odd = taken(&waiting, PLENTY).unwrap();
    assert_eq!(odd.items, [1, 3]);
    odd.owed.settle_all(PublishOutcome::Refused);
    let outcomes: Vec<_> = pending.into_iter().map(|p| p.now_or_never().unwrap()).collect();
    let (routed, refused) = (PublishOutcome::Routed, PublishOutcome::Refused);
    assert_eq!(outcomes, [routed.clone(), refused.clone(), routed, refused]);
    let state = waiting.lock();
    assert_eq!((state.unsettled.together, state.untold), (Limits::default(), 0));
    assert_eq!(state.unsettled.alone, Limits::default());
}

#[test]
fn entries_that_change_their_way_while_the_broker_is_away_are_given_up() {
    let waiting = Waiting::new(PLENTY);
    let pending = push(&waiting, 1, 1).unwrap();
    let batch = taken(&waiting, PLENTY).unwrap();
    waiting.change_way(batch, || Some("blocked".to_owned()));
    let unknown = PublishOutcome::Unknown { why: "blocked".to_owned() };
    assert_eq!(pending.now_or_never(), Some(unknown));
}
