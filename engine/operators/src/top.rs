//! `top`: the first rows of each key in some order.
//!
//! Of rows that may be taken back: on differential dataflow, through a hierarchy of partial results, so that a change reads a
//! small part of its key's rows again. Of rows that stay the first are all that is kept. Rows that tell the window that they are
//! of compete within their epoch, and nothing is kept.

mod first;

use crate::changes::{RowCodec, build, comparable, wanted_of};
use crate::check::{self, OneOrMany};
use crate::keyed::Keys;
use crate::render::{Projection, compile, evaluate, fail};
use crate::{OperatorEntry, Render, RenderCx, planned};
use arrow::array::{ArrayRef, UInt32Array};
use arrow::compute::SortOptions;
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, Rows as EncodedRows, SortField};
use engine_base::RowError;
use engine_base::codes::spec as spec_codes;
use engine_dataflow::changes::{Region, RegionStep, Sides};
use engine_dataflow::{EpochStep, Moment, Rows, StepOutput};
use engine_expr::{Program, Scalar};
use engine_plan::kinds::{Caution, InputKeys};
use engine_plan::{Columns, Cx, OperatorKind, Output, Planned, PlannedOperator, StreamKind, StreamType, hidden};
use engine_spec::Expression;
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

static KIND: OperatorKind = OperatorKind {
    name: "top",
    summary: "The first rows of each key in some order, as a changelog.",
    config_schema: |generator| generator.subschema_for::<Config>(),
    inputs: InputKeys::One,
    plan,
};

/// The registry line of `top`.
pub(crate) fn entry() -> OperatorEntry {
    let of_plan = |plan: &dyn Planned| match plan.downcast::<TopPlan>() {
        Some(TopPlan { at_once: true, .. }) => Render::Epochs(|plan, cx| Ok(Box::new(AtOnce::new(plan, cx)?))),
        Some(TopPlan { changelog: false, .. }) => Render::Epochs(first::render),
        _ => Render::Region(region),
    };
    OperatorEntry { kind: &KIND, render: Render::OfPlan(of_plan) }
}

/// The first rows of each key in some order, as a changelog: a row that is no longer among them is taken back.
///
/// Where the key has the start or the end of a window that is put out once, all rows of a key come together: then the first of
/// them come out, and stay.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The column, or columns, in each value of which rows compete; all rows together where it is left out.
    key: Option<OneOrMany>,
    /// What rows are ordered by: `total desc`, or a list, `[total desc, name]`. An expression, then `asc` (the default) or
    /// `desc`, then `nulls last` (the default) or `nulls first`.
    by: OneOrMany,
    /// How many rows of each key.
    limit: usize,
    /// Of rows that are equal in `by` and don't all fit: those whose columns come first (`first`, the default), or `all`.
    #[serde(default)]
    ties: Ties,
}

/// What becomes of rows that are equal in the order and don't all fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Ties {
    /// The first, in the order of all their columns.
    #[default]
    First,
    /// All of them.
    All,
}

/// The planned form of `top`.
#[derive(Debug)]
struct TopPlan {
    key: Vec<String>,
    by: Vec<By>,
    limit: usize,
    ties: Ties,
    /// The columns of the input.
    columns: Columns,
    /// All rows of a key come in one epoch.
    at_once: bool,
    /// Rows may be taken back: what bounds the input bounds this.
    changelog: bool,
}

/// The columns of rows that were kept as bytes.
type Decode = Box<dyn FnMut(&[&Sides]) -> Vec<ArrayRef>>;

/// A part of the order.
#[derive(Debug)]
struct By {
    text: String,
    value: Scalar,
    options: SortOptions,
}

impl TopPlan {
    /// How rows are kept as bytes, and how the columns that are wanted of them come back. Rows that differ only in what nobody
    /// reads are the same.
    fn rows_as_bytes(&self, input: &SchemaRef, wanted: &Columns) -> Result<(RowCodec, Decode), String> {
        let kept = |name: &str| wanted.contains(name) || self.ties == Ties::First && self.columns.contains(name);
        let (codec, decoder) = (RowCodec::new(input, kept)?, RowCodec::new(input, kept)?);
        let in_bytes = (0..input.fields().len()).filter(|at| kept(input.field(*at).name()));
        let wanted_places = in_bytes.enumerate().filter(|(_, at)| wanted.contains(input.field(*at).name()));
        let places: Vec<usize> = wanted_places.map(|(nth, _)| nth).collect();
        let columns = move |rows: &[&Sides]| {
            let columns = decoder.decode(rows.iter().map(|sides| sides.0.as_deref()));
            places.iter().map(|at| columns[*at].clone()).collect()
        };
        Ok((codec, Box::new(columns)))
    }
}

impl Planned for TopPlan {
    fn reads(&self, wanted: &[Columns]) -> Vec<Columns> {
        let mut reads = wanted.first().cloned().unwrap_or_default();
        reads.extend(self.key.iter().cloned());
        reads.extend(self.by.iter().flat_map(|by| by.value.columns()).cloned());
        if !self.at_once {
            reads.remove(hidden::EVENT_TIME);
        }
        // Which of equal rows is the first stands in all of their columns.
        reads.extend(self.columns.iter().filter(|_| self.ties == Ties::First).cloned());
        vec![reads]
    }

    fn endless(&self) -> Option<Caution> {
        let grows = !self.key.is_empty() || self.ties == Ties::All;
        (grows && !self.at_once && !self.changelog).then(|| Caution {
            message: match self.key.as_slice() {
                [] => "rows that are equal in the order are kept for ever, however many there are".to_owned(),
                key => format!("the first rows of each {} are kept for ever", key.join(", ")),
            },
            help: "take the top of a `window`, with its `window_start` in `key`, or of an `aggregate`".to_owned(),
        })
    }

    fn facts(&self) -> Vec<(String, String)> {
        let by: Vec<&str> = self.by.iter().map(|by| by.text.as_str()).collect();
        let mut facts = Vec::new();
        if !self.key.is_empty() {
            facts.push(("key".to_owned(), self.key.join(", ")));
        }
        facts.push(("by".to_owned(), by.join(", ")));
        facts.push(("limit".to_owned(), self.limit.to_string()));
        if self.ties == Ties::All {
            facts.push(("ties".to_owned(), "all".to_owned()));
        }
        facts
    }
}

fn plan(cx: &mut Cx<'_>, inputs: &[StreamType]) -> Option<PlannedOperator> {
    let input = inputs.first()?;
    let config: Config = cx.config()?;
    let before = cx.diagnostics.len();
    let key = config.key.as_ref().map(OneOrMany::names).unwrap_or_default();
    check::key(cx, &key, &input.schema);
    comparable(cx, input);
    if config.limit == 0 {
        let span = cx.span(&["limit"]);
        cx.push(
            engine_base::Diagnostic::error(spec_codes::BAD_VALUE, span, "`limit` is at least 1")
                .help("write how many rows of each key come out: `limit: 10`"),
        );
    }
    let is_list = matches!(config.by, OneOrMany::Many(_));
    let mut by = Vec::new();
    for (at, text) in config.by.names().into_iter().enumerate() {
        let at = at.to_string();
        let path: &[&str] = if is_list { &["by", &at] } else { &["by"] };
        by.extend(order(cx, path, text, input));
    }
    if by.is_empty() && cx.diagnostics.len() == before {
        let span = cx.span(&["by"]);
        cx.push(
            engine_base::Diagnostic::error(spec_codes::BAD_VALUE, span, "`by` names no order")
                .help("write what rows are ordered by: `by: total desc`"),
        );
    }
    let windows = input.event_time.as_ref().map(|time| time.windows.as_slice()).unwrap_or_default();
    let at_once = key.iter().any(|column| windows.contains(column));
    let kind = match &input.kind {
        _ if at_once => StreamKind::Append,
        StreamKind::Append => StreamKind::Changelog { key: Vec::new() },
        changelog => changelog.clone(),
    };
    let event_time = input.event_time.clone().filter(|_| at_once);
    let outputs = vec![Output { port: String::new(), stream: StreamType { kind, event_time, ..input.clone() } }];
    if cx.diagnostics.len() > before {
        return Some(PlannedOperator::wrong(outputs));
    }
    let columns: Columns = input.schema.fields().iter().map(|field| field.name().clone()).collect();
    let rows = match input.kind.is_changelog() {
        true => "all rows".to_owned(),
        false => format!("the first {} rows", config.limit),
    };
    let of = if key.is_empty() { rows } else { format!("{rows} of each {}", key.join(", ")) };
    Some(PlannedOperator {
        outputs,
        can_fail: by.iter().any(|by| by.value.as_column().is_none()),
        exchange: Some(vec![key.clone()]),
        state: (!at_once).then_some(of),
        timed: false,
        planned: Arc::new(TopPlan {
            key,
            by,
            limit: config.limit,
            ties: config.ties,
            columns,
            at_once,
            changelog: input.kind.is_changelog(),
        }),
    })
}

/// A part of the order: an expression and the words behind it.
fn order(cx: &mut Cx<'_>, path: &[&str], text: String, input: &StreamType) -> Option<By> {
    let mut expression = text.trim_end();
    let mut options = SortOptions { descending: false, nulls_first: false };
    let strip = |text: &mut &str, words: &str| {
        let at = text.len().checked_sub(words.len() + 1);
        let (before, last) = at.and_then(|at| text.split_at_checked(at))?;
        let found = last.starts_with(char::is_whitespace) && last[1..].eq_ignore_ascii_case(words);
        found.then(|| *text = before.trim_end())
    };
    if strip(&mut expression, "nulls first").is_some() {
        options.nulls_first = true;
    } else {
        strip(&mut expression, "nulls last");
    }
    if strip(&mut expression, "desc").is_some() {
        options.descending = true;
    } else {
        strip(&mut expression, "asc");
    }
    let value = check::scalar(cx, path, &Expression(expression.to_owned()), input)?;
    Some(By { text, value, options })
}

/// What rows are ordered by, as bytes.
struct Order {
    step: Arc<str>,
    programs: Vec<Program>,
    encoder: RowConverter,
}

impl Order {
    fn new(plan: &TopPlan, cx: &RenderCx<'_>, input: &SchemaRef) -> Result<Self, String> {
        let field = |by: &By| SortField::new_with_options(by.value.data_type().clone(), by.options);
        Ok(Order {
            step: cx.step.clone(),
            programs: plan.by.iter().map(|by| compile(&by.value, input)).collect::<Result<_, _>>()?,
            encoder: RowConverter::new(plan.by.iter().map(field).collect()).map_err(|error| error.to_string())?,
        })
    }

    /// The place of each row in the order, and which have none because they failed: those are put out as failed.
    fn encode(&mut self, rows: &Rows, out: &mut StepOutput) -> (EncodedRows, BTreeSet<usize>) {
        let mut failed: BTreeMap<usize, RowError> = BTreeMap::new();
        let mut columns: Vec<ArrayRef> = Vec::new();
        for program in &mut self.programs {
            let evaluated = evaluate(program, rows);
            failed.extend(evaluated.errors);
            columns.push(evaluated.array);
        }
        let encoded = self.encoder.convert_columns(&columns);
        let encoded = encoded.unwrap_or_else(|error| panic!("an order changed its types: {error}"));
        let without = failed.keys().copied().collect();
        fail(&self.step, rows, failed.into_iter().collect(), out);
        (encoded, without)
    }
}

fn region(plan: &dyn Planned, cx: &RenderCx<'_>) -> Result<RegionStep, String> {
    let plan: &TopPlan = planned(plan, "top")?;
    let input = cx.inputs.first().ok_or("top without an input")?;
    let wanted = cx.wanted.first().cloned().unwrap_or_default();
    let keys = Keys::new(&plan.key, input)?;
    let mut order = Order::new(plan, cx, input)?;
    let (codec, columns) = plan.rows_as_bytes(input, &wanted)?;
    Ok(RegionStep {
        inputs: vec![Box::new(move |rows, give, out| {
            let keys = keys.encode(rows);
            let (ordered, failed) = order.encode(rows, out);
            let encoded = codec.encode(rows);
            for row in (0..rows.num_rows()).filter(|row| !failed.contains(row)) {
                let bytes = encoded.as_ref().map_or(&[][..], |rows| rows.row(row).data());
                give(row, Some(keys.get(row)), ordered.row(row).data(), bytes);
            }
        })],
        region: Region::Top { limit: plan.limit, ties: plan.ties == Ties::All },
        build: build(cx, wanted_of(input, &wanted), columns),
    })
}

/// Rows that compete with others of their epoch only.
struct AtOnce {
    keys: Keys,
    order: Order,
    codec: RowCodec,
    limit: usize,
    ties: Ties,
    port: Projection,
}

impl AtOnce {
    fn new(plan: &dyn Planned, cx: &RenderCx<'_>) -> Result<Self, String> {
        let plan: &TopPlan = planned(plan, "top")?;
        let input = cx.inputs.first().ok_or("top without an input")?;
        let wanted = cx.wanted.first().ok_or("top without an output")?;
        Ok(AtOnce {
            keys: Keys::new(&plan.key, input)?,
            order: Order::new(plan, cx, input)?,
            codec: RowCodec::new(input, |name| plan.columns.contains(name))?,
            limit: plan.limit,
            ties: plan.ties,
            port: Projection::new(input, wanted, &BTreeSet::new()),
        })
    }
}

impl EpochStep for AtOnce {
    fn close(&mut self, _moment: &Moment, inputs: Vec<Vec<Rows>>, out: &mut StepOutput) {
        let batches: Vec<Rows> = inputs.into_iter().flatten().collect();
        let mut encoded = Vec::new();
        let mut of_key: BTreeMap<Box<[u8]>, Vec<(usize, usize)>> = BTreeMap::new();
        for (at, rows) in batches.iter().enumerate() {
            let keys = self.keys.encode(rows);
            let (ordered, failed) = self.order.encode(rows, out);
            for row in (0..rows.num_rows()).filter(|row| !failed.contains(row)) {
                of_key.entry(keys.get(row).into()).or_default().push((at, row));
            }
            encoded.push((ordered, self.codec.encode(rows)));
        }
        // Of each batch the rows that stay, by the place of their key and their place in it.
        let mut kept: Vec<Vec<u32>> = vec![Vec::new(); batches.len()];
        for rows in of_key.values_mut() {
            let by = |(at, row): &(usize, usize)| encoded[*at].0.row(*row);
            let whole = |(at, row): &(usize, usize)| encoded[*at].1.as_ref().map(|rows| rows.row(*row));
            rows.sort_by(|a, b| (by(a), whole(a)).cmp(&(by(b), whole(b))));
            let mut taken = self.limit.min(rows.len());
            while self.ties == Ties::All && taken < rows.len() && by(&rows[taken]) == by(&rows[taken - 1]) {
                taken += 1;
            }
            rows[..taken].iter().for_each(|(at, row)| kept[*at].push(*row as u32));
        }
        for (rows, mut kept) in batches.iter().zip(kept).filter(|(_, kept)| !kept.is_empty()) {
            kept.sort_unstable();
            out.give(0, self.port.apply(&rows.take(&UInt32Array::from(kept)), None));
        }
    }
}
