//! The generator alone: the same rows however they are taken, and the events of Nexmark against the crate.

use super::*;
use crate::formats::json::JsonEncoder;
use crate::formats::{RecordEncoder, Timestamps};
use crate::testing::{plan as plan_text, step};
use ::nexmark as nexmark_crate;
use engine_base::{SourceId, VirtualClock};

#[test]
fn row_number_is_replaced_outside_of_quotes_only() {
    let check = |text: &str, expected: &str| {
        assert_eq!(with_row_number(text), expected);
        assert_eq!(text.len(), expected.len(), "places stay what they are");
    };
    check("row_number()", "__row_number");
    check("2 * ROW_NUMBER() + row_number()", "2 * __row_number + __row_number");
    check("'row_number()' || \"row_number()\"", "'row_number()' || \"row_number()\"");
    check("'it''s row_number()' || row_number()", "'it''s row_number()' || __row_number");
    check("my_row_number()", "my_row_number()");
    check("é || row_number()", "é || __row_number");
    check("row_number(", "row_number(");
}

/// A reader of the generator with these keys, on a clock that stands at `clock`.
fn reader(keys: &str, clock: &Arc<VirtualClock>, next: u64, columns: &[&str]) -> Box<dyn Reader> {
    let text = format!("sources:\n  s: {{ type: generate, {keys} }}\nsinks:\n  out: {{ type: blackhole, input: s }}\n");
    let plan = plan_text(&text).unwrap_or_else(|problems| panic!("{problems:?}"));
    let source = step(&plan, "s");
    let schema = &source.outputs[0].stream.schema;
    let kept: Vec<usize> = (0..schema.fields().len())
        .filter(|at| columns.is_empty() || columns.contains(&schema.field(*at).name().as_str()))
        .collect();
    let begin = SourceStart {
        name: "s".into(),
        source: SourceId(0),
        worker: 0,
        workers: 1,
        waker: Waker::none(),
        resume: Marks::from([(0, Mark { next, detail: String::new() })]),
        columns: Arc::new(schema.project(&kept).unwrap()),
        clock: clock.clone(),
        finite_from_start: false,
    };
    start(&*source.planned, begin).unwrap().unwrap()
}

/// Offset and row or error of what a reader gives until it has nothing more, in portions of `bytes`.
fn drain(reader: &mut dyn Reader, bytes: usize, until: Option<&BTreeMap<u32, u64>>) -> (Vec<(u64, String)>, bool) {
    let mut found = Vec::new();
    let done = loop {
        match reader.poll(bytes, until) {
            Polled::Some(some) => {
                for rows in &some.rows {
                    let mut text = Vec::new();
                    JsonEncoder::new(&rows.schema(), Timestamps::Rfc3339).encode(&rows.batch, &mut text, None).unwrap();
                    let lines = String::from_utf8(text).unwrap();
                    for (row, line) in lines.lines().enumerate() {
                        let offset = match &rows.positions {
                            Positions::Range { first, .. } => first + row as u64,
                            Positions::Offsets { offsets, .. } => offsets[row],
                            Positions::Mixed { .. } => panic!("one partition"),
                        };
                        found.push((offset, line.to_owned()));
                    }
                }
                let error = |error: &engine_dataflow::ErrorRow| {
                    (error.position.offset, format!("{} {}", error.error.code, String::from_utf8_lossy(&error.payload)))
                };
                found.extend(some.errors.iter().map(error));
            }
            Polled::Pending => break false,
            Polled::Done => break true,
            Polled::Failed(reason) => panic!("{reason}"),
        }
    };
    found.sort();
    (found, done)
}

const COLUMNS: &str = "columns: { id: row_number(), draw: random(), other: random(), half: 100 / (row_number() % 5) }";

#[test]
fn the_same_seed_gives_the_same_rows_however_they_are_taken() {
    let clock = VirtualClock::at(0);
    let all = |seed: u64, bytes: usize| {
        let keys = format!("{COLUMNS}, rows: 1000, seed: {seed}");
        drain(&mut *reader(&keys, &clock, 0, &[]), bytes, None)
    };
    let (rows, done) = all(1, 1 << 20);
    assert!(done);
    assert_eq!(rows.len(), 1_000);
    assert_eq!(rows.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), (0..1_000).collect::<Vec<_>>());
    assert_eq!(rows[4].1, "divide_by_zero {\"row_number\":5}");
    assert!(rows[5].1.starts_with("{\"id\":6,\"draw\":0."), "{}", rows[5].1);
    assert_eq!(all(1, 64).0, rows);
    assert_ne!(all(2, 64).0, rows);
    let row: serde_json::Value = serde_json::from_str(&rows[5].1).unwrap();
    assert_ne!(row["draw"], row["other"]);
    // From a mark, and with fewer columns.
    let keys = format!("{COLUMNS}, rows: 1000, seed: 1");
    assert_eq!(drain(&mut *reader(&keys, &clock, 700, &[]), 640, None).0, rows[700..]);
    let (drawn, _) = drain(&mut *reader(&keys, &clock, 5, &["other"]), 640, None);
    assert_eq!(drawn[0].1, format!("{{\"other\":{}}}", row["other"]));
    let mut limited = reader(&keys, &clock, 0, &[]);
    assert_eq!(drain(&mut *limited, 640, Some(&BTreeMap::from([(0, 123)]))).0, rows[..123]);
    assert_eq!(limited.marks()[&0].next, 123);
}

#[test]
fn nexmark_events_are_those_of_the_crate_however_they_are_taken() {
    use nexmark_crate::event::Event;
    let clock = VirtualClock::at(0);
    let all = |kind: &str, next: u64, bytes: usize, columns: &[&str], more: &str| {
        let keys = format!("nexmark: {{ events: {kind}, per_second: 1000 }}, rows: 3000{more}");
        let (rows, done) = drain(&mut *reader(&keys, &clock, next, columns), bytes, None);
        assert!(done);
        rows
    };
    let config = nexmark_crate::config::NexmarkConfig {
        base_time: 1_436_918_400_000,
        first_rate: 1_000,
        next_rate: 1_000,
        ..Default::default()
    };
    let events: Vec<Event> = nexmark_crate::EventGenerator::new(config).take(150_000).collect();
    let time = |ms: u64| {
        let time = chrono::DateTime::from_timestamp_millis(ms as i64).unwrap();
        let text = time.format("%Y-%m-%dT%H:%M:%S%.3f").to_string();
        format!("{}Z", text.strip_suffix(".000").unwrap_or(&text))
    };
    let expected = |kind: &str| -> Vec<serde_json::Value> {
        let row = |event: &Event| match (event, kind) {
            (Event::Person(of), "person") => Some(serde_json::json!({
                "id": of.id, "name": of.name, "email_address": of.email_address, "credit_card": of.credit_card,
                "city": of.city, "state": of.state, "date_time": time(of.date_time), "extra": of.extra,
            })),
            (Event::Auction(of), "auction") => Some(serde_json::json!({
                "id": of.id, "item_name": of.item_name, "description": of.description,
                "initial_bid": of.initial_bid, "reserve": of.reserve, "date_time": time(of.date_time),
                "expires": time(of.expires), "seller": of.seller, "category": of.category, "extra": of.extra,
            })),
            (Event::Bid(of), "bid") => Some(serde_json::json!({
                "auction": of.auction, "bidder": of.bidder, "price": of.price, "channel": of.channel,
                "url": of.url, "date_time": time(of.date_time), "extra": of.extra,
            })),
            _ => None,
        };
        events.iter().filter_map(row).take(3000).collect()
    };
    for kind in ["person", "auction", "bid"] {
        let rows = all(kind, 0, 1 << 20, &[], "");
        let parsed: Vec<serde_json::Value> = rows.iter().map(|(_, row)| serde_json::from_str(row).unwrap()).collect();
        assert_eq!(parsed, expected(kind), "{kind}");
        assert_eq!(rows.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), (0..3000).collect::<Vec<_>>());
        assert_eq!(all(kind, 0, 256, &[], ""), rows, "{kind} in small portions");
        assert_eq!(all(kind, 1234, 1 << 14, &[], ""), rows[1234..], "{kind} from a mark");
        assert_ne!(all(kind, 0, 1 << 20, &[], ", seed: 1")[5].1, rows[5].1);
    }
    let some = all("bid", 17, 1 << 20, &["bidder", "date_time"], "");
    let whole: serde_json::Value = serde_json::from_str(&all("bid", 17, 1 << 20, &[], "")[0].1).unwrap();
    let row: serde_json::Value = serde_json::from_str(&some[0].1).unwrap();
    assert_eq!(row, serde_json::json!({ "bidder": whole["bidder"], "date_time": whole["date_time"] }));
    assert_eq!(all("bid", 2990, 1 << 20, &["price"], "").len(), 10);
}

#[test]
fn nexmark_has_columns_of_its_own() {
    let problems = |keys: &str| {
        let text = format!(
            "sources:\n  s: {{ type: generate, rows: 1, {keys} }}\nsinks:\n  out: {{ type: blackhole, input: s }}\n"
        );
        plan_text(&text).expect_err("it is refused")
    };
    let both = problems("nexmark: { events: bid }, columns: { id: row_number() }");
    assert_eq!(both, ["E0151 a generator has either `columns` or `nexmark`"]);
    for bad in ["0", "10000001"] {
        let bounds = problems(&format!("nexmark: {{ events: bid, per_second: {bad} }}"));
        assert_eq!(bounds, ["E0412 `per_second` lies between 1 and 10000000"]);
    }
    assert_eq!(problems("nexmark: {}").len(), 1);
    assert_eq!(problems("nexmark: { events: bids }").len(), 1);
    assert_eq!(problems("columns: {}"), ["E0411 a generator needs `columns`"]);
}

#[test]
fn rows_come_at_their_rate() {
    let clock = VirtualClock::at(0);
    let mut reader = reader("columns: { id: row_number() }, rate: 100/s, rows: 500", &clock, 0, &[]);
    let mut count = |ms: i64| {
        clock.advance_ns(ms * 1_000_000);
        let (rows, done) = drain(&mut *reader, 1 << 20, None);
        (rows.len(), done)
    };
    assert_eq!(count(0), (1, false));
    assert_eq!(count(9), (0, false));
    assert_eq!(count(1), (1, false));
    assert_eq!(count(990), (99, false));
    assert_eq!(count(60_000), (399, true));
}
