//! `kafka-read`: the engine reads, decodes and filters a topic; librdkafka alone reads it and counts.
//!
//! A Kafka source has no end. When the metrics say that every record was read, the engine is sent SIGINT; CPU seconds are of
//! the whole process from its start to its end, by `wait4`, for both sides. Wall time ends when all was read.

use super::Context;
use super::live::Live;
use super::outcome::{Comparison, Kind, Outcome, median};
use super::paired::paired;
use super::topics::{brokers_of, produce};
use std::fs::{self, File};
use std::time::Duration;
use xtask::Result;
use xtask::process::{self, Usage, measure};
use xtask::services::{Kafka, KafkaOptions};

const ROWS: u64 = 1_000_000;
/// Reading a topic takes seconds.
const TIMEOUT: Duration = Duration::from_secs(300);
const TOPIC: &str = "bids";

pub(super) fn run(context: &Context<'_>) -> Result<Outcome> {
    let rows = context.rows.unwrap_or(ROWS);
    let bids = context.bids(rows)?;
    let [output, expected] = ["ours.out", "other.out"].map(|name| context.folder.join(name));
    process::run(context.handwritten(&["filter", &bids.to_string_lossy()])?.stdout(File::create(&expected)?))?;
    let kafka = Kafka::start(KafkaOptions::default())?;
    kafka.create_topic(TOPIC, 1, &[])?;
    produce(context, &kafka, TOPIC, 0, rows, Some(&bids), None)?;

    let engine = || -> Result<Usage> {
        let mut command = context.run_engine(&context.pipeline("kafka-read.yaml"))?;
        command.args(["--workers", "1"]).stdout(File::create(&output)?);
        let engine = Live::start(brokers_of(&kafka, command))?;
        let started = engine.process.started();
        let all_read = engine.wait_for("engine_source_records_total", rows, TIMEOUT)?;
        Ok(Usage { wall_s: (all_read - started).as_secs_f64(), ..engine.interrupt()? })
    };
    let bare = || -> Result<Usage> {
        let arguments = ["kafka-consume", kafka.brokers(), TOPIC, &rows.to_string()];
        measure(context.handwritten(&arguments)?.stdout(std::process::Stdio::null()))
    };
    let (ours, other) = paired(&engine, &bare, context.runs)?;

    let lines = |path| -> Result<usize> { Ok(fs::read_to_string(path)?.lines().count()) };
    let (held, should) = (lines(&output)?, lines(&expected)?);
    let difference = (held != should).then(|| format!("{held} rows passed the filter, not {should}"));
    fs::remove_file(output)?;
    fs::remove_file(expected)?;
    let millions = rows as f64 / 1e6;
    let mut outcome = Outcome::default();
    for (name, usages) in [("engine", &ours), ("librdkafka alone", &other)] {
        let of = |figure: fn(&Usage) -> f64| median(usages.iter().map(figure));
        outcome.add(format!("{name}, client CPU"), Kind::Cost, of(|usage| usage.cpu_s) / millions);
        outcome.add(format!("{name}, start included"), Kind::Rate, rows as f64 / of(|usage| usage.wall_s));
    }
    outcome.comparison = Some(Comparison { rows, ours, other, difference, target: Some(2.0) });
    outcome.remarks.push("the engine decodes six columns of JSON; the other side counts messages and bytes".into());
    Ok(outcome)
}
