//! Deliveries on a virtual clock: every run is decided by its seed.

use super::*;
use engine_base::VirtualClock;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll, Wake, Waker};

const SECOND: u64 = 1_000_000_000;

/// A clock, and timers that ring when everybody waits.
struct Sim {
    clock: Arc<VirtualClock>,
    timers: Mutex<BTreeMap<(u64, u64), Waker>>,
    count: AtomicU64,
}

struct Sleep {
    sim: Arc<Sim>,
    key: (u64, u64),
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut timers = lock(&self.sim.timers);
        if self.sim.clock.monotonic_ns() >= self.key.0 {
            timers.remove(&self.key);
            return Poll::Ready(());
        }
        timers.insert(self.key, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        lock(&self.sim.timers).remove(&self.key);
    }
}

struct SimTimer(Arc<Sim>);

impl Timer for SimTimer {
    fn sleep(&self, time: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let at_ns = self.0.clock.monotonic_ns().saturating_add(nanos(time));
        Box::pin(Sleep { sim: self.0.clone(), key: (at_ns, self.0.count.fetch_add(1, Ordering::Relaxed)) })
    }
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Sim {
    fn new() -> Arc<Sim> {
        Arc::new(Sim {
            clock: VirtualClock::at(1_000 * SECOND as i64),
            timers: Mutex::default(),
            count: AtomicU64::new(0),
        })
    }

    fn delivery(self: &Arc<Self>, policy: Policy) -> Delivery {
        Delivery::new("test", policy, Time { clock: self.clock.clone(), timer: self.timer() }, 7)
    }

    fn timer(self: &Arc<Self>) -> Arc<dyn Timer> {
        Arc::new(SimTimer(self.clone()))
    }

    async fn sleep(self: &Arc<Self>, ns: u64) {
        SimTimer(self.clone()).sleep(Duration::from_nanos(ns)).await;
    }

    fn now_ns(&self) -> u64 {
        self.clock.monotonic_ns()
    }

    /// Runs the tasks to their ends, moving the clock whenever all of them wait. Fails if they wait for nothing, or for
    /// more than a month.
    fn run(&self, tasks: Vec<Pin<Box<dyn Future<Output = ()> + '_>>>) {
        let mut tasks: Vec<_> = tasks.into_iter().map(|task| (task, Arc::new(Flag(AtomicBool::new(true))))).collect();
        loop {
            let mut again = false;
            tasks.retain_mut(|(task, flag)| {
                if !flag.0.swap(false, Ordering::SeqCst) {
                    return true;
                }
                again = true;
                let waker = Waker::from(flag.clone());
                task.as_mut().poll(&mut Context::from_waker(&waker)).is_pending()
            });
            if tasks.is_empty() {
                return;
            }
            if again {
                continue;
            }
            let next = lock(&self.timers).keys().next().copied();
            let (at_ns, count) = next.expect("somebody waits for nothing");
            assert!(at_ns < 2_600_000 * SECOND, "this takes too long");
            self.clock.advance_ns(at_ns.saturating_sub(self.now_ns()) as i64);
            if let Some(waker) = lock(&self.timers).remove(&(at_ns, count)) {
                waker.wake();
            }
        }
    }
}

fn policy() -> Policy {
    DeliveryKeys::default().policy(WhileOpen::Wait)
}

fn down(reason: &str) -> Outcome<u64> {
    Outcome::Retryable { reason: reason.to_owned(), retry_after: None, health: Health::Down }
}

fn busy(retry_after: Option<u64>) -> Outcome<u64> {
    Outcome::Retryable {
        reason: "busy".to_owned(),
        retry_after: retry_after.map(Duration::from_secs),
        health: Health::Busy,
    }
}

/// What one delivery gives when its attempts give `outcomes` (the last of them for ever), and the seconds at which they
/// were made.
fn one(policy: Policy, outcomes: &[Outcome<u64>]) -> (Result<u64, Failure>, Vec<f64>) {
    let sim = Sim::new();
    let delivery = sim.delivery(policy);
    let (mut result, mut times) = (None, Vec::new());
    let task = async {
        let attempt = |number: u32| {
            times.push(sim.now_ns() as f64 / SECOND as f64);
            let outcome = outcomes[(number as usize - 1).min(outcomes.len() - 1)].clone();
            async move { outcome }
        };
        result = Some(delivery.deliver(attempt).await);
    };
    sim.run(vec![Box::pin(task)]);
    (result.unwrap(), times)
}

#[test]
fn one_success_is_one_attempt() {
    assert_eq!(one(policy(), &[Outcome::Ok(5)]), (Ok(5), vec![0.0]));
}

#[test]
fn a_refusal_is_final() {
    let refused = Failure { kind: FailureKind::Refused, reason: "no".to_owned(), attempts: 1 };
    assert_eq!(one(policy(), &[Outcome::Permanent { reason: "no".to_owned() }]), (Err(refused), vec![0.0]));
}

#[test]
fn pauses_grow_up_to_their_bound() {
    let policy = Policy { first: Duration::from_secs(1), max: Duration::from_secs(4), failures: 100, ..policy() };
    let (result, times) = one(policy, &[down("a"), down("b"), down("c"), down("d"), down("e"), Outcome::Ok(1)]);
    assert_eq!(result, Ok(1));
    for (at, bound) in [1.0, 2.0, 4.0, 4.0, 4.0].into_iter().enumerate() {
        let pause = times[at + 1] - times[at];
        assert!((0.0..=bound).contains(&pause), "pause {at} is {pause} s");
    }
    assert!(
        times.windows(2).any(|pair| pair[1] - pair[0] < 1.0) && *times.last().unwrap() > 1.0,
        "full jitter: {times:?}"
    );
}

#[test]
fn attempts_are_counted() {
    let (result, times) = one(Policy { attempts: Some(3), ..policy() }, &[down("gone")]);
    assert_eq!(result, Err(Failure { kind: FailureKind::Attempts, reason: "gone".to_owned(), attempts: 3 }));
    assert_eq!(times.len(), 3);
}

#[test]
fn time_is_over_while_the_system_works_for_others() {
    // The system is only busy, so the breaker stays closed and the time runs.
    let (result, times) = one(Policy { timeout: Duration::from_secs(60), ..policy() }, &[busy(None)]);
    assert_eq!(result.unwrap_err().kind, FailureKind::Timeout);
    assert!(times.iter().all(|at| *at < 60.0) && *times.last().unwrap() > 40.0, "{times:?}");
}

#[test]
fn time_stands_still_while_the_breaker_is_open() {
    let mut outcomes = vec![down("dead"); 100];
    outcomes.push(Outcome::Ok(1));
    let (result, times) = one(Policy { timeout: Duration::from_secs(60), ..policy() }, &outcomes);
    assert_eq!(result, Ok(1), "eight minutes of outage cost nothing");
    assert!(*times.last().unwrap() > 400.0);
}

#[test]
fn a_row_that_the_system_can_not_bear_does_not_hold_up_others_for_ever() {
    let fault = Outcome::Retryable { reason: "HTTP 500".to_owned(), retry_after: None, health: Health::Faulty };
    let (result, times) = one(Policy { timeout: Duration::from_secs(60), ..policy() }, &[fault]);
    assert_eq!(result.unwrap_err().kind, FailureKind::Timeout);
    // The breaker opened on the way, and its pauses counted.
    assert!(*times.last().unwrap() < 66.0 && times.len() > 5, "{times:?}");
}

#[test]
fn an_attempt_that_hangs_is_ended() {
    let sim = Sim::new();
    let delivery = sim.delivery(Policy { attempt_timeout: Duration::from_secs(2), attempts: Some(1), ..policy() });
    let mut result = None;
    sim.run(vec![Box::pin(async {
        result = Some(delivery.deliver(|_| std::future::pending::<Outcome<()>>()).await);
    })]);
    assert_eq!(sim.now_ns(), 2 * SECOND);
    assert_eq!(result.unwrap().unwrap_err().reason, "no answer within 2s");
}

#[test]
fn retry_after_is_obeyed_by_all() {
    let (result, times) = one(policy(), &[busy(Some(30)), Outcome::Ok(1)]);
    assert_eq!((result, times), (Ok(1), vec![0.0, 30.0]));
    let (result, times) = one(policy(), &[busy(Some(1_000_000)), Outcome::Ok(1)]);
    assert_eq!((result, times), (Ok(1), vec![0.0, 600.0]), "but not for ever");

    // The second delivery comes while the first one is told to wait.
    let sim = Sim::new();
    let delivery = sim.delivery(policy());
    let at = Mutex::new(Vec::new());
    let mut tasks: Vec<Pin<Box<dyn Future<Output = ()> + '_>>> = Vec::new();
    for (number, start) in [0, SECOND].into_iter().enumerate() {
        let (sim, delivery, at) = (&sim, &delivery, &at);
        tasks.push(Box::pin(async move {
            sim.sleep(start).await;
            let attempt = |attempt: u32| {
                lock(at).push((number, sim.now_ns() / SECOND));
                let first = number == 0 && attempt == 1;
                async move { if first { busy(Some(10)) } else { Outcome::Ok(0) } }
            };
            delivery.deliver(attempt).await.unwrap();
        }));
    }
    sim.run(tasks);
    let mut at = lock(&at).clone();
    at.sort();
    assert_eq!(at, [(0, 0), (0, 10), (1, 10)]);
}

#[test]
fn who_has_a_fallback_does_not_wait() {
    let policy = Policy { while_open: WhileOpen::Fail, failures: 2, attempts: Some(2), ..policy() };
    let sim = Sim::new();
    let delivery = sim.delivery(policy);
    let mut kinds = Vec::new();
    sim.run(vec![Box::pin(async {
        for _ in 0..3 {
            let result = delivery.deliver(|_| async { down("dead") }).await;
            kinds.push(result.unwrap_err().kind);
        }
        let before_ns = sim.now_ns();
        delivery.deliver(|_| async { down("dead") }).await.unwrap_err();
        assert_eq!(sim.now_ns(), before_ns, "at once");
    })]);
    assert_eq!(kinds, [FailureKind::Attempts, FailureKind::Open, FailureKind::Open]);
}

#[test]
fn the_breaker_goes_round() {
    let policy = Policy { failures: 3, within: Duration::from_secs(10), pause: Duration::from_secs(5), ..policy() };
    let mut breaker = Breaker::new(0);
    let pass = Gate::Pass { probe: false };
    let probe = Gate::Pass { probe: true };
    let at = |seconds: u64| seconds * SECOND;

    assert!(!breaker.failed(false, &policy, at(0)));
    assert!(!breaker.failed(false, &policy, at(1)));
    breaker.answered(false, at(2));
    assert!(!breaker.failed(false, &policy, at(3)), "an answer starts the count anew");
    assert!(!breaker.failed(false, &policy, at(4)));
    assert!(!breaker.failed(false, &policy, at(14)), "the first of the three is too long ago");
    assert_eq!((breaker.state(at(14)), breaker.pass(at(14))), (BreakerState::Closed, pass));
    assert!(breaker.failed(false, &policy, at(14)));
    assert_eq!((breaker.state(at(15)), breaker.pass(at(15))), (BreakerState::Open, Gate::Until(at(19))));
    breaker.answered(false, at(16));
    assert_eq!(breaker.state(at(16)), BreakerState::Open, "an answer from before changes nothing");

    assert_eq!((breaker.state(at(19)), breaker.pass(at(19))), (BreakerState::HalfOpen, probe));
    assert_eq!(breaker.pass(at(19)), Gate::Changed, "only one probes");
    assert!(!breaker.failed(false, &policy, at(20)), "a straggler's failure is not the probe's");
    assert!(breaker.failed(true, &policy, at(20)));
    assert_eq!(breaker.pass(at(21)), Gate::Until(at(25)));
    assert_eq!(breaker.pass(at(25)), probe);
    breaker.abandoned(at(26));
    assert_eq!(breaker.pass(at(26)), probe, "another takes the turn");
    breaker.answered(true, at(27));
    assert_eq!((breaker.state(at(27)), breaker.pass(at(27))), (BreakerState::Closed, pass));
    assert_eq!((breaker.opened, breaker.blocked_ns), (2, at(13)));

    breaker.hold(Duration::from_secs(3), at(30));
    assert_eq!(breaker.pass(at(31)), Gate::Until(at(33)));
    assert_eq!(breaker.pass(at(40)), pass);
    assert_eq!(breaker.blocked_ns, at(16), "only the hold itself was lost time");
}

#[test]
fn a_probe_that_is_dropped_gives_its_turn_to_another() {
    let sim = Sim::new();
    let delivery = sim.delivery(Policy { failures: 1, pause: Duration::from_secs(5), ..policy() });
    let mut done = false;
    sim.run(vec![Box::pin(async {
        let first = async {
            let attempt =
                |number: u32| async move { if number == 1 { down("dead") } else { std::future::pending().await } };
            delivery.deliver(attempt).await
        };
        // The first one's probe hangs, and is dropped at second 8.
        assert_eq!(delivery.within(Duration::from_secs(8), first).await, None);
        delivery.deliver(|_| async { Outcome::Ok(1) }).await.unwrap();
        assert_eq!(sim.now_ns(), 8 * SECOND);
        done = true;
    })]);
    assert!(done);
}

#[test]
fn the_rate_holds() {
    let sim = Sim::new();
    let delivery = sim.delivery(Policy { rate: Some(50.0), max_in_flight: 100, ..policy() });
    let times = Mutex::new(Vec::new());
    let tasks = (0..500).map(|_| {
        let task = async {
            delivery
                .deliver(|_| {
                    lock(&times).push(sim.now_ns());
                    async { Outcome::Ok(()) }
                })
                .await
                .unwrap();
        };
        Box::pin(task) as Pin<Box<dyn Future<Output = ()> + '_>>
    });
    sim.run(tasks.collect());
    let times = lock(&times).clone();
    for (at, pair) in times.iter().zip(&times[50..]).enumerate() {
        assert!(pair.1 - pair.0 >= SECOND * 9 / 10 - 1, "51 in less than a second from number {at} on");
    }
    assert!((9 * SECOND..11 * SECOND).contains(&sim.now_ns()), "and it is made use of");
}

#[test]
fn retry_after_is_read_in_all_its_forms() {
    // 1994-11-06 08:49:00 UTC
    let now_ns = 784_111_740_000_000_000;
    let check = |text: &str, seconds: Option<u64>| {
        assert_eq!(parse_retry_after(text, now_ns), seconds.map(Duration::from_secs), "{text}");
    };
    check("120", Some(120));
    check(" 0 ", Some(0));
    check("Sun, 06 Nov 1994 08:49:37 GMT", Some(37));
    check("Sunday, 06-Nov-94 08:49:37 GMT", Some(37));
    check("Sun Nov  6 08:49:37 1994", Some(37));
    check("Sun, 06 Nov 1994 08:48:37 GMT", Some(0));
    for wrong in ["", "soon", "-1", "1.5", "Sun, 99 Nov 1994 08:49:37 GMT", "99999999999999999999"] {
        check(wrong, None);
    }
}

proptest! {
    /// A system that is up and down, fast and slow by a script, and many who deliver to it: never more than `max_in_flight`
    /// attempts at once, each delivery ends once and in keeping with its last attempt, and while the policy sets no limit of
    /// attempts and the system comes back, nothing is lost.
    #[test]
    fn nothing_is_lost_and_the_bounds_hold(
        seed: u64,
        max_in_flight in 1_usize..8,
        deliveries in 1_u64..60,
        failures in 1_usize..6,
        script in proptest::collection::vec((0_u8..6, 1_u64..20), 0..12),
    ) {
        let sim = Sim::new();
        let policy = Policy { max_in_flight, failures, attempt_timeout: Duration::from_secs(3), ..policy() };
        let delivery = Delivery::new("test", policy, Time { clock: sim.clock.clone(), timer: sim.timer() }, seed);
        let (running, highest) = (AtomicU64::new(0), AtomicU64::new(0));
        let results = Mutex::new(Vec::new());
        // What the system does at a time: each entry holds for its seconds; after the script it is well.
        let mood = |now_ns: u64| {
            let mut from_ns = 0;
            for (mood, seconds) in &script {
                from_ns += seconds * SECOND;
                if now_ns < from_ns {
                    return *mood;
                }
            }
            5
        };
        let mut tasks: Vec<Pin<Box<dyn Future<Output = ()> + '_>>> = Vec::new();
        for number in 0..deliveries {
            let (sim, delivery, running, highest, results, mood) = (&sim, &delivery, &running, &highest, &results, &mood);
            tasks.push(Box::pin(async move {
                sim.sleep(number * SECOND / 4).await;
                let attempt = |_| async move {
                    let now = running.fetch_add(1, Ordering::Relaxed) + 1;
                    highest.fetch_max(now, Ordering::Relaxed);
                    let guard = Running(running);
                    sim.sleep(SECOND / 20).await;
                    let outcome = match mood(sim.now_ns()) {
                        0 => down("refused"),
                        1 => { sim.sleep(60 * SECOND).await; down("late") }
                        2 => busy(Some(2)),
                        3 => busy(None),
                        4 if number % 7 == 0 => Outcome::Permanent { reason: "no".to_owned() },
                        _ => Outcome::Ok(number),
                    };
                    drop(guard);
                    outcome
                };
                let result = delivery.deliver(attempt).await;
                lock(results).push((number, result));
            }));
        }
        sim.run(tasks);
        prop_assert!(highest.load(Ordering::Relaxed) <= max_in_flight as u64);
        prop_assert_eq!(running.load(Ordering::Relaxed), 0);
        let mut results = lock(&results).clone();
        results.sort_by_key(|(number, _)| *number);
        prop_assert_eq!(results.len() as u64, deliveries);
        for (number, result) in results {
            match result {
                Ok(value) => prop_assert_eq!(value, number),
                Err(failure) => prop_assert!(failure.kind == FailureKind::Refused && number % 7 == 0, "{:?}", failure),
            }
        }
        prop_assert_eq!(delivery.stats().in_flight, 0);
        prop_assert_eq!(delivery.stats().breaker, BreakerState::Closed);
    }
}

struct Running<'a>(&'a AtomicU64);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
