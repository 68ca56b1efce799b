use super::line::{MAX_DELAY, MAX_LINE};
use super::*;
use futures_util::future::join_all;
use proptest::prelude::*;
use tonic::Code;
use tonic_types::StatusExt;

fn urgency(due: i64) -> Urgency {
    Urgency { due, weight: 1, patience: PATIENCE, spread: 0.5 }
}

fn processor(slots: usize) -> Arc<Processor> {
    Arc::new(Processor::with_slots(slots, &Registry::new("spire_server", &[])))
}

#[tokio::test(start_paused = true)]
async fn what_was_never_issued_goes_first_then_what_ends_soonest() {
    let processor = processor(1);
    let busy = processor.enter(urgency(1)).await.unwrap();
    let order = Mutex::new(Vec::new());
    let ask = async |due| {
        let entered = processor.enter(urgency(due)).await.unwrap();
        order.lock().unwrap().push(due);
        tokio::time::sleep(Duration::from_millis(1)).await;
        drop(entered);
    };
    let release = async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        drop(busy);
    };
    tokio::join!(join_all([30, 10, 0, 20, 0].map(ask)), release);
    assert_eq!(*order.lock().unwrap(), [0, 0, 10, 20, 30]);
    assert_eq!(processor.waiting[0].get() + processor.waiting[1].get(), 0.0);
}

/// Nothing has run, and yet they come in the right order: those who have arrived join the line before one is taken.
#[tokio::test]
async fn a_burst_is_ordered_although_the_processor_is_free() {
    let processor = processor(1);
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut calls = tokio::task::JoinSet::new();
    for due in [9, 8, 7, 6, 5] {
        let (processor, order) = (processor.clone(), order.clone());
        calls.spawn(async move {
            let entered = processor.enter(urgency(due)).await.unwrap();
            order.lock().unwrap().push(due);
            tokio::task::yield_now().await;
            drop(entered);
        });
    }
    calls.join_all().await;
    assert_eq!(*order.lock().unwrap(), [9, 5, 6, 7, 8], "the first met nobody");
}

#[tokio::test(start_paused = true)]
async fn a_line_that_is_too_long_turns_the_least_urgent_away_and_tells_when_to_return() {
    let processor = processor(1);
    let _busy = processor.enter(urgency(1)).await.unwrap();
    processor.lock().cost = Duration::from_secs(1);
    let stock = Urgency { patience: STOCK_PATIENCE, ..urgency(5) };
    let mut calls: Vec<_> = [2, 3, 4].map(|due| Box::pin(processor.enter(urgency(due)))).into();
    calls.push(Box::pin(processor.enter(stock)));
    calls.push(Box::pin(processor.enter(urgency(9))));
    let refused = tokio::select! {
        (outcome, ..) = futures_util::future::select_all(calls) => outcome.unwrap_err(),
        () = tokio::time::sleep(Duration::from_secs(1)) => panic!("nobody was turned away"),
    };
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    let delay = refused.get_details_retry_info().unwrap().retry_delay.unwrap();
    assert_eq!(delay, Duration::from_secs(5), "the five who wait, one second each");
    assert_eq!(processor.refused[1].get(), 1);
}

/// Who waits in a line of `(due, patience in seconds, weight)`, and who is turned away at a cost of a second each.
fn turned_away(calls: &[(i64, u64, u32)]) -> (Vec<i64>, Vec<i64>) {
    let (mut line, now) = (Line::new(), Instant::now());
    for (due, patience, weight) in calls {
        let urgency =
            Urgency { due: *due, weight: *weight, patience: Duration::from_secs(*patience), spread: 0.5 };
        line.join(urgency, *due, now);
    }
    let (away, _) = line.turn_away(Duration::from_secs(1), now);
    let stay = std::iter::from_fn(|| line.first().map(|(_, due)| due)).collect();
    (stay, away.into_iter().map(|(_, due)| due).collect())
}

#[test]
fn whoever_comes_too_late_is_turned_away_and_nobody_else() {
    let check = |calls, stay: &[i64], away: &[i64]| {
        assert_eq!(turned_away(calls), (stay.to_vec(), away.to_vec()));
    };
    check(&[(1, 3, 1), (2, 3, 1), (3, 3, 1)], &[1, 2, 3], &[]);
    check(&[(1, 3, 1), (2, 3, 1), (3, 3, 2), (9, 20, 1)], &[1, 2, 9], &[3]);
    // The first cannot be done in time; who is behind it can.
    check(&[(1, 3, 9), (2, 3, 1), (3, 3, 2)], &[2, 3], &[1]);
    check(&[(0, 20, 10), (5, 3, 1), (6, 20, 1)], &[0, 6], &[5]);
}

#[test]
fn who_has_waited_is_late_sooner_and_a_short_line_refuses_nobody() {
    let (mut line, began) = (Line::new(), Instant::now());
    line.join(urgency(5), "has waited", began);
    let later = began + Duration::from_secs(2);
    line.join(urgency(1), "urgent", later);
    line.join(urgency(7), "new", later);
    let away = |line: &mut Line<&'static str>, cost| -> Vec<_> {
        line.turn_away(cost, later).0.into_iter().map(|(_, who)| who).collect()
    };
    assert_eq!(away(&mut line, Duration::from_millis(500)), Vec::<&str>::new());
    assert_eq!(away(&mut line, Duration::from_secs(1)), ["has waited"]);
    assert_eq!(away(&mut line, Duration::from_secs(2)), ["new"]);
}

#[test]
fn a_line_has_a_bound_beyond_which_the_least_urgent_goes() {
    let (mut line, now) = (Line::new(), Instant::now());
    let patience = Duration::from_secs(3_600);
    for due in 0..=i64::try_from(MAX_LINE).unwrap() {
        line.join(Urgency { patience, ..urgency(due) }, due, now);
    }
    let (away, _) = line.turn_away(Duration::ZERO, now);
    assert_eq!(away.into_iter().map(|(_, due)| due).collect::<Vec<_>>(), [i64::try_from(MAX_LINE).unwrap()]);
}

#[tokio::test(start_paused = true)]
async fn who_leaves_makes_room_and_holds_up_nobody() {
    let processor = processor(1);
    let busy = processor.enter(urgency(1)).await.unwrap();
    let gone = tokio::time::timeout(Duration::from_secs(1), processor.enter(urgency(0))).await;
    assert!(gone.is_err());
    assert!(processor.lock().line.waiting.is_empty());
    let next = async { processor.enter(urgency(7)).await.unwrap() };
    let release = async {
        tokio::task::yield_now().await;
        drop(busy);
    };
    let (next, ()) = tokio::join!(next, release);
    drop(next);
    assert_eq!(processor.lock().running, 0);
}

#[test]
fn those_who_were_turned_away_return_over_the_time_that_the_line_takes() {
    let backlog = Duration::from_secs(10);
    let delays = (0..100).map(|agent| delay(backlog, spread(format!("agent {agent}").as_bytes())));
    let mut delays: Vec<_> = delays.collect();
    delays.sort_unstable();
    assert!(delays[0] < Duration::from_secs(6) && delays[99] > Duration::from_secs(14), "{delays:?}");
    assert!(delays[0] >= Duration::from_secs(5) && delays[99] < Duration::from_secs(15), "{delays:?}");
    assert_eq!(delay(Duration::from_secs(900), 0.0), MAX_DELAY);
}

#[test]
fn a_call_says_how_urgent_it_is_and_one_that_does_not_is_patient() {
    let mut request = Request::new(());
    request.metadata_mut().insert(DUE, "1700".parse().unwrap());
    let said = Urgency::of(&request, 3);
    assert_eq!((said.due, said.weight, said.patience, said.class()), (1_700, 3, PATIENCE, Class::Renewal));
    let stock = Urgency::of(&Request::new(()), 0);
    assert_eq!(
        (stock.due, stock.weight, stock.patience, stock.class()),
        (0, 1, STOCK_PATIENCE, Class::First)
    );
    request.metadata_mut().insert(DUE, "-5".parse().unwrap());
    assert_eq!(Urgency::of(&request, 1).due, 0);
    request.metadata_mut().insert(DUE, "tomorrow".parse().unwrap());
    assert_eq!(Urgency::of(&request, 1).patience, STOCK_PATIENCE);
}

proptest! {
    /// Whoever comes and goes, nobody is lost, nobody is served twice, and the weight is that of those who wait.
    #[test]
    fn a_line_loses_nobody(acts in prop::collection::vec((0_u8..4, 0_i64..5, 1_u32..9), 0..80)) {
        let (mut line, now) = (Line::new(), Instant::now());
        let mut waiting = std::collections::BTreeMap::new();
        for (number, (act, due, weight)) in acts.into_iter().enumerate() {
            match act {
                0 | 1 => {
                    let place = line.join(Urgency { weight, ..urgency(due) }, number, now);
                    waiting.insert(place, number);
                }
                2 => {
                    let expected = waiting.pop_first().map(|(_, number)| number);
                    prop_assert_eq!(line.first().map(|(_, number)| number), expected);
                }
                _ => {
                    let place = waiting.keys().next_back().copied().unwrap_or((0, 0));
                    let expected = waiting.remove(&place);
                    prop_assert_eq!(line.leave(place).map(|(_, number)| number), expected);
                }
            }
            let weights = line.waiting.values().map(|(urgency, ..)| u64::from(urgency.weight)).sum::<u64>();
            prop_assert_eq!((line.weight, line.waiting.len()), (weights, waiting.len()));
        }
    }
}
