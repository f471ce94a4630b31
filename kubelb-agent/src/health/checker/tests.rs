//! A simulated world: a clock that jumps, backends that are up or down.

use std::sync::Arc;

use super::*;
use crate::model::HealthCheck;

const INTERVAL: Duration = Duration::from_secs(5);

fn target(port: u16) -> CheckTarget {
    CheckTarget {
        address: SocketAddr::from(([10, 0, 0, 1], port)),
        check: Arc::new(HealthCheck {
            probe: Probe::Tcp,
            port: None,
            interval: INTERVAL,
            timeout: INTERVAL,
            healthy_threshold: 2,
            unhealthy_threshold: 3,
        }),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "an arbitrary origin; no test depends on its value"
)]
fn origin() -> Instant {
    Instant::now()
}

/// Runs checks that take no time until `end`; `up` says whether a target answers at a time.
struct World {
    checker: Checker,
    now: Instant,
    starts: Vec<(Instant, CheckTarget)>,
    transitions: Vec<(Instant, Transition)>,
}

impl World {
    fn new(seed: u64, targets: impl IntoIterator<Item = CheckTarget>) -> Self {
        let mut checker = Checker::new(seed);
        let now = origin();
        checker.set_targets(&targets.into_iter().collect(), &HealthView::new(), now);
        Self {
            checker,
            now,
            starts: Vec::new(),
            transitions: Vec::new(),
        }
    }

    fn run(&mut self, time: Duration, up: impl Fn(&CheckTarget, Instant) -> bool) {
        let end = self.now + time;
        while let Some(due) = self.checker.poll_timeout().filter(|due| *due <= end) {
            self.now = due;
            for Start { token, target } in self.checker.handle_timeout(due) {
                self.starts.push((due, target.clone()));
                let result = if up(&target, due) {
                    Ok(())
                } else {
                    Err(ProbeError::Timeout)
                };
                let transition = self.checker.on_result(token, due, result.as_ref().copied());
                self.transitions.extend(transition.map(|transition| (due, transition)));
            }
        }
        self.now = end;
    }
}

#[test]
fn first_checks_are_spread_over_a_second_and_decide_at_once() {
    let mut world = World::new(1, (1..=1000).map(target));
    let start = world.now;
    world.run(Duration::from_secs(1), |target, _| target.address.port() % 2 == 0);
    assert_eq!(world.starts.len(), 1000);
    for tenth in 0..10_u32 {
        let (from, to) = (
            start + Duration::from_millis(100) * tenth,
            start + Duration::from_millis(100) * (tenth + 1),
        );
        let count = world.starts.iter().filter(|(at, _)| (from..to).contains(at)).count();
        assert!((50..=150).contains(&count), "{count} checks in tenth {tenth}");
    }
    let view = world.checker.view();
    assert_eq!(view.len(), 1000);
    assert!(
        view.iter()
            .all(|(target, health)| (*health == Health::Healthy) == (target.address.port() % 2 == 0))
    );
}

#[test]
fn the_first_check_of_a_short_interval_comes_within_it() {
    let mut quick = target(80);
    Arc::make_mut(&mut quick.check).interval = Duration::from_millis(200);
    for seed in 0..50 {
        let world = World::new(seed, [quick.clone()]);
        assert!(world.checker.poll_timeout().unwrap() <= world.now + Duration::from_millis(200));
    }
}

#[test]
fn intervals_are_jittered_by_a_tenth_and_average_out() {
    let mut world = World::new(3, [target(80)]);
    world.run(INTERVAL * 1000, |_, _| true);
    let gaps: Vec<Duration> = world.starts.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    assert!(
        gaps.iter()
            .all(|gap| (INTERVAL.mul_f64(0.9)..=INTERVAL.mul_f64(1.1)).contains(gap))
    );
    assert!(
        gaps.iter().any(|gap| *gap < INTERVAL.mul_f64(0.95)) && gaps.iter().any(|gap| *gap > INTERVAL.mul_f64(1.05))
    );
    let count = gaps.len();
    assert!((990..=1010).contains(&count), "{count} checks in 1000 intervals");
}

#[test]
fn the_seed_alone_decides_the_schedule() {
    let schedule = |seed| {
        let mut world = World::new(seed, (1..=20).map(target));
        let start = world.now;
        world.run(INTERVAL * 5, |_, _| true);
        world
            .starts
            .into_iter()
            .map(|(at, target)| (at - start, target))
            .collect::<Vec<_>>()
    };
    assert_eq!(schedule(7), schedule(7));
    assert_ne!(schedule(7), schedule(8));
}

#[test]
fn a_dead_backend_is_out_with_its_third_failure_and_back_within_an_interval_of_recovery() {
    for seed in 0..200 {
        let mut world = World::new(seed, [target(80)]);
        let start = world.now;
        let died = start + INTERVAL * 4 + Duration::from_millis(37 * seed);
        let recovered = died + INTERVAL * 8 + Duration::from_millis(61 * seed);
        world.run(INTERVAL * 30, |_, at| !(died..recovered).contains(&at));
        let [(_, up), (out_at, out), (back_at, back)] = &world.transitions[..] else {
            panic!("{:?}", world.transitions)
        };
        assert_eq!((up.from, up.to), (Health::Unknown, Health::Healthy));
        assert_eq!((out.from, out.to), (Health::Healthy, Health::Unhealthy));
        assert_eq!((back.from, back.to), (Health::Unhealthy, Health::Healthy));
        let failed: Vec<_> = world
            .starts
            .iter()
            .map(|(at, _)| *at)
            .filter(|at| *at >= died)
            .take(3)
            .collect();
        assert_eq!(*out_at, failed[2]);
        assert!(
            *back_at - recovered <= INTERVAL,
            "seed {seed}: back after {:?}",
            *back_at - recovered
        );
    }
}

#[test]
fn a_single_failure_or_success_changes_nothing_and_the_count_starts_over() {
    let mut checker = Checker::new(0);
    let mut now = origin();
    checker.set_targets(&BTreeSet::from([target(80)]), &HealthView::new(), now);
    let mut step = |up: bool| {
        now = checker.poll_timeout().unwrap();
        let token = checker.handle_timeout(now)[0].token;
        let result = if up { Ok(()) } else { Err(&ProbeError::Timeout) };
        checker.on_result(token, now, result).map(|transition| transition.to)
    };
    assert_eq!(step(true), Some(Health::Healthy));
    for up in [false, false, true, false, false] {
        assert_eq!(step(up), None);
    }
    assert_eq!(step(false), Some(Health::Unhealthy));
    for up in [true, false, true] {
        assert_eq!(step(up), None);
    }
    assert_eq!(step(true), Some(Health::Healthy));
}

#[test]
fn a_check_that_outlasts_the_interval_is_not_started_twice() {
    let mut checker = Checker::new(0);
    let now = origin();
    checker.set_targets(&BTreeSet::from([target(80)]), &HealthView::new(), now);
    let started = checker.poll_timeout().unwrap();
    let token = checker.handle_timeout(started)[0].token;
    assert_eq!(checker.poll_timeout(), None);
    let late = started + INTERVAL * 3;
    assert!(checker.handle_timeout(late).is_empty());
    checker.on_result(token, late, Ok(()));
    assert_eq!(checker.poll_timeout(), Some(late), "the next one starts at once");
}

#[test]
fn errors_of_this_node_say_nothing_about_a_backend() {
    let mut world = World::new(0, [target(80)]);
    world.run(INTERVAL * 2, |_, _| true);
    for _ in 0..10 {
        let now = world.checker.poll_timeout().unwrap();
        let token = world.checker.handle_timeout(now)[0].token;
        let error = ProbeError::Local(std::io::Error::from_raw_os_error(libc::EMFILE));
        assert_eq!(world.checker.on_result(token, now, Err(&error)), None);
    }
    assert_eq!(world.checker.view().get(&target(80)), Some(&Health::Healthy));
}

#[test]
fn targets_that_stay_keep_their_schedule_and_removed_ones_are_forgotten() {
    let mut world = World::new(5, [target(1), target(2)]);
    world.run(INTERVAL * 2, |_, _| false);
    let starts = world.starts.len();
    let due = world.checker.poll_timeout();
    let all = BTreeSet::from([target(1), target(2)]);
    assert!(!world.checker.set_targets(&all, &HealthView::new(), world.now));
    assert_eq!(world.checker.poll_timeout(), due);

    let running = world.checker.handle_timeout(world.now + INTERVAL);
    assert!(
        world
            .checker
            .set_targets(&BTreeSet::new(), &HealthView::new(), world.now)
    );
    assert!(world.checker.view().is_empty());
    assert_eq!(world.checker.poll_timeout(), None);
    for Start { token, .. } in running {
        assert!(!world.checker.is_current(token));
        assert_eq!(world.checker.on_result(token, world.now, Ok(())), None);
    }
    assert_eq!(world.starts.len(), starts);
}

#[test]
fn health_survives_a_restart_and_a_change_of_times() {
    let mut checker = Checker::new(0);
    let now = origin();
    let initial = HealthView::from([(target(1), Health::Unhealthy), (target(2), Health::Unknown)]);
    assert!(checker.set_targets(&BTreeSet::from([target(1), target(2)]), &initial, now));
    assert_eq!(checker.view(), &HealthView::from([(target(1), Health::Unhealthy)]));

    let mut faster = target(1);
    Arc::make_mut(&mut faster.check).interval = Duration::from_secs(1);
    assert!(checker.set_targets(&BTreeSet::from([faster.clone()]), &HealthView::new(), now));
    assert_eq!(checker.view(), &HealthView::from([(faster, Health::Unhealthy)]));
}

const BUDGET: u32 = 100;

/// Targets that would be checked 400 times a second, on a node that may check 100 times.
fn crowded() -> World {
    let mut world = World::new(1, []);
    world.checker = Checker::new(1).with_budget(BUDGET);
    let targets = (1..=2_000).map(target).collect();
    world.checker.set_targets(&targets, &HealthView::new(), world.now);
    world
}

fn most_in_a_second(world: &World) -> usize {
    let times: Vec<Instant> = world.starts.iter().map(|(at, _)| *at).collect();
    let in_second = |from: Instant| {
        let within = |at: &&Instant| (from..from + Duration::from_secs(1)).contains(*at);
        times.iter().filter(within).count()
    };
    times.iter().map(|at| in_second(*at)).max().unwrap()
}

#[test]
fn more_targets_than_the_budget_stretch_the_intervals() {
    let mut world = crowded();
    assert!((world.checker.stretch() - 4.0).abs() < 1e-9);
    world.run(Duration::from_secs(20), |_, _| true);
    let seen: BTreeSet<&CheckTarget> = world.starts.iter().map(|(_, target)| target).collect();
    assert!(
        seen.len() > 1_900,
        "first checks are spread over all of the time: {}",
        seen.len()
    );
    world.run(Duration::from_secs(180), |_, _| true);
    assert!(most_in_a_second(&world) <= 110, "{}", most_in_a_second(&world));
    let mut last: BTreeMap<&CheckTarget, Instant> = BTreeMap::new();
    for (at, target) in &world.starts {
        if let Some(before) = last.insert(target, *at) {
            let spacing = at.duration_since(before).as_secs_f64();
            assert!((17.9..26.0).contains(&spacing), "{spacing}");
        }
    }
}

#[test]
fn one_in_doubt_is_asked_at_its_own_pace() {
    let mut world = crowded();
    world.run(Duration::from_secs(60), |_, _| true);
    let dead = target(7);
    let died = world.now;
    world.run(Duration::from_secs(60), |target, _| *target != dead);
    let (at, _) = world
        .transitions
        .iter()
        .find(|(_, transition)| transition.target == dead && transition.to == Health::Unhealthy)
        .unwrap();
    let took = at.duration_since(died);
    // One stretched interval at most until the first failure; two of its own for the others.
    assert!(took <= Duration::from_secs(22 + 12), "{took:?}");
}

#[test]
fn an_outage_of_all_does_not_break_the_budget() {
    let mut world = crowded();
    world.run(Duration::from_secs(30), |_, _| true);
    world.starts.clear();
    world.run(Duration::from_secs(90), |_, _| false);
    assert!(most_in_a_second(&world) <= 110, "{}", most_in_a_second(&world));
    let healthy = world
        .checker
        .view()
        .values()
        .filter(|health| **health == Health::Healthy)
        .count();
    assert_eq!(healthy, 0);
}

#[test]
fn intervals_are_as_asked_for_again_when_targets_go() {
    let mut world = crowded();
    world.run(Duration::from_secs(60), |_, _| true);
    world.starts.clear();
    let few: BTreeSet<CheckTarget> = (1..=100).map(target).collect();
    world.checker.set_targets(&few, &HealthView::new(), world.now);
    assert!((world.checker.stretch() - 1.0).abs() < 1e-9);
    world.run(Duration::from_secs(6), |_, _| true);
    let seen: BTreeSet<&CheckTarget> = world.starts.iter().map(|(_, target)| target).collect();
    assert_eq!(
        seen.len(),
        100,
        "nobody waits for a turn that was set when there were many"
    );
}
