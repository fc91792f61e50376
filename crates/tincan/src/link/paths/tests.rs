//! Suspicion, loss and moves, step by step.

use super::*;

fn ends(n: u16) -> Ends {
    Ends {
        local: SocketAddr::from(([192, 0, 2, 1], 1)),
        remote: SocketAddr::from(([192, 0, 2, 2], n)),
    }
}

fn two_paths(now: Instant) -> Paths {
    let mut paths = Paths::new(now, false);
    paths.add(ends(1), Rank::Direct, None);
    paths.add(ends(2), Rank::Turn, None);
    assert!(paths.use_path(now, ends(1)));
    paths
}

/// Runs until `until` and writes down what had to be done when, in milliseconds.
fn run(paths: &mut Paths, start: Instant, until: u64) -> Vec<(u64, Step)> {
    let mut steps = Vec::new();
    while let Some(due) = paths.due().filter(|due| *due <= start + Duration::from_millis(until)) {
        if let Some(step) = paths.handle_timeout(due) {
            steps.push((due.saturating_duration_since(start).as_millis() as u64, step));
            if step == Step::Dead {
                break;
            }
        }
    }
    steps
}

#[test]
fn unanswered_frames_lead_to_doubt_suspicion_loss_and_death() {
    let start = Instant::now();
    let mut paths = two_paths(start);
    paths.on_unanswered(start);
    let steps = run(&mut paths, start, 60_000);
    assert_eq!(steps[..2], [(500, Step::ProbeCurrent), (900, Step::ProbeAll)]);
    assert!(steps.contains(&(2400, Step::Lost)), "{steps:?}");
    assert_eq!(steps.last(), Some(&(32_400, Step::Dead)));
    assert_eq!(paths.current(), None);
}

#[test]
fn the_first_path_that_answers_a_suspicion_is_used() {
    let start = Instant::now();
    let mut paths = two_paths(start);
    paths.on_unanswered(start);
    run(&mut paths, start, 900);
    let asked = start + Duration::from_millis(900);
    paths.on_probe_sent(asked, 7, ends(2), Purpose::Liveness);
    let answered = paths
        .on_answer(asked + Duration::from_millis(20), 7, ends(2).remote)
        .unwrap();
    assert!(answered.moved);
    assert_eq!(paths.current(), Some(ends(2)));
    assert_eq!(paths.on_answer(asked, 7, ends(2).remote), None, "a token counts once");
}

#[test]
fn one_way_traffic_keeps_its_path() {
    let start = Instant::now();
    let mut paths = two_paths(start);
    paths.on_unanswered(start);
    assert_eq!(run(&mut paths, start, 500), [(500, Step::ProbeCurrent)]);
    let asked = start + Duration::from_millis(500);
    paths.on_probe_sent(asked, 1, ends(1), Purpose::Liveness);
    let answered = paths
        .on_answer(asked + Duration::from_millis(30), 1, ends(1).remote)
        .unwrap();
    assert!(!answered.moved);
    assert_eq!(paths.health(), Health::Good);
}

#[test]
fn an_unexpected_address_is_checked_before_it_is_used() {
    let start = Instant::now();
    let mut paths = two_paths(start);
    assert_eq!(
        paths.on_heard(start, ends(3), Rank::Direct, true),
        None,
        "it only searches"
    );
    assert_eq!(paths.on_heard(start, ends(3), Rank::Direct, false), Some(Purpose::Roam));
    assert_eq!(
        paths.on_heard(start, ends(3), Rank::Direct, false),
        None,
        "not again at once"
    );
    assert_eq!(paths.current(), Some(ends(1)));
    paths.on_probe_sent(start, 9, ends(3), Purpose::Roam);
    assert!(paths.on_answer(start, 9, ends(3).remote).unwrap().moved);
    assert_eq!(paths.current(), Some(ends(3)));
}

#[test]
fn an_answer_that_comes_another_way_moves_nothing() {
    let start = Instant::now();
    let mut paths = two_paths(start);
    paths.on_probe_sent(start, 9, ends(3), Purpose::Roam);
    assert_eq!(paths.on_answer(start, 9, ends(4).remote), None);
    assert_eq!(paths.current(), Some(ends(1)));
}

#[test]
fn a_relay_in_use_gives_way_to_a_direct_path_that_answers() {
    let start = Instant::now();
    let mut paths = two_paths(start);
    assert!(paths.use_path(start, ends(2)));
    assert_eq!(
        run(&mut paths, start, 4000),
        [(1000, Step::ProbeBetter), (3000, Step::ProbeBetter)]
    );
    paths.on_probe_sent(start, 5, ends(1), Purpose::Better);
    assert!(paths.on_answer(start, 5, ends(1).remote).unwrap().moved);
    assert_eq!(paths.current(), Some(ends(1)));
    assert!(
        !run(&mut paths, start, 60_000)
            .iter()
            .any(|(_, step)| *step == Step::ProbeBetter)
    );
}

#[test]
fn a_direct_path_that_the_peer_uses_is_asked_while_a_relay_is_used() {
    let start = Instant::now();
    let mut paths = two_paths(start);
    assert!(paths.use_path(start, ends(2)));
    assert_eq!(
        paths.on_heard(start, ends(1), Rank::Direct, true),
        None,
        "it only searches"
    );
    assert_eq!(
        paths.on_heard(start, ends(1), Rank::Direct, false),
        Some(Purpose::Better)
    );
    assert_eq!(
        paths.on_heard(start, ends(1), Rank::Direct, false),
        None,
        "asked just now"
    );
}

#[test]
fn a_path_to_what_the_peer_names_a_relay_counts_as_relayed() {
    let start = Instant::now();
    let mut paths = two_paths(start);
    assert!(!paths.mark_relayed(start, ends(2).remote, Rank::Turn), "known already");
    assert!(
        paths.mark_relayed(start, ends(1).remote, Rank::Turn),
        "it is the one in use"
    );
    assert_eq!(paths.last().unwrap().rank, Rank::Turn);
}

#[test]
fn an_idle_link_is_asked_every_fifteen_seconds() {
    let start = Instant::now();
    let mut paths = two_paths(start);
    assert_eq!(run(&mut paths, start, 15_000), [(15_000, Step::ProbeCurrent)]);
    paths.on_heard_current(start + KEEPALIVE);
    assert_eq!(paths.due(), Some(start + KEEPALIVE * 2));
}

#[test]
fn a_relay_does_not_replace_a_live_direct_path() {
    let start = Instant::now();
    let mut paths = two_paths(start);
    assert!(!paths.on_nominated(start, ends(2), Rank::Turn));
    assert!(paths.on_nominated(start, ends(4), Rank::Direct));
}

#[test]
fn tables_are_bounded() {
    let start = Instant::now();
    let mut paths = two_paths(start);
    for n in 0..500 {
        paths.on_heard(start, ends(n), Rank::Direct, false);
        paths.on_probe_sent(start, u64::from(n), ends(n), Purpose::Liveness);
    }
    assert!(paths.list.len() <= limits::PATHS && paths.probes.len() <= limits::PROBES);
    assert!(paths.find(ends(1)).is_some(), "the one in use stays");
}
