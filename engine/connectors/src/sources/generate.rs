//! Rows from expressions: for trials, demonstrations and load.
//!
//! Row number n (from one) is a function of n and the seed alone, so the same seed gives the same rows, whatever the
//! batches, and a restart goes on behind the last row. Without a `rate` rows come as fast as they are taken.

use crate::{SourceEntry, SourceStart};
use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions};
use arrow::buffer::ScalarBuffer;
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use engine_base::codes::connector as codes;
use engine_base::{Clock, Diagnostic};
use engine_dataflow::rows::origin;
use engine_dataflow::{Mark, Marks, Polled, Positions, Reader, Rows, SourceRows, Times, Waker};
use engine_expr::{Program, RowFacts, Scalar, Scope};
use engine_plan::{Columns, Cx, Planned, PlannedSource, SourceCommon, SourceKind};
use engine_spec::{Assignments, Expression, Rate};
use schemars::{JsonSchema, SchemaGenerator};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::bytes::{BATCH_ROWS, Fingerprint, error_row};

/// Makes rows from expressions: the same rows for the same seed.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct GenerateConfig {
    /// Column to expression. `row_number()` counts from one; `random()` and `uuid()` draw from the seed and the row's number.
    #[serde(default)]
    columns: Assignments,
    /// How many rows; without end unless said.
    rows: Option<u64>,
    /// How many a second; as fast as they are taken unless said.
    rate: Option<Rate>,
    /// Another seed gives other random values.
    #[serde(default)]
    seed: u64,
}

/// The hidden column behind `row_number()`: as long as the call, so that places in the text stay what they are.
const ROW_NUMBER: &str = "__row_number";
const CALL: &str = "row_number()";

/// The registry's line.
pub(crate) const ENTRY: SourceEntry = SourceEntry {
    kind: SourceKind {
        name: "generate",
        summary: "Rows from expressions, the same for the same seed.",
        config_schema: |generator: &mut SchemaGenerator| generator.subschema_for::<GenerateConfig>(),
        decodes: false,
        metadata: &[],
        plan,
    },
    start,
};

/// A planned generator.
#[derive(Debug)]
struct Generator {
    columns: Vec<(String, Scalar)>,
    rows: Option<u64>,
    rate: Option<f64>,
    seed: u64,
}

impl Planned for Generator {
    fn reads(&self, _wanted: &[Columns]) -> Vec<Columns> {
        Vec::new()
    }

    fn facts(&self) -> Vec<(String, String)> {
        let mut facts = Vec::new();
        if let Some(rows) = self.rows {
            facts.push(("rows".into(), rows.to_string()));
        }
        if let Some(rate) = self.rate {
            facts.push(("rate".into(), format!("{rate}/s")));
        }
        facts.push(("seed".into(), self.seed.to_string()));
        facts
    }
}

fn plan(cx: &mut Cx<'_>, _common: &SourceCommon) -> Option<PlannedSource> {
    let config: GenerateConfig = cx.config()?;
    if config.columns.is_empty() {
        let span = cx.component.node.get("columns").map_or(cx.component.name_span, |node| node.span);
        cx.push(
            Diagnostic::error(codes::NOTHING_TO_GENERATE, span, "a generator needs `columns`")
                .help("write a column and its value: `columns: { id: row_number() }`"),
        );
        return None;
    }
    let scope = Scope::new(row_number_schema());
    let mut columns = Vec::new();
    for (name, expression) in &config.columns {
        let expression = Expression(with_row_number(&expression.0));
        columns.push(cx.scalar(&["columns", name], &expression, &scope).map(|value| (name.clone(), value)));
    }
    // All of them are planned before the first problem ends it.
    let columns: Vec<(String, Scalar)> = columns.into_iter().collect::<Option<_>>()?;
    let fields = columns.iter().map(|(name, value)| Field::new(name, value.data_type().clone(), value.nullable()));
    Some(PlannedSource {
        schema: Arc::new(Schema::new(fields.collect::<Vec<_>>())),
        replayable: true,
        finite: config.rows.is_some(),
        planned: Arc::new(Generator {
            columns,
            rows: config.rows,
            rate: config.rate.map(|rate| rate.0),
            seed: config.seed,
        }),
    })
}

fn row_number_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new(ROW_NUMBER, DataType::Int64, false)]))
}

/// The text with each call of `row_number()` outside of quotes replaced by the hidden column, at the same length.
fn with_row_number(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut quote = None;
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        let before = out.chars().next_back();
        let inside_a_word = before.is_some_and(|before| before.is_alphanumeric() || before == '_' || before == '.');
        if quote.is_none()
            && !inside_a_word
            && rest.get(..CALL.len()).is_some_and(|call| call.eq_ignore_ascii_case(CALL))
        {
            out.push_str(ROW_NUMBER);
            rest = &rest[CALL.len()..];
            continue;
        }
        match quote {
            None if character == '\'' || character == '"' => quote = Some(character),
            Some(open) if open == character => quote = None,
            _ => (),
        }
        out.push(character);
        rest = &rest[character.len_utf8()..];
    }
    out
}

fn start(planned: &dyn Planned, start: SourceStart) -> Result<Option<Box<dyn Reader>>, String> {
    let Some(generator) = planned.downcast::<Generator>() else { return Err("this is no generator".to_owned()) };
    if !start.owns_single_partition() {
        return Ok(None);
    }
    let inputs = row_number_schema();
    let mut programs = Vec::new();
    for field in start.columns.fields() {
        let at = generator.columns.iter().position(|(name, _)| name == field.name());
        let at = at.ok_or_else(|| format!("`{}` is no column of the generator", field.name()))?;
        let program = generator.columns[at].1.compile(&inputs).map_err(|error| error.message)?;
        // A column draws the same numbers whichever others stand beside it.
        programs.push(program.with_salt(Fingerprint::of(field.name().as_bytes()).hash));
    }
    let next = start.resume.get(&0).map_or(0, |mark| mark.next);
    let pace = match generator.rate {
        None => None,
        Some(rate) => Some(Pace::start(&start, rate, next)?),
    };
    Ok(Some(Box::new(GenerateReader {
        name: start.name,
        origin: origin(start.source, 0),
        inputs,
        schema: start.columns,
        programs,
        rows: generator.rows.unwrap_or(u64::MAX),
        seed: generator.seed,
        clock: start.clock,
        next,
        pace,
        failed: None,
    })))
}

/// When rows are due.
struct Pace {
    rate: f64,
    /// The row and the time (monotonic) from which is counted.
    first: u64,
    start_ns: u64,
    /// When the next row is due (monotonic); what the waking thread waits for. It ends when this is gone.
    due_ns: Arc<AtomicU64>,
}

/// The waking thread looks again at least this often: a clock may be turned, and a reader may be dropped.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Rows that are due within this time come together.
const GRAIN: Duration = Duration::from_millis(1);

impl Pace {
    fn start(start: &SourceStart, rate: f64, next: u64) -> Result<Self, String> {
        let start_ns = start.clock.monotonic_ns();
        let due_ns = Arc::new(AtomicU64::new(start_ns));
        let (clock, waker, due) = (start.clock.clone(), start.waker.clone(), Arc::downgrade(&due_ns));
        std::thread::Builder::new()
            .name(format!("generate:{}", start.name))
            .spawn(move || wake_when_due(&*clock, &waker, &due))
            .map_err(|error| format!("can't start a thread: {error}"))?;
        Ok(Pace { rate, first: next, start_ns, due_ns })
    }

    /// How many rows are due by now, counted from the very first.
    fn due(&self, now_ns: u64) -> u64 {
        let seconds = now_ns.saturating_sub(self.start_ns) as f64 / 1e9;
        self.first.saturating_add((seconds * self.rate) as u64).saturating_add(1)
    }

    /// Has the worker woken when row `next` is due.
    fn wait_for(&self, next: u64) {
        let ns = (next.saturating_sub(self.first)) as f64 / self.rate * 1e9;
        self.due_ns.store(self.start_ns.saturating_add(ns as u64), Ordering::Relaxed);
    }
}

fn wake_when_due(clock: &dyn Clock, waker: &Waker, due_ns: &Weak<AtomicU64>) {
    while let Some(due_ns) = due_ns.upgrade() {
        let left = due_ns.load(Ordering::Relaxed).saturating_sub(clock.monotonic_ns());
        drop(due_ns);
        if left == 0 {
            waker.wake();
        }
        std::thread::sleep(Duration::from_nanos(left).clamp(GRAIN, LOOK_AGAIN));
    }
}

/// The reader: rows are made on the worker.
struct GenerateReader {
    name: Arc<str>,
    origin: u64,
    inputs: SchemaRef,
    schema: SchemaRef,
    programs: Vec<Program>,
    rows: u64,
    seed: u64,
    clock: Arc<dyn Clock>,
    /// How many rows were made.
    next: u64,
    pace: Option<Pace>,
    failed: Option<String>,
}

/// A number from a seed and a row that looks like chance (SplitMix64).
fn mix(seed: u64, row: u64) -> u64 {
    let mut value = seed.wrapping_add(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(row.wrapping_add(1)));
    value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

impl GenerateReader {
    fn make(&mut self, count: usize) -> Result<SourceRows, String> {
        let broken = |error: arrow::error::ArrowError| format!("the rows don't make a batch: {error}");
        let first = self.next;
        let ingest_ns = self.clock.now_ns();
        let numbers: ArrayRef =
            Arc::new(Int64Array::from_iter_values((first..first + count as u64).map(|row| row as i64 + 1)));
        let input = RecordBatch::try_new(self.inputs.clone(), vec![numbers]).map_err(broken)?;
        let seed = self.seed;
        let (now_ns, seeds) = (|_: usize| ingest_ns, |row: usize| mix(seed, first + row as u64));
        let facts = RowFacts { now_ns: &now_ns, event_ns: None, seed: &seeds };
        let mut failed = BTreeMap::new();
        let mut columns = Vec::with_capacity(self.programs.len());
        for program in &mut self.programs {
            let evaluated = program.evaluate(&input, &facts);
            columns.push(evaluated.array);
            for (row, error) in evaluated.errors {
                failed.entry(row).or_insert(error);
            }
        }
        let mut out = SourceRows::default();
        let positions = if failed.is_empty() {
            Positions::Range { origin: self.origin, first }
        } else {
            // A failed row has no values; what is left is told apart by its offsets.
            let kept = (0..count).filter(|row| !failed.contains_key(row)).map(|row| first + row as u64);
            Positions::Offsets { origin: self.origin, offsets: ScalarBuffer::from(kept.collect::<Vec<_>>()) }
        };
        let batch = if failed.is_empty() {
            let options = RecordBatchOptions::new().with_row_count(Some(count));
            RecordBatch::try_new_with_options(self.schema.clone(), columns, &options).map_err(broken)?
        } else {
            let kept = BooleanArray::from((0..count).map(|row| !failed.contains_key(&row)).collect::<Vec<_>>());
            // Values of failed rows are null, in columns that may have none: leave the rows before the schema is checked.
            let loose: Vec<Field> =
                self.schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
            let all = RecordBatch::try_new(Arc::new(Schema::new(loose)), columns).map_err(broken)?;
            let kept = filter_record_batch(&all, &kept).map_err(broken)?;
            let options = RecordBatchOptions::new().with_row_count(Some(kept.num_rows()));
            RecordBatch::try_new_with_options(self.schema.clone(), kept.columns().to_vec(), &options).map_err(broken)?
        };
        for (row, error) in failed {
            let offset = first + row as u64;
            let payload = format!("{{\"row_number\":{}}}", offset + 1);
            let bytes = payload.len() as u64;
            out.errors.push(error_row(&self.name, self.origin, offset, ingest_ns, error, payload.as_bytes(), bytes));
        }
        out.bytes = batch.get_array_memory_size() as u64;
        out.records = count as u64;
        if batch.num_rows() > 0 {
            let times = Times::One(ingest_ns);
            out.rows.push(Rows {
                batch,
                positions,
                ingest_ns: times.clone(),
                born_ns: times,
                event_ns: None,
                removes: None,
            });
        }
        self.next += count as u64;
        Ok(out)
    }
}

impl Reader for GenerateReader {
    fn poll(&mut self, max_bytes: usize, until: Option<&BTreeMap<u32, u64>>) -> Polled {
        if let Some(sentence) = &self.failed {
            return Polled::Failed(sentence.clone());
        }
        let limit = match until {
            None => u64::MAX,
            Some(limits) => match limits.get(&0) {
                Some(limit) => *limit,
                None => return Polled::Pending,
            },
        };
        let mut end = self.rows.min(limit);
        if let (Some(pace), None) = (&self.pace, until) {
            end = end.min(pace.due(self.clock.monotonic_ns()));
        }
        // A row is taken for about 64 bytes.
        let count = end.saturating_sub(self.next).min(BATCH_ROWS.min(max_bytes / 64 + 1) as u64);
        if count == 0 {
            if self.next >= self.rows {
                return Polled::Done;
            }
            if let Some(pace) = &self.pace {
                pace.wait_for(self.next);
            }
            return Polled::Pending;
        }
        match self.make(count as usize) {
            Ok(made) => Polled::Some(made),
            Err(sentence) => {
                self.failed = Some(sentence.clone());
                Polled::Failed(sentence)
            }
        }
    }

    fn marks(&self) -> Marks {
        Marks::from([(0, Mark { next: self.next, detail: String::new() })])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::json::JsonEncoder;
    use crate::formats::{RecordEncoder, Timestamps};
    use crate::testing::{plan as plan_text, step};
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
        let text =
            format!("sources:\n  s: {{ type: generate, {keys} }}\nsinks:\n  out: {{ type: blackhole, input: s }}\n");
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
                        JsonEncoder::new(&rows.schema(), Timestamps::Rfc3339)
                            .encode(&rows.batch, &mut text, None)
                            .unwrap();
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
                        (
                            error.position.offset,
                            format!("{} {}", error.error.code, String::from_utf8_lossy(&error.payload)),
                        )
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

    const COLUMNS: &str =
        "columns: { id: row_number(), draw: random(), other: random(), half: 100 / (row_number() % 5) }";

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
}
