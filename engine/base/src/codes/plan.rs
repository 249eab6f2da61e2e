//! E03xx: names, edges, types and guarantees.

use super::CodeInfo;
use crate::diagnostic::Code;

/// An input that nothing is named as.
pub const UNKNOWN_INPUT: Code = Code("E0301");
/// An output that a step does not have.
pub const UNKNOWN_OUTPUT: Code = Code("E0302");
/// Steps that read each other in a circle.
pub const CYCLE: Code = Code("E0303");
/// A step that nothing reads.
pub const UNUSED_STEP: Code = Code("E0304");
/// A `type:` that is not known.
pub const UNKNOWN_KIND: Code = Code("E0305");
/// A `type:` of the language that is not built yet.
pub const KIND_NOT_BUILT: Code = Code("E0306");
/// A sink read as if rows came out of it.
pub const SINK_AS_INPUT: Code = Code("E0307");
/// A key of a type that can't be hashed.
pub const UNHASHABLE_KEY: Code = Code("E0308");
/// A changelog where only an append stream works.
pub const CHANGELOG_INPUT: Code = Code("E0309");
/// A guarantee that can't be given.
pub const GUARANTEE: Code = Code("E0310");
/// A stateful step of a chain without a name.
pub const UNNAMED_STATE: Code = Code("E0311");
/// A parameter that nothing uses.
pub const UNUSED_PARAMETER: Code = Code("E0312");
/// A connection that is not there.
pub const UNKNOWN_CONNECTION: Code = Code("E0313");
/// A connection of another type than the one needed.
pub const CONNECTION_KIND: Code = Code("E0314");
/// A connection that nothing uses.
pub const UNUSED_CONNECTION: Code = Code("E0315");
/// A model that is not there.
pub const UNKNOWN_MODEL: Code = Code("E0316");
/// A model that nothing uses.
pub const UNUSED_MODEL: Code = Code("E0317");
/// Metadata that a source does not have.
pub const UNKNOWN_METADATA: Code = Code("E0318");
/// A column that is there already.
pub const COLUMN_TAKEN: Code = Code("E0319");
/// A column that is not there.
pub const UNKNOWN_COLUMN: Code = Code("E0320");
/// An event time that is no time.
pub const EVENT_TIME_TYPE: Code = Code("E0321");
/// A unit of the event time that is missing or too much.
pub const EVENT_TIME_UNIT: Code = Code("E0322");
/// Event time needed on a stream without.
pub const NO_EVENT_TIME: Code = Code("E0323");
/// An objective on something that is not there.
pub const OBJECTIVE_TARGET: Code = Code("E0324");
/// An objective that the plan can't hold.
pub const OBJECTIVE_OUT_OF_REACH: Code = Code("E0325");
/// Too few inputs.
pub const TOO_FEW_INPUTS: Code = Code("E0326");
/// A name that can't be a column's or an output's.
pub const RESERVED_NAME: Code = Code("E0327");
/// A value that is known only in a run.
pub const UNKNOWN_UNTIL_RUN: Code = Code("E0328");
/// `event_time` with neither or both of `column` and `value`.
pub const EVENT_TIME_SOURCE: Code = Code("E0329");

/// Two components use one thing that only one can.
pub const CLAIMED_TWICE: Code = Code("E0330");

/// The column that event time is read from is replaced before a step that needs event time.
pub const EVENT_TIME_REPLACED: Code = Code("E0331");

/// `renamed_from` names what has not gone.
pub const RENAMED: Code = Code("E0332");
/// The codes of this subject, in order.
pub const CODES: &[CodeInfo] = &[
    CodeInfo {
        code: UNKNOWN_INPUT,
        title: "nothing has this name",
        explanation: "\
`input:` names a source, an operator, or a side output of one. Nothing in the pipeline has the name that stands there.

```yaml
sources:
  transactions: { type: stdin, format: json, schema: { amount: float64 } }
operators:
  large: { type: filter, input: transaction, where: amount > 100 }   # it is `transactions`
```

Correct the name, or add the step that it should be.",
    },
    CodeInfo {
        code: UNKNOWN_OUTPUT,
        title: "the step has no such output",
        explanation: "\
A step is read by its name. What does not go on with the main rows is read as `step.output`: `step.errors` (rows that
failed), `step.rejected` (of a `filter`), `step.late`, or a case of a `route`.

```yaml
  valid: { type: filter, input: transactions, where: amount > 0 }
sinks:
  bad: { type: stdout, input: valid.reject, format: json }   # it is `valid.rejected`
```

A step of a type in which no row can fail has no `errors`: a `flatten`, a `union`, a `map` that computes nothing. The
`errors` of a chain are those of all its steps; their column `step` says which.",
    },
    CodeInfo {
        code: CYCLE,
        title: "steps read each other in a circle",
        explanation: "\
Rows flow one way: from sources, through operators, to sinks. These steps read each other, so no row could ever enter.

```yaml
operators:
  a: { type: filter, input: b, where: x > 0 }
  b: { type: map, input: a, set: { y: x + 1 } }
```

One of them must read something else. What a key has seen before is kept by `rolling` or `stateful`, not by a circle.",
    },
    CodeInfo {
        code: UNUSED_STEP,
        title: "nothing reads this step",
        explanation: "\
A warning. The rows of a source or an operator go nowhere: no step and no sink reads them. It still costs time.

Let a sink read it, or take it out. To run a step for its side effects alone (counting, say), give it a sink of type
`blackhole`.",
    },
    CodeInfo {
        code: UNKNOWN_KIND,
        title: "no such type",
        explanation: "\
`type:` says what a component is. Each section has types of its own: `kafka` is a source or a sink, `filter` an
operator, `candle` a model.

```yaml
operators:
  large: { type: fliter, input: transactions, where: amount > 100 }   # it is `filter`
```

`engine schema` gives editors the list of all types, so that they complete it.",
    },
    CodeInfo {
        code: KIND_NOT_BUILT,
        title: "this type is not built yet",
        explanation: "\
The language has this type, but this version of the engine can't run it. Nothing of it is ignored or guessed at: the
pipeline does not start.",
    },
    CodeInfo {
        code: SINK_AS_INPUT,
        title: "no rows come out of a sink",
        explanation: "\
A sink is where rows leave. To use the same rows twice, let both read the step before:

```yaml
sinks:
  holds: { type: stdout, input: risky, format: json }
  copy:  { type: file, input: holds, path: out.jsonl, format: json }   # write `input: risky`
```

Rows that a sink could not deliver are read as `holds.errors`.",
    },
    CodeInfo {
        code: UNHASHABLE_KEY,
        title: "a key of this type can't be hashed",
        explanation: "\
Rows of one key are brought together by a hash of the key, which must be the same for equal values on every machine. A
float has two zeros and many forms of not-a-number, and two sums that should be equal may differ in their last bit; the
entries of a map have no order.

Use an integer, text, decimal, date or timestamp, or make one before: `set: { bucket: CAST(amount / 10 AS BIGINT) }`.",
    },
    CodeInfo {
        code: CHANGELOG_INPUT,
        title: "a changelog where only an append stream works",
        explanation: "\
A changelog's rows insert and delete: what was said before may be taken back. This step takes rows that stay, so it would
count a row that is taken back as if it were there.

Read an append stream instead, or put a step between that makes one.",
    },
    CodeInfo {
        code: GUARANTEE,
        title: "this guarantee can't be given",
        explanation: "\
`delivery:` says what holds of every row when the engine is stopped at any time and started again. This version gives
`at_least_once`: nothing is lost, and after a crash some rows may come again. Make that harmless where the rows go: a key
that is overwritten, or an `idempotency_key` that the receiver knows again.",
    },
    CodeInfo {
        code: UNNAMED_STATE,
        title: "a stateful step of a chain needs a name",
        explanation: "\
What a step keeps is found again by the step's name. The steps of a `chain` have names only if they are given:

```yaml
  history:
    type: chain
    input: valid
    steps:
      - { type: map, set: { hour: \"date_part('hour', at)\" } }
      - { type: rolling, name: by_card, key: card, over: 5m, columns: { n: count(*) } }   # `name:` is due here
```",
    },
    CodeInfo {
        code: UNUSED_PARAMETER,
        title: "nothing uses this parameter",
        explanation: "\
A warning. Neither an expression (`param.NAME`) nor a value (`${param:NAME}`) mentions the parameter, so that
`--param NAME=...` would change nothing.",
    },
    CodeInfo {
        code: UNKNOWN_CONNECTION,
        title: "no such connection",
        explanation: "\
`connection:` names one of the `connections:` of the pipeline, where addresses and credentials are said once.

```yaml
connections:
  bank: { type: kafka, brokers: \"127.0.0.1:9092\" }
sources:
  transactions: { type: kafka, connection: bnak, topic: transactions }   # it is `bank`
```",
    },
    CodeInfo {
        code: CONNECTION_KIND,
        title: "a connection of another type",
        explanation: "\
A source or sink needs a connection of its own type: a `kafka` source one of type `kafka`. The connection named here leads
to another system.",
    },
    CodeInfo {
        code: UNUSED_CONNECTION,
        title: "nothing uses this connection",
        explanation: "\
A warning. No source and no sink names the connection. With a profile that uses it the warning goes away.",
    },
    CodeInfo {
        code: UNKNOWN_MODEL,
        title: "no such model",
        explanation: "\
`model:` names one of the `models:` of the pipeline:

```yaml
models:
  risk: ../models/risk/model.yaml
operators:
  scored: { type: predict, input: features, model: risks, features: [amount], outputs: { risk: score } }   # it is `risk`
```",
    },
    CodeInfo {
        code: UNUSED_MODEL,
        title: "nothing uses this model",
        explanation: "A warning. No `predict` names the model, so that its weights are checked but never loaded.",
    },
    CodeInfo {
        code: UNKNOWN_METADATA,
        title: "the source knows no such thing of its records",
        explanation: "\
`metadata:` makes columns of what the system knows of each record beside its content: new column, then what it is.

```yaml
  transactions:
    type: kafka
    metadata: { sent: timestamp, trace: headers['trace'] }
```

What there is depends on the type of source: a file has `path`, Kafka `key`, `headers['name']`, `topic`, `partition`,
`offset` and `timestamp`.",
    },
    CodeInfo {
        code: COLUMN_TAKEN,
        title: "a column with this name is there already",
        explanation: "\
Two columns of a stream can't have one name. A column of `metadata:` must differ from those of the schema, and a list of
columns names each once.",
    },
    CodeInfo {
        code: UNKNOWN_COLUMN,
        title: "no such column",
        explanation: "\
The rows that come in here have no column of this name. Names are case-sensitive: `userId` is not `userid`.

`engine dry-run` prints the columns of each step.",
    },
    CodeInfo {
        code: EVENT_TIME_TYPE,
        title: "the event time is no time",
        explanation: "\
`event_time:` takes a timestamp, a date, or an integer with its `unit`. A text is made a timestamp by the schema, or by an
expression:

```yaml
    schema: { at: timestamp }
    event_time: { column: at }
# or
    event_time: { value: to_timestamp(at) }
```",
    },
    CodeInfo {
        code: EVENT_TIME_UNIT,
        title: "the unit of the event time is missing, or too much",
        explanation: "\
An integer tells a time only with its unit: `s`, `ms`, `us` or `ns` since 1970. A timestamp or a date has its own.

```yaml
    event_time: { column: sent_at_ms, unit: ms }
```",
    },
    CodeInfo {
        code: NO_EVENT_TIME,
        title: "this needs event time, which the rows don't have",
        explanation: "\
The step asks when each row happened, and no source behind it says so:

```yaml
sources:
  transactions:
    type: file
    event_time: { column: at, max_delay: 5s }
```",
    },
    CodeInfo {
        code: OBJECTIVE_TARGET,
        title: "an objective on something that is not there",
        explanation: "\
`end_to_end` is measured at a `sink:`, `step_latency` and `error_rate` at a `step:`, `lag` at a `source:`. The one named
here is none of the pipeline's.",
    },
    CodeInfo {
        code: OBJECTIVE_OUT_OF_REACH,
        title: "the plan can't hold this objective",
        explanation: "\
A warning. Some parts of the latency are known before anything runs: an epoch at the least, and at the most what a sink's
`timeout` allows. Either the median or a percentile is promised below the least, or `max` below what a slow delivery may take.

Give the sink a shorter `timeout`, or promise less.",
    },
    CodeInfo {
        code: TOO_FEW_INPUTS,
        title: "too few inputs",
        explanation: "\
A step with `inputs:` brings rows of two or more together. With one input the step does nothing: leave it out, or add the
other.",
    },
    CodeInfo {
        code: RESERVED_NAME,
        title: "this name can't be used",
        explanation: "\
Names of columns that begin with `@` are the engine's own. An output (a case of a `route`, say) is read as `step.name`, so
its name is letters, digits, `_` and `-`; and `errors` is taken by the rows that fail.",
    },
    CodeInfo {
        code: UNKNOWN_UNTIL_RUN,
        title: "a value that is known only in a run",
        explanation: "\
A note. A key's value comes from an environment variable or a secret that is not set here, and what it stands for can't be
guessed, so that the steps which depend on it were not checked. Set the variable, or give a default: `${env:NAME:-value}`.",
    },
    CodeInfo {
        code: EVENT_TIME_SOURCE,
        title: "`event_time` takes `column` or `value`",
        explanation: "\
`event_time:` says when each row happened either by a `column` or by an expression in `value`: one of them, not both.

```yaml
    event_time: { column: at, max_delay: 5s }
```",
    },
    CodeInfo {
        code: CLAIMED_TWICE,
        title: "two components use one thing that only one can",
        explanation: "\
Two sinks that write to one file would write over each other, a sink that writes to the file which a source reads would feed
or empty it, and what one source reads of the standard input is gone for another. To write the rows of several steps to one
file, bring them together with a `union`; to use the rows of a source twice, read its name twice.",
    },
    CodeInfo {
        code: EVENT_TIME_REPLACED,
        title: "the column of the event time is replaced",
        explanation: "\
When a row happened is said once, at its source. A row keeps that time through every step, whatever becomes of the column
that it was read from, so a `map` that gives that column another value does not move the row in time: windows behind it would
go by another time than the column shows. Give the new column another name.

```yaml
operators:
  hours: { type: map, input: a, set: { hour: date_trunc('hour', at) } }     # not: at: date_trunc('hour', at)
```

Where the source has the wrong time, correct it there, before it becomes the event time: under `set:` of the source, or with
`event_time: { value: at + INTERVAL '1h' }`. Where no step behind needs event time, the column may be replaced.",
    },
    CodeInfo {
        code: RENAMED,
        title: "`renamed_from` names something that is still there",
        explanation: "\
State goes by names: what a window, a rolling step or a source has kept is found again under the name of its component.
`renamed_from: old` says that it is to be found under another name, once: so no component may have the old name any more, and
only one may come from it. A component whose name did not change has no `renamed_from`.

```yaml
operators:
  spending: { type: rolling, renamed_from: totals, input: payments, key: card, columns: { n: count(*) } }
```

When the pipeline has run once under the new name, the key can stay or be taken out.",
    },
];
