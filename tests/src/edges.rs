//! What a user runs into at the edges of a machine: secrets that are not there, files that are none, output that is closed.

use crate::engine;
use crate::running::Running;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Runs a command of the engine in a folder with this pipeline.
fn engine_in(folder: &Path, pipeline: &str, arguments: &[&str]) -> Output {
    std::fs::write(folder.join("pipeline.yaml"), pipeline).expect("written");
    command(folder, arguments).output().expect("the engine starts")
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(engine());
    command.current_dir(folder).args(arguments).stdin(Stdio::null());
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const RUN: [&str; 4] = ["run", "pipeline.yaml", "--no-metrics", "--quiet"];

#[test]
fn a_secret_that_only_another_profile_needs_may_be_missing() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let pipeline = r#"
version: 1
pipeline: profiles
connections:
  bank:
    type: kafka
    brokers: "127.0.0.1:1"
    security: { protocol: SASL_SSL, sasl: { mechanism: PLAIN, username: "${env:EDGES_NOBODY}", password: "${secret:edges-none}" } }
sources:
  rows: { type: file, path: rows.jsonl, format: json, schema: { id: int64 } }
sinks:
  out: { type: file, input: rows, path: out.jsonl }
profiles:
  live:
    sources: { rows: { type: kafka, connection: bank, topic: t } }
"#;
    std::fs::write(folder.join("rows.jsonl"), "{\"id\":1}\n").expect("written");
    let output = engine_in(folder, pipeline, &RUN);
    assert!(output.status.success(), "{}", said(&output));
    assert!(!said(&output).contains("EDGES_NOBODY"), "{}", said(&output));
    assert_eq!(std::fs::read_to_string(folder.join("out.jsonl")).expect("written"), "{\"id\":1}\n");
    let output = engine_in(folder, pipeline, &[&RUN[..], &["--profile", "live"]].concat());
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("E0130") && said(&output).contains("edges-none"), "{}", said(&output));
}

#[test]
fn a_log_filter_that_is_none_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = |filter: &str| command(folder.path(), &["run", "p.yaml", "--log", filter]).output().expect("it starts");
    for filter in ["foo=bar=baz", "engine=info,foo=debug=x", "foo=loud"] {
        assert_eq!(log(filter).status.code(), Some(2), "{filter}");
    }
    for filter in ["debug", "engine_connectors=debug", "info,engine[span{a=1}]=trace"] {
        assert_eq!(log(filter).status.code(), Some(1), "{filter}: there is no p.yaml");
    }
}

#[test]
fn what_is_no_file_is_told_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let made = Command::new("mkfifo").arg(folder.join("pipe.yaml")).status();
    assert!(made.is_ok_and(|status| status.success()));
    let told = |arguments: &[&str], what: &str| {
        let output = command(folder, arguments).output().expect("the engine starts");
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains(what), "{}", said(&output));
    };
    told(&["dry-run", "pipe.yaml"], "it is a pipe (FIFO)");
    told(&["dry-run", "."], "it is a folder");
    told(&["dry-run", "/dev/zero"], "E0101");
    // A pipe that the shell has opened is read like a file.
    let mut child = command(folder, &["dry-run", "/dev/stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the engine starts");
    drop(child.stdin.take());
    let output = child.wait_with_output().expect("it ends");
    assert!(!said(&output).contains("FIFO"), "{}", said(&output));
}

#[test]
fn a_renamed_source_does_not_start_from_the_beginning_in_silence() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let pipeline = |sources: &[&str]| {
        let source = |name: &&str| format!("  {name}: {{ type: file, path: {name}.jsonl, schema: {{ id: int64 }} }}\n");
        let sink = |name: &&str| format!("  to_{name}: {{ type: file, input: {name}, path: out.{name}.jsonl }}\n");
        let (sources, sinks): (String, String) =
            (sources.iter().map(source).collect(), sources.iter().map(sink).collect());
        format!("version: 1\npipeline: renamed\nsources:\n{sources}sinks:\n{sinks}")
    };
    for name in ["orders", "bookings", "returns"] {
        std::fs::write(folder.join(format!("{name}.jsonl")), "{\"id\":1}\n").expect("written");
    }
    let run = |sources: &[&str]| engine_in(folder, &pipeline(sources), &[&RUN[..], &["--state", "state"]].concat());
    assert!(run(&["orders", "returns"]).status.success());
    let renamed = run(&["bookings", "returns"]);
    assert_eq!(renamed.status.code(), Some(1), "{}", said(&renamed));
    for part in ["sources `orders`, `returns`", "no `orders`", "`bookings` would start", "old name", "another --state"]
    {
        assert!(said(&renamed).contains(part), "{part}: {}", said(&renamed));
    }
    assert!(!folder.join("out.bookings.jsonl").exists());
    // One that is gone for good is told of, and one that is new starts from its beginning.
    let without = run(&["returns"]);
    assert!(without.status.success() && said(&without).contains("marks of `orders`"), "{}", said(&without));
    assert!(run(&["orders", "returns", "bookings"]).status.success());
    assert_eq!(std::fs::read_to_string(folder.join("out.bookings.jsonl")).expect("written"), "{\"id\":1}\n");
}

/// A pipeline that copies lines to a file `out.jsonl`.
const COPY: &str = "
version: 1
pipeline: copy
sources:
  rows: { type: file, path: rows.jsonl, format: json, schema: { id: int64 } }
sinks:
  out: { type: file, input: rows, path: out.jsonl }
";

fn lines(count: u64) -> String {
    (0..count).map(|id| format!("{{\"id\":{id}}}\n")).collect()
}

/// Runs the engine by way of a shell, which closes or limits something first.
fn in_shell(folder: &Path, first: &str, arguments: &[&str]) -> Output {
    Command::new("sh")
        .current_dir(folder)
        .args(["-c", &format!("{first} exec \"$0\" \"$@\"")])
        .arg(engine())
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("the shell starts")
}

#[test]
fn output_that_nobody_can_take_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    std::fs::write(folder.join("rows.jsonl"), lines(10)).expect("written");
    let pipeline = COPY.replace("type: file, input: rows, path: out.jsonl", "type: stdout, input: rows");
    std::fs::write(folder.join("pipeline.yaml"), pipeline).expect("written");
    let output = in_shell(folder, "exec >&-;", &RUN);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("sink `out`: standard output is closed"), "{}", said(&output));
    // Thrown away on purpose it may be, also where it can be read.
    assert!(in_shell(folder, "exec 1<>/dev/null;", &RUN).status.success());
}

#[test]
fn a_file_that_may_not_grow_is_an_error_and_its_half_line_is_cut_off() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    std::fs::write(folder.join("pipeline.yaml"), COPY).expect("written");
    let state = ["run", "pipeline.yaml", "--no-metrics", "--quiet", "--state", "state"];
    // The store of checkpoints takes its room at the first start.
    std::fs::write(folder.join("rows.jsonl"), lines(10)).expect("written");
    assert!(command(folder, &state).output().expect("the engine starts").status.success());
    std::fs::write(folder.join("rows.jsonl"), lines(200_000)).expect("written");
    // In blocks of 512 bytes.
    let limited = in_shell(folder, "ulimit -f 100;", &state);
    assert_eq!(limited.status.code(), Some(1), "{:?} {}", limited.status, said(&limited));
    assert!(said(&limited).contains("out.jsonl"), "{}", said(&limited));
    let torn = std::fs::read_to_string(folder.join("out.jsonl")).expect("written");
    assert!(!torn.is_empty() && !torn.ends_with('\n'), "the limit is in the middle of a line");
    let output = command(folder, &state).output().expect("the engine starts");
    assert!(output.status.success(), "{}", said(&output));
    let text = std::fs::read_to_string(folder.join("out.jsonl")).expect("written");
    let ids: Vec<u64> = text
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).expect("a whole line")["id"].as_u64().expect("an id")
        })
        .collect();
    assert_eq!(ids.into_iter().collect::<std::collections::BTreeSet<u64>>().len(), 200_000);
}

#[test]
fn after_a_fault_the_summary_tells_what_is_in_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    std::fs::write(folder.join("rows.jsonl"), format!("{}nonsense\n", lines(900))).expect("written");
    // Error rows can't be kept: that is the fault.
    std::fs::create_dir_all(folder.join("state/errors.jsonl")).expect("made");
    let output = engine_in(folder, COPY, &[&RUN[..], &["--state", "state"]].concat());
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let written = std::fs::read_to_string(folder.join("out.jsonl")).expect("written").lines().count();
    assert!(said(&output).contains(&format!("out: {written} rows acknowledged")), "{written}: {}", said(&output));
}

#[test]
fn files_that_cannot_be_read_are_told_and_links_to_nothing_passed_over() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let socket = std::os::unix::net::UnixListener::bind(folder.join("b.jsonl")).expect("a socket");
    let output = engine_in(folder, &COPY.replace("rows.jsonl", "b.jsonl"), &["dry-run", "pipeline.yaml"]);
    assert!(output.status.success() && said(&output).contains("E0408"), "{}", said(&output));
    assert!(said(&output).contains("`b.jsonl` can't be read now"), "{}", said(&output));
    drop(socket);
    std::fs::remove_file(folder.join("b.jsonl")).expect("it was there");
    std::fs::write(folder.join("a.jsonl"), "{\"id\":1}\n").expect("written");
    std::os::unix::fs::symlink("nowhere", folder.join("b.jsonl")).expect("a link");
    std::fs::write(folder.join("c.jsonl"), "{\"id\":2}\n").expect("written");
    std::fs::write(folder.join("pipeline.yaml"), COPY.replace("path: rows.jsonl", "path: \"[abc].jsonl\""))
        .expect("written");
    let output = command(folder, &RUN).output().expect("the engine starts");
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("`b.jsonl` is a link that leads nowhere"), "{}", said(&output));
    assert_eq!(std::fs::read_to_string(folder.join("out.jsonl")).expect("written"), "{\"id\":1}\n{\"id\":2}\n");
}

/// Of every step, what it was given is what it put out, what failed, and what nothing reads.
#[test]
fn rows_can_be_accounted_for_and_late_ones_are_told_of() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let pipeline = r#"
version: 1
pipeline: accounts
sources:
  rows:
    type: file
    path: rows.jsonl
    follow: true
    format: json
    schema: { id: int64, at: int64 }
    event_time: { column: at, unit: s, max_delay: 1s }
operators:
  odd: { type: filter, input: rows, where: id % 2 = 1 }
  even: { type: filter, input: rows, where: id % 2 = 0 }
  inverse: { type: map, input: odd, set: { q: 10 / (id - 7) } }
  by_size: { type: route, input: inverse, cases: { small: id < 20, large: id > 80 }, else: rest }
  recent: { type: rolling, input: by_size.large, key: id, over: 5s, columns: { n: count(*) } }
sinks:
  small: { type: file, input: by_size.small, path: small.jsonl }
  latest: { type: file, input: recent, path: recent.jsonl }
  others: { type: file, input: even.rejected, path: others.jsonl }
"#;
    std::fs::write(folder.join("pipeline.yaml"), pipeline).expect("written");
    let mut text: String = (0..100).map(|id| format!("{{\"id\":{id},\"at\":1000}}\n")).collect();
    text.push_str("{\"id\":99,\"at\":2000}\n{\"id\":99,\"at\":1}\n{\"id\":99,\"at\":2}\n");
    std::fs::write(folder.join("rows.jsonl"), text).expect("written");
    let mut running = Running::start(folder, &[], Stdio::null());
    running.until("all rows are through", |running| {
        running.metric("engine_sink_acknowledged_rows_total", &["sink=\"others\""]) == Some(53.0)
            && running.metric("engine_step_late_rows_total", &["step=\"recent\""]) == Some(2.0)
    });
    for (step, dropped) in [("odd", 50.0), ("even", 0.0), ("inverse", 0.0), ("by_size", 30.0), ("recent", 2.0)] {
        let label = format!("step=\"{step}\"");
        let of = |name: &str| running.metric(name, &[&label]).unwrap_or_default();
        let (given, put_out) = (of("engine_step_input_rows_total"), of("engine_step_output_rows_total"));
        let (failed, unread) = (of("engine_step_errors_total"), of("engine_step_dropped_rows_total"));
        assert_eq!(unread, dropped, "{step}");
        assert_eq!(given, put_out + failed + unread, "{step}");
        assert!(given > 0.0, "{step}");
    }
    let told = running.log().matches("rows come too late, and nothing reads `recent.late`").count();
    assert_eq!(told, 1, "{}", running.log());
    running.interrupt();
    assert!(running.ended().success(), "{}", running.log());
    assert!(running.log().contains("recent: 2 rows came too late"), "{}", running.log());
}
