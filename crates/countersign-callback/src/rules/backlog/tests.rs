use super::*;
use crate::rules::fixture::{self, POLICY, depth, in_s};
use crate::rules::states::StateName;

/// The upstream's clock is ten minutes behind ours.
fn theirs(seconds: i64) -> UnixMillis {
    in_s(seconds - 600)
}

/// Missing after 0 s of our clock, sent at 0 s of its upstream's.
fn overdue() -> Overdue {
    Overdue { sent_at: Some(theirs(0)), ..fixture::overdue(StateName::Waiting) }
}

fn progress(upstream: &str, queue: &str, up_to: Option<UnixMillis>) -> Progress {
    Progress {
        consumer: "logistics".parse().unwrap(),
        queue: queue.to_owned(),
        upstream: upstream.parse().unwrap(),
        confirmed_up_to: up_to,
    }
}

#[test]
fn each_place_has_its_position() {
    use BacklogPosition::{Behind, Missing, NeverSeen, Unclear};
    let reached = |s| vec![progress("orders", "a", Some(theirs(s)))];
    let nowhere = || reached(0);
    let old_empty = Depth { empty_at: Some(in_s(13)), ..depth(14, 5, Some(5)) };
    let early_empty = Depth { empty_at: Some(in_s(12)), ..depth(14, 5, Some(5)) };
    let late = Depth { looked_since: in_s(20), ..depth(25, 0, None) };
    let left = Depth { left_since: Some(in_s(10)), ..depth(11, 3, None) };
    let silent = Depth { nobody_since: Some(in_s(20)), ..depth(11, 3, None) };
    // What is known, at which second, with the watermark at which.
    #[rustfmt::skip]
    let cases = [
        ("has passed it", reached(6), vec![], 1, 1, Missing),
        ("has hardly passed it", reached(5), vec![("a", depth(1, 0, None))], 1, 1, Unclear(in_s(10))),
        ("has passed it, whatever lies there", reached(6), vec![("a", depth(1, 9, Some(9)))], 1, 1, Missing),
        ("is behind, as the queue says", nowhere(), vec![("a", depth(1, 9, None))], 99, 1, Behind(9)),
        ("hangs with it in hand", nowhere(), vec![("a", depth(1, 0, Some(7)))], 99, 1, Behind(7)),
        ("was behind before it was missing", nowhere(), vec![("a", depth(0, 9, None))], 1, 1, Unclear(in_s(11))),
        ("nobody has looked", nowhere(), vec![], 9, 9, Unclear(in_s(19))),
        ("nobody has looked, however long", nowhere(), vec![], 10_000, 10_000, Unclear(in_s(10_010))),
        ("was looked for before it was missing alone", nowhere(), vec![("a", depth(-1, 9, None))], 99, 99, Unclear(in_s(109))),
        ("was looked for late", nowhere(), vec![("a", late)], 29, 29, Unclear(in_s(30))),
        ("was looked for late, and long enough", nowhere(), vec![("a", late)], 30, 30, Missing),
        ("nothing is ready, and who knows what it holds", nowhere(), vec![("a", depth(1, 0, None))], 9, 9, Unclear(in_s(10))),
        ("nothing is ready, and nobody ever says what it holds", nowhere(), vec![("a", depth(10, 0, None))], 10, 10, Missing),
        ("seems empty, too early to say", nowhere(), vec![("a", depth(12, 0, Some(0)))], 13, 99, Unclear(in_s(22))),
        ("is empty, its confirms are not recorded", nowhere(), vec![("a", depth(13, 0, Some(0)))], 14, 13, Unclear(in_s(22))),
        ("is empty", nowhere(), vec![("a", depth(13, 0, Some(0)))], 14, 14, Missing),
        ("seems empty, and that is all that is ever known", nowhere(), vec![("a", depth(1, 0, Some(0)))], 22, 0, Missing),
        ("was empty once", nowhere(), vec![("a", old_empty)], 14, 0, Missing),
        ("was empty too early", nowhere(), vec![("a", early_empty)], 14, 0, Behind(5)),
        ("was never seen", vec![], vec![], 9, 9, NeverSeen(in_s(10))),
        ("was never seen for long", vec![], vec![], 10, 10, Missing),
        ("is known by another upstream, whose clock says nothing",
            vec![progress("billing", "a", Some(in_s(9_999)))], vec![("a", depth(1, 0, None))], 9, 9, Unclear(in_s(10))),
        ("is known by another upstream, and behind",
            vec![progress("billing", "a", Some(in_s(9_999)))], vec![("a", depth(1, 3, None))], 99, 9, Behind(3)),
        ("does not say when what it confirms was sent",
            vec![progress("orders", "a", None)], vec![("a", depth(1, 3, None))], 99, 9, Behind(3)),
        ("has passed it in one queue and is behind in another",
            vec![progress("orders", "a", Some(theirs(6))), progress("orders", "b", Some(theirs(0)))],
            vec![("b", depth(1, 3, None))], 99, 9, Behind(3)),
        ("has passed it in one queue, and the other is left",
            vec![progress("orders", "a", Some(theirs(6))), progress("orders", "b", Some(theirs(0)))],
            vec![("b", left)], 610, 9, Missing),
        ("has passed it in one queue, and the other may only be restarted",
            vec![progress("orders", "a", Some(theirs(6))), progress("orders", "b", Some(theirs(0)))],
            vec![("b", left)], 609, 9, Behind(3)),
        ("has only a queue that is left", nowhere(), vec![("a", left)], 9_999, 9, Behind(3)),
        ("was passed by count", nowhere(), vec![("a", Depth { passed_to: Some(in_s(1)), ..depth(9, 5, None) })], 10, 9, Missing),
        ("entered after what was passed by count", nowhere(), vec![("a", Depth { passed_to: Some(in_s(0)), ..depth(9, 5, None) })], 10, 9, Behind(5)),
        ("lay there, and now the queue may not answer", nowhere(), vec![("a", silent)], 29, 9, Unclear(in_s(30))),
        ("lay there, and the queue has long been told as empty", nowhere(), vec![("a", silent)], 30, 9, Missing),
    ];
    for (what, progress, depths, now, watermark, expected) in cases {
        let depths = depths.into_iter().map(|(queue, depth)| (queue.to_owned(), depth));
        let known =
            Whereabouts { watermark: Some(in_s(watermark)), progress, depths: depths.collect() };
        let logistics = "logistics".parse().unwrap();
        let position = known.position(&logistics, &overdue(), in_s(0), &POLICY, in_s(now));
        assert_eq!(position, expected, "it {what}");
    }
}

#[test]
fn only_what_would_tell_more_is_wanted() {
    let logistics = "logistics".parse().unwrap();
    let known = |up_to, depth: Option<Depth>| Whereabouts {
        watermark: Some(in_s(1)),
        progress: vec![progress("orders", "a", Some(up_to))],
        depths: depth.map(|depth| ("a".to_owned(), depth)).into_iter().collect(),
    };
    let wanted = |known: Whereabouts| known.wanted(&logistics, &overdue(), in_s(0), &POLICY);
    assert_eq!(wanted(known(theirs(6), None)), Wanted::default());
    let queues = || vec!["a".to_owned()];
    for (depth, marker_after) in [
        (None, None),
        (Some(depth(13, 1, Some(1))), None),
        (Some(depth(13, 0, None)), None),
        (Some(depth(12, 0, Some(0))), None),
        (Some(depth(13, 0, Some(0))), Some(in_s(13))),
    ] {
        let expected = Wanted { queues: queues(), marker_after };
        assert_eq!(wanted(known(theirs(0), depth)), expected, "{depth:?}");
    }
}
