//! Sources of lines on real files, and their reader on chunks of any size.

mod streamed;

use super::bytes::{Buffers, Piece, QUEUE_BYTES, Stream, StreamReader};
use crate::formats::csv::CsvOptions;
use crate::formats::{Decoding, JSON_MARK};
use crate::queue::{self, Events};
use crate::testing::{Begin, Bell, begin, plan, read_until, step};
use crate::{SourceStart, find_source};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use engine_dataflow::{Marks, Polled, Reader};
use engine_plan::Plan;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use streamed::{bare_start, records, streamed, texts, written_is_read_again};

/// The plan of a file source named `s`.
fn file_plan(folder: &Path, keys: &str) -> Plan {
    let path = folder.display();
    let text = format!(
        "sources:\n  s: {{ type: file, path: \"{path}/{keys} }}\nsinks:\n  out: {{ type: blackhole, input: s }}\n"
    );
    plan(&text).unwrap_or_else(|problems| panic!("{problems:?}\n{text}"))
}

fn begun(plan: &Plan, resume: Marks, bell: &Bell) -> Box<dyn Reader> {
    begin(plan, Begin { name: "s", worker: 0, workers: 1, resume, columns: &[], finite: false }, bell)
}

fn read_all(plan: &Plan) -> Vec<String> {
    let bell = Bell::default();
    let mut reader = begun(plan, Marks::new(), &bell);
    texts(&read_until(&mut *reader, &bell, None, |_, _| false).unwrap())
}

/// The sentence with which a source does not start.
fn start_error(plan: &Plan, resume: Marks) -> String {
    let source = step(plan, "s");
    let start = SourceStart { resume, columns: source.outputs[0].stream.schema.clone(), ..bare_start() };
    (find_source("file").unwrap().start)(&*source.planned, start).err().expect("it does not start")
}

const JSON: &str = "*.jsonl\", format: json, schema: { a: int64 }";

#[test]
fn files_are_read_in_the_order_of_their_names() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("2.jsonl"), "{\"a\":3}\n\nnonsense\n{\"a\":4}").unwrap();
    fs::write(folder.path().join("1.jsonl"), "\u{feff}{\"a\":1}\r\n\r\n\n{\"a\":2}\r\n").unwrap();
    fs::write(folder.path().join("10.jsonl"), "").unwrap();
    fs::write(folder.path().join("3.jsonl"), "\n\n").unwrap();
    fs::write(folder.path().join("4.jsonl"), "{\"a\":5}").unwrap();
    fs::write(folder.path().join("other.txt"), "{\"a\":6}").unwrap();
    fs::create_dir(folder.path().join("5.jsonl")).unwrap();
    assert_eq!(
        read_all(&file_plan(folder.path(), JSON)),
        [
            "{\"a\":1}",
            "{\"a\":2}",
            "{\"a\":3}",
            "decode: not JSON: expected an object, found `n`, at byte 0",
            "{\"a\":4}",
            "{\"a\":5}"
        ]
    );
}

#[test]
fn metadata_tells_path_and_offset_and_nothing_else_is_read_of_pruned_records() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("1.jsonl"), "{\"a\":1}\nx\n{\"a\":2}\n").unwrap();
    fs::write(folder.path().join("2.jsonl"), "{\"a\":\"not looked at\"}\n").unwrap();
    let keys = "*.jsonl\", format: json, schema: { a: int64 }, metadata: { at: offset, file: path }";
    let plan = file_plan(folder.path(), keys);
    let bell = Bell::default();
    let columns = ["file", "at"];
    let mut reader = begin(
        &plan,
        Begin { name: "s", worker: 0, workers: 1, resume: Marks::new(), columns: &columns, finite: false },
        &bell,
    );
    let found = texts(&read_until(&mut *reader, &bell, None, |_, _| false).unwrap());
    let row = |file: &str, at: u64| format!("{{\"file\":\"{}\",\"at\":{at}}}", folder.path().join(file).display());
    assert_eq!(
        found,
        [
            row("1.jsonl", 0),
            "decode: not JSON: expected an object, found `x`, at byte 0".into(),
            row("1.jsonl", 2),
            row("2.jsonl", 3)
        ]
    );
}

#[test]
fn bad_records_of_every_sort_become_error_rows() {
    let folder = tempfile::tempdir().unwrap();
    let mut file = fs::File::create(folder.path().join("1.jsonl")).unwrap();
    file.write_all(
        b"{\"a\":1}\n\xff\xfe\n{\"a\":\"\xc3\x28\"}\n\0\0\0\n{\"a\":\"text\"}\n{}\n[1]\n{\"a\":9223372036854775808}\n",
    )
    .unwrap();
    file.write_all(&vec![b'x'; 50_000_000]).unwrap();
    file.write_all(b"\n{\"a\":2}\n").unwrap();
    file.write_all(&[b"{\"a\":".to_vec(), vec![b'['; 1_000_000], b"\n".to_vec()].concat()).unwrap();
    file.write_all(b"{\"a\":3}\n").unwrap();
    let bell = Bell::default();
    let mut reader = begun(&file_plan(folder.path(), JSON), Marks::new(), &bell);
    let out = read_until(&mut *reader, &bell, None, |_, _| false).unwrap();
    assert_eq!(out.bytes, fs::metadata(folder.path().join("1.jsonl")).unwrap().len());
    assert_eq!(out.records, 12);
    for error in &out.errors {
        assert!(error.payload.len() <= 64 * 1024);
        assert_eq!(&*error.step, "s");
    }
    assert!(out.errors[7].payload == vec![b'x'; 64 * 1024]);
    assert_eq!(
        texts(&out),
        [
            "{\"a\":1}",
            "decode: not JSON: expected an object, found the byte 0xff, at byte 0",
            "schema: `a`: should be int64, and is a string",
            "decode: not JSON: expected an object, found the byte 0x00, at byte 0",
            "schema: `a`: should be int64, and is a string",
            "schema: `a`: is missing, and its type allows no null",
            "decode: not JSON: a record is an object, and this is an array, at byte 0",
            "schema: `a`: `9223372036854775808` does not fit int64",
            "too_large: the record has 50000000 bytes, more than `max_record` (of its 50000000 bytes, the first 65536 are kept)",
            "{\"a\":2}",
            "schema: `a`: should be int64, and is an array (of its 1000005 bytes, the first 65536 are kept)",
            "{\"a\":3}"
        ]
    );
}

/// Reads up to each record in turn, and from the mark there to the end: together that must be everything, once.
fn check_every_mark(plan: &Plan) {
    let whole = read_all(plan);
    assert!(whole.len() > 3, "{whole:?}");
    for cut in 0..=whole.len() as u64 {
        let bell = Bell::default();
        let mut first = begun(plan, Marks::new(), &bell);
        let limit = BTreeMap::from([(0, cut)]);
        let before = read_until(&mut *first, &bell, Some(&limit), |_, reader| reader.marks()[&0].next == cut).unwrap();
        let marks = first.marks();
        assert_eq!(marks[&0].next, cut);
        drop(first);
        let mut second = begun(plan, marks.clone(), &bell);
        assert_eq!(second.marks()[&0].next, cut);
        let after = read_until(&mut *second, &bell, None, |_, _| false).unwrap();
        assert_eq!(records(&after).first().map_or(cut, |(offset, _)| *offset), cut);
        assert_eq!([texts(&before), texts(&after)].concat(), whole, "cut at {cut}: {marks:?}");
        assert_eq!(second.marks()[&0].next, whole.len() as u64);
    }
}

#[test]
fn reading_goes_on_at_any_mark() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("1.jsonl"), "\u{feff}{\"a\":1}\r\n\n{\"a\":2}\nbad\n").unwrap();
    fs::write(folder.path().join("2.jsonl"), "\n").unwrap();
    fs::write(folder.path().join("3.jsonl"), "{\"a\":3}\n{}\n\n{\"a\":4}").unwrap();
    check_every_mark(&file_plan(folder.path(), JSON));
    check_every_mark(&file_plan(folder.path(), "*.jsonl\", format: raw, metadata: { file: path }"));
}

#[test]
fn reading_goes_on_at_any_mark_of_a_file_with_a_header() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("1.csv"), "\u{feff}b,a\n\"x\ny\",1\n\nz,2\nz\n\"q\"\"\",4\r\n").unwrap();
    fs::write(folder.path().join("2.csv"), "a,c,b\n5,,\"\"\n6,7,\n8,9,\"not closed\n").unwrap();
    let plan = file_plan(folder.path(), "*.csv\", format: csv, schema: { a: int64, b: string, c: int64 | null }");
    let expected = [
        "{\"a\":1,\"b\":\"x\\ny\",\"c\":null}",
        "{\"a\":2,\"b\":\"z\",\"c\":null}",
        "decode: not CSV: it has 1 field, and the header has 2 fields, at byte 1",
        "{\"a\":4,\"b\":\"q\\\"\",\"c\":null}",
        "{\"a\":5,\"b\":\"\",\"c\":null}",
        "{\"a\":6,\"b\":\"\",\"c\":7}",
        "decode: not CSV: a quote is not closed, at byte 15",
    ];
    assert_eq!(read_all(&plan), expected);
    check_every_mark(&plan);
}

#[test]
fn limits_are_honoured_whatever_their_steps() {
    let folder = tempfile::tempdir().unwrap();
    let lines: String =
        (0..50_000).map(|n| if n % 7_001 == 5 { "bad\n".to_owned() } else { format!("{{\"a\":{n}}}\n") }).collect();
    fs::write(folder.path().join("1.jsonl"), lines).unwrap();
    let plan = file_plan(folder.path(), JSON);
    let bell = Bell::default();
    let mut reader = begun(&plan, Marks::new(), &bell);
    let mut next = 0;
    let mut all = Vec::new();
    for step in [1, 0, 1, 5, 5, 8_191, 8_192, 8_193, 20_000] {
        next += step;
        let limit = BTreeMap::from([(0, next)]);
        let some = read_until(&mut *reader, &bell, Some(&limit), |_, reader| reader.marks()[&0].next == next).unwrap();
        assert_eq!(some.records, step);
        all.extend(texts(&some));
        assert!(matches!(reader.poll(1 << 20, Some(&limit)), Polled::Pending));
        assert!(
            matches!(reader.poll(1 << 20, Some(&BTreeMap::new())), Polled::Pending),
            "a partition that is not named is not read"
        );
    }
    all.extend(texts(&read_until(&mut *reader, &bell, None, |_, _| false).unwrap()));
    assert_eq!(all, read_all(&plan));
    assert_eq!(all.len(), 50_000);
    // At least one record comes however little is asked for.
    let mut reader = begun(&plan, Marks::new(), &bell);
    loop {
        match reader.poll(0, None) {
            Polled::Some(some) => {
                assert_eq!(some.records, 1);
                break;
            }
            Polled::Pending => assert!(bell.wait(Duration::from_secs(10))),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn changed_files_are_noticed_when_reading_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let reset = || {
        fs::write(path("2.jsonl"), "{\"a\":1}\n{\"a\":2}\n").unwrap();
        fs::write(path("3.jsonl"), "{\"a\":3}\n").unwrap();
    };
    reset();
    let plan = file_plan(folder.path(), JSON);
    let bell = Bell::default();
    let mut reader = begun(&plan, Marks::new(), &bell);
    read_until(&mut *reader, &bell, Some(&BTreeMap::from([(0, 2)])), |out, _| out.records == 2).unwrap();
    let marks = reader.marks();
    drop(reader);
    let check = |expected: &str| {
        let found = start_error(&plan, marks.clone());
        assert!(found.contains(expected), "{found}");
    };
    fs::write(path("2.jsonl"), "{\"a\":1}\n").unwrap();
    check("it was truncated or replaced");
    fs::write(path("2.jsonl"), "{\"a\":7}\n{\"a\":8}\n{\"a\":9}\n").unwrap();
    check("it was replaced");
    fs::remove_file(path("2.jsonl")).unwrap();
    check("is not there any more");
    reset();
    fs::write(path("1.jsonl"), "{\"a\":0}\n").unwrap();
    check("files were added before");
    fs::remove_file(path("1.jsonl")).unwrap();
    // What grew is read on.
    fs::OpenOptions::new().append(true).open(path("2.jsonl")).unwrap().write_all(b"{\"a\":22}\n").unwrap();
    let mut reader = begun(&plan, marks, &bell);
    assert_eq!(texts(&read_until(&mut *reader, &bell, None, |_, _| false).unwrap()), ["{\"a\":22}", "{\"a\":3}"]);
    let mut marks = reader.marks();
    drop(reader);
    // Files that were read may go.
    fs::remove_file(path("2.jsonl")).unwrap();
    fs::write(path("4.jsonl"), "{\"a\":4}\n").unwrap();
    let mut reader = begun(&plan, marks.clone(), &bell);
    assert_eq!(texts(&read_until(&mut *reader, &bell, None, |_, _| false).unwrap()), ["{\"a\":4}"]);
    marks.get_mut(&0).unwrap().detail = "{}".to_owned();
    assert!(start_error(&plan, marks).contains("is not one of a file source"));
}

#[test]
fn what_can_not_be_read_is_told_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let check = |keys: &str, expected: &str| {
        let found = start_error(&file_plan(folder.path(), keys), Marks::new());
        assert!(found.contains(expected), "{found}");
    };
    check(JSON, "no file matches");
    check("nothing.jsonl\", schema: { a: int64 }", "there is no file");
    fs::create_dir(folder.path().join("folder")).unwrap();
    check("folder\", schema: { a: int64 }", "is a folder");
}

#[test]
fn another_worker_has_no_share() {
    let folder = tempfile::tempdir().unwrap();
    let plan = file_plan(folder.path(), JSON);
    let start = SourceStart { worker: 1, workers: 2, ..bare_start() };
    assert!(matches!((find_source("file").unwrap().start)(&*step(&plan, "s").planned, start), Ok(None)));
}

const FOLLOW: &str = "*.jsonl\", format: json, schema: { a: int64 }, follow: true";

/// Reads until the source has given as many records as there are `expected`.
fn expect(reader: &mut dyn Reader, bell: &Bell, expected: &[&str]) {
    let mut found = Vec::new();
    let all = read_until(reader, bell, None, |out, _| {
        found = texts(out);
        found.len() >= expected.len()
    });
    all.unwrap();
    assert_eq!(found, expected);
}

fn append(path: &Path, text: &str) {
    fs::OpenOptions::new().append(true).create(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

#[test]
fn a_followed_file_is_read_as_it_grows() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let bell = Bell::default();
    // It need not be there at the start.
    let mut reader = begun(&file_plan(folder.path(), FOLLOW), Marks::new(), &bell);
    append(&path("1.jsonl"), "{\"a\":1}\n{\"a\":");
    expect(&mut *reader, &bell, &["{\"a\":1}"]);
    append(&path("1.jsonl"), "2}\n\n");
    expect(&mut *reader, &bell, &["{\"a\":2}"]);
    // A later name: what is written to the first until then is still read.
    append(&path("1.jsonl"), "{\"a\":3}\n{\"a\":4}");
    append(&path("2.jsonl"), "{\"a\":5}\n");
    expect(&mut *reader, &bell, &["{\"a\":3}", "{\"a\":4}", "{\"a\":5}"]);
    // Another file of the same name.
    append(&path("2.jsonl"), "{\"a\":6}\n");
    fs::rename(path("2.jsonl"), path("2.old")).unwrap();
    append(&path("2.old"), "{\"a\":7}\n");
    append(&path("2.jsonl"), "{\"a\":8}\n");
    expect(&mut *reader, &bell, &["{\"a\":6}", "{\"a\":7}", "{\"a\":8}"]);
    // The same file, truncated.
    append(&path("2.jsonl"), "{\"a\":9}\n{\"a\":10}\n");
    expect(&mut *reader, &bell, &["{\"a\":9}", "{\"a\":10}"]);
    fs::write(path("2.jsonl"), "{\"a\":11}\n").unwrap();
    expect(&mut *reader, &bell, &["{\"a\":11}"]);
    let marks = reader.marks();
    drop(reader);
    append(&path("2.jsonl"), "{\"a\":12}\n");
    let mut reader = begun(&file_plan(folder.path(), FOLLOW), marks.clone(), &bell);
    expect(&mut *reader, &bell, &["{\"a\":12}"]);
    // A file that would never be read.
    append(&path("0.jsonl"), "{\"a\":0}\n");
    let failed = read_until(&mut *reader, &bell, None, |_, _| false).unwrap_err();
    assert!(failed.contains("name new files so that they come last"), "{failed}");
    fs::remove_file(path("0.jsonl")).unwrap();
    // Once more, but only what is there.
    let finite = Begin { name: "s", worker: 0, workers: 1, resume: marks, columns: &[], finite: true };
    let mut reader = begin(&file_plan(folder.path(), FOLLOW), finite, &bell);
    assert_eq!(texts(&read_until(&mut *reader, &bell, None, |_, _| false).unwrap()), ["{\"a\":12}"]);
}

#[test]
fn the_thread_ends_with_its_reader() {
    let folder = tempfile::tempdir().unwrap();
    append(&folder.path().join("1.jsonl"), &"{\"a\":1}\n".repeat(1_000_000));
    let bell = Bell::default();
    let reader = begun(&file_plan(folder.path(), FOLLOW), Marks::new(), &bell);
    assert!(bell.wait(Duration::from_secs(10)));
    drop(reader);
    let threads = || {
        let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
        tasks
            .filter(|task| fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim() == "file:gone"))
            .count()
    };
    let start = SourceStart {
        name: "gone".into(),
        columns: step(&file_plan(folder.path(), FOLLOW), "s").outputs[0].stream.schema.clone(),
        ..bare_start()
    };
    let reader =
        (find_source("file").unwrap().start)(&*step(&file_plan(folder.path(), FOLLOW), "s").planned, start).unwrap();
    assert!(reader.is_some());
    // A thread has its name a little later than its life.
    for _ in 0..100 {
        if threads() == 1 {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(threads(), 1);
    drop(reader);
    for _ in 0..100 {
        if threads() == 0 {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("the thread goes on");
}

#[test]
fn csv_options_and_headers() {
    let folder = tempfile::tempdir().unwrap();
    let check = |text: &str, keys: &str, expected: &[&str]| {
        fs::write(folder.path().join("x.csv"), text).unwrap();
        assert_eq!(read_all(&file_plan(folder.path(), &format!("x.csv\", {keys}"))), expected, "{text}");
    };
    let schema = "schema: { a: int64 | null, b: string | null }";
    check(
        "1;'x;''y'\n;NA\n",
        &format!("format: {{ type: csv, delimiter: \";\", quote: \"'\", header: false, \"null\": NA }}, {schema}"),
        &["{\"a\":1,\"b\":\"x;'y\"}", "{\"a\":null,\"b\":null}"],
    );
    check(
        "b\tother\ta\nx\t?\t1\n",
        &format!("format: {{ type: csv, delimiter: \"\\t\" }}, {schema}"),
        &["{\"a\":1,\"b\":\"x\"}"],
    );
    check("b\nx\n", &format!("format: csv, {schema}"), &["{\"a\":null,\"b\":\"x\"}"]);
    check(
        "a,b\nx,y\n1.5,y\n\"1\",\"y\"\n1,2,3\n",
        &format!("format: csv, {schema}"),
        &[
            "schema: `a`: `x` is not a whole number (int64)",
            "schema: `a`: `1.5` is not a whole number (int64)",
            "{\"a\":1,\"b\":\"y\"}",
            "decode: not CSV: it has 3 fields, and the header has 2 fields, at byte 5",
        ],
    );
    let all = "format: csv, schema: { a: bool, b: float64, c: decimal(5, 2), d: date, e: timestamp, f: duration, g: json, h: binary, i: uint64 }";
    check(
        "a,b,c,d,e,f,g,h,i\ntrue,1e3,1.50,2024-02-29,2024-02-29 12:00:00,5m,\"{\"\"x\"\": [1, 2]}\",aGk=,18446744073709551615\n",
        all,
        &[
            "{\"a\":true,\"b\":1000.0,\"c\":1.50,\"d\":\"2024-02-29\",\"e\":\"2024-02-29T12:00:00Z\",\"f\":\"5m\",\"g\":{\"x\": [1, 2]},\"h\":\"aGk=\",\"i\":18446744073709551615}",
        ],
    );
}

/// One mistake, told once, whether rows follow or not.
#[test]
fn a_header_that_does_not_fit_the_schema_stops_the_source() {
    let folder = tempfile::tempdir().unwrap();
    let check = |text: &str, keys: &str, line: usize, expected: &str| {
        fs::write(folder.path().join("x.csv"), text).unwrap();
        let plan = file_plan(folder.path(), &format!("x.csv\", {keys}"));
        let bell = Bell::default();
        let mut reader = begun(&plan, Marks::new(), &bell);
        let error = read_until(&mut *reader, &bell, None, |_, _| false).expect_err("it fails");
        let path = folder.path().join("x.csv");
        let error = error.strip_prefix(&format!("`{}`, line {line}: ", path.display())).expect("the place").to_owned();
        assert!(error.starts_with(expected), "{error}");
    };
    let schema = "format: csv, schema: { a: int64, b: string, c: bool | null }";
    for rows in ["", "x\ny\n"] {
        check(&format!("b\n{rows}"), schema, 1, "the header names no `a`: it names `b`; correct the schema");
    }
    check("\n\nb,x\n", schema, 3, "the header names no `a`: it names `b`, `x`;");
    check("a;b;c\n", schema, 1, "the header names none of the schema's columns: it names `a;b;c`;");
    check("1,2\n", "format: csv, schema: { c: bool | null }", 1, "the header names none of the schema's columns");
    check("a,b,a\n", schema, 1, "the header names `a` twice");
    check("\"a\n", schema, 1, "the header is not CSV: a quote is not closed");
    let returns = "the lines end with carriage returns alone, and LF or CR LF is due; convert the file: `tr ";
    check("a,b\r1,x\r2,y\r", schema, 1, returns);
    check("\"a\",\"b\"\r1,x\r", schema, 1, returns);
    check(&"a,b\r".repeat(1_000), &format!("max_record: 1KiB, {schema}"), 1, returns);
    check(&format!("{}\n", "a".repeat(5_000)), &format!("max_record: 1KiB, {schema}"), 1, "the header names none");
    // Without a header it is a record that fails.
    fs::write(folder.path().join("x.csv"), "1,x\r2,y\r").unwrap();
    let found = read_all(&file_plan(
        folder.path(),
        "x.csv\", format: { type: csv, header: false }, schema: { a: int64, b: string }",
    ));
    assert!(found[0].contains("carriage returns in it without line feeds"), "{found:?}");
    // A column that may be null may be missing, and a carriage return may stand in quotes.
    fs::write(folder.path().join("x.csv"), "a,b,\"x\ry\"\r\n1,\"x\ry\",\r\n").unwrap();
    let found = read_all(&file_plan(folder.path(), &format!("x.csv\", {schema}")));
    assert_eq!(found, ["{\"a\":1,\"b\":\"x\\ry\",\"c\":null}"]);
}

#[test]
fn extra_columns_of_csv_are_refused_where_the_schema_says_so() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("schema.yaml"), "a: int64\nextra: error\n").unwrap();
    fs::write(folder.path().join("x.csv"), "a,b\n1,2\n").unwrap();
    fs::write(folder.path().join("x.jsonl"), "{\"a\":1,\"b\":2}\n").unwrap();
    let schema = format!("schema: \"{}/schema.yaml\"", folder.path().display());
    let plan = file_plan(folder.path(), &format!("x.csv\", format: csv, {schema}"));
    let bell = Bell::default();
    let mut reader = begun(&plan, Marks::new(), &bell);
    let csv = read_until(&mut *reader, &bell, None, |_, _| false).expect_err("it fails");
    assert!(csv.ends_with("the header names `b`, which is not in the schema, which says `extra: error`"), "{csv}");
    let json = read_all(&file_plan(folder.path(), &format!("x.jsonl\", format: json, {schema}")));
    assert_eq!(json, ["schema: `b`: is not in the schema, which says `extra: error`"]);
}

#[test]
fn of_the_files_of_a_pattern_only_the_last_may_grow() {
    const GROWN: &str = "only the last may grow";
    let folder = tempfile::tempdir().unwrap();
    let [a, b] = ["a.jsonl", "b.jsonl"].map(|name| folder.path().join(name));
    append(&a, "{\"a\":1}\n");
    append(&b, "{\"a\":2}\n");
    let keys = "*.jsonl\", format: json, schema: { a: int64 }";
    let read_on = |keys: &str, count: usize, bell: &Bell| {
        let mut reader = begun(&file_plan(folder.path(), keys), Marks::new(), bell);
        let read = read_until(&mut *reader, bell, None, |out, _| texts(out).len() >= count).unwrap();
        assert_eq!(texts(&read).len(), count);
        reader
    };
    // Between two runs.
    let bell = Bell::default();
    let marks = read_on(keys, 2, &bell).marks();
    append(&a, "{\"a\":3}\n");
    let plan = file_plan(folder.path(), keys);
    let source = step(&plan, "s");
    let begin = SourceStart { resume: marks, ..bare_start() };
    let refused = (find_source("file").unwrap().start)(&*source.planned, begin).map(|_| ()).unwrap_err();
    assert!(refused.contains(GROWN), "{refused}");
    // While it runs.
    let bell = Bell::default();
    let mut reader = read_on(&format!("{keys}, follow: true"), 3, &bell);
    append(&a, "{\"a\":4}\n");
    let problem = read_until(&mut *reader, &bell, None, |_, _| false).unwrap_err();
    assert!(problem.contains(GROWN), "{problem}");
}

#[test]
fn problems_of_the_plan() {
    let check = |keys: &str, expected: &[&str]| {
        let text = format!("sources:\n  s: {{ type: file, {keys} }}\nsinks:\n  out: {{ type: blackhole, input: s }}\n");
        let found = plan(&text).err().unwrap_or_default();
        let found = found.iter().map(|found| found.split(' ').next().unwrap_or_default());
        // No file is there in these tests, which is told as well.
        let found: Vec<&str> = found.filter(|code| *code != "E0408").collect();
        assert_eq!(found, expected, "{keys}");
    };
    let schema = "schema: { a: int64 }";
    check(&format!("path: x.jsonl, format: jsonl, {schema}"), &["E0401"]);
    check(&format!("path: x.jsonl, format: avro, {schema}"), &["E0143"]);
    check("path: x.jsonl, format: json", &["E0403"]);
    check(&format!("path: x.log, format: raw, {schema}"), &["E0404"]);
    check("path: x.csv, format: csv, schema: { a: list<int64> }", &["E0405"]);
    check(&format!("path: x.csv, format: {{ type: csv, delimiter: \"::\" }}, {schema}"), &["E0406"]);
    check(&format!("path: x.csv, format: {{ type: csv, delimiter: \"'\", quote: \"'\" }}, {schema}"), &["E0406"]);
    check(&format!("path: \"\", {schema}"), &["E0407"]);
    check(&format!("path: \"a[.jsonl\", {schema}"), &["E0407"]);
    check(&format!("path: x.jsonl.gz, {schema}"), &["E0409"]);
    check(&format!("path: x.jsonl, start: latest, {schema}"), &["E0143"]);
    check(&format!("path: x.jsonl, start: committed, {schema}"), &["E0410"]);
    check(&format!("path: x.jsonl, max_record: 1B, {schema}"), &["E0412"]);
    check("path: x.log, format: raw, metadata: { line: path }", &["E0413"]);
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true), Field::new("b", DataType::Utf8, true)]))
}

proptest! {
    #[test]
    fn chunks_and_portions_make_no_difference(
        first in "(\u{feff})?(\\{\"a\":[0-9]{1,3}\\}|\"?[ab,\"é]{0,5}\"?|\r?\n){0,20}",
        second in "(\\{\"b\":\"[a-z\\\\n]{0,9}\"\\}\n|[ab1,\"]{0,5}\n){0,20}",
        sizes in proptest::collection::vec(1_usize..20, 1..4),
        portion in 0_usize..100,
        record_max in 5_usize..40,
    ) {
        let files = [first.as_bytes(), second.as_bytes()];
        let csv = Decoding::csv(schema(), CsvOptions::default(), false);
        for decoding in [Decoding::json(schema(), false), csv, Decoding::raw()] {
            let whole = streamed(&decoding, &files, &[1_000], 1 << 20, record_max);
            written_is_read_again(&decoding, &whole);
            prop_assert_eq!(streamed(&decoding, &files, &sizes, portion, record_max), whole);
        }
    }
}

/// Found by the fuzz target `decoders`.
#[test]
fn one_json_value_has_one_text_whatever_format_it_came_in() {
    let mark = [(JSON_MARK.0.to_owned(), JSON_MARK.1.to_owned())];
    let schema = Schema::new(vec![Field::new("j", DataType::Utf8, true).with_metadata(mark.into())]);
    let csv = Decoding::csv(Arc::new(schema), CsvOptions::default(), false);
    let rows = streamed(&csv, &[b"j\n 2\n\"\t{ \"\"a\"\":\n1}\r\n\"\n"], &[1_000], 1 << 20, 100);
    assert_eq!(rows, ["{\"j\":2,\"file\":\"0\"}", "{\"j\":{ \"a\": 1},\"file\":\"0\"}"]);
    written_is_read_again(&csv, &rows);
}

#[test]
fn a_slow_worker_bounds_what_is_read() {
    let folder = tempfile::tempdir().unwrap();
    append(&folder.path().join("1.jsonl"), &"{\"a\":1}\n".repeat(2_000_000));
    let decoding = Decoding::json(schema(), false);
    let (sender, receiver) = queue::bounded::<Piece>(QUEUE_BYTES, Events::default());
    let stream = Stream { decoding: &decoding, metadata: &[], record_max: 1 << 20 };
    let start = SourceStart { columns: schema(), ..bare_start() };
    let reader = StreamReader::new(&start, &stream, receiver, Buffers::default(), 0).unwrap();
    let feeding = std::thread::spawn(move || {
        let buffers = Buffers::default();
        let mut pushed = 0;
        while pushed < 100 && sender.try_push(buffers.piece(buffers.take(), 256 * 1024, 0), 256 * 1024).is_ok() {
            pushed += 1;
        }
        pushed
    });
    assert_eq!(feeding.join().unwrap(), 4);
    drop(reader);
}
