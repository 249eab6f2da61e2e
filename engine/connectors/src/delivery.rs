//! Delivering one thing to a system that may be slow, busy or gone: the one component for retry, timeouts, bounded
//! concurrency, rate and the circuit breaker. The webhook uses it; remote models and lookups will.
//!
//! What an attempt is, the caller says: a closure that gives a future of an [`Outcome`]. What becomes of a delivery that
//! fails for good, the caller decides. Time and chance come from outside ([`Time`], a seed), so that tests run on a virtual
//! clock and a seed repeats a run.
//!
//! ```text
//!              ┌──────────────────────────── again, after full jitter ───────────────────────────┐
//!              ▼                                                                                 │
//! deliver ─▶ slot (max_in_flight) ─▶ breaker closed? ─▶ rate ─▶ attempt (attempt_timeout) ─▶ Retryable ─▶ attempts, timeout left?
//!                                    └ no: wait (or fail)         │                                             │ no
//!                                                                 ├▶ Ok ────────▶ done                          ▼
//!                                                                 └▶ Permanent ─────────────────────────────▶ Failure
//! ```
//!
//! # Nothing is lost to an outage
//!
//! A delivery is given up for two reasons only: the system *answers* that it will not have it, or this one keeps failing
//! for `timeout` (or `attempts`) while the system works for others. While the breaker is not closed, and while the system
//! has asked us to wait (`Retry-After`), the time of a waiting delivery stands still (but see [`Health::Faulty`]): with a receiver that is dead for a
//! minute or a weekend its rows wait, the bounded queue before them fills, and the source is slowed. Callers that can't
//! wait ([`WhileOpen::Fail`]: a model with a fallback) get their failure at once instead, and their time never stops.

use crate::BreakerState;
use crate::common::lock;
use chrono::{DateTime, NaiveDateTime};
use engine_base::codes::spec as spec_codes;
use engine_base::{Clock, Diagnostic};
use engine_plan::Cx;
use engine_spec::{Rate, TimeSpan};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};

/// The longest that a system's `Retry-After` is obeyed before it is asked again.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(600);
/// The most attempts at one time that may be asked for.
pub const MAX_IN_FLIGHT_MAX: usize = 10_000;

/// The keys that everything delivered over a network shares.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DeliveryKeys {
    /// How long to try in all, while the system works: all attempts and the pauses between them. Time in which the breaker
    /// is not closed, or in which the system has asked to wait, does not count, so an outage costs no row. It does count for a
    /// row to which the system answered with a fault of its own, such as HTTP 500: that may be the row's doing.
    pub timeout: TimeSpan,
    /// How long one attempt may take.
    pub attempt_timeout: TimeSpan,
    /// When to try again after a failure that may pass.
    pub retry: RetryKeys,
    /// When to stop trying for a while, because the system seems to be down.
    pub breaker: BreakerKeys,
    /// How many attempts may be on their way at one time.
    pub max_in_flight: usize,
    /// How many attempts there may be in a second, at most: `100/s`. No limit unless said.
    pub rate: Option<Rate>,
    /// What becomes of a row that can't be delivered.
    pub on_error: OnError,
}

/// When to try again. The pause before attempt n+1 is a random time between zero and `first * 2^(n-1)`, at most `max`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetryKeys {
    /// How many attempts in all. As many as `timeout` has room for unless said.
    pub attempts: Option<u32>,
    /// The longest pause after the first attempt.
    pub first: TimeSpan,
    /// The longest pause after any.
    pub max: TimeSpan,
}

/// When to stop trying for a while. Answers of the system, even refusals, are no failures here; errors of the network,
/// timeouts and answers with a status of 500 and above are.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BreakerKeys {
    /// So many failures one after the other open the breaker.
    pub failures: usize,
    /// If they happen within this time.
    pub within: TimeSpan,
    /// How long it stays open before one attempt is let through.
    pub pause: TimeSpan,
}

/// What becomes of a row that can't be delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// It goes to the sink's error output, `name.errors`, with the reason; the others go on.
    #[default]
    DeadLetter,
    /// The pipeline stops. The row is sent again after a restart.
    Stop,
}

const MS: i64 = 1_000_000;

impl Default for DeliveryKeys {
    fn default() -> Self {
        DeliveryKeys {
            timeout: TimeSpan(300_000 * MS),
            attempt_timeout: TimeSpan(10_000 * MS),
            retry: RetryKeys::default(),
            breaker: BreakerKeys::default(),
            max_in_flight: 16,
            rate: None,
            on_error: OnError::DeadLetter,
        }
    }
}

impl Default for RetryKeys {
    fn default() -> Self {
        RetryKeys { attempts: None, first: TimeSpan(100 * MS), max: TimeSpan(10_000 * MS) }
    }
}

impl Default for BreakerKeys {
    fn default() -> Self {
        BreakerKeys { failures: 5, within: TimeSpan(30_000 * MS), pause: TimeSpan(5_000 * MS) }
    }
}

impl DeliveryKeys {
    /// The names of the keys, to part them from a kind's own with `Node::only` and `Node::without`.
    pub const NAMES: [&str; 7] =
        ["timeout", "attempt_timeout", "retry", "breaker", "max_in_flight", "rate", "on_error"];

    /// Reads the keys of the component that is planned, and notes those that make no sense.
    pub fn read(cx: &mut Cx<'_>) -> Option<DeliveryKeys> {
        let keys: DeliveryKeys = cx.config.only(&Self::NAMES).decode(cx.diagnostics)?;
        let mut sound = true;
        let longer = if cx.component.node.at(&["retry", "first"]).is_some() { "first" } else { "max" };
        let mut wrong = |path: &[&str], message: &str, help: &str| {
            let found = Diagnostic::error(spec_codes::OUT_OF_RANGE, cx.span(path), message).help(help);
            cx.push(found);
            sound = false;
        };
        if keys.timeout.ns() == 0 {
            wrong(&["timeout"], "a `timeout` of nothing leaves no time to deliver", "leave it out for `5m`");
        }
        if keys.attempt_timeout.ns() == 0 {
            wrong(
                &["attempt_timeout"],
                "an `attempt_timeout` of nothing leaves no time to deliver",
                "leave it out for `10s`",
            );
        }
        if keys.retry.attempts == Some(0) {
            wrong(
                &["retry", "attempts"],
                "`attempts` counts the first one too, so it is at least 1",
                "leave it out for as many as `timeout` has room for",
            );
        }
        if keys.retry.first > keys.retry.max {
            let help =
                format!("the first pause is at most {} now, and any at most {}", keys.retry.first, keys.retry.max);
            wrong(&["retry", longer], "the `first` pause is longer than the longest, `max`", &help);
        }
        if keys.breaker.failures == 0 {
            wrong(&["breaker", "failures"], "the breaker needs at least 1 failure to open", "leave it out for 5");
        }
        if keys.breaker.pause.ns() == 0 {
            wrong(
                &["breaker", "pause"],
                "a `pause` of nothing keeps the breaker from ever being open",
                "leave it out for `5s`",
            );
        }
        if !(1..=MAX_IN_FLIGHT_MAX).contains(&keys.max_in_flight) {
            let message = format!("`max_in_flight` is from 1 to {MAX_IN_FLIGHT_MAX}");
            wrong(&["max_in_flight"], &message, "leave it out for 16");
        }
        if keys.rate.is_some_and(|rate| rate.per_second() <= 0.0) {
            wrong(&["rate"], "a `rate` of nothing lets nothing through", "leave it out for no limit");
        }
        sound.then_some(keys)
    }

    /// What the keys ask for.
    pub fn policy(&self, while_open: WhileOpen) -> Policy {
        Policy {
            timeout: self.timeout.duration(),
            attempt_timeout: self.attempt_timeout.duration(),
            attempts: self.retry.attempts,
            first: self.retry.first.duration(),
            max: self.retry.max.duration(),
            failures: self.breaker.failures,
            within: self.breaker.within.duration(),
            pause: self.breaker.pause.duration(),
            max_in_flight: self.max_in_flight,
            rate: self.rate.map(Rate::per_second),
            while_open,
        }
    }
}

/// The JSON Schema of a kind's own keys together with [`DeliveryKeys`].
pub fn schema_with_keys<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = T::json_schema(generator);
    let mut shared = DeliveryKeys::json_schema(generator);
    if let Some(Value::Object(shared)) = shared.ensure_object().remove("properties") {
        let properties = schema.ensure_object().entry("properties").or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(properties) = properties {
            properties.extend(shared);
        }
    }
    schema
}

/// What a [`Delivery`] goes by: [`DeliveryKeys`] in the units of the machine.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The time of a delivery, while the system works.
    pub timeout: Duration,
    /// The time of an attempt.
    pub attempt_timeout: Duration,
    /// Attempts in all, the first included.
    pub attempts: Option<u32>,
    /// The longest pause after the first attempt; doubles with each.
    pub first: Duration,
    /// The longest pause.
    pub max: Duration,
    /// Failures in a row that open the breaker.
    pub failures: usize,
    /// The time within which they must happen.
    pub within: Duration,
    /// How long the breaker stays open.
    pub pause: Duration,
    /// Attempts at one time.
    pub max_in_flight: usize,
    /// Attempts a second.
    pub rate: Option<f64>,
    /// What a delivery does while the breaker is not closed.
    pub while_open: WhileOpen,
}

/// What a delivery does while the system is down or has asked to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhileOpen {
    /// It waits, and its time stands still: for sinks, which lose nothing.
    Wait,
    /// It fails at once: for what has a fallback and somebody waiting.
    Fail,
}

/// Time from outside.
#[derive(Clone)]
pub struct Time {
    /// Tells it.
    pub clock: Arc<dyn Clock>,
    /// Lets it pass.
    pub timer: Arc<dyn Timer>,
}

/// Lets time pass.
pub trait Timer: Send + Sync {
    /// A future that is ready after `time`.
    fn sleep(&self, time: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// Time as tokio lets it pass: for futures that run on its runtime.
#[derive(Debug)]
pub struct TokioTimer;

impl Timer for TokioTimer {
    fn sleep(&self, time: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(tokio::time::sleep(time))
    }
}

/// What came of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<T> {
    /// The system has taken it.
    Ok(T),
    /// It may work later.
    Retryable {
        /// A plain sentence.
        reason: String,
        /// How long the system asks to be left alone.
        retry_after: Option<Duration>,
        /// What this says of the system.
        health: Health,
    },
    /// The system will never take it.
    Permanent {
        /// A plain sentence.
        reason: String,
    },
}

/// What an attempt that failed says of the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It works, and has no time for this now. The breaker does not count it.
    Busy,
    /// It can't be reached, or does not answer. The breaker counts it, and the time of the delivery stands still while the
    /// breaker is not closed.
    Down,
    /// It answered that something went wrong in it (HTTP 500). The breaker counts it; but it may be this very row that it
    /// can't bear, so the time of the delivery runs on, or one row would hold up all others for ever.
    Faulty,
}

/// Why a delivery was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// In one word.
    pub kind: FailureKind,
    /// In a sentence: what the last attempt said.
    pub reason: String,
    /// How many attempts were made.
    pub attempts: u32,
}

/// Why a delivery was given up, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The system refused it.
    Refused,
    /// There were enough attempts.
    Attempts,
    /// The time was over.
    Timeout,
    /// The breaker was not closed, and the policy says not to wait.
    Open,
}

/// Figures, counted since the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliveryStats {
    /// The breaker's state.
    pub breaker: BreakerState,
    /// How often it opened.
    pub opened: u64,
    /// Attempts.
    pub attempts: u64,
    /// Attempts beyond the first of their delivery.
    pub retries: u64,
    /// Attempts that are on their way.
    pub in_flight: u64,
}

/// The way to one system, shared by all who deliver to it.
pub struct Delivery {
    name: Arc<str>,
    policy: Policy,
    time: Time,
    slots: Semaphore,
    breaker: Mutex<Breaker>,
    /// The breaker has changed.
    changed: Notify,
    pace: Option<Mutex<Pace>>,
    random: Mutex<SmallRng>,
    attempts: AtomicU64,
    retries: AtomicU64,
}

/// The state of the breaker closes, opens and half opens:
///
/// ```text
///                 `failures` in a row within `within`
///   ┌────────┐ ────────────────────────────────────────▶ ┌──────┐
///   │ Closed │                                           │ Open │ ◀──────┐
///   └────────┘ ◀────────┐                                └──────┘        │
///     all pass          │ the probe got an answer           │ `pause`    │ the probe failed
///                       │                                   ▼ is over    │
///                       │                              ┌──────────┐      │
///                       └───────────────────────────── │ HalfOpen │ ─────┘
///                                                      └──────────┘
///                                                  one passes, the probe
/// ```
///
/// An answer that comes while it is open belongs to an attempt from before, and changes nothing. Beside it stands the hold:
/// the time until which the system has asked to be left alone.
#[derive(Debug)]
struct Breaker {
    state: State,
    /// When the last failures happened, without an answer in between.
    failures: VecDeque<u64>,
    hold_until_ns: u64,
    opened: u64,
    /// Time in which nothing could pass, up to `seen_ns`.
    blocked_ns: u64,
    seen_ns: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    Open { until_ns: u64 },
    HalfOpen { probing: bool },
}

/// What the breaker says to one who wants to pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    Pass {
        probe: bool,
    },
    /// Not before this time.
    Until(u64),
    /// Not before something changes.
    Changed,
}

impl Breaker {
    fn new(now_ns: u64) -> Self {
        Breaker {
            state: State::Closed,
            failures: VecDeque::new(),
            hold_until_ns: 0,
            opened: 0,
            blocked_ns: 0,
            seen_ns: now_ns,
        }
    }

    /// Counts the time since the last look as blocked or not. Comes before every change, so that the state was one all along.
    fn look(&mut self, now_ns: u64) {
        let blocked_until_ns = if self.state == State::Closed { self.hold_until_ns.min(now_ns) } else { now_ns };
        self.blocked_ns += blocked_until_ns.saturating_sub(self.seen_ns);
        self.seen_ns = self.seen_ns.max(now_ns);
    }

    fn ask(&self, now_ns: u64) -> Gate {
        if now_ns < self.hold_until_ns {
            return Gate::Until(self.hold_until_ns);
        }
        match self.state {
            State::Closed => Gate::Pass { probe: false },
            State::Open { until_ns } if now_ns < until_ns => Gate::Until(until_ns),
            State::Open { .. } | State::HalfOpen { probing: false } => Gate::Pass { probe: true },
            State::HalfOpen { probing: true } => Gate::Changed,
        }
    }

    fn pass(&mut self, now_ns: u64) -> Gate {
        self.look(now_ns);
        let gate = self.ask(now_ns);
        if gate == (Gate::Pass { probe: true }) {
            self.state = State::HalfOpen { probing: true };
        }
        gate
    }

    /// An attempt got an answer.
    fn answered(&mut self, probe: bool, now_ns: u64) {
        self.look(now_ns);
        self.failures.clear();
        if probe {
            self.state = State::Closed;
        }
    }

    /// An attempt found the system down. True if the breaker opened.
    fn failed(&mut self, probe: bool, policy: &Policy, now_ns: u64) -> bool {
        self.look(now_ns);
        let open = match self.state {
            State::Closed => {
                self.failures.push_back(now_ns);
                let within_ns = nanos(policy.within);
                while self.failures.front().is_some_and(|at_ns| now_ns - at_ns > within_ns) {
                    self.failures.pop_front();
                }
                self.failures.len() >= policy.failures
            }
            State::HalfOpen { .. } => probe,
            State::Open { .. } => false,
        };
        if open {
            self.failures.clear();
            self.state = State::Open { until_ns: now_ns.saturating_add(nanos(policy.pause)) };
            self.opened += 1;
        }
        open
    }

    /// The system asks to be left alone.
    fn hold(&mut self, time: Duration, now_ns: u64) {
        self.look(now_ns);
        self.hold_until_ns = self.hold_until_ns.max(now_ns.saturating_add(nanos(time.min(RETRY_AFTER_MAX))));
    }

    /// The one who was to probe went away without a result.
    fn abandoned(&mut self, now_ns: u64) {
        self.look(now_ns);
        if self.state == (State::HalfOpen { probing: true }) {
            self.state = State::HalfOpen { probing: false };
        }
    }

    fn state(&self, now_ns: u64) -> BreakerState {
        match self.state {
            State::Closed => BreakerState::Closed,
            State::Open { until_ns } if now_ns < until_ns => BreakerState::Open,
            State::Open { .. } | State::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }
}

/// A token bucket, as the time at which it will hold a token: it fills at the rate and holds a tenth of a second's worth.
#[derive(Debug)]
struct Pace {
    token_ns: f64,
    burst_ns: f64,
    next_ns: f64,
}

impl Pace {
    fn new(per_second: f64) -> Self {
        let token_ns = 1e9 / per_second;
        Pace { token_ns, burst_ns: (1e8 - token_ns).max(0.0), next_ns: f64::NEG_INFINITY }
    }

    /// Takes a token and tells how long to wait for it.
    fn take(&mut self, now_ns: u64) -> Duration {
        let now_ns = now_ns as f64;
        let at_ns = self.next_ns.max(now_ns - self.burst_ns);
        self.next_ns = at_ns + self.token_ns;
        Duration::from_nanos((at_ns - now_ns).max(0.0).ceil() as u64)
    }
}

/// The right to make one attempt. Dropping it without a result gives a probe's turn to another.
struct Pass<'a> {
    delivery: &'a Delivery,
    _slot: SemaphorePermit<'a>,
    probe: bool,
    told: bool,
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.probe && !self.told {
            self.delivery.breaker().abandoned(self.delivery.now_ns());
            self.delivery.changed.notify_waiters();
        }
    }
}

/// When the time of a delivery began to run.
#[derive(Clone, Copy)]
struct Begun {
    at_ns: u64,
    blocked_ns: u64,
}

impl Delivery {
    /// The way to a system. The name stands in the log; the seed decides the pauses.
    pub fn new(name: impl Into<Arc<str>>, policy: Policy, time: Time, seed: u64) -> Self {
        let now_ns = time.clock.monotonic_ns();
        Delivery {
            name: name.into(),
            slots: Semaphore::new(policy.max_in_flight.max(1)),
            breaker: Mutex::new(Breaker::new(now_ns)),
            changed: Notify::new(),
            pace: policy.rate.filter(|rate| *rate > 0.0).map(|rate| Mutex::new(Pace::new(rate))),
            random: Mutex::new(SmallRng::seed_from_u64(seed)),
            attempts: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            policy,
            time,
        }
    }

    /// Makes attempts until one is taken or refused, or the policy says that it is enough. `attempt` gets its number, from
    /// one. Dropping the future gives up at any point and leaves nothing behind.
    pub async fn deliver<T, F, Fut>(&self, mut attempt: F) -> Result<T, Failure>
    where
        F: FnMut(u32) -> Fut,
        Fut: Future<Output = Outcome<T>>,
    {
        // A sink's rows wait for their turn as long as it takes; somebody who waits for an answer counts from now.
        let mut fault_ns = None;
        let mut begun = match self.policy.while_open {
            WhileOpen::Fail => Some(self.begin()),
            WhileOpen::Wait => None,
        };
        let mut attempts = 0;
        let mut last = String::from("there was no time for an attempt");
        loop {
            let admitted = match (self.policy.while_open, begun) {
                (WhileOpen::Fail, Some(begun)) => match self.within(self.left(begun), self.admit()).await {
                    Some(admitted) => admitted,
                    None => return Err(Failure { kind: FailureKind::Timeout, reason: last, attempts }),
                },
                _ => self.admit().await,
            };
            let Some(mut pass) = admitted else {
                return Err(Failure { kind: FailureKind::Open, reason: self.why_open(), attempts });
            };
            let since = begun.get_or_insert_with(|| self.begin());
            if let Some(fault_ns) = fault_ns.take() {
                since.blocked_ns += self.begin().blocked_ns - fault_ns;
            }
            let since = *since;
            let left = self.left(since);
            if left.is_zero() {
                return Err(Failure { kind: FailureKind::Timeout, reason: last, attempts });
            }
            attempts += 1;
            self.attempts.fetch_add(1, Ordering::Relaxed);
            self.retries.fetch_add(u64::from(attempts > 1), Ordering::Relaxed);
            let limit = left.min(self.policy.attempt_timeout);
            let outcome = self.within(limit, attempt(attempts)).await.unwrap_or_else(|| Outcome::Retryable {
                reason: format!("no answer within {}", TimeSpan(nanos(limit) as i64)),
                retry_after: None,
                health: Health::Down,
            });
            self.tell(&mut pass, &outcome);
            drop(pass);
            match outcome {
                Outcome::Ok(value) => return Ok(value),
                Outcome::Permanent { reason } => {
                    return Err(Failure { kind: FailureKind::Refused, reason, attempts });
                }
                Outcome::Retryable { reason, health, .. } => {
                    last = reason;
                    fault_ns = (health == Health::Faulty).then(|| self.begin().blocked_ns);
                }
            }
            if self.policy.attempts.is_some_and(|most| attempts >= most) {
                return Err(Failure { kind: FailureKind::Attempts, reason: last, attempts });
            }
            self.time.timer.sleep(self.pause_after(attempts).min(self.left(since))).await;
            if self.left(since).is_zero() {
                return Err(Failure { kind: FailureKind::Timeout, reason: last, attempts });
            }
        }
    }

    /// Figures for the metrics.
    pub fn stats(&self) -> DeliveryStats {
        let breaker = self.breaker();
        DeliveryStats {
            breaker: breaker.state(self.now_ns()),
            opened: breaker.opened,
            attempts: self.attempts.load(Ordering::Relaxed),
            retries: self.retries.load(Ordering::Relaxed),
            in_flight: (self.policy.max_in_flight.max(1) - self.slots.available_permits()) as u64,
        }
    }

    /// Waits for the right to make an attempt; `None` where the policy says not to wait for the breaker.
    async fn admit(&self) -> Option<Pass<'_>> {
        // Never closed, so there is always a slot to come.
        let slot = self.slots.acquire().await.ok()?;
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            let now_ns = self.now_ns();
            let gate = self.breaker().ask(now_ns);
            match gate {
                Gate::Pass { .. } => {}
                _ if self.policy.while_open == WhileOpen::Fail => return None,
                Gate::Until(at_ns) => {
                    let _ = self.within(Duration::from_nanos(at_ns.saturating_sub(now_ns)), changed).await;
                    continue;
                }
                Gate::Changed => {
                    changed.await;
                    continue;
                }
            }
            if let Some(pace) = &self.pace {
                let wait = lock(pace).take(now_ns);
                if !wait.is_zero() {
                    self.time.timer.sleep(wait).await;
                }
            }
            // The breaker may have opened, or another may probe by now.
            if let Gate::Pass { probe } = self.breaker().pass(self.now_ns()) {
                return Some(Pass { delivery: self, _slot: slot, probe, told: false });
            }
        }
    }

    /// Tells the breaker what came of an attempt.
    fn tell<T>(&self, pass: &mut Pass<'_>, outcome: &Outcome<T>) {
        let now_ns = self.now_ns();
        let mut breaker = self.breaker();
        pass.told = true;
        let before = breaker.state;
        match outcome {
            Outcome::Retryable { reason, retry_after, health } => {
                if let Some(time) = retry_after {
                    breaker.hold(*time, now_ns);
                }
                if *health == Health::Busy {
                    breaker.answered(pass.probe, now_ns);
                } else if breaker.failed(pass.probe, &self.policy, now_ns) {
                    tracing::warn!(
                        name = &*self.name,
                        reason,
                        pause = %TimeSpan(nanos(self.policy.pause) as i64),
                        "the breaker opened: nothing is sent for a while"
                    );
                }
            }
            Outcome::Ok(_) | Outcome::Permanent { .. } => breaker.answered(pass.probe, now_ns),
        }
        if breaker.state == State::Closed && before != State::Closed {
            tracing::info!(name = &*self.name, "the breaker closed: the system answers again");
        }
        let changed = breaker.state != before;
        drop(breaker);
        if changed {
            self.changed.notify_waiters();
        }
    }

    /// The future's value, or `None` if `time` is over before.
    async fn within<T>(&self, time: Duration, future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            value = future => Some(value),
            () = self.time.timer.sleep(time) => None,
        }
    }

    fn begin(&self) -> Begun {
        let now_ns = self.now_ns();
        let mut breaker = self.breaker();
        breaker.look(now_ns);
        Begun { at_ns: now_ns, blocked_ns: breaker.blocked_ns }
    }

    /// How much of its time a delivery has left.
    fn left(&self, begun: Begun) -> Duration {
        let now_ns = self.now_ns();
        let blocked_ns = match self.policy.while_open {
            WhileOpen::Fail => 0,
            WhileOpen::Wait => {
                let mut breaker = self.breaker();
                breaker.look(now_ns);
                breaker.blocked_ns - begun.blocked_ns
            }
        };
        let spent_ns = now_ns.saturating_sub(begun.at_ns).saturating_sub(blocked_ns);
        self.policy.timeout.saturating_sub(Duration::from_nanos(spent_ns))
    }

    /// Full jitter: any time up to a bound that doubles. (Half of the callers of a system that comes back would otherwise
    /// call at one time again.)
    fn pause_after(&self, attempts: u32) -> Duration {
        let doubled = 2_u32.checked_pow(attempts - 1).and_then(|factor| self.policy.first.checked_mul(factor));
        let bound = doubled.map_or(self.policy.max, |bound| bound.min(self.policy.max));
        Duration::from_nanos(lock(&self.random).random_range(0..=nanos(bound)))
    }

    fn why_open(&self) -> String {
        format!("`{}` is not asked: it failed repeatedly, or has asked to be left alone", self.name)
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        lock(&self.breaker)
    }

    fn now_ns(&self) -> u64 {
        self.time.clock.monotonic_ns()
    }
}

impl std::fmt::Debug for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Delivery").field("name", &self.name).field("stats", &self.stats()).finish()
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The value of a `Retry-After` header: seconds, or a date in any of the three forms of HTTP.
pub fn parse_retry_after(text: &str, now_ns: i64) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let at = DateTime::parse_from_rfc2822(text).map(|at| at.timestamp()).ok().or_else(|| {
        ["%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"]
            .iter()
            .find_map(|form| NaiveDateTime::parse_from_str(text, form).ok())
            .map(|at| at.and_utc().timestamp())
    })?;
    let wait_ns = i128::from(at) * 1_000_000_000 - i128::from(now_ns);
    Some(Duration::from_nanos(u64::try_from(wait_ns.max(0)).ok()?))
}

#[cfg(test)]
mod tests;
