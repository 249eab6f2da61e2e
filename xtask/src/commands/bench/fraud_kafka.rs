//! `fraud-kafka`: `pipelines/fraud.yaml --profile kafka --state DIR` under a steady load, open loop.
//!
//! ```text
//! kafka-produce ─▶ topic transactions ─▶ engine ─▶ topic holds   (the broker notes the time)
//!  (timetable)                             └─────▶ webhook       (the receiver in this process notes the time)
//! ```
//!
//! Both latencies count from when a transaction was due by the producer's timetable. What should be held follows from the
//! hand-written program over the same file.

use super::Context;
use super::live::Live;
use super::outcome::{Kind, Outcome};
use super::paired::{held_differently, scores};
use super::topics::{BY_BROKER_TIME, arrivals, brokers_of, end_us, produce};
use super::webhook::Receiver;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::thread;
use std::time::Duration;
use xtask::Result;
use xtask::process;
use xtask::services::{Kafka, KafkaOptions};

const RATE: u64 = 5_000;
const SECONDS: u64 = 300;
/// So long the broker's JVM warms up; latencies of these rows don't count, their alerts do.
const WARM_UP_S: u64 = 30;
/// How long the last alerts may take.
const TIMEOUT: Duration = Duration::from_secs(60);

pub(super) fn run(context: &Context<'_>) -> Result<Outcome> {
    run_with(context, &[])
}

/// The same with `delivery: exactly_once`: holds as a reader of committed records sees them.
pub(super) fn exactly_once(context: &Context<'_>) -> Result<Outcome> {
    run_with(context, &["--set", "delivery=exactly_once"])
}

fn run_with(context: &Context<'_>, arguments: &[&str]) -> Result<Outcome> {
    let (rate, seconds) = (context.rate.unwrap_or(RATE), context.seconds.unwrap_or(SECONDS));
    let rows = rate * (WARM_UP_S + seconds);
    let transactions = context.transactions(rows)?;
    let expected = expected(context, &transactions.to_string_lossy())?;

    let kafka = Kafka::start(KafkaOptions::default())?;
    kafka.create_topic("transactions", 1, &[])?;
    kafka.create_topic("holds", 1, &[BY_BROKER_TIME])?;
    let receiver = Receiver::start()?;
    let state = context.folder.join("fraud-state");
    let _ = fs::remove_dir_all(&state);
    let mut command = context.run_engine(&context.repository.join("pipelines/fraud.yaml"))?;
    command
        .args(["--profile", "kafka", "--workers", "1"])
        .args(arguments)
        .arg("--state")
        .arg(&state)
        .env("ALERT_URL", receiver.url());
    let engine = Live::start(brokers_of(&kafka, command))?;
    let timetable = produce(context, &kafka, "transactions", rate, rows, Some(&transactions), Some("card"))?;
    // What did not come is told below; here it is only waited for.
    let drained = engine.wait_for("engine_sink_acknowledged_rows_total", 2 * expected.len() as u64, TIMEOUT);
    thread::sleep(Duration::from_secs(1));
    let failed = engine.metric("engine_sink_failed_rows_total")? + engine.metric("engine_step_errors_total")?;
    let usage = engine.interrupt()?;

    let first_counted = rate * WARM_UP_S;
    let mut alerted: BTreeMap<u64, f64> = BTreeMap::new();
    let (mut to_alert, mut posts) = (Vec::new(), 0);
    for (at_us, body) in receiver.take() {
        posts += 1;
        let alert: Value = serde_json::from_slice(&body)?;
        let all = alert.as_array().cloned().unwrap_or_else(|| vec![alert]);
        for one in all {
            let (tx_id, risk) =
                one["tx_id"].as_u64().zip(one["risk"].as_f64()).ok_or("an alert without tx_id or risk")?;
            let number = tx_id - 1;
            if alerted.insert(tx_id, risk).is_none() && number >= first_counted {
                to_alert.push(timetable.latency_ms(number, at_us));
            }
        }
    }
    let mut held = BTreeSet::new();
    let mut to_hold = Vec::new();
    for [tx_id, at_ms] in arrivals(context, &kafka, "holds", &["tx_id"])? {
        if held.insert(tx_id) && tx_id > first_counted {
            to_hold.push(timetable.latency_ms(tx_id - 1, end_us(at_ms)));
        }
    }
    fs::remove_dir_all(&state)?;

    let mut outcome = Outcome::default();
    outcome.add_latencies("produce to hold", &mut to_hold, Some(250.0));
    outcome.add_latencies("produce to alert", &mut to_alert, Some(250.0));
    outcome.add("alerts expected", Kind::Count, expected.len() as f64);
    outcome.add("alerts that came", Kind::Count, alerted.len() as f64);
    outcome.add("holds that came", Kind::Count, held.len() as f64);
    outcome.add("posts to the webhook", Kind::Count, f64::from(posts));
    outcome.add("rows that failed", Kind::Count, failed);
    outcome.add("engine CPU", Kind::Share, usage.cpu_s / usage.wall_s * 100.0);
    outcome.add("producer behind its timetable, at most", Kind::Duration, timetable.behind_ms_max);
    if let Some(difference) = held_differently(&alerted, &expected) {
        outcome.remarks.push(format!("alerts are not those expected: {difference}"));
    }
    if alerted.keys().any(|tx_id| !held.contains(tx_id)) || held.len() != alerted.len() {
        outcome.remarks.push("holds and alerts are not of the same rows".into());
    }
    if let Err(error) = drained {
        outcome.remarks.push(error.to_string());
    }
    outcome.remarks.push(format!("{rate} transactions a second for {seconds} s after {WARM_UP_S} s, simulated"));
    Ok(outcome)
}

/// What should be held, by hand: transaction and score.
fn expected(context: &Context<'_>, transactions: &str) -> Result<BTreeMap<u64, f64>> {
    let [holds, alerts] = ["other.out", "alerts.jsonl"].map(|name| context.folder.join(name));
    let model = context.repository.join("models/risk");
    let arguments = ["fraud", transactions, &model.to_string_lossy(), &alerts.to_string_lossy()];
    process::run(context.handwritten(&arguments)?.stdout(File::create(&holds)?))?;
    let expected = scores(&holds)?;
    fs::remove_file(holds)?;
    fs::remove_file(alerts)?;
    Ok(expected)
}
