//! Seeds by the hundred, and faults planted to be found.

use super::life::{Outcome, run};
use super::{source, systems};
use crate::runtime::durable::planted::Planted;
use engine_base::{Diagnostics, SourceMap};
use engine_plan::Plan;
use engine_spec::{Files, LoadOptions};
use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const PIPELINE: &str = "
version: 1
pipeline: simulated
delivery: exactly_once
commit: { every: COMMIT }
checkpoint: { every: CHECKPOINT }
sources:
  in: { type: simulated, event_time: { column: at, max_delay: 5s, idle_after: IDLE } }
operators:
  history: { type: rolling, input: in, key: k, over: 10s, columns: { n: count(*), total: sum(v) } }
  counted: { type: window, input: in, key: g, tumbling: 10s, columns: { n: count(*), total: sum(v), low: min(id) } }
sinks:
  rolled: { type: simulated, keeps: marker, input: history, columns: [id, k, v, n, total] }
  windows: { type: simulated, keeps: length, input: counted, columns: [g, window_start, n, total, low] }
  late_rolled: { type: simulated, keeps: length, input: history.late, columns: [id] }
  late_windows: { type: simulated, keeps: length, input: counted.late, columns: [id] }
  refused: { type: simulated, keeps: length, input: rolled.errors, columns: [payload] }
  refused_copies: { type: simulated, delivery: at_least_once, input: rolled.errors, columns: [payload] }
  copies: { type: simulated, delivery: at_least_once, input: history, columns: [id, k, v, n, total] }
  window_copies: { type: simulated, delivery: at_least_once, input: counted, columns: [g, window_start, n, total, low] }
";

struct OneFile(String);

impl Files for OneFile {
    fn read(&self, _: &Path) -> io::Result<Vec<u8>> {
        Ok(self.0.clone().into_bytes())
    }
    fn env(&self, _: &str) -> Option<String> {
        None
    }
    fn secret(&self, _: &str) -> Option<String> {
        None
    }
    fn glob(&self, _: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }
}

/// The plan of a seed: one of a few; and whether partitions fall idle in it.
fn plan_of(seed: u64) -> (Arc<Plan>, bool) {
    thread_local! {
        static PLANS: RefCell<HashMap<String, Arc<Plan>>> = RefCell::default();
    }
    let idles = seed / 6 % 2 == 1;
    let text = PIPELINE
        .replace("COMMIT", ["2ms", "20ms"][(seed % 2) as usize])
        .replace("CHECKPOINT", ["10ms", "60ms", "1h"][(seed / 2 % 3) as usize])
        .replace("IDLE", if idles { "40ms" } else { "1h" });
    let plan = PLANS.with_borrow_mut(|plans| plans.entry(text.clone()).or_insert_with(|| Arc::new(plan(text))).clone());
    (plan, idles)
}

fn plan(text: String) -> Plan {
    let mut registries = crate::load::registries();
    registries.sources.push(&source::KIND);
    registries.sinks.push(&systems::KIND);
    let (mut sources, mut found) = (SourceMap::default(), Diagnostics::new());
    let (files, options) = (OneFile(text), LoadOptions::default());
    let pipeline = engine_spec::load(Path::new("simulated.yaml"), &files, &options, &mut sources, &mut found);
    let plan =
        pipeline.and_then(|pipeline| engine_plan::plan(&pipeline, &registries, &files, &mut sources, &mut found));
    match plan {
        Some(plan) if !found.has_errors() => plan,
        _ => panic!("{:#?}", found.iter().collect::<Vec<_>>()),
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn try_seed(seed: u64, planted: Option<Planted>) -> Outcome {
    run(seed, plan_of(seed), planted, number("ENGINE_TRACE").is_some())
}

/// Tries seeds on two threads, until one breaks something: that seed and what it broke, or nothing.
fn first_broken(from: u64, count: u64, planted: Option<Planted>) -> Option<(u64, String)> {
    let next = AtomicU64::new(from);
    let found = std::sync::Mutex::new(None::<(u64, String)>);
    let tries = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= from + count || found.lock().unwrap().is_some() {
                return;
            }
            if let Some(broken) = try_seed(seed, planted).broken {
                let mut found = found.lock().unwrap();
                if found.as_ref().is_none_or(|(known, _)| seed < *known) {
                    *found = Some((seed, broken));
                }
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(tries);
        tries();
    });
    found.into_inner().unwrap()
}

#[test]
fn every_promise_holds_over_all_seeds() {
    let (from, count) = match (number("ENGINE_SEED"), number("ENGINE_SEEDS")) {
        (Some(from), None) => (from, 1),
        (from, count) => (from.unwrap_or(0), count.unwrap_or(300)),
    };
    if let Some((seed, broken)) = first_broken(from, count, None) {
        panic!("seed {seed}: {broken}\nalone, with all that happens: ENGINE_SEED={seed} ENGINE_TRACE=1");
    }
}

#[test]
fn a_seed_is_one_run() {
    for seed in 0..12 {
        let (first, second) = (try_seed(seed, None), try_seed(seed, None));
        assert_eq!((first.sum, first.lives), (second.sum, second.lives), "seed {seed}");
        assert!(first.sum.1 > 100, "seed {seed} has only {} lines", first.sum.1);
    }
}

#[test]
fn every_planted_fault_is_found() {
    use Planted::*;
    let all = [
        DeliverBeforeSync,
        IgnoreFailedSync,
        IgnoreFullDisk,
        WriteInPlace,
        CommitSourceEarly,
        ReleaseTooMuch,
        TruncateTooMuch,
        SkipReplayDrop,
        ForgetDelivered,
        SnapshotTooLate,
        ForgetFailedRows,
        NoteDeliveredEarly,
        ForgetWatermark,
    ];
    let missed: Vec<Planted> =
        all.into_iter().filter(|planted| first_broken(0, 400, Some(*planted)).is_none()).collect();
    assert_eq!(missed, [], "planted and not found");
}
