//! `pipelines/anomaly.yaml` by the real binary: the planted faults are found, little else is, its features are those of
//! plain loops, and an alert comes soon after its minute has closed.

use crate::receiver::Receiver;
use crate::running::{PATIENCE, Running};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long the fleet ran, in days, times its machines.
const MACHINE_DAYS: f64 = 8.0 * 4.0 / 24.0;

fn repository() -> PathBuf {
    crate::package().join("..")
}

/// `engine run pipelines/anomaly.yaml` to its end: what it wrote to standard output, and to the file of alerts.
fn run(arguments: &[&str]) -> [String; 2] {
    let folder = tempfile::tempdir().expect("a folder");
    let alerts = folder.path().join("alerts.jsonl");
    let out = Command::new(crate::engine())
        .current_dir(repository())
        .args(["run", "pipelines/anomaly.yaml", "--no-metrics", "--quiet", "--log", "warn", "--set"])
        .arg(format!("sinks.alerts.path={}", alerts.display()))
        .args(arguments)
        .output()
        .expect("the engine starts");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let alerts = std::fs::read(alerts).expect("alerts");
    [out.stdout, alerts].map(|bytes| String::from_utf8(bytes).expect("text"))
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("a row")).collect()
}

fn text<'a>(row: &'a Value, name: &str) -> &'a str {
    row[name].as_str().unwrap_or_else(|| panic!("{name} of {row}"))
}

/// Seconds of the day, of `2026-03-02T06:00:05Z`.
fn second(time: &str) -> i64 {
    let part = |at: usize| time[at..at + 2].parse::<i64>().expect("digits");
    assert!(time.starts_with("2026-03-02T"), "{time}");
    part(11) * 3600 + part(14) * 60 + part(17)
}

/// Within how many minutes of its beginning a fault of a kind has to be found.
fn minutes_at_most(kind: &str) -> i64 {
    match kind {
        "spike" => 1,
        "stuck" => 2,
        "wear" => 20,
        "drift" => 30,
        _ => panic!("no fault is called {kind}"),
    }
}

#[test]
fn every_planted_fault_is_found_and_little_else() {
    let [windows, alerts] = run(&[]).map(|text| lines(&text));
    let faults = std::fs::read_to_string(repository().join("pipelines/data/fleet-faults.jsonl")).expect("the faults");
    let faults = lines(&faults);
    assert_eq!(faults.len(), 9);
    // Whether a minute of a machine overlaps a fault, or so many seconds after it.
    let overlaps = |window: &Value, fault: &Value, after_s: i64| {
        let end = second(text(window, "window_end"));
        text(window, "machine") == text(fault, "machine")
            && end > second(text(fault, "from"))
            && end - 60 < second(text(fault, "to")) + after_s
    };
    for fault in &faults {
        for found in [&windows, &alerts] {
            let own = found.iter().filter(|window| overlaps(window, fault, 0));
            let first = own.map(|window| second(text(window, "window_end"))).min();
            let first = first.unwrap_or_else(|| panic!("not found: {fault}"));
            let minutes = (first - second(text(fault, "from")) + 59) / 60;
            assert!(minutes <= minutes_at_most(text(fault, "kind")), "found in minute {minutes}: {fault}");
        }
    }
    // A minute looks back ten: in so many after a fault it may be the change back that is found.
    let others: Vec<&Value> =
        windows.iter().filter(|window| !faults.iter().any(|fault| overlaps(window, fault, 600))).collect();
    let a_day = others.len() as f64 / MACHINE_DAYS;
    assert!(a_day < 1.0, "{a_day} false alarms a machine-day: {others:?}");
    // The feature that is named is mostly one of the sensor that fails.
    let in_faults = |window: &&Value| faults.iter().any(|fault| overlaps(window, fault, 0));
    let right = windows.iter().filter(in_faults).filter(|window| {
        let own = faults.iter().filter(|fault| overlaps(window, fault, 0));
        own.map(|fault| text(fault, "sensor")).any(|sensor| text(window, "feature").starts_with(sensor))
    });
    let (right, all) = (right.count(), windows.iter().filter(in_faults).count());
    assert!(right * 3 > all * 2, "of {all} abnormal minutes {right} name the sensor");
}

#[test]
fn on_any_number_of_workers_the_rows_are_the_same_to_the_bit() {
    // Workers write as they come to it; each row is the same line.
    let sorted = |workers: &str| {
        run(&["--workers", workers]).map(|text| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort_unstable();
            lines
        })
    };
    let one = sorted("1");
    assert!(one[0].len() > 100 && one[1].len() > 10);
    for workers in ["2", "3"] {
        assert!(one == sorted(workers), "{workers} workers");
    }
}

/// The features by plain loops over all readings: by machine and end of the minute, in the order in which the model takes
/// them.
fn reference() -> BTreeMap<(String, i64), [f64; 12]> {
    let data = std::fs::read_to_string(repository().join("pipelines/data/fleet.csv")).expect("the readings");
    let mut minutes: BTreeMap<(String, i64), Vec<[f64; 3]>> = BTreeMap::new();
    for line in data.lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        let values = [2, 3, 4].map(|at: usize| fields[at].parse().expect("a number"));
        minutes.entry((fields[1].to_owned(), (second(fields[0]) / 60 + 1) * 60)).or_default().push(values);
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let of = |rows: &[[f64; 3]], sensor: usize| rows.iter().map(|row| row[sensor]).collect::<Vec<f64>>();
    let mut expected = BTreeMap::new();
    for ((machine, end), rows) in &minutes {
        // That many seconds back, itself not included; whole minutes only.
        let before = |seconds: i64, sensor: usize| {
            let earlier = (1..seconds / 60).filter_map(|back| minutes.get(&(machine.clone(), end - back * 60)));
            earlier.filter(|rows| rows.len() >= 6).map(|rows| mean(&of(rows, sensor))).collect::<Vec<f64>>()
        };
        if rows.len() < 6 || before(600, 0).len() < 8 {
            continue;
        }
        let [t, v, c] = [(0, 0.025), (1, 0.008), (2, 0.02)].map(|(sensor, floor)| {
            let values = of(rows, sensor);
            let mean = mean(&values);
            let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
            let std = (squares / (values.len() - 1) as f64).sqrt() + floor;
            let (least, most) = values.iter().fold((f64::MAX, f64::MIN), |(a, b), x| (a.min(*x), b.max(*x)));
            [mean, std.ln(), (most - least) / std]
        });
        let change = t[0] - mean(&before(600, 0));
        let row = [
            t[0],
            t[1],
            t[2],
            change,
            v[0],
            v[1],
            v[2],
            c[0],
            c[1],
            c[2],
            mean(&before(300, 2)),
            mean(&before(600, 2)),
        ];
        expected.insert((machine.clone(), *end), row);
    }
    expected
}

#[test]
fn features_are_those_of_plain_loops() {
    const NAMES: [&str; 12] = [
        "temperature_mean",
        "temperature_spread",
        "temperature_range",
        "temperature_change",
        "vibration_mean",
        "vibration_spread",
        "vibration_range",
        "current_mean",
        "current_spread",
        "current_range",
        "current_5m",
        "current_10m",
    ];
    let [judged, _] = run(&["--set", "sinks.windows={ type: stdout, input: judged, format: json }"]);
    let expected = reference();
    let judged = lines(&judged);
    assert_eq!(judged.len(), expected.len());
    assert!(judged.len() > 1_700, "{}", judged.len());
    for row in &judged {
        let key = (text(row, "machine").to_owned(), second(text(row, "window_end")));
        let expected = expected.get(&key).unwrap_or_else(|| panic!("{key:?} is not expected"));
        for (name, expected) in NAMES.iter().zip(expected) {
            let value = row[*name].as_f64().expect("a number");
            // The logarithm of a deviation near zero shows how its squares were summed.
            assert!(
                (value - expected).abs() < 1e-6 * expected.abs().max(1.0),
                "{name} of {key:?}: {value}, {expected}"
            );
        }
        let squares: f64 =
            row["deviations"].as_array().expect("a list").iter().map(|x| x.as_f64().unwrap_or(f64::NAN).powi(2)).sum();
        assert!((row["error"].as_f64().expect("a number") - squares.sqrt()).abs() < 1e-4 * squares.sqrt().max(1.0));
    }
}

#[test]
fn the_threshold_is_the_one_that_training_found() {
    let read = |file: &str| std::fs::read_to_string(repository().join(file)).expect("a file of the repository");
    let (pipeline, card) = (read("pipelines/anomaly.yaml"), read("models/fleet/model.yaml"));
    let (_, rest) = pipeline.split_once("threshold: { type: float64, default: ").expect("a threshold");
    let (threshold, _) = rest.split_once(" }").expect("its end");
    assert!(card.contains(&format!("have a length of at most {threshold}.")), "{threshold}");
}

#[test]
fn between_real_systems_it_is_sound() {
    let out = Command::new(crate::engine())
        .current_dir(repository())
        .args(["dry-run", "pipelines/anomaly.yaml", "--profile", "kafka"])
        .output()
        .expect("the engine starts");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let printed = String::from_utf8_lossy(&out.stdout);
    for part in ["readings: source kafka", "alerts: sink webhook", "windows: sink kafka"] {
        assert!(printed.contains(part), "{part} in {printed}");
    }
}

/// A quarter of an hour of one machine: its readings up to the end of a minute that has a spike in it, and the first one
/// that comes more than `max_delay` after that, which closes the minute.
fn excerpt() -> (Vec<String>, String) {
    let data = std::fs::read_to_string(repository().join("pipelines/data/fleet-m4.jsonl")).expect("the readings");
    let end = second("2026-03-02T07:13:00Z");
    let (before, after): (Vec<String>, Vec<String>) = data
        .lines()
        .map(str::to_owned)
        .partition(|line| second(text(&serde_json::from_str(line).expect("a reading"), "at")) < end + 1);
    (before, after[0].clone())
}

/// Waits for the alert about the minute of the spike; how long that took.
fn alert(receiver: &Receiver, since: Instant) -> Duration {
    loop {
        if let Some(body) = receiver.bodies().first() {
            let took = since.elapsed();
            let alert: Value = serde_json::from_str(body).expect("an alert");
            let alert = alert.as_array().map_or(&alert, |rows| &rows[0]);
            assert_eq!((text(alert, "machine"), text(alert, "window_end")), ("m4", "2026-03-02T07:13:00Z"));
            assert_eq!(text(alert, "feature"), "current_spread");
            return took;
        }
        assert!(since.elapsed() < PATIENCE, "no alert comes");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Kills a child that a failed test leaves behind.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_alert_comes_soon_after_its_minute_has_closed() {
    let receiver = Receiver::start();
    let source = "sources.readings={ type: stdin, format: json, schema: ../schemas/reading.yaml, \
                  event_time: { column: at, max_delay: 1s } }";
    let sink = format!("sinks.alerts={{ type: webhook, input: first, url: \"{}\" }}", receiver.url());
    let child = Command::new(crate::engine())
        .current_dir(repository())
        .args(["run", "pipelines/anomaly.yaml", "--no-metrics", "--quiet", "--log", "warn"])
        .args(["--set", source, "--set", &sink])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("the engine starts");
    let mut child = Killed(child);
    let mut input = child.0.stdin.take().expect("its input");
    let (before, closing) = excerpt();
    writeln!(input, "{}", before.join("\n")).expect("it reads");
    // As if the readings before were of long ago; nothing comes of the minute that is still open.
    std::thread::sleep(Duration::from_millis(1_500));
    assert!(receiver.bodies().is_empty(), "{:?}", receiver.bodies());
    let start = Instant::now();
    writeln!(input, "{closing}").expect("it reads");
    let took = alert(&receiver, start);
    assert!(took < Duration::from_secs(2), "the alert took {took:?}");
    drop(input);
    assert!(child.0.wait().expect("it ends").success());
}

/// The pipeline as it is shipped, in a folder of its own.
fn shipped(folder: &Path) -> PathBuf {
    let files = [
        ("pipelines/anomaly.yaml", "pipelines/pipeline.yaml"),
        ("schemas/reading.yaml", "schemas/reading.yaml"),
        ("models/fleet/model.yaml", "models/fleet/model.yaml"),
        ("models/fleet/fleet.safetensors", "models/fleet/fleet.safetensors"),
    ];
    for (from, to) in files {
        let to = folder.join(to);
        std::fs::create_dir_all(to.parent().expect("a folder")).expect("it is made");
        std::fs::copy(repository().join(from), to).expect("it is copied");
    }
    folder.join("pipelines")
}

#[test]
fn between_topics_an_alert_comes_soon() {
    use rdkafka::ClientConfig;
    use rdkafka::consumer::{BaseConsumer, Consumer};
    use rdkafka::message::Message;
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

    let Some(brokers) = std::env::var("KAFKA_BROKERS").ok().filter(|brokers| !brokers.is_empty()) else { return };
    let topic = |name: &str| format!("anomaly-{name}-{}", std::process::id());
    let (readings, abnormal) = (topic("readings"), topic("abnormal"));
    for name in [&readings, &abnormal] {
        xtask::services::kafka::create_topic(&brokers, name, 1, &[]).expect("a topic");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let receiver = Receiver::start();
    let set = [
        format!("sources.readings.topic={readings}"),
        format!("sources.readings.group={readings}"),
        "sources.readings.start=earliest".to_owned(),
        // Long enough for the broker's first answers on a busy machine.
        "sources.readings.event_time.idle_after=10m".to_owned(),
        format!("sinks.windows.topic={abnormal}"),
        format!("sinks.alerts.url={}", receiver.url()),
        format!("connections.plant.brokers={brokers}"),
    ];
    let mut arguments = vec!["--profile", "kafka"];
    arguments.extend(set.iter().flat_map(|set| ["--set", set]));
    let mut running = Running::start(&shipped(folder.path()), &arguments, Stdio::null());

    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &brokers).set("acks", "all").set("linger.ms", "0");
    let producer: BaseProducer = config.create().expect("a producer");
    let send = |line: &String| {
        producer
            .send(BaseRecord::to(&readings).key("m4").payload(line))
            .map_err(|(error, _)| error)
            .expect("it is sent");
    };
    let (before, closing) = excerpt();
    before.iter().for_each(send);
    producer.flush(PATIENCE).expect("all are sent");
    let count = before.len() as f64;
    running.until("the readings are read", |running| {
        running.metric("engine_source_records_total", &[]).is_some_and(|records| records >= count)
    });
    assert!(receiver.bodies().is_empty(), "{:?}", receiver.bodies());
    let start = Instant::now();
    send(&closing);
    producer.flush(PATIENCE).expect("it is sent");
    let took = alert(&receiver, start);
    assert!(took < Duration::from_secs(2), "the alert took {took:?}");

    config.set("group.id", &abnormal).set("auto.offset.reset", "earliest");
    let consumer: BaseConsumer = config.create().expect("a consumer");
    consumer.subscribe(&[&abnormal]).expect("the topic");
    let start = Instant::now();
    let message = loop {
        // A poll also ends without a message when the group has changed.
        match consumer.poll(Duration::from_millis(200)) {
            Some(message) => break message.expect("no error"),
            None => assert!(start.elapsed() < PATIENCE, "no window comes"),
        }
    };
    let window: Value = serde_json::from_slice(message.payload().unwrap_or_default()).expect("a row");
    assert_eq!((message.key(), text(&window, "window_end")), (Some(&b"m4"[..]), "2026-03-02T07:13:00Z"));
    running.interrupt();
    assert!(running.ended().success(), "{}", running.log());
}
