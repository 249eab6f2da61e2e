//! Giving work by a topic, and finding out when its results were in another.
//!
//! The producer keeps a timetable: message n is due n / rate seconds after its start. A topic of results has
//! `message.timestamp.type=LogAppendTime`, so the broker notes when it took each of them, and nobody needs to read along.
//! That time is in whole milliseconds: a latency counts to the end of its millisecond, and is up to one too long.

use super::Context;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};
use xtask::services::Kafka;
use xtask::{Result, process};

/// A topic's configuration by which the broker notes when it took a message.
pub(super) const BY_BROKER_TIME: (&str, &str) = ("message.timestamp.type", "LogAppendTime");

/// When messages were due.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timetable {
    start_us: f64,
    rate: f64,
    /// How far the producer fell behind it at worst, in milliseconds.
    pub(super) behind_ms_max: f64,
}

impl Timetable {
    /// How long after message `number` was due it was `at_us` (since 1970), in milliseconds.
    pub(super) fn latency_ms(&self, number: u64, at_us: f64) -> f64 {
        (at_us - self.start_us - number as f64 / self.rate * 1e6) / 1e3
    }
}

/// Sends `count` messages at `rate` a second (0: as fast as can be): the lines of `file` over and over, keyed by a field.
pub(super) fn produce(
    context: &Context<'_>,
    kafka: &Kafka,
    topic: &str,
    rate: u64,
    count: u64,
    file: Option<&Path>,
    key: Option<&str>,
) -> Result<Timetable> {
    let (rate_text, count, file) =
        (rate.to_string(), count.to_string(), file.map(|file| file.to_string_lossy().into_owned()));
    let mut arguments = vec!["kafka-produce", kafka.brokers(), topic, &rate_text, &count];
    arguments.extend(file.as_deref());
    arguments.extend(key);
    let said: Value = serde_json::from_slice(&output(context.handwritten(&arguments)?)?)?;
    let number = |key: &str| said[key].as_f64().ok_or_else(|| format!("the producer did not say {key}"));
    Ok(Timetable { start_us: number("start_us")?, rate: rate as f64, behind_ms_max: number("behind_ms_max")? })
}

/// The messages that a topic holds: the whole numbers in some fields, and at the end the time in milliseconds since 1970 at
/// which the broker took the message.
pub(super) fn arrivals<const COLUMNS: usize>(
    context: &Context<'_>,
    kafka: &Kafka,
    topic: &str,
    fields: &[&str],
) -> Result<Vec<[u64; COLUMNS]>> {
    let lines = output(context.handwritten(&[&["kafka-arrivals", kafka.brokers(), topic], fields].concat())?)?;
    let arrival = |line: &str| -> Result<[u64; COLUMNS]> {
        let numbers: Vec<u64> = line.split(' ').map(str::parse).collect::<Result<_, _>>()?;
        numbers.try_into().map_err(|_| format!("not an arrival: {line}").into())
    };
    String::from_utf8(lines)?.lines().map(arrival).collect()
}

/// The end of a millisecond since 1970, in microseconds.
pub(super) fn end_us(ms: u64) -> f64 {
    (ms as f64 + 1.0) * 1e3
}

/// The command with the address of the broker in its environment.
pub(super) fn brokers_of(kafka: &Kafka, mut command: Command) -> Command {
    command.env("KAFKA_BROKERS", kafka.brokers());
    command
}

fn output(mut command: Command) -> Result<Vec<u8>> {
    let output = command.stderr(Stdio::inherit()).output()?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(format!("`{}` ended with {}", process::line(&command), output.status).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_count_from_when_a_message_was_due() {
        let timetable = Timetable { start_us: 1e15, rate: 2000.0, behind_ms_max: 0.0 };
        assert_eq!(timetable.latency_ms(0, 1e15 + 3000.0), 3.0);
        assert_eq!(timetable.latency_ms(4, 1e15 + 3000.0), 1.0);
    }
}
