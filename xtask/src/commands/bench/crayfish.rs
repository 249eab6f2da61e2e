//! `crayfish`: the workload of Crayfish (Horchidan and others, EDBT 2024): images come by a topic, a feed-forward network
//! scores each, the classes go to a topic.
//!
//! An event is JSON with the 784 numbers of one image, about 8 KB, as Crayfish's own generator makes them. The network has its
//! shape: 784-32-32-32-32-10 with relu, 28,618 parameters. Its weights are random from a seed, made here: what is measured is
//! time, and that does not depend on them.
//!
//! A rate is *sustained* if every event came out, the producer kept its timetable, and the median latency of the last tenth of
//! the events is small: above what a pipeline can do, it grows by the second. The search doubles the rate with short trials,
//! halves the interval, and confirms the result over a longer one. Latency is then measured at four fifths of it, as Crayfish
//! does: from when an event was due to the time that the broker gives its result. The broker also gives the time at which it
//! took the event, which divides the latency into the producer's part and the engine's.

use super::Context;
use super::live::Live;
use super::outcome::{Kind, Outcome, median};
use super::topics::{BY_BROKER_TIME, arrivals, brokers_of, end_us, produce};
use serde_json::{Value, json};
use std::cell::Cell;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use xtask::Result;
use xtask::process::Usage;
use xtask::services::{Kafka, KafkaOptions};

const FIRST_RATE: u64 = 1_000;
const TRIAL_S: u64 = 5;
const CONFIRM_S: u64 = 20;
const LATENCY_S: u64 = 30;
/// Left out of the latencies: connections are made, the first batches compiled.
const WARM_UP_S: u64 = 5;
/// The median of the last tenth must be below this. A backlog reaches it in 20 s if the rate is 1.3 % too high.
const LATE_MS: f64 = 250.0;
/// How long results may take after the last event.
const DRAIN: Duration = Duration::from_secs(5);
/// Images that are sent over and over.
const IMAGES: &str = "500";
const WIDTHS: [usize; 6] = [784, 32, 32, 32, 32, 10];
const SEED: u64 = 1;

/// Events at one rate.
struct Trial {
    rate: u64,
    sustained: bool,
    /// From due to the result, by number of the event.
    latencies_ms: Vec<f64>,
    /// From due to the event in the topic.
    produced_ms: Vec<f64>,
    usage: Usage,
    said: String,
}

pub(super) fn run(context: &Context<'_>) -> Result<Outcome> {
    let card = write_model(context)?;
    let images = context.made(&format!("images-{IMAGES}-{SEED}.jsonl"), || {
        context.handwritten(&["images", IMAGES, &SEED.to_string()])
    })?;
    let kafka = Kafka::start(KafkaOptions::default())?;
    let trials = Cell::new(0);
    let trial = |rate: u64, seconds: u64| -> Result<Trial> {
        trials.set(trials.get() + 1);
        let [from, to] = ["images", "classes"].map(|topic| format!("{topic}-{}", trials.get()));
        kafka.create_topic(&from, 1, &[BY_BROKER_TIME])?;
        kafka.create_topic(&to, 1, &[BY_BROKER_TIME])?;
        let mut command = context.run_engine(&context.pipeline("crayfish.yaml"))?;
        for (key, value) in [
            ("models.network", &*card.to_string_lossy()),
            ("sources.images.topic", &from),
            ("sinks.classes.topic", &to),
        ] {
            command.args(["--set", &format!("{key}={value}")]);
        }
        let engine = Live::start(brokers_of(&kafka, command))?;
        let count = rate * seconds;
        let timetable = produce(context, &kafka, &from, rate, count, Some(&images), None)?;
        let all = engine.wait_for("engine_sink_acknowledged_rows_total", count, DRAIN).is_ok();
        let usage = engine.interrupt()?;
        let mut arrived = arrivals(context, &kafka, &to, &["number", "taken"])?;
        arrived.sort_unstable();
        kafka.delete_topic(&from)?;
        kafka.delete_topic(&to)?;
        let (latencies_ms, produced_ms): (Vec<f64>, Vec<f64>) = arrived
            .iter()
            .map(|[number, taken, at]| [*at, *taken].map(|ms| timetable.latency_ms(*number, end_us(ms))).into())
            .unzip();
        let last = |of: &[f64]| median(of[of.len() / 10 * 9..].iter().copied());
        let (last_ms, last_produced_ms) = (last(&latencies_ms), last(&produced_ms));
        let behind_ms = timetable.behind_ms_max;
        let said = format!(
            "{rate}/s for {seconds} s: {} of {count} came, the last tenth after {last_ms:.0} ms, of which \
             {last_produced_ms:.0} before the broker took the event; producer behind by {behind_ms:.0} ms at most, engine at \
             {:.0} % of a core",
            arrived.len(),
            usage.cpu_s / usage.wall_s * 100.0,
        );
        let sustained = all && arrived.len() as u64 == count && last_ms < LATE_MS && behind_ms < LATE_MS;
        eprintln!("crayfish: {said}: {}", if sustained { "sustained" } else { "not sustained" });
        Ok(Trial { rate, sustained, latencies_ms, produced_ms, usage, said })
    };

    let (mut rate, mut too_high) = (0, None);
    let mut next = context.rate.unwrap_or(FIRST_RATE);
    loop {
        if trial(next, TRIAL_S)?.sustained {
            rate = next;
        } else {
            too_high = Some(next);
        }
        next = match too_high {
            None => rate * 2,
            Some(high) if high - rate <= (rate / 16).max(50) => break,
            Some(high) => rate + (high - rate) / 2,
        };
    }
    let confirm_s = context.seconds.unwrap_or(CONFIRM_S);
    let confirmed = loop {
        if rate < 50 {
            return Err("no rate is sustained; engine.log among the inputs may say why".into());
        }
        let confirmed = trial(rate, confirm_s)?;
        if confirmed.sustained {
            break confirmed;
        }
        rate -= rate / 20 + 1;
    };
    let at = rate * 4 / 5;
    let measured = trial(at, WARM_UP_S + context.seconds.unwrap_or(LATENCY_S))?;

    let mut outcome = Outcome::default();
    outcome.add("sustained events", Kind::Rate, confirmed.rate as f64);
    let warm = usize::try_from(at * WARM_UP_S)?.min(measured.latencies_ms.len());
    let mut engine_ms: Vec<f64> =
        measured.latencies_ms.iter().zip(&measured.produced_ms).map(|(all, before)| all - before).collect();
    outcome.add_latencies(&format!("produce to output at {at}/s"), &mut measured.latencies_ms[warm..].to_vec(), None);
    outcome.add_latencies(&format!("topic to topic at {at}/s"), &mut engine_ms[warm..], None);
    let events = measured.latencies_ms.len() as f64;
    outcome.add(format!("engine CPU at {at}/s"), Kind::Cost, measured.usage.cpu_s / events * 1e6);
    outcome.add(format!("engine CPU at {at}/s"), Kind::Share, measured.usage.cpu_s / measured.usage.wall_s * 100.0);
    outcome.remarks.push(format!("confirmed by {}", confirmed.said));
    if !measured.sustained {
        outcome.remarks.push(format!("four fifths were not sustained: {}", measured.said));
    }
    outcome.remarks.push("random weights; producer, broker and engine share the machine's cores".into());
    Ok(outcome)
}

/// Writes the card and the weights, the same each time, and says where the card is.
fn write_model(context: &Context<'_>) -> Result<PathBuf> {
    let folder = context.folder.join("crayfish");
    fs::create_dir_all(&folder)?;
    let (card, weights) = model();
    fs::write(folder.join("network.safetensors"), weights)?;
    fs::write(folder.join("model.yaml"), card)?;
    Ok(folder.join("model.yaml"))
}

/// The card, and the weights as a safetensors file: the length of a JSON header, the header, the numbers.
fn model() -> (String, Vec<u8>) {
    let mut card = format!(
        "model: network\ntype: candle\nweights: network.safetensors\ninputs: {{ image: \"f32[N, {}]\" }}\noutputs: {{ \
         classes: \"f32[N, {}]\" }}\nlayers:\n",
        WIDTHS[0], WIDTHS[5]
    );
    let (mut header, mut data, mut state) = (json!({}), Vec::new(), SEED);
    for (at, pair) in WIDTHS.windows(2).enumerate() {
        let (from, to) = (pair[0], pair[1]);
        card += &format!("  - linear: {{ from: {from}, to: {to}, name: fc{at} }}\n");
        if at + 2 < WIDTHS.len() {
            card += "  - relu\n";
        }
        // As large as keeps the values of layer after layer of one size.
        let bound = (6.0 / from as f64).sqrt();
        for (name, shape) in [(format!("fc{at}.weight"), vec![to, from]), (format!("fc{at}.bias"), vec![to])] {
            let start = data.len();
            for _ in 0..shape.iter().product() {
                data.extend((((2.0 * unit(&mut state) - 1.0) * bound) as f32).to_le_bytes());
            }
            header[name] = json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, data.len()] });
        }
    }
    let header = Value::to_string(&header);
    let header = format!("{header:width$}", width = header.len().next_multiple_of(8));
    (card, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat())
}

/// SplitMix64: a number from 0 to below 1.
fn unit(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_has_the_parameters_of_the_paper() {
        let (card, weights) = model();
        assert_eq!(model().1, weights);
        let length = u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
        let header: Value = serde_json::from_slice(&weights[8..8 + length]).unwrap();
        assert_eq!(weights.len() - 8 - length, 4 * 28_618);
        assert_eq!(header["fc0.weight"]["shape"], json!([32, 784]));
        assert_eq!(header["fc4.bias"]["data_offsets"][1], 4 * 28_618);
        assert_eq!(card.matches("relu").count(), 4);
    }
}
