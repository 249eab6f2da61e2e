//! Rows from expressions, or the events of the Nexmark benchmark: for trials, demonstrations and load.
//!
//! Row number n (from one) is a function of n and the seed alone, so the same seed gives the same rows, whatever the
//! batches, and a restart goes on behind the last row. Without a `rate` rows come as fast as they are taken.

mod nexmark;
#[cfg(test)]
mod tests;

use crate::{SourceEntry, SourceStart};
use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions};
use arrow::buffer::ScalarBuffer;
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use engine_base::codes::{connector as codes, spec as spec_codes};
use engine_base::{Clock, Diagnostic, RowError};
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

use self::nexmark::{Nexmark, NexmarkRows};
use super::bytes::{BATCH_ROWS, Fingerprint, error_row};

/// Makes rows, the same for the same seed: from expressions (`columns`), or events of the Nexmark benchmark (`nexmark`).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct GenerateConfig {
    /// Column to expression. `row_number()` counts from one; `random()` and `uuid()` draw from the seed and the row's number.
    #[serde(default)]
    columns: Assignments,
    /// The events of the Nexmark benchmark instead: `{ events: bid }`. Their time is `date_time`; they come in its order.
    nexmark: Option<Nexmark>,
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
        summary: "Rows from expressions, the same for the same seed; or the events of the Nexmark benchmark.",
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
    makes: Makes,
    rows: Option<u64>,
    rate: Option<f64>,
    seed: u64,
}

/// What rows are made of.
#[derive(Debug)]
enum Makes {
    Expressions(Vec<(String, Scalar)>),
    Nexmark(Nexmark),
}

impl Planned for Generator {
    fn reads(&self, _wanted: &[Columns]) -> Vec<Columns> {
        Vec::new()
    }

    fn facts(&self) -> Vec<(String, String)> {
        let mut facts = Vec::new();
        if let Makes::Nexmark(nexmark) = &self.makes {
            facts
                .push(("nexmark".into(), format!("{}, {} events a second", nexmark.events.name(), nexmark.per_second)));
        }
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
    let (makes, schema) = match config.nexmark {
        None => {
            let columns = expressions(cx, &config.columns)?;
            let field =
                |(name, value): &(String, Scalar)| Field::new(name, value.data_type().clone(), value.nullable());
            let schema = Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()));
            (Makes::Expressions(columns), schema)
        }
        Some(nexmark) => {
            let mut sound = true;
            if !config.columns.is_empty() {
                let message = "a generator has either `columns` or `nexmark`";
                let help = "the events of Nexmark have columns of their own; compute more with `set:`";
                let span = cx.span(&["columns"]);
                cx.push(Diagnostic::error(spec_codes::BAD_VALUE, span, message).help(help));
                sound = false;
            }
            if !nexmark::PER_SECOND.contains(&nexmark.per_second) {
                let (least, most) = (nexmark::PER_SECOND.start(), nexmark::PER_SECOND.end());
                let message = format!("`per_second` lies between {least} and {most}");
                cx.error(codes::OUT_OF_BOUNDS, &["nexmark", "per_second"], message);
                sound = false;
            }
            if !sound {
                return None;
            }
            (Makes::Nexmark(nexmark), nexmark.events.schema())
        }
    };
    Some(PlannedSource {
        schema,
        replayable: true,
        finite: config.rows.is_some(),
        planned: Arc::new(Generator {
            makes,
            rows: config.rows,
            rate: config.rate.map(|rate| rate.0),
            seed: config.seed,
        }),
    })
}

/// The columns, planned.
fn expressions(cx: &mut Cx<'_>, written: &Assignments) -> Option<Vec<(String, Scalar)>> {
    if written.is_empty() {
        let span = cx.component.node.get("columns").map_or(cx.component.name_span, |node| node.span);
        cx.push(
            Diagnostic::error(codes::NOTHING_TO_GENERATE, span, "a generator needs `columns`")
                .help("write a column and its value: `columns: { id: row_number() }`"),
        );
        return None;
    }
    let scope = Scope::new(row_number_schema());
    let mut columns = Vec::new();
    for (name, expression) in written {
        let expression = Expression(with_row_number(&expression.0));
        columns.push(cx.scalar(&["columns", name], &expression, &scope).map(|value| (name.clone(), value)));
    }
    // All of them are planned before the first problem ends it.
    columns.into_iter().collect()
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
    let maker = match &generator.makes {
        Makes::Nexmark(nexmark) => {
            Maker::Nexmark(Box::new(NexmarkRows::new(*nexmark, generator.seed, start.columns.clone())?))
        }
        Makes::Expressions(columns) => {
            let inputs = row_number_schema();
            let mut programs = Vec::new();
            for field in start.columns.fields() {
                let at = columns.iter().position(|(name, _)| name == field.name());
                let at = at.ok_or_else(|| format!("`{}` is no column of the generator", field.name()))?;
                let program = columns[at].1.compile(&inputs).map_err(|error| error.message)?;
                // A column draws the same numbers whichever others stand beside it.
                programs.push(program.with_salt(Fingerprint::of(field.name().as_bytes()).hash));
            }
            Maker::Expressions(Expressions { inputs, schema: start.columns.clone(), programs, seed: generator.seed })
        }
    };
    let next = start.resume.get(&0).map_or(0, |mark| mark.next);
    let pace = match generator.rate {
        None => None,
        Some(rate) => Some(Pace::start(&start, rate, next)?),
    };
    Ok(Some(Box::new(GenerateReader {
        name: start.name,
        origin: origin(start.source, 0),
        maker,
        rows: generator.rows.unwrap_or(u64::MAX),
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
    maker: Maker,
    rows: u64,
    clock: Arc<dyn Clock>,
    /// How many rows were made.
    next: u64,
    pace: Option<Pace>,
    failed: Option<String>,
}

/// Makes rows.
enum Maker {
    Expressions(Expressions),
    Nexmark(Box<NexmarkRows>),
}

impl Maker {
    /// For how many bytes a row is taken before it is made.
    fn row_bytes(&self) -> usize {
        match self {
            Maker::Expressions(_) => 64,
            Maker::Nexmark(_) => 256,
        }
    }
}

/// Rows from expressions over their number.
struct Expressions {
    inputs: SchemaRef,
    schema: SchemaRef,
    programs: Vec<Program>,
    seed: u64,
}

/// A number from a seed and a row that looks like chance (SplitMix64).
pub(super) fn mix(seed: u64, row: u64) -> u64 {
    let mut value = seed.wrapping_add(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(row.wrapping_add(1)));
    value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

impl Expressions {
    /// So many rows from number `first` on, and why those that are missing failed, by their place.
    fn make(
        &mut self,
        first: u64,
        count: usize,
        ingest_ns: i64,
    ) -> Result<(RecordBatch, BTreeMap<usize, RowError>), ArrowError> {
        let numbers: ArrayRef =
            Arc::new(Int64Array::from_iter_values((first..first + count as u64).map(|row| row as i64 + 1)));
        let input = RecordBatch::try_new(self.inputs.clone(), vec![numbers])?;
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
        if failed.is_empty() {
            let options = RecordBatchOptions::new().with_row_count(Some(count));
            return Ok((RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?, failed));
        }
        let kept = BooleanArray::from((0..count).map(|row| !failed.contains_key(&row)).collect::<Vec<_>>());
        // Values of failed rows are null, in columns that may have none: leave the rows before the schema is checked.
        let loose: Vec<Field> =
            self.schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
        let all = RecordBatch::try_new(Arc::new(Schema::new(loose)), columns)?;
        let kept = filter_record_batch(&all, &kept)?;
        let options = RecordBatchOptions::new().with_row_count(Some(kept.num_rows()));
        Ok((RecordBatch::try_new_with_options(self.schema.clone(), kept.columns().to_vec(), &options)?, failed))
    }
}

impl GenerateReader {
    fn make(&mut self, count: usize) -> Result<SourceRows, String> {
        let first = self.next;
        let ingest_ns = self.clock.now_ns();
        let made = match &mut self.maker {
            Maker::Expressions(expressions) => expressions.make(first, count, ingest_ns),
            Maker::Nexmark(events) => events.make(first, count).map(|batch| (batch, BTreeMap::new())),
        };
        let (batch, failed) = made.map_err(|error| format!("the rows don't make a batch: {error}"))?;
        let mut out = SourceRows::default();
        let positions = if failed.is_empty() {
            Positions::Range { origin: self.origin, first }
        } else {
            // A failed row has no values; what is left is told apart by its offsets.
            let kept = (0..count).filter(|row| !failed.contains_key(row)).map(|row| first + row as u64);
            Positions::Offsets { origin: self.origin, offsets: ScalarBuffer::from(kept.collect::<Vec<_>>()) }
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
        let most = BATCH_ROWS.min(max_bytes / self.maker.row_bytes() + 1);
        let count = end.saturating_sub(self.next).min(most as u64);
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
