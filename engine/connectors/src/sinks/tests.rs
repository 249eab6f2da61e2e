//! The sinks that write streams of bytes: on files, and on targets that are slow or fail.

use super::bytes::{StreamSink, Target};
use crate::formats::Encoding;
use crate::testing::{Bell, plan, rows, step, write_all};
use crate::{SinkHandle, SinkStart, find_sink};
use arrow::array::{Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use engine_base::SystemClock;
use engine_dataflow::Rows;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

mod exact;

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, false), Field::new("b", DataType::Utf8, true)]))
}

fn some(first: i64, count: i64) -> Rows {
    let numbers = Int64Array::from_iter_values(first..first + count);
    let texts = StringArray::from_iter((first..first + count).map(|n| (n % 3 > 0).then(|| format!("text {n}"))));
    rows(RecordBatch::try_new(schema(), vec![Arc::new(numbers), Arc::new(texts)]).unwrap(), first as u64)
}

fn lines(first: i64, count: i64) -> String {
    let line = |n: i64| match n % 3 {
        0 => format!("{{\"a\":{n},\"b\":null}}\n"),
        _ => format!("{{\"a\":{n},\"b\":\"text {n}\"}}\n"),
    };
    (first..first + count).map(line).collect()
}

fn start(resumed: bool) -> SinkStart {
    SinkStart {
        name: "out".into(),
        schema: schema(),
        clock: SystemClock::shared(),
        resumed,
        begun: resumed,
        exact: None,
    }
}

fn file_pipeline(path: &Path, keys: &str) -> String {
    format!(
        "sources:\n  s: {{ type: file, path: x.jsonl, follow: true, schema: {{ a: int64, b: string | null }} }}\n\
         sinks:\n  out: {{ type: file, input: s, path: \"{}\"{keys} }}\n",
        path.display()
    )
}

/// Opens the file sink that these keys describe, with something of its start changed.
fn open_with(path: &Path, keys: &str, change: impl FnOnce(&mut SinkStart)) -> Result<Box<dyn SinkHandle>, String> {
    let text = file_pipeline(path, keys);
    let plan = plan(&text).unwrap_or_else(|problems| panic!("{problems:?}\n{text}"));
    let mut start = start(false);
    change(&mut start);
    (find_sink("file").unwrap().open)(&*step(&plan, "out").planned, start)
}

fn open_file(path: &Path, keys: &str, resumed: bool) -> Result<Box<dyn SinkHandle>, String> {
    open_with(path, keys, |changed| *changed = start(resumed))
}

fn write(sink: &dyn SinkHandle, batches: Vec<Rows>) {
    let bell = Bell::default();
    let mut writer = sink.writer(0, bell.waker());
    assert!(write_all(&mut *writer, &bell, batches).unwrap().is_empty());
}

#[test]
fn a_file_has_each_row_once_it_is_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/folder/out.jsonl");
    let sink = open_file(&path, "", false).unwrap();
    write(&*sink, vec![some(0, 10), some(10, 0), some(10, 20_000)]);
    assert_eq!(fs::read_to_string(&path).unwrap(), lines(0, 20_010));
    let stats = sink.stats();
    assert_eq!((stats.rows, stats.queued_rows, stats.bytes), (20_010, 0, lines(0, 20_010).len() as u64));
    sink.close().unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), lines(0, 20_010));
}

#[test]
fn a_burst_of_any_size_is_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.jsonl");
    let sink = open_file(&path, "", false).unwrap();
    let bell = Bell::default();
    let mut writer = sink.writer(0, bell.waker());
    let mut ticket = 0;
    // Around what is written at once: a burst may end with it, soon after a sync, and nothing comes behind.
    for count in (36_000..44_000).step_by(100) {
        ticket += 1;
        assert!(writer.write(some(0, count), ticket).is_ok());
        let deadline = Instant::now() + Duration::from_secs(60);
        while writer.acknowledged().up_to < ticket {
            assert!(Instant::now() < deadline, "a burst of {count} rows is never acknowledged");
            bell.wait(Duration::from_millis(50));
        }
    }
    drop(writer);
    sink.close().unwrap();
}

#[test]
fn what_a_file_holds_stays_or_goes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.jsonl");
    let check = |before: &str, keys: &str, resumed: bool, expected: String| {
        fs::write(&path, before).unwrap();
        let sink = open_file(&path, keys, resumed).unwrap();
        write(&*sink, vec![some(0, 2)]);
        sink.close().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), expected, "{before} {keys} {resumed}");
    };
    check("old\n", "", false, format!("old\n{}", lines(0, 2)));
    check("old\n", ", existing: replace", false, lines(0, 2));
    check("old\n", ", existing: replace", true, format!("old\n{}", lines(0, 2)));
    // Half a line is of rows that come again, if it is ours.
    check("old\n{\"a\":", "", true, format!("old\n{}", lines(0, 2)));
    check("{\"a\":", "", true, lines(0, 2));
    check("{\"a\":", "", false, format!("{{\"a\":\n{}", lines(0, 2)));
    let long = "x".repeat(200_000);
    check(&format!("old\n{long}"), "", true, format!("old\n{}", lines(0, 2)));
    let csv = "0,\n1,text 1\n";
    check("", ", format: csv", false, format!("a,b\n{csv}"));
    check("a,b\n", ", format: csv", true, format!("a,b\n{csv}"));
    check("a,b\n5,\"x", ", format: csv", true, format!("a,b\n{csv}"));
    check("a,", ", format: csv", true, format!("a,b\n{csv}"));
    check(
        "",
        ", format: { type: csv, delimiter: \" \", header: false, \"null\": \"-\" }",
        false,
        "0 -\n1 \"text 1\"\n".to_owned(),
    );
}

#[test]
fn a_file_that_can_not_be_opened_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let error = open_file(folder.path(), "", false).err().unwrap();
    assert!(error.contains("can't write to"), "{error}");
    let sink = open_file(Path::new("/dev/null"), "", false).unwrap();
    write(&*sink, vec![some(0, 10)]);
    sink.close().unwrap();
    let sink = open_file(Path::new("/dev/full"), "", false).unwrap();
    let bell = Bell::default();
    let mut writer = sink.writer(0, bell.waker());
    let error = write_all(&mut *writer, &bell, vec![some(0, 10)]).unwrap_err();
    assert!(error.contains("can't write to `/dev/full`"), "{error}");
    drop(writer);
    assert_eq!(sink.close(), Err(error));
}

/// A target that waits for a permit for each write, and counts syncs.
#[derive(Default)]
struct Slow {
    permits: Mutex<usize>,
    permitted: Condvar,
    written: Mutex<Vec<u8>>,
    synced: Mutex<usize>,
}

struct SlowTarget(Arc<Slow>, bool);

impl Target for SlowTarget {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let permits = self.0.permits.lock().unwrap();
        let mut permits = self.0.permitted.wait_while(permits, |permits| *permits == 0).unwrap();
        *permits -= 1;
        self.0.written.lock().unwrap().extend_from_slice(bytes);
        Ok(())
    }
    fn sync(&mut self) -> io::Result<()> {
        *self.0.synced.lock().unwrap() = self.0.written.lock().unwrap().len();
        Ok(())
    }
    fn syncs(&self) -> bool {
        self.1
    }
    fn problem(&self, error: &io::Error) -> String {
        error.to_string()
    }
}

impl Slow {
    fn permit(&self, count: usize) {
        *self.permits.lock().unwrap() = count;
        self.permitted.notify_all();
    }
}

#[test]
fn a_slow_target_refuses_rows_and_says_when_it_takes_them() {
    let slow = Arc::new(Slow::default());
    let target = Box::new(SlowTarget(slow.clone(), true));
    let sink = StreamSink::open(start(false), &Encoding::of("json"), target, false).unwrap();
    let bell = Bell::default();
    let mut writer = sink.writer(0, bell.waker());
    let mut ticket = 0;
    let refused = loop {
        match writer.write(some(ticket as i64 * 10_000, 10_000), ticket + 1) {
            Ok(()) => ticket += 1,
            Err(rows) => break rows,
        }
        assert!(ticket < 100, "the queue is bounded");
    };
    assert_eq!(refused.num_rows(), 10_000);
    assert!(sink.stats().queued_bytes < 8 << 20);
    assert_eq!(writer.acknowledged().up_to, 0);
    slow.permit(usize::MAX);
    let deadline = Instant::now() + Duration::from_secs(20);
    while writer.acknowledged().up_to < ticket && Instant::now() < deadline {
        assert!(bell.wait(Duration::from_secs(10)), "it rings");
        // What is acknowledged is synced.
        let up_to = writer.acknowledged().up_to as i64;
        assert!(*slow.synced.lock().unwrap() >= lines(0, up_to * 10_000).len());
    }
    assert_eq!(writer.acknowledged().up_to, ticket);
    writer.write(refused, ticket + 1).unwrap();
    drop(writer);
    let total = (ticket as i64 + 1) * 10_000;
    Box::new(sink).close().unwrap();
    assert_eq!(String::from_utf8(slow.written.lock().unwrap().clone()).unwrap(), lines(0, total));
    assert_eq!(*slow.synced.lock().unwrap(), lines(0, total).len());
}

#[test]
fn rows_are_written_at_once_and_lines_of_workers_stay_whole() {
    let slow = Arc::new(Slow::default());
    slow.permit(usize::MAX);
    let sink = StreamSink::open(start(false), &Encoding::of("json"), Box::new(SlowTarget(slow.clone(), false)), false)
        .unwrap();
    std::thread::scope(|scope| {
        for worker in 0..4_i64 {
            let sink = &sink;
            scope.spawn(move || {
                let bell = Bell::default();
                let mut writer = sink.writer(worker as usize, bell.waker());
                for part in 0..50 {
                    // Each is acknowledged with nothing behind it.
                    let batch = some(worker * 1_000_000 + part * 10, 10);
                    assert!(write_all(&mut *writer, &bell, vec![batch]).is_ok());
                    writer = sink.writer(worker as usize, bell.waker());
                }
            });
        }
    });
    Box::new(sink).close().unwrap();
    let written = String::from_utf8(slow.written.lock().unwrap().clone()).unwrap();
    for worker in 0..4_i64 {
        let mut found = String::new();
        for line in written.lines() {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            if row["a"].as_i64().unwrap() / 1_000_000 == worker {
                found.push_str(line);
                found.push('\n');
            }
        }
        assert_eq!(found, lines(worker * 1_000_000, 500));
    }
}

#[test]
fn a_blackhole_counts() {
    let sink = (find_sink("blackhole").unwrap().open)(
        &*step(&plan("sources:\n  s: { type: file, path: x, follow: true, format: raw }\nsinks:\n  out: { type: blackhole, input: s }\n").unwrap(), "out").planned,
        start(false),
    )
    .unwrap();
    write(&*sink, vec![some(0, 10), some(10, 5)]);
    assert_eq!(sink.stats().rows, 15);
    sink.close().unwrap();
}

#[test]
fn problems_of_the_plan() {
    let check = |keys: &str, expected: &[&str]| {
        let text = format!(
            "sources:\n  s: {{ type: file, path: x, follow: true, format: raw }}\nsinks:\n  out: {{ input: s, {keys} }}\n"
        );
        let found = plan(&text).err().unwrap_or_default();
        let found: Vec<&str> = found.iter().map(|found| found.split(' ').next().unwrap_or_default()).collect();
        assert_eq!(found, expected, "{keys}");
    };
    check("type: stdout, format: raw", &["E0402"]);
    check("type: stdout, format: jsn", &["E0401"]);
    check("type: stdout, format: parquet", &["E0143"]);
    check("type: file, path: \"\"", &["E0407"]);
    check("type: file, path: \"out/*.jsonl\"", &["E0407"]);
    check("type: file, path: out/", &["E0407"]);
    check("type: file, path: out, partition_by: [line]", &["E0143"]);
    check("type: file, path: out, roll: { every: 5m }", &["E0143"]);
}
