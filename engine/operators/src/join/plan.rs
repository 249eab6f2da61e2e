//! The config of `join` and its checks.

use super::columns::{Column, Names, Term, Value, chosen, column_of, default_columns};
use super::{LEFT, RIGHT};
use crate::check;
use crate::window::assign::Windows;
use crate::window::fixed::{Bounds, Hopping, TumblingFrom, hopping, tumbling};
use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use engine_base::codes::{join as codes, plan as plan_codes, rolling as window_codes, spec as spec_codes};
use engine_base::{Diagnostic, Span};
use engine_expr::is_open;
use engine_plan::kinds::{Caution, InputKeys};
use engine_plan::{
    Columns, Cx, EventTime, OperatorKind, Origins, Output, Planned, PlannedOperator, StreamKind, StreamType, hidden,
    types,
};
use engine_spec::{Expression, Node, SpanOr, TimeSpan};
use schemars::{JsonSchema, Schema as JsonSchemaOf, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{self, Deserializer, MapAccess, SeqAccess};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// Rows of two streams that belong together: their `match` columns are equal, and they are near each other in event time. Either
/// `within` or `window` says how near.
///
/// Rows that come later than their input's watermark are the outputs `NAME.late_left` and `NAME.late_right`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The columns that are equal in rows that match: left column to right column, or a list where both sides have one name. Null
    /// equals nothing, not even null.
    #[serde(rename = "match")]
    matches: Match,
    /// How much earlier and later than the left row the right one may be, both inclusive.
    within: Option<Within>,
    /// Rows match that are in the same window of event time.
    window: Option<JoinWindow>,
    /// Which rows come out: pairs (`inner`), pairs and those of a side, or of both, that have no match (`left`, `right`, `full`),
    /// left rows that have a match (`semi`), or left rows that have none (`anti`).
    #[serde(default)]
    join: JoinKind,
    /// A further condition for a match, over `left.x` and `right.x`.
    #[serde(rename = "where")]
    filter: Option<Expression>,
    /// What comes out: a map of new column to expression over `left.x` and `right.x`, or a list such as `[left.*, right.x]`. Unless
    /// said, all columns of the left and those of the right with other names.
    #[serde(default)]
    #[schemars(schema_with = "columns_form")]
    columns: Option<Node>,
    /// Other names for `window_start` and `window_end`, where there is a `window`.
    #[serde(rename = "as")]
    names: Option<Bounds>,
}

fn columns_form(generator: &mut SchemaGenerator) -> JsonSchemaOf {
    let expression = generator.subschema_for::<Expression>();
    json_schema!({ "anyOf": [
        { "type": "array", "items": { "type": "string" }, "minItems": 1, "description": "Columns, in order: `left.*`, `right.x`." },
        { "type": "object", "additionalProperties": expression, "minProperties": 1, "description": "New column to expression." }
    ] })
}

/// Columns that are equal in rows that match.
#[derive(Debug, JsonSchema)]
#[schemars(untagged)]
enum Match {
    /// A column that both sides have.
    One(String),
    /// Columns that both sides have.
    Same(Vec<String>),
    /// Left column to right column.
    Pairs(indexmap::IndexMap<String, String>),
}

impl<'de> Deserialize<'de> for Match {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Match;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of left column to right column, or a list of columns that both sides have")
            }
            fn visit_str<E: de::Error>(self, name: &str) -> Result<Match, E> {
                Ok(Match::One(name.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, names: A) -> Result<Match, A::Error> {
                Deserialize::deserialize(SeqAccessDeserializer::new(names)).map(Match::Same)
            }
            fn visit_map<A: MapAccess<'de>>(self, pairs: A) -> Result<Match, A::Error> {
                Deserialize::deserialize(MapAccessDeserializer::new(pairs)).map(Match::Pairs)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// How far apart in event time two rows may be.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Within {
    /// How much earlier than the left row the right one may be; `0s` unless said.
    #[serde(default)]
    before: TimeSpan,
    /// How much later than the left row the right one may be; `0s` unless said.
    #[serde(default)]
    after: TimeSpan,
}

/// How rows fall into windows; just one of the two.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct JoinWindow {
    /// Windows one after the other: a length, `1m`, or a map with a zone or an offset.
    tumbling: Option<SpanOr<TumblingFrom>>,
    /// Windows that overlap: two rows come out once for each window that both are in.
    hopping: Option<Hopping>,
}

/// Which rows come out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum JoinKind {
    /// Pairs.
    #[default]
    Inner,
    /// Pairs, and left rows without a match.
    Left,
    /// Pairs, and right rows without a match.
    Right,
    /// Pairs, and rows of either side without a match.
    Full,
    /// Left rows that have a match, once each.
    Semi,
    /// Left rows without a match.
    Anti,
}

impl JoinKind {
    /// Whether pairs come out.
    pub(super) fn pairs(self) -> bool {
        !matches!(self, JoinKind::Semi | JoinKind::Anti)
    }

    /// Whether rows of a side that have no match come out.
    pub(super) fn alone(self, side: usize) -> bool {
        match self {
            JoinKind::Inner | JoinKind::Semi => false,
            JoinKind::Left | JoinKind::Anti => side == LEFT,
            JoinKind::Right => side == RIGHT,
            JoinKind::Full => true,
        }
    }

    /// Whether the columns of a side may be missing in what comes out.
    pub(super) fn optional(self) -> [bool; 2] {
        [self.pairs() && self.alone(RIGHT), self.pairs() && self.alone(LEFT)]
    }

    fn name(self) -> &'static str {
        match self {
            JoinKind::Inner => "inner",
            JoinKind::Left => "left",
            JoinKind::Right => "right",
            JoinKind::Full => "full",
            JoinKind::Semi => "semi",
            JoinKind::Anti => "anti",
        }
    }
}

/// How near two rows are that match.
#[derive(Clone, Debug)]
pub(super) enum Form {
    /// Within so much of each other.
    Interval(Reach),
    /// In one window.
    Window(Windows),
    /// Whenever they come.
    Changelog,
}

/// How much earlier and later than a left row a right one may be, and how the kept rows are sliced by time. Nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reach {
    pub(super) before: i64,
    pub(super) after: i64,
    pub(super) slice: i64,
}

/// Into how many slices the rows of a key fall that are kept: a checkpoint writes those that changed.
const SLICES: i64 = 8;
/// The least length of a slice, nanoseconds: many keys have few rows.
const SLICE_MIN_NS: i64 = 100_000_000;

/// The planned form of `join`.
#[derive(Debug)]
pub struct JoinPlan {
    pub(super) kind: JoinKind,
    pub(super) form: Form,
    /// The columns to match, of each side.
    pub(super) keys: [Vec<String>; 2],
    /// As what they are compared.
    pub(super) key_types: Vec<DataType>,
    pub(super) filter: Option<Term>,
    pub(super) columns: Vec<Column>,
    /// Whether a row can fail.
    pub(super) can_fail: bool,
}

impl JoinPlan {
    /// The columns of a side that are read of it once it has met another, in the order of its names.
    pub(super) fn kept(&self, side: usize, wanted: &Columns) -> Columns {
        let mut kept = Columns::new();
        if self.can_fail {
            // What is seen of a row that fails says which it was.
            kept.extend(self.keys[side].iter().cloned());
        }
        for column in self.columns.iter().filter(|column| wanted.contains(column.field.name())) {
            kept.extend(column.value.reads(side).map(str::to_owned));
        }
        kept.extend(self.filter.iter().flat_map(|filter| filter.reads(side)).map(str::to_owned));
        kept
    }
}

impl Planned for JoinPlan {
    fn reads(&self, wanted: &[Columns]) -> Vec<Columns> {
        let none = Columns::new();
        let of = |port: usize| wanted.get(port).unwrap_or(&none);
        let reads = |side: usize| {
            let mut reads = self.kept(side, of(0));
            reads.extend(self.keys[side].iter().cloned());
            reads.extend(of(1 + side).iter().cloned());
            match self.form {
                Form::Changelog => reads.remove(hidden::EVENT_TIME),
                _ => reads.insert(hidden::EVENT_TIME.to_owned()),
            };
            reads
        };
        vec![reads(LEFT), reads(RIGHT)]
    }

    fn endless(&self) -> Option<Caution> {
        matches!(self.form, Form::Changelog).then(|| Caution {
            message: "all rows of both sides are kept for ever, but for those that are taken back".to_owned(),
            help: "where new ones keep coming, say how near in time rows are that match: `within: { after: 1h }`"
                .to_owned(),
        })
    }

    fn facts(&self) -> Vec<(String, String)> {
        let pairs = self.keys[LEFT].iter().zip(&self.keys[RIGHT]);
        let pairs: Vec<String> = pairs.map(|(left, right)| format!("left.{left} = right.{right}")).collect();
        let mut facts = vec![("join".to_owned(), self.kind.name().to_owned()), ("match".to_owned(), pairs.join(", "))];
        facts.extend(match &self.form {
            Form::Interval(Reach { before, after, .. }) => {
                let (before, after) = (TimeSpan(*before), TimeSpan(*after));
                Some(("within".to_owned(), format!("{before} before to {after} after the left row")))
            }
            Form::Window(windows) => Some(windows.fact()),
            Form::Changelog => None,
        });
        facts.extend(self.filter.iter().map(|filter| ("where".to_owned(), filter.scalar.text().to_owned())));
        let computed = self.columns.iter().filter_map(|column| match &column.value {
            Value::Term(term) => Some((column.field.name().clone(), term.scalar.text().to_owned())),
            _ => None,
        });
        facts.extend(computed);
        facts
    }
}

/// The kind `join`.
pub fn kind() -> &'static OperatorKind {
    static KIND: OperatorKind = OperatorKind {
        name: "join",
        summary: "Rows of two streams that belong together, by equal columns and by event time",
        config_schema: |generator| generator.subschema_for::<Config>(),
        inputs: InputKeys::Named(&[("left", "The left rows."), ("right", "The right rows.")]),
        plan,
    };
    &KIND
}

fn plan(cx: &mut Cx<'_>, inputs: &[StreamType]) -> Option<PlannedOperator> {
    let config: Config = cx.config()?;
    let [left, right] = inputs else { return None };
    let before = cx.diagnostics.len();
    let kind = config.join;
    let sides = [left, right];
    let names = Names::new(cx, [left.schema.clone(), right.schema.clone()]);
    let key = key(cx, &config.matches, &sides);
    let form = form(cx, &config, &sides);
    let unbounded = matches!(form, Some(Form::Changelog));
    if !unbounded {
        timed(cx, &sides);
        append(cx, &sides);
    }
    let filter = config.filter.as_ref().and_then(|filter| {
        let scope = names.scope([false, false], &[LEFT, RIGHT]);
        let planned = cx.predicate(&["where"], filter, &scope);
        planned.map(|scalar| names.term(scalar))
    });
    let mut columns = match &config.columns {
        Some(written) => chosen(cx, written, &names, kind),
        None => default_columns(cx, &names, kind, &key.same),
    };
    if let Some(Form::Window(_)) = form {
        let mut fields: Vec<FieldRef> = columns.iter().map(|column| Arc::new(column.field.clone())).collect();
        config.names.unwrap_or_default().add_to(cx, &mut fields);
        let bounds = fields.split_off(columns.len()).into_iter().zip([Value::Start, Value::End]);
        columns.extend(bounds.map(|(field, value)| Column { field: field.as_ref().clone(), value }));
    } else if config.names.is_some() && form.is_some() {
        let span = check::key_span(cx, &[], "as");
        cx.push(
            Diagnostic::error(codes::JOIN_FORM, span, "`as` names the bounds of windows, and there is no `window`")
                .help("leave it out"),
        );
    }
    let fields: Vec<Field> = columns.iter().map(|column| column.field.clone()).collect();
    let delay = |side: usize| sides[side].event_time.as_ref().map_or(0, |event_time| event_time.max_delay_ns);
    let hold_ns = form.as_ref().map_or(0, |form| hold_ns(kind, form, [delay(LEFT), delay(RIGHT)]));
    let event_times = sides.map(|side| side.event_time.as_ref());
    let event_time = match event_times {
        [Some(left), Some(right)] => Some(EventTime::of_all([left, right]).held(hold_ns)),
        // Noted: what is behind is not to be blamed for it.
        _ => Some(EventTime::default()),
    };
    // Pairs of rows that stay, stay; all else may be taken back by what comes later.
    let stays = !unbounded || kind == JoinKind::Inner && sides.iter().all(|side| !side.kind.is_changelog());
    let stream_kind = if stays { StreamKind::Append } else { StreamKind::Changelog { key: Vec::new() } };
    let event_time = event_time.filter(|_| !unbounded);
    let origins = Origins::of_all([&left.origins, &right.origins]);
    let mut stream = StreamType { schema: Arc::new(Schema::new(fields)), event_time, kind: stream_kind, origins };
    if unbounded {
        lasting(cx, &stream, filter.as_ref(), &columns);
        if filter.is_some() && kind != JoinKind::Inner {
            check::not_built(
                cx,
                &[],
                "where",
                "a join that is not `inner` takes it with `within` or `window` only; filter a side before",
            );
        }
    }
    if sides.iter().any(|side| is_open(&side.schema)) {
        stream = stream.opened();
    }
    let late = |port: &str, side: &StreamType| Output { port: port.to_owned(), stream: side.clone() };
    let main = Output { port: String::new(), stream };
    let mut outputs = vec![main];
    if !unbounded {
        outputs.extend([late("late_left", left), late("late_right", right)]);
    }
    let (Some(form), true) = (form, cx.diagnostics.len() == before) else {
        return Some(PlannedOperator::wrong(outputs));
    };
    let by = key.columns[LEFT].join(", ");
    let state = match &form {
        Form::Interval(Reach { before, after, .. }) => {
            format!("the rows of both sides by {by}, each at most {}", TimeSpan(*before.max(after)))
        }
        Form::Window(windows) => {
            let span = TimeSpan(windows.longest_ns());
            format!("the rows of both sides by {by} in open windows, each at most {span}")
        }
        Form::Changelog => format!("all rows of both sides by {by}"),
    };
    let can_fail = filter.is_some() || columns.iter().any(|column| column.value.can_fail());
    let [left_key, right_key] = &key.columns;
    Some(PlannedOperator {
        outputs,
        can_fail,
        state: Some(state),
        exchange: Some(vec![left_key.clone(), right_key.clone()]),
        timed: !unbounded,
        planned: Arc::new(JoinPlan { kind, form, keys: key.columns, key_types: key.types, filter, columns, can_fail }),
    })
}

/// How far behind the least of its inputs' watermarks a row may be put out. An input that is silent is itself behind the other
/// by what its own rows may be late (`engine_dataflow::watermark::watermarks_ns`).
///
/// A pair has the later of two event times, one of which is of a row that is not late. A row without a match goes out when the
/// other side's watermark is `before` or `after` beyond it, and a left row of a `semi` when a right row so much later comes.
/// The row of a window goes out when both watermarks pass its end.
fn hold_ns(kind: JoinKind, form: &Form, delays_ns: [i64; 2]) -> i64 {
    let Form::Interval(Reach { before, after, .. }) = form else {
        return delays_ns[LEFT].max(delays_ns[RIGHT]);
    };
    let mut hold_ns = 0;
    if kind.alone(LEFT) || kind == JoinKind::Semi {
        hold_ns = after.saturating_add(delays_ns[RIGHT]).max(delays_ns[LEFT]);
    }
    if kind.alone(RIGHT) {
        hold_ns = hold_ns.max(before.saturating_add(delays_ns[LEFT]).max(delays_ns[RIGHT]));
    }
    hold_ns
}

/// Refuses a changelog where rows meet by their time.
fn append(cx: &mut Cx<'_>, sides: &[&StreamType; 2]) {
    for (side, key) in sides.iter().zip(["left", "right"]) {
        if side.kind.is_changelog() {
            let span = cx.span(&[key]);
            cx.push(
                Diagnostic::error(
                    plan_codes::CHANGELOG_INPUT,
                    span,
                    "rows that are near in time must stay, and this is a changelog",
                )
                .help("leave out `within` and `window`: then all rows with one key match, as they come and go"),
            );
        }
    }
}

/// Refuses values that would be others when a row is taken back, in expressions over both rows.
fn lasting(cx: &mut Cx<'_>, stream: &StreamType, filter: Option<&Term>, columns: &[Column]) {
    let changes = StreamType { kind: StreamKind::Changelog { key: Vec::new() }, ..stream.clone() };
    if let Some(filter) = filter {
        check::has_time(cx, &["where"], &filter.scalar, &changes);
    }
    for column in columns {
        if let Value::Term(term) = &column.value {
            check::has_time(cx, &["columns", column.field.name()], &term.scalar, &changes);
        }
    }
}

fn timed(cx: &mut Cx<'_>, sides: &[&StreamType; 2]) {
    for (side, key) in sides.iter().zip(["left", "right"]) {
        if side.event_time.is_none() {
            let span = cx.span(&[key]);
            let message = "`join` needs event time, which these rows don't have";
            cx.push(
                Diagnostic::error(plan_codes::NO_EVENT_TIME, span, message)
                    .help("say when each row happened, at the source: `event_time: { column: at, max_delay: 5s }`"),
            );
        }
    }
}

fn form(cx: &mut Cx<'_>, config: &Config, sides: &[&StreamType; 2]) -> Option<Form> {
    match (&config.within, &config.window) {
        (Some(within), None) => {
            let (before, after) = (within.before.ns(), within.after.ns());
            let delay = |side: &&StreamType| side.event_time.as_ref().map_or(0, |event_time| event_time.max_delay_ns);
            let kept = before.saturating_add(after).saturating_add(sides.iter().map(delay).max().unwrap_or(0));
            Some(Form::Interval(Reach { before, after, slice: (kept / SLICES).max(SLICE_MIN_NS) }))
        }
        (None, Some(window)) => match (&window.tumbling, &window.hopping) {
            (Some(form), None) => tumbling(cx, &["window", "tumbling"], form).map(Form::Window),
            (None, Some(form)) => hopping(cx, &["window", "hopping"], form).map(Form::Window),
            (one, _) => {
                let message = match one {
                    None => "the `window` of a join is `tumbling` or `hopping`",
                    Some(_) => "a window is either `tumbling` or `hopping`",
                };
                let span = cx.span(&["window"]);
                cx.push(
                    Diagnostic::error(window_codes::WINDOW_FORM, span, message)
                        .help("write just one: `window: { tumbling: 1m }`, for example"),
                );
                None
            }
        },
        (Some(_), Some(_)) => {
            let span = check::key_span(cx, &[], "window");
            cx.push(Diagnostic::error(codes::JOIN_FORM, span, "a join has either `within` or `window`").help(
                "`within` says how far apart two rows may be, `window` that they are in the same one: leave out one",
            ));
            None
        }
        (None, None) => Some(Form::Changelog),
    }
}

/// The columns to match.
struct Key {
    columns: [Vec<String>; 2],
    types: Vec<DataType>,
    /// Those of one name on both sides.
    same: Vec<String>,
}

fn key(cx: &mut Cx<'_>, matches: &Match, sides: &[&StreamType; 2]) -> Key {
    let mut key = Key { columns: Default::default(), types: Vec::new(), same: Vec::new() };
    let pairs: Vec<(String, String, [Span; 2])> = match matches {
        Match::One(name) => vec![(name.clone(), name.clone(), [cx.span(&["match"]); 2])],
        Match::Same(names) => {
            let span = |at: usize| cx.span(&["match", &at.to_string()]);
            names.iter().enumerate().map(|(at, name)| (name.clone(), name.clone(), [span(at); 2])).collect()
        }
        Match::Pairs(pairs) => {
            let span = |left: &str| [check::key_span(cx, &["match"], left), cx.span(&["match", left])];
            pairs.iter().map(|(left, right)| (left.clone(), right.clone(), span(left))).collect()
        }
    };
    if pairs.is_empty() {
        let span = cx.span(&["match"]);
        cx.push(
            Diagnostic::error(spec_codes::BAD_VALUE, span, "`match` names no column")
                .help("name at least one that is equal in rows that belong together: `match: { id: order_id }`"),
        );
    }
    for (left, right, spans) in pairs {
        let twice = key.columns[LEFT].iter().zip(&key.columns[RIGHT]).any(|pair| pair == (&left, &right));
        if twice {
            cx.push(
                Diagnostic::error(plan_codes::COLUMN_TAKEN, spans[LEFT], format!("`{left}` is named twice"))
                    .help("name each column once"),
            );
            continue;
        }
        let same = !matches!(matches, Match::Pairs(_));
        let one = column(cx, spans[LEFT], &left, LEFT, sides, same);
        // What is wrong with a column that both sides have is told once.
        let [of_left, of_right] = [(LEFT, &left), (RIGHT, &right)].map(|(side, name)| type_of(name, sides[side]));
        let told = one.is_none() && left == right && of_left.is_some() && of_left == of_right;
        let other = if told { None } else { column(cx, spans[RIGHT], &right, RIGHT, sides, same) };
        let fields = [one, other];
        if let [Some(one), Some(other)] = &fields {
            match compared_as(one, other) {
                Some(data_type) => key.types.push(data_type),
                None => {
                    cx.push(differ(spans[RIGHT], (&left, one), (&right, other)));
                }
            }
        }
        if left == right {
            key.same.push(left.clone());
        }
        key.columns[LEFT].push(left);
        key.columns[RIGHT].push(right);
    }
    key
}

fn type_of<'s>(name: &str, side: &'s StreamType) -> Option<&'s DataType> {
    side.schema.field_with_name(name).ok().map(Field::data_type)
}

/// A column of a side that can be matched, or a problem. `same` is whether its name stands for the columns of both sides.
fn column(cx: &mut Cx<'_>, span: Span, name: &str, side: usize, sides: &[&StreamType; 2], same: bool) -> Option<Field> {
    let elsewhere = same && type_of(name, sides[1 - side]).is_some();
    let hint = "where the names differ, write a map of left column to right column: `match: { id: order_id }`";
    let field = column_of(cx, span, name, side, &sides[side].schema, elsewhere.then_some(hint))?;
    if check::can_be_key(field.data_type()) {
        return Some(field);
    }
    let ty = engine_expr::type_name(field.data_type());
    let message = format!("`{name}` is of type {ty}, which can't be matched");
    cx.push(
        Diagnostic::error(plan_codes::UNHASHABLE_KEY, span, message)
            .help("cast it to an integer, a decimal or a string with a `map` before"),
    );
    None
}

/// Columns whose values can't be compared, at the right one.
fn differ(span: Span, (left, one): (&str, &Field), (right, other): (&str, &Field)) -> Diagnostic {
    let text = |field: &Field| types::column_text(&field.clone().with_nullable(false));
    let message = format!("`left.{left}` is {} and `right.{right}` is {}", text(one), text(other));
    let mut help = "make them of one type with a `map` before the join".to_owned();
    let plain = one.data_type().is_integer() || one.data_type() == &DataType::Utf8;
    if plain && !types::is_json(one) && !types::is_json(other) {
        help += &format!(": `set: {{ {right}: CAST({right} AS {}) }}`", text(one));
    }
    Diagnostic::error(codes::MATCH_TYPES, span, message).at_caret("their values can't be compared").help(help)
}

/// As what the values of two columns are compared, if they can be. The exchange hashes them alike whatever their widths.
fn compared_as(left: &Field, right: &Field) -> Option<DataType> {
    if types::is_json(left) != types::is_json(right) {
        return None;
    }
    let is_text = |ty: &DataType| matches!(ty, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    match (left.data_type(), right.data_type()) {
        (one, other) if one == other => Some(one.clone()),
        (one, other) if one.is_integer() && other.is_integer() => Some(match (one, other) {
            // No integer has room for the values of both.
            (DataType::UInt64, signed) | (signed, DataType::UInt64) if signed.is_signed_integer() => {
                DataType::Decimal128(20, 0)
            }
            (DataType::UInt64, _) | (_, DataType::UInt64) => DataType::UInt64,
            _ => DataType::Int64,
        }),
        (one, other) if is_text(one) && is_text(other) => Some(DataType::Utf8),
        // A zone is how a time is shown.
        (DataType::Timestamp(one, Some(_)), DataType::Timestamp(other, Some(_))) if one == other => {
            Some(left.data_type().clone())
        }
        _ => None,
    }
}
