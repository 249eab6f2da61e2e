//! The planner against small made-up kinds: what it makes of a pipeline, and what it says of a broken one.
//!
//! A case is a pipeline and the text that should come out: the plan as `dry-run` prints it, or one line a problem.

mod templates;

use crate::kinds::{
    Columns, ConnectionKind, Cx, InputKeys, OperatorKind, Output, Planned, PlannedOperator, PlannedSink, PlannedSource,
    Registries, SinkCommon, SinkKind, SourceCommon, SourceKind, StreamKind, StreamType,
};
use crate::{Plan, graph, print, schema};
use arrow::datatypes::{DataType, Field, Schema};
use engine_base::codes::spec;
use engine_base::{Diagnostic, Diagnostics, Severity, SourceMap};
use engine_spec::{Files, LoadOptions};
use schemars::{JsonSchema, SchemaGenerator};
use serde::Deserialize;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

struct Memory(HashMap<&'static str, String>);

impl Files for Memory {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let text = path.to_str().and_then(|path| self.0.get(path));
        text.map(|text| text.clone().into_bytes()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
    fn env(&self, _: &str) -> Option<String> {
        None
    }
    fn secret(&self, _: &str) -> Option<String> {
        None
    }
    fn glob(&self, _: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }
}

/// A step that reads what is wanted of it and the columns it names.
#[derive(Debug)]
struct Fake {
    inputs: usize,
    columns: Vec<String>,
}

impl Planned for Fake {
    fn reads(&self, wanted: &[Columns]) -> Vec<Columns> {
        let mut reads: Columns = wanted.iter().flatten().cloned().collect();
        reads.extend(self.columns.iter().cloned());
        vec![reads; self.inputs]
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// A source of rows.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RowsConfig {
    /// Where to.
    connection: Option<String>,
    /// How many rows.
    #[expect(dead_code, reason = "only decoding is tested")]
    count: Option<u32>,
}

fn rows_schema(generator: &mut SchemaGenerator) -> schemars::Schema {
    RowsConfig::json_schema(generator)
}

fn nothing_schema(generator: &mut SchemaGenerator) -> schemars::Schema {
    // As a reference into the definitions: a kind may give either.
    generator.subschema_for::<Nothing>()
}

static ROWS: SourceKind = SourceKind {
    name: "rows",
    summary: "Rows.",
    config_schema: rows_schema,
    decodes: true,
    metadata: &["key", "headers['...']"],
    plan: |cx: &mut Cx<'_>, common: &SourceCommon| {
        let config: RowsConfig = cx.config()?;
        if let Some(name) = &config.connection {
            cx.connection(&["connection"], name, "system")?;
        }
        let Some(schema) = &common.schema else {
            cx.error(spec::MISSING_KEY, &[], "the key `schema` is missing");
            return None;
        };
        let mut fields: Vec<Field> = schema.fields().iter().map(|field| field.as_ref().clone()).collect();
        fields.extend(common.metadata.iter().map(|(name, _)| Field::new(name, DataType::Utf8, true)));
        Some(PlannedSource {
            schema: Arc::new(Schema::new(fields)),
            replayable: true,
            finite: true,
            planned: Arc::new(Fake { inputs: 0, columns: vec![] }),
        })
    },
};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PassConfig {
    /// Read by it.
    #[serde(default)]
    reads: Vec<String>,
}

fn pass_schema(generator: &mut SchemaGenerator) -> schemars::Schema {
    PassConfig::json_schema(generator)
}

fn pass_plan(cx: &mut Cx<'_>, inputs: &[StreamType]) -> Option<PlannedOperator> {
    let config: PassConfig = cx.config()?;
    for (at, name) in config.reads.iter().enumerate() {
        cx.column(&["reads", &at.to_string()], name, &inputs[0].schema)?;
    }
    Some(PlannedOperator {
        outputs: vec![
            Output { port: String::new(), stream: inputs[0].clone() },
            Output { port: "rejected".into(), stream: inputs[0].clone() },
        ],
        can_fail: true,
        exchange: None,
        state: None,
        timed: false,
        planned: Arc::new(Fake { inputs: inputs.len(), columns: config.reads }),
    })
}

/// Named as the real one, whose rows are those of its input whatever is wrong with it.
static FILTER: OperatorKind = OperatorKind {
    name: "filter",
    summary: "Some rows.",
    config_schema: pass_schema,
    inputs: InputKeys::One,
    plan: pass_plan,
};

static UNION: OperatorKind = OperatorKind {
    name: "union",
    summary: "Rows of several.",
    config_schema: pass_schema,
    inputs: InputKeys::Many,
    plan: pass_plan,
};

static PAIR: OperatorKind = OperatorKind {
    name: "pair",
    summary: "Rows of two inputs with keys of their own.",
    config_schema: pass_schema,
    inputs: InputKeys::Named(&[("left", "The left rows."), ("right", "The right rows.")]),
    plan: |cx: &mut Cx<'_>, inputs: &[StreamType]| {
        assert_eq!(inputs.len(), 2);
        pass_plan(cx, inputs)
    },
};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct KeyedConfig {
    key: String,
    #[serde(default)]
    changelog: bool,
}

fn keyed_schema(generator: &mut SchemaGenerator) -> schemars::Schema {
    KeyedConfig::json_schema(generator)
}

static KEYED: OperatorKind = OperatorKind {
    name: "keyed",
    summary: "State by key.",
    config_schema: keyed_schema,
    inputs: InputKeys::One,
    plan: |cx: &mut Cx<'_>, inputs: &[StreamType]| {
        let config: KeyedConfig = cx.config()?;
        cx.column(&["key"], &config.key, &inputs[0].schema)?;
        let mut stream = inputs[0].clone();
        if config.changelog {
            stream.kind = StreamKind::Changelog { key: vec![config.key.clone()] };
        }
        Some(PlannedOperator {
            outputs: vec![Output { port: String::new(), stream }],
            can_fail: false,
            exchange: Some(vec![vec![config.key.clone()]]),
            state: Some(format!("the last row by {}", config.key)),
            timed: false,
            planned: Arc::new(Fake { inputs: 1, columns: vec![config.key, crate::hidden::EVENT_TIME.into()] }),
        })
    },
};

static OUT: SinkKind = SinkKind {
    name: "out",
    summary: "Rows leave.",
    config_schema: nothing_schema,
    encodes: true,
    sees_all: false,
    changelogs: false,
    plan: |cx: &mut Cx<'_>, input: &StreamType, _: &SinkCommon| {
        cx.config::<Nothing>()?;
        Some(PlannedSink {
            can_fail: true,
            timeout_ns: Some(30_000_000_000),
            exactly_once: crate::ExactlyOnce::No { reason: "it only tests", help: "write `delivery: at_least_once`" },
            planned: Arc::new(Fake { inputs: 1, columns: super::tests::names(&input.schema) }),
        })
    },
};

fn names(schema: &Schema) -> Vec<String> {
    schema.fields().iter().map(|field| field.name().clone()).collect()
}

static SYSTEM: ConnectionKind =
    ConnectionKind { name: "system", summary: "A system.", config_schema: nothing_schema, check: |_| {} };
static OTHER: ConnectionKind =
    ConnectionKind { name: "other", summary: "Another.", config_schema: nothing_schema, check: |_| {} };

fn registries() -> Registries {
    Registries {
        sources: vec![&ROWS],
        operators: vec![&FILTER, &UNION, &PAIR, &KEYED],
        sinks: vec![&OUT],
        connections: vec![&SYSTEM, &OTHER],
        models: Vec::new(),
    }
}

fn plan(text: &str) -> (Option<Plan>, Diagnostics, SourceMap) {
    let text = format!("version: 1\npipeline: test\n{text}");
    let files = Memory(HashMap::from([("test.yaml", text)]));
    let (mut sources, mut found) = (SourceMap::default(), Diagnostics::new());
    let options = LoadOptions::default();
    let pipeline = engine_spec::load(Path::new("test.yaml"), &files, &options, &mut sources, &mut found);
    let plan = pipeline.and_then(|pipeline| crate::plan(&pipeline, &registries(), &files, &mut sources, &mut found));
    (plan, found, sources)
}

/// One line a problem: severity, code, line:column (of the text without its first two lines), the text at the caret, the
/// sentence, then the remedies.
fn problem(diagnostic: &Diagnostic, sources: &SourceMap) -> String {
    let severity = match diagnostic.severity {
        Severity::Error => "",
        Severity::Warning => "warning ",
        Severity::Note => "note ",
    };
    let place = diagnostic.primary.as_ref().map_or(String::new(), |label| {
        let file = sources.file(label.span.file).expect("a file");
        let (line, _) = file.line_column(label.span.start);
        let text = file.text.get(label.span.start..label.span.end).expect("characters");
        format!(" {}[{}]", line - 2, text.lines().next().unwrap_or_default())
    });
    let help = diagnostic.help.iter().map(|help| format!(" | {help}")).collect::<String>();
    format!("{severity}{}{place} {}{help}", diagnostic.code, diagnostic.message)
}

/// The problems of a pipeline, and that there is a plan just where none of them is an error.
#[track_caller]
fn check(text: &str, problems: &[&str]) {
    let (plan, mut found, sources) = plan(text);
    found.sort();
    let found_problems: Vec<String> = found.iter().map(|diagnostic| problem(diagnostic, &sources)).collect();
    assert_eq!(found_problems, problems, "\n{}", found_problems.join("\n"));
    assert_eq!(plan.is_some(), !found.has_errors());
}

#[track_caller]
fn planned(text: &str) -> Plan {
    let (plan, found, sources) = plan(text);
    let problems: Vec<String> = found.iter().map(|diagnostic| problem(diagnostic, &sources)).collect();
    plan.unwrap_or_else(|| panic!("{}", problems.join("\n")))
}

/// The folder of this package: where cargo says it is now, since a binary of another clone may be found in a shared build
/// folder.
fn package() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

/// A text that stands in `tests/NAME`; `BLESS=1` writes it.
#[track_caller]
fn expect(name: &str, found: &str) {
    let path = package().join("src/tests").join(name);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, found).expect("a file");
    }
    assert_eq!(found, std::fs::read_to_string(path).unwrap_or_default(), "\n{found}");
}

const SOURCE: &str = "sources:\n  a: { type: rows, schema: { id: int64, card: string | null, amount: float64 } }\n";

#[track_caller]
fn check_steps(steps: &str, problems: &[&str]) {
    check(&format!("{SOURCE}{steps}"), problems);
}

#[test]
fn a_plan_is_in_an_order_of_reading_and_says_what_is_read() {
    let plan = planned(&format!(
        "{SOURCE}operators:
  late: {{ type: union, inputs: [good, good.rejected] }}
  good: {{ type: filter, input: a, reads: [amount] }}
sinks:
  slim: {{ type: out, input: late, columns: [card] }}
  bad: {{ type: out, input: good.errors }}
"
    ));
    let order: Vec<&str> = plan.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(order, ["a", "good", "late", "slim.columns", "slim", "bad"]);
    let wanted = |step: &str, port: usize| {
        let step = plan.find(step).expect("a step");
        step.wanted[port].iter().cloned().collect::<Vec<_>>().join(" ")
    };
    // The errors of `good` are read, and so are whole rows.
    assert_eq!(wanted("a", 0), "amount card id");
    assert_eq!(wanted("good", 0), "amount card id");
    assert_eq!(wanted("good", 1), "amount card id");
    assert_eq!(wanted("good", 2), "at code payload position reason step");
    assert_eq!(wanted("a", 1), "");
}

#[test]
fn the_plan_as_people_see_it() {
    let plan = planned(&format!(
        "description: A test.
{SOURCE}operators:
  good: {{ type: filter, input: a, reads: [card] }}
  again: {{ type: filter, input: {{ from: good, where: amount > 0 AND card IS NOT NULL }} }}
  last: {{ type: keyed, input: again, key: id }}
sinks:
  kept: {{ type: out, input: last, columns: {{ who: upper(card), amount: amount }} }}
  copy: {{ type: out, input: last, columns: [id] }}
  bad: {{ type: out, input: good.rejected, columns: [id] }}
  broken: {{ type: out, input: again.errors }}
objectives:
  - {{ name: soon, measure: end_to_end, sink: kept, p99: 1s, over: 1m }}
",
        SOURCE = SOURCE.replace(" } }", ", at: timestamp, note: string }, event_time: { column: at, max_delay: 5s } }"),
    ));
    expect("plan.txt", &print::plan_text(&plan).replace(&plan.digest[..16], "DIGEST"));
    expect("graph.txt", &graph::text(&plan));
    expect("graph.mermaid", &graph::mermaid(&plan));
}

#[test]
fn chains_end_where_others_read() {
    let plan = planned(&format!(
        "{SOURCE}operators:
  one: {{ type: filter, input: a }}
  two: {{ type: filter, input: one }}
  three: {{ type: filter, input: two }}
  side: {{ type: filter, input: two.rejected }}
sinks:
  x: {{ type: out, input: three }}
  y: {{ type: out, input: side }}
  z: {{ type: out, input: one.errors }}
"
    ));
    let chains: Vec<Vec<&str>> =
        plan.chains().iter().map(|chain| chain.iter().map(|id| plan.step(*id).name.as_str()).collect()).collect();
    assert_eq!(chains, [vec!["one", "two"], vec!["three"], vec!["side"]]);
}

#[test]
fn names_of_inputs() {
    check_steps(
        "operators:
  good: { type: filter, input: aa }
  more: { type: filter, input: good.rejcted }
  none: { type: filter, input: nowhere }
sinks:
  x: { type: out, input: more.late }
  y: { type: out, input: godo.errors }
  z: { type: out, input: x }
  v: { type: out, input: x.errors }
  w: { type: out, input: { from: a.oops } }
",
        &[
            "E0301 4[aa] there is no source or operator named `aa` | did you mean `a`?",
            "E0301 6[nowhere] there is no source or operator named `nowhere` | there are `a`, `good`, `more` and `none`",
            "E0301 9[godo.errors] there is no source or operator named `godo.errors` | did you mean `good.errors`?",
            "E0307 10[x] `x` is a sink: no rows come out of it | read what it reads: `more.late` | rows that it can't deliver are read as `x.errors`",
            "E0302 12[a.oops] `a` has no output `oops` | its outputs are `a` and `a.errors`",
        ],
    );
    check_steps(
        "operators: { k: { type: keyed, input: a, key: id } }\nsinks: { x: { type: out, input: k.errors }, y: { type: out, input: k } }\n",
        &[
            "E0323 3[keyed] `k` needs event time, which these rows don't have | say when each row happened, at the source: `event_time: { column: at }`",
        ],
    );
}

#[test]
fn inputs_with_keys_of_their_own() {
    let plan = planned(&format!(
        "{SOURCE}operators:
  good: {{ type: filter, input: a }}
  p: {{ type: pair, right: {{ from: a, where: id > 0 }}, left: good.rejected }}
sinks:
  x: {{ type: out, input: p }}
  y: {{ type: out, input: p.right.where }}
"
    ));
    let pair = plan.find("p").expect("a step");
    let reads: Vec<String> = pair.inputs.iter().map(|edge| plan.step(edge.from).output_name(edge.port)).collect();
    assert_eq!(reads, ["good.rejected", "p.right.where"]);
    check_steps(
        "operators:
  one: { type: pair, left: aa, right: { from: a, where: amuont > 0 } }
  two: { type: pair, right: a.oops }
  three: { type: pair, input: a, right: [a] }
  four: { type: pair, left: four, rigth: a }
sinks:
  x: { type: out, input: one }
  y: { type: out, input: two }
  z: { type: out, input: three }
  w: { type: out, input: four }
",
        &[
            "E0301 4[aa] there is no source or operator named `aa` | did you mean `a`?",
            "E0207 4[amuont] there is no column `amuont` | did you mean `amount`? | the columns are: id, card, amount | for text, write single quotes: `'amuont'`, in YAML `\"'amuont'\"`",
            "E0118 5[two] the key `left` is missing | add `left:`",
            "E0302 5[a.oops] `a` has no output `oops` | its outputs are `a` and `a.errors`",
            "E0117 6[input] unknown key `input` | `pair` has several inputs: write `left:` and `right:` | the keys of `pair` are `left`, `right` and `reads`",
            "E0303 7[four] `four` reads itself | let it read the step whose rows it should work on",
            "E0117 7[rigth] unknown key `rigth` | did you mean `right`? | the keys of `pair` are `left`, `right` and `reads`",
        ],
    );
}

#[test]
fn circles() {
    check_steps(
        "operators:
  one: { type: filter, input: three }
  two: { type: filter, input: one }
  three: { type: union, inputs: [two, a] }
  self: { type: filter, input: self }
sinks: { x: { type: out, input: three } }
",
        &[
            "E0303 4[three] steps read each other in a circle: one -> two -> three -> one | rows flow from sources to sinks: one of these must read something else",
            "E0303 7[self] `self` reads itself | let it read the step whose rows it should work on",
        ],
    );
}

#[test]
fn types_of_components() {
    check_steps(
        "operators:
  one: { type: fliter, input: a }
  two: { type: window, input: a }
  three: { type: rows, input: a }
  four: { type: project, input: a }
sinks:
  x: { type: out, input: one }
  y: { type: console, input: two }
  z: { type: out, input: three }
  w: { type: kafka, input: four }
",
        &[
            "E0305 4[fliter] there is no operator of type `fliter` | did you mean `filter`?",
            "E0306 5[window] an operator of type `window` is not built yet | the types of operator are `filter`, `union`, `pair` and `keyed`",
            "E0305 6[rows] there is no operator of type `rows` | `rows` is the type of a source: it stands under `sources:`",
            "E0305 7[project] there is no operator of type `project` | here that is `map`",
            "E0305 10[console] there is no sink of type `console` | here that is `stdout`",
            "E0306 12[kafka] a sink of type `kafka` is not built yet | the only type of sink is `out`",
        ],
    );
}

#[test]
fn problems_behind_a_broken_step_are_found_and_none_made_up() {
    // The filter is wrong: its rows are known all the same.
    check_steps(
        "operators:
  good: { type: filter, input: a, reads: [amout] }
  more: { type: filter, input: good, reads: [crad] }
  most: { type: keyed, input: nothing_there, kee: card }
sinks:
  x: { type: out, input: more, colums: [id] }
  y: { type: out, input: most, columns: [zebra], format: json }
",
        &[
            "E0320 4[amout] there is no column `amout` here | did you mean `amount`? | the columns are `id`, `card`, `amount`",
            "E0320 5[crad] there is no column `crad` here | did you mean `card`? | the columns are `id`, `card`, `amount`",
            "E0301 6[nothing_there] there is no source or operator named `nothing_there` | there are `a`, `good`, `more` and `most`",
            "E0117 6[kee] unknown key `kee` | did you mean `key`? | the keys of `keyed` are `input`, `changelog` and `key`",
            "E0117 8[colums] unknown key `colums` | did you mean `columns`? | the keys of `out` are `input`, `where`, `columns`, `delivery`, `format` and `timestamps`",
        ],
    );
}

#[test]
fn keys_state_and_changelogs() {
    let timed = "sources:
  a: { type: rows, schema: { at: timestamp, amount: float64, id: int64 }, event_time: { column: at, max_delay: 5s } }
";
    check(
        &format!(
            "{timed}operators:
  by_amount: {{ type: keyed, input: a, key: amount }}
  chained: {{ type: chain, input: a, steps: [ {{ type: keyed, key: id }}, {{ type: filter }} ] }}
  changes: {{ type: keyed, input: a, key: id, changelog: true }}
sinks:
  x: {{ type: out, input: by_amount }}
  y: {{ type: out, input: chained, delivery: exactly_once }}
  z: {{ type: out, input: changes }}
"
        ),
        &[
            "E0308 4[amount] `amount` is float64 and can't be a key | use an integer, text, decimal, date or timestamp, or make one before with `map`",
            "E0311 5[keyed] this `keyed` keeps state, so it needs a name | add `name:` to this step",
            "E0310 9[exactly_once] `y` can't deliver exactly once: it only tests | write `delivery: at_least_once`",
            "E0309 10[out] `z` takes rows that stay, and its input is a changelog | what takes changelogs: `filter`, `map`, `route`, \
             `aggregate`, `distinct`, `top`, a `join` without `within` and `window`, and the sinks `file`, `stdout`, `blackhole`, \
             `postgres` and `sqlite`",
        ],
    );
}

#[test]
fn event_time() {
    let at = |schema: &str, event_time: &str| {
        format!(
            "sources:\n  a: {{ type: rows, schema: {{ at: {schema} }}, event_time: {event_time} }}\nsinks: {{ x: {{ type: out, input: a }} }}\n"
        )
    };
    check(&at("timestamp", "{ column: at }"), &[]);
    check(&at("int64", "{ column: at, unit: ms }"), &[]);
    check(
        &at("int64", "{ column: at }"),
        &[
            "E0322 2[at] the event time is int64, so it needs a unit | say what it counts since 1970: `unit: s`, `ms`, `us` or `ns`",
        ],
    );
    check(&at("timestamp", "{ column: at, unit: s }"), &["E0322 2[s] a timestamp has its own unit | leave `unit` out"]);
    check(
        &at("string", "{ column: at }"),
        &[
            "E0321 2[at] the event time is string: it takes a timestamp, a date, or an integer with its `unit` | make it a `timestamp` in the schema, or write `value:` with an expression such as `to_timestamp(at)`",
        ],
    );
    check(
        &at("timestamp", "{ column: When }"),
        &["E0320 2[When] there is no column `When` here | the columns are `at`"],
    );
    check(
        &at("timestamp", "{ max_delay: 5s }"),
        &[
            "E0329 2[{ max_delay: 5s }] `event_time` has neither `column` nor `value` | write `column:` with the column that tells it, or `value:` with an expression",
        ],
    );
    check(
        &at("timestamp", "{ column: at, idle_after: 5 }"),
        &["E0122 2[5] `5` has no unit, and `idle_after` needs one | write a unit: `5ms`"],
    );
    check(&at("timestamp", "{ column: at, idle_after: 5s }"), &[]);
}

#[test]
fn event_time_is_carried_only_where_it_is_read() {
    let pipeline = |reader: &str| {
        format!(
            "sources:
  a: {{ type: rows, schema: {{ at: int64, id: int64 }}, event_time: {{ column: at, unit: s }} }}
operators:
  b: {reader}
sinks: {{ x: {{ type: out, input: b, columns: [id] }} }}
"
        )
    };
    let wanted = |plan: &Plan, step: &str| {
        let step = plan.find(step).expect("a step");
        step.wanted[0].iter().cloned().collect::<Vec<_>>().join(" ")
    };
    let plan = planned(&pipeline("{ type: keyed, input: a, key: id }"));
    assert_eq!((wanted(&plan, "a"), wanted(&plan, "a.event_time")), ("at id".into(), "@event_time id".into()));
    let plan = planned(&pipeline("{ type: filter, input: a }"));
    assert_eq!((wanted(&plan, "a"), wanted(&plan, "a.event_time")), ("id".into(), "id".into()));
}

#[test]
fn what_is_said_and_never_used() {
    check(
        "parameters:
  used: { type: int64, default: 1 }
  idle: { type: int64, default: 1 }
connections:
  one: { type: system }
  two: { type: other }
  three: { type: smtp }
sources:
  a: { type: rows, schema: { id: int64 }, connection: one, count: \"${param:used}\" }
  b: { type: rows, schema: { id: int64 }, connection: tow }
  c: { type: rows, schema: { id: int64 }, connection: two }
sinks:
  x: { type: out, input: a }
  y: { type: out, input: b }
  z: { type: out, input: c }
",
        &[
            "warning E0312 3[idle] nothing uses the parameter `idle` | use it as `param.idle` in an expression or `${param:idle}` in a value, or take it out",
            "E0306 7[smtp] a connection of type `smtp` is not built yet | the types of connection are `system` and `other`",
            "E0313 10[tow] there is no connection named `tow` | did you mean `two`?",
            "E0314 11[two] `two` is a connection of type `other`, and this needs `system` | `one` is of type `system`",
        ],
    );
}

#[test]
fn columns_and_metadata() {
    check_steps(
        "sinks:
  x: { type: out, input: a, columns: [id, id, crad] }
  y: { type: out, input: a, columns: [] }
",
        &[
            "E0319 4[id] `id` is named twice | name each column once",
            "E0320 4[crad] there is no column `crad` here | did you mean `card`? | the columns are `id`, `card`, `amount`",
            "E0151 5[[]] `columns` names no column | name at least one, or leave the key out for all",
        ],
    );
    check(
        "sources:
  a:
    type: rows
    schema: { id: int64 }
    metadata: { id: key, trace: \"headers['trace']\", part: partition }
sinks: { x: { type: out, input: a } }
",
        &[
            "E0319 5[id] `id` is a column of the schema already | give the metadata another name",
            "E0318 5[partition] a `rows` source knows no `partition` of its records | there is `key` and `headers['...']`",
        ],
    );
}

#[test]
fn objectives() {
    check_steps(
        "operators: { step: { type: filter, input: a } }
sinks: { x: { type: out, input: step } }
objectives:
  - { name: one, measure: end_to_end, sink: xx, p99: 1s, over: 1m }
  - { name: two, measure: end_to_end, sink: step, p99: 1s, over: 1m }
  - { name: three, measure: end_to_end, p50: 1ms, over: 1m }
  - { name: four, measure: end_to_end, sink: x, max: 1s, over: 1m }
  - { name: five, measure: step_latency, step: step, p99: 1us, over: 1m }
",
        &[
            "E0324 6[xx] there is no sink named `xx` | did you mean `x`?",
            "E0324 7[step] `step` is not a sink | the sinks are `x`",
            "warning E0325 8[{ name: three, measure: end_to_end, p50: 1ms, over: 1m }] `p50` of `three` can't be held: a row takes up to 5ms for its epoch alone | promise 5ms or more",
            "warning E0325 9[{ name: four, measure: end_to_end, sink: x, max: 1s, over: 1m }] `max` of `four` can't be held: a delivery to `x` may take 30s before it fails | give the sink a shorter `timeout`, or promise less",
        ],
    );
}

#[test]
fn a_digest_is_of_what_bears_on_results() {
    let with = |description: &str, count: u32| {
        planned(&format!(
            "description: {description}\nsources:\n  a: {{ type: rows, schema: {{ id: int64 }}, count: {count} }}\nsinks: {{ x: {{ type: out, input: a }} }}\n"
        ))
        .digest
    };
    assert_eq!(with("one", 1), with("two", 1));
    assert_ne!(with("one", 1), with("one", 2));
}

#[test]
fn a_long_pipeline_is_planned_in_order() {
    let mut text = String::from("sources:\n  s0: { type: rows, schema: { id: int64 } }\noperators:\n");
    for at in (1..2000).rev() {
        text.push_str(&format!("  s{at}: {{ type: filter, input: s{} }}\n", at - 1));
    }
    text.push_str("sinks: { x: { type: out, input: s1999 } }\n");
    let plan = planned(&text);
    assert_eq!(plan.steps.len(), 2001);
    assert_eq!(plan.chains().len(), 1);
}

#[test]
fn the_schema_has_a_branch_for_each_kind() {
    let schema = schema::language(&registries());
    let keys = |name: &str| {
        let branch = &schema["$defs"][name];
        assert_eq!(branch["additionalProperties"], false, "{name}: {branch:#}");
        branch["properties"].as_object().expect("properties").keys().cloned().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(keys("source_rows"), "connection count event_time format metadata renamed_from schema set type");
    assert_eq!(keys("operator_keyed"), "changelog input key renamed_from type");
    assert_eq!(keys("operator_union"), "inputs reads renamed_from type");
    assert_eq!(keys("operator_pair"), "left reads renamed_from right type");
    assert_eq!(schema["$defs"]["operator_pair"]["properties"]["left"]["description"], "The left rows.");
    assert_eq!(schema["$defs"]["operator_pair"]["required"], serde_json::json!(["type", "left", "right"]));
    assert!(schema["$defs"].get("step_pair").is_none(), "a step of a chain has one input");
    assert_eq!(keys("operator_chain"), "input inputs renamed_from steps type");
    assert_eq!(keys("step_keyed"), "changelog key name renamed_from type");
    assert_eq!(keys("sink_out"), "columns delivery format input timestamps type where");
    // A number may come from outside, a kind may not.
    assert_eq!(schema["$defs"]["source_rows"]["properties"]["count"]["anyOf"][1]["$ref"], "#/$defs/Substitution");
    assert_eq!(schema["$defs"]["source_rows"]["properties"]["type"]["const"], "rows");
    assert_eq!(schema["properties"]["sources"]["additionalProperties"]["$ref"], "#/$defs/Source");
}
