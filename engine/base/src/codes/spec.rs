//! E01xx: the file and its YAML, keys, values and units.

use super::CodeInfo;
use crate::diagnostic::Code;

/// A file can't be read.
pub const UNREADABLE_FILE: Code = Code("E0101");
/// A file is too large.
pub const FILE_TOO_LARGE: Code = Code("E0102");
/// A file is not UTF-8.
pub const NOT_UTF8: Code = Code("E0103");
/// The YAML can't be read, for a reason without a code of its own.
pub const YAML_SYNTAX: Code = Code("E0104");
/// A tab stands where spaces must.
pub const TAB_INDENTATION: Code = Code("E0105");
/// Lines that belong together are indented differently.
pub const INDENTATION: Code = Code("E0106");
/// A text needs quotes.
pub const NEEDS_QUOTES: Code = Code("E0107");
/// A quote or a bracket is not closed.
pub const UNCLOSED: Code = Code("E0108");
/// A key is given twice.
pub const DUPLICATE_KEY: Code = Code("E0109");
/// A merge key, `<<`.
pub const MERGE_KEY: Code = Code("E0110");
/// A tag, `!name`.
pub const TAG: Code = Code("E0111");
/// More than one document in a file, or none.
pub const DOCUMENTS: Code = Code("E0112");
/// Nested too deeply.
pub const TOO_DEEP: Code = Code("E0113");
/// Aliases repeat too much, or refer to themselves.
pub const ALIAS: Code = Code("E0114");
/// A key is not text.
pub const KEY_NOT_TEXT: Code = Code("E0115");
/// An expression was split at a comma.
pub const SPLIT_EXPRESSION: Code = Code("E0116");
/// An unknown key.
pub const UNKNOWN_KEY: Code = Code("E0117");
/// A key is missing.
pub const MISSING_KEY: Code = Code("E0118");
/// A value of the wrong type.
pub const WRONG_TYPE: Code = Code("E0119");
/// `yes`, `no`, `on` or `off` for a boolean.
pub const NOT_A_BOOLEAN: Code = Code("E0120");
/// Not one of the values that a key takes.
pub const UNKNOWN_VALUE: Code = Code("E0121");
/// A bare number where a unit is due.
pub const MISSING_UNIT: Code = Code("E0122");
/// Not a duration.
pub const BAD_DURATION: Code = Code("E0123");
/// Not a size.
pub const BAD_SIZE: Code = Code("E0124");
/// Not a rate.
pub const BAD_RATE: Code = Code("E0125");
/// An expression is missing.
pub const EMPTY_EXPRESSION: Code = Code("E0126");
/// `${...}` in an expression.
pub const SUBSTITUTION_IN_EXPRESSION: Code = Code("E0127");
/// A `${...}` of no known form.
pub const BAD_SUBSTITUTION: Code = Code("E0128");
/// An environment variable is not set.
pub const MISSING_ENV: Code = Code("E0129");
/// A secret is not to be had.
pub const MISSING_SECRET: Code = Code("E0130");
/// A secret where it would be shown.
pub const SECRET_SHOWN: Code = Code("E0131");
/// An unknown parameter.
pub const UNKNOWN_PARAMETER: Code = Code("E0132");
/// A parameter without a value.
pub const PARAMETER_WITHOUT_VALUE: Code = Code("E0133");
/// A parameter's value or type is wrong.
pub const BAD_PARAMETER: Code = Code("E0134");
/// An unknown profile.
pub const UNKNOWN_PROFILE: Code = Code("E0135");
/// A profile changes logic.
pub const PROFILE_CHANGES_LOGIC: Code = Code("E0136");
/// A profile names a component that is not there.
pub const PROFILE_UNKNOWN_COMPONENT: Code = Code("E0137");
/// A `--set` that fits nothing.
pub const BAD_OVERRIDE: Code = Code("E0138");
/// The version is missing or unknown.
pub const VERSION: Code = Code("E0139");
/// Not a name.
pub const BAD_NAME: Code = Code("E0140");
/// A name is used twice.
pub const NAME_TAKEN: Code = Code("E0141");
/// A number out of range.
pub const OUT_OF_RANGE: Code = Code("E0142");
/// Known to the language but not built yet.
pub const NOT_BUILT: Code = Code("E0143");
/// A pipeline without sources or sinks.
pub const NOTHING_TO_DO: Code = Code("E0144");
/// A chain that is not one.
pub const BAD_CHAIN: Code = Code("E0145");
/// An objective that can't be measured.
pub const BAD_OBJECTIVE: Code = Code("E0146");
/// Not a column type.
pub const BAD_TYPE: Code = Code("E0147");
/// Not a schema.
pub const BAD_SCHEMA: Code = Code("E0148");
/// A part of JSON Schema that has no column type.
pub const UNSUPPORTED_JSON_SCHEMA: Code = Code("E0149");
/// A control character in the file.
pub const CONTROL_CHARACTER: Code = Code("E0150");
/// A value of an odd form, such as a list of the wrong length.
pub const BAD_VALUE: Code = Code("E0151");
/// An include that can't be.
pub const BAD_INCLUDE: Code = Code("E0152");
/// A template that is not one.
pub const BAD_TEMPLATE: Code = Code("E0153");
/// An unknown template.
pub const UNKNOWN_TEMPLATE: Code = Code("E0154");
/// Templates that use each other in a circle.
pub const TEMPLATE_CIRCLE: Code = Code("E0155");
/// An instance of a template that gives it what it does not take.
pub const BAD_INSTANCE: Code = Code("E0156");
/// A template, or an input of one, that nothing uses.
pub const UNUSED_TEMPLATE: Code = Code("E0157");

/// The codes of this subject, in order.
pub const CODES: &[CodeInfo] = &[
    CodeInfo {
        code: UNREADABLE_FILE,
        title: "a file can't be read",
        explanation: r#"A file that the pipeline needs (the pipeline itself, a schema, a model card) can't be opened.

```yaml
sources:
  rows:
    type: stdin
    schema: schemas/row.yaml   # looked for beside this file
```

A path is relative to the file that names it, not to the folder in which the engine was started. Check the path and the permissions."#,
    },
    CodeInfo {
        code: FILE_TOO_LARGE,
        title: "a file is too large",
        explanation: r#"A pipeline file, schema or model card has more than 4 MiB. Such a file describes; it holds no data. Put rows into a file that a source reads, mappings into a file that `enrich` reads, and weights into a `.safetensors` file."#,
    },
    CodeInfo {
        code: NOT_UTF8,
        title: "a file is not UTF-8",
        explanation: r#"The file has bytes that are not UTF-8, usually because it was saved as Latin-1 or UTF-16. Save it as UTF-8. The message names the first such byte."#,
    },
    CodeInfo {
        code: YAML_SYNTAX,
        title: "the YAML can't be read",
        explanation: r#"The file is not YAML. The usual slips:

```yaml
version:1          # a space is missing after the colon
pipeline fraud     # the colon is missing
key: {a: 1 b: 2}   # the comma is missing
```

The parser says where it gave up, which may be a line below the slip."#,
    },
    CodeInfo {
        code: TAB_INDENTATION,
        title: "a tab stands where spaces must",
        explanation: r#"YAML is indented with spaces only.

```yaml
sources:
<tab>rows:     # a tab
  rows:       # two spaces
```

Most editors can turn tabs into spaces."#,
    },
    CodeInfo {
        code: INDENTATION,
        title: "lines are indented differently",
        explanation: r#"Keys that belong together are indented by the same number of spaces.

```yaml
rows:
  type: file
   path: a.jsonl     # three spaces: belongs to nothing
  path: a.jsonl      # right
```"#,
    },
    CodeInfo {
        code: NEEDS_QUOTES,
        title: "a text needs quotes",
        explanation: r#"Some signs have a meaning in YAML: `: `, ` #`, and `{ } [ ] , & * ! | > % @` and quotes at the start of a value. A text or expression with them stands in quotes, or below a `|`:

```yaml
where: 'EUR' = currency          # YAML ends the value after 'EUR'
where: "'EUR' = currency"        # right
where: |
  'EUR' = currency               # right, too
```"#,
    },
    CodeInfo {
        code: UNCLOSED,
        title: "a quote or bracket is not closed",
        explanation: r#"A quote, `{` or `[` is opened and not closed, or the other way round.

```yaml
event_time: { column: at, max_delay: 5s     # `}` is missing
text: "not closed
```"#,
    },
    CodeInfo {
        code: DUPLICATE_KEY,
        title: "a key is given twice",
        explanation: r#"A map has the same key twice. YAML readers differ in which one they take, so the engine takes neither.

```yaml
rows:
  path: a.jsonl
  path: b.jsonl
```

Remove one of them. Two components need two names."#,
    },
    CodeInfo {
        code: MERGE_KEY,
        title: "merge keys are not part of the language",
        explanation: r#"`<<` is an extension of YAML that hides what a component has. Write the keys out; address and credentials that several components share stand once under `connections`."#,
    },
    CodeInfo {
        code: TAG,
        title: "tags are not part of the language",
        explanation: r#"A value that starts with `!` is a tag in YAML.

```yaml
where: !active        # a tag
where: "NOT active"   # an expression
```

Remove the tag, or put the text in quotes."#,
    },
    CodeInfo {
        code: DOCUMENTS,
        title: "not one document",
        explanation: r#"A file holds one pipeline: one YAML document. `---` in the middle starts a second one; an empty file has none."#,
    },
    CodeInfo {
        code: TOO_DEEP,
        title: "nested too deeply",
        explanation: r#"Lists and maps stand more than 64 levels deep in one another. No key needs that; a bracket is probably not closed, or the file was made by a program that went wrong."#,
    },
    CodeInfo {
        code: ALIAS,
        title: "an alias goes wrong",
        explanation: r#"`*name` repeats what `&name` marked. An alias must come after its anchor, can't stand inside it, and all aliases of a file may repeat at most 10,000 values (a few lines of aliases of aliases can stand for billions).

```yaml
where: *active          # an alias without an anchor
where: "2 * active"     # an expression: in quotes if it starts with `*`
```"#,
    },
    CodeInfo {
        code: KEY_NOT_TEXT,
        title: "a key is not a text",
        explanation: r#"A key is a single text: not a list, a map or nothing.

```yaml
{ amount: 1 }: x     # a map as key
: x                  # nothing as key
```"#,
    },
    CodeInfo {
        code: SPLIT_EXPRESSION,
        title: "an expression was split at a comma",
        explanation: r#"Inside `{...}` and `[...]` YAML splits at every comma, also at those of a function call.

```yaml
set: { z: coalesce(a, b) }        # two entries: `z: coalesce(a` and `b)`
set: { z: "coalesce(a, b)" }      # right
set:
  z: coalesce(a, b)               # right, and the usual way
```"#,
    },
    CodeInfo {
        code: UNKNOWN_KEY,
        title: "an unknown key",
        explanation: r#"A key is not one of those that stand here. It may be misspelt, belong to another `type`, or be indented one level too little or too much.

```yaml
rows:
  type: file
  pth: rows.jsonl      # did you mean `path`?
```

Unknown keys are never ignored."#,
    },
    CodeInfo {
        code: MISSING_KEY,
        title: "a key is missing",
        explanation: r#"A component lacks a key that it needs.

```yaml
sources:
  rows:
    path: rows.jsonl     # which `type`?
```"#,
    },
    CodeInfo {
        code: WRONG_TYPE,
        title: "a value of the wrong type",
        explanation: r#"A key takes another type of value.

```yaml
features: amount          # a list is due: [amount]
path: 5                   # a text is due: "5"
partitions: "5"           # a number is due: 5
columns:                  # nothing: is what belongs to it indented deeper?
```"#,
    },
    CodeInfo {
        code: NOT_A_BOOLEAN,
        title: "only `true` and `false` are booleans",
        explanation: r#"`yes`, `no`, `on`, `off`, `True` and the like are texts here, as in YAML 1.2; older readers took some of them for booleans.

```yaml
follow: yes      # a text
follow: true     # right
```"#,
    },
    CodeInfo {
        code: UNKNOWN_VALUE,
        title: "not one of the values",
        explanation: r#"A key takes one of a few values, and this is none of them. The help lists them.

```yaml
mode: upset      # did you mean `upsert`?
```"#,
    },
    CodeInfo {
        code: MISSING_UNIT,
        title: "a unit is missing",
        explanation: r#"A duration, size or rate carries its unit, so that nobody has to guess whether `5` means seconds or milliseconds.

```yaml
timeout: 50         # 50 what?
timeout: 50ms
size: 128MiB
rate: 100/s
```"#,
    },
    CodeInfo {
        code: BAD_DURATION,
        title: "not a duration",
        explanation: r#"A duration is a number and a unit: ns, us, ms, s, m, h, d, w.

```yaml
over: 5min     # the unit is `m`
over: 5m
over: 1.5h
```"#,
    },
    CodeInfo {
        code: BAD_SIZE,
        title: "not a size",
        explanation: r#"A size is a number and a unit: B, KB, MB, GB, TB (powers of 1000), KiB, MiB, GiB, TiB (powers of 1024).

```yaml
bytes: 64k       # 64KB or 64KiB?
bytes: 64KiB
```"#,
    },
    CodeInfo {
        code: BAD_RATE,
        title: "not a rate",
        explanation: r#"A rate is a number above zero and `/s`, `/m`, `/h` or `/d`.

```yaml
rate: 100 per second
rate: 100/s
```"#,
    },
    CodeInfo {
        code: EMPTY_EXPRESSION,
        title: "an expression is missing",
        explanation: r#"A key takes an expression and has nothing. In a flow map, a comma inside an expression may have split it.

```yaml
set:
  z:                  # nothing
  z: amount * 2
  empty: "''"         # an empty text
```"#,
    },
    CodeInfo {
        code: SUBSTITUTION_IN_EXPRESSION,
        title: "`${...}` in an expression",
        explanation: r#"`${...}` is replaced in texts such as paths and addresses, never in expressions: what is put there could be anything, and would have no type. Use a parameter.

```yaml
parameters:
  limit: { type: float64, default: "${env:LIMIT:-0.9}" }
operators:
  high:
    type: filter
    input: scored
    where: score > param.limit      # not ${param:limit}
```"#,
    },
    CodeInfo {
        code: BAD_SUBSTITUTION,
        title: "an unknown form of `${...}`",
        explanation: r#"The forms are `${env:NAME}`, `${env:NAME:-default}`, `${secret:NAME}` and `${param:NAME}`. For a plain `${` write `$${`.

```yaml
url: ${URL}            # which kind?
url: "${env:URL}"
```"#,
    },
    CodeInfo {
        code: MISSING_ENV,
        title: "an environment variable is not set",
        explanation: r#"A text uses `${env:NAME}`, and NAME is not set. Set it, or write a default: `${env:NAME:-value}`. A dry run checks a placeholder instead and warns."#,
    },
    CodeInfo {
        code: MISSING_SECRET,
        title: "a secret is not set",
        explanation: r#"A text uses `${secret:NAME}`, and there is no such secret where the engine runs. The secret `db-password` is taken from the environment variable `ENGINE_SECRET_DB_PASSWORD`, or from the file `/run/secrets/db-password`. A dry run needs no secrets."#,
    },
    CodeInfo {
        code: SECRET_SHOWN,
        title: "a secret where it would be shown",
        explanation: r#"Only some keys keep a secret, such as passwords and tokens. All others are shown in plans, logs and diagnostics, so they take no `${secret:NAME}`. Use `${env:NAME}` for what may be seen."#,
    },
    CodeInfo {
        code: UNKNOWN_PARAMETER,
        title: "an unknown parameter",
        explanation: r#"`${param:NAME}` or `--param NAME=value` names a parameter that the file does not declare.

```yaml
parameters:
  threshold: { type: float64, default: 0.9 }
```"#,
    },
    CodeInfo {
        code: PARAMETER_WITHOUT_VALUE,
        title: "a parameter has no value",
        explanation: r#"A parameter without a `default` needs `--param name=value` when the pipeline runs."#,
    },
    CodeInfo {
        code: BAD_PARAMETER,
        title: "a parameter's value or type is wrong",
        explanation: r#"The value of a parameter is of another type than it declares, or out of that type's range; or the type is no scalar.

```yaml
parameters:
  threshold: { type: float64, default: high }     # not a number
```"#,
    },
    CodeInfo {
        code: UNKNOWN_PROFILE,
        title: "an unknown profile",
        explanation: r#"`--profile NAME` names a profile that is not under `profiles`."#,
    },
    CodeInfo {
        code: PROFILE_CHANGES_LOGIC,
        title: "a profile changes logic",
        explanation: r#"A profile swaps the edges of a pipeline (connectors, their keys, `format`, `connections`) and never what the rows mean: schemas, event time, operators and models stay. So a pipeline that was tested with one profile means the same with another. Use a parameter for a value that differs."#,
    },
    CodeInfo {
        code: PROFILE_UNKNOWN_COMPONENT,
        title: "a profile names what is not there",
        explanation: r#"A profile changes sources and sinks that the file has. It adds nothing but connections."#,
    },
    CodeInfo {
        code: BAD_OVERRIDE,
        title: "`--set` fits nothing",
        explanation: r#"The path of `--set path=value` leads to no value. It names the keys from the top, with dots between: `--set sources.rows.path=rows.jsonl`. Items of a list go by their number, from zero."#,
    },
    CodeInfo {
        code: VERSION,
        title: "the version is missing or unknown",
        explanation: r#"The file begins with the version of the language, so that a later engine reads it in the same way.

```yaml
version: 1
```"#,
    },
    CodeInfo {
        code: BAD_NAME,
        title: "not a name",
        explanation: r#"A name begins with a letter or `_` and has letters, digits, `_` and `-`. State, metrics and checkpoints go by it; a dot separates a step from its side output (`valid.rejected`)."#,
    },
    CodeInfo {
        code: NAME_TAKEN,
        title: "a name is used twice",
        explanation: r#"Sources, operators (also named steps of a chain) and sinks share one space of names: an `input` must say which one it means."#,
    },
    CodeInfo {
        code: OUT_OF_RANGE,
        title: "a number is out of range",
        explanation: r#"A number is too small or too large for its key. The help says what it takes."#,
    },
    CodeInfo {
        code: NOT_BUILT,
        title: "not built yet",
        explanation: r#"The language has this key, format or value, and this version of the engine does not. It is refused rather than ignored, so that no pipeline runs without what it asks for. The help says what to do meanwhile."#,
    },
    CodeInfo {
        code: NOTHING_TO_DO,
        title: "a pipeline without sources or sinks",
        explanation: r#"A pipeline needs at least one source and one sink.

```yaml
version: 1
pipeline: copy
sources:
  rows: { type: stdin, format: json, schema: { name: string } }
sinks:
  out: { type: stdout, input: rows, format: json }
```"#,
    },
    CodeInfo {
        code: BAD_CHAIN,
        title: "a chain goes wrong",
        explanation: r#"A chain has an `input` and `steps`; each step reads the one before it, and the last goes by the chain's name.

```yaml
clean:
  type: chain
  input: rows
  steps:
    - { type: filter, where: amount > 0 }
    - type: map
      drop: [note]
```

Steps have no `input`, the last has no `name`, and a chain can't stand in a chain."#,
    },
    CodeInfo {
        code: BAD_OBJECTIVE,
        title: "an objective can't be measured",
        explanation: r#"Each `measure` has its own target and thresholds:

| measure | about | thresholds |
|---|---|---|
| `end_to_end` | `sink` | `p50`, `p95`, `p99`, `max` |
| `step_latency` | `step` | `p50`, `p95`, `p99`, `max` |
| `error_rate` | `step` or `sink` | `max_ratio` |
| `lag` | `source` | `max`, `max_rows` |

```yaml
objectives:
  - { name: in time, measure: end_to_end, sink: holds, p99: 250ms, over: 1m }
```"#,
    },
    CodeInfo {
        code: BAD_TYPE,
        title: "not a column type",
        explanation: r#"The types are `bool`, `int8` to `int64`, `uint8` to `uint64`, `float32`, `float64`, `decimal(p, s)`, `string`, `binary`, `date`, `timestamp`, `timestamp(ms, "Europe/Berlin")`, `duration`, `json`, `list<T>` or `{ list: T }`, `map<K, V>`, and `{ field: T }` for a struct. `T | null` may be null.

```yaml
amount: double             # did you mean `float64`?
note: string?              # string | null
tags: [string]             # list<string>
```"#,
    },
    CodeInfo {
        code: BAD_SCHEMA,
        title: "not a schema",
        explanation: r#"A schema is the path of a schema file, or a map of column to type:

```yaml
schema: ../schemas/row.yaml
schema: { card: string, amount: "decimal(18, 2)", note: string | null }
```

A file holds the same map, or a JSON Schema of an object with `properties`. Types with a comma need quotes inside `{...}`."#,
    },
    CodeInfo {
        code: UNSUPPORTED_JSON_SCHEMA,
        title: "a part of JSON Schema has no column type",
        explanation: r#"A column has one type. `oneOf` of several types, arrays with a type for each place, types that hold themselves and `$ref`s to other files have none; leave the part out and the column is read as `json`, or describe the schema in our own form. Parts that only narrow values (`minimum`, `pattern`, ...) are not checked on rows, which a warning says; use a `filter`."#,
    },
    CodeInfo {
        code: CONTROL_CHARACTER,
        title: "a control character",
        explanation: r#"The file holds a control character, such as a null byte: it is damaged, or no text. Inside double quotes such a character can be written as an escape, `"\u0007"`."#,
    },
    CodeInfo {
        code: BAD_VALUE,
        title: "a value of an odd form",
        explanation: r#"A value has the right type but not the form that its key takes, such as a list of the wrong length. The message says what is due."#,
    },
    CodeInfo {
        code: BAD_INCLUDE,
        title: "an include that can't be",
        explanation: r#"A pipeline may bring in other files, whose sections are taken as if they stood in it:

```yaml
version: 1
pipeline: fraud
include: [common/sources.yaml, common/scoring.yaml]     # relative to this file
```

```yaml
version: 1                                              # common/sources.yaml
sources:
  transactions: { type: file, path: ../data/transactions.jsonl, schema: ../schemas/transaction.yaml }
```

An included file has `version` and any of `parameters`, `connections`, `sources`, `models`, `templates`, `operators`, `sinks`, `objectives`, `tests` and `include`; `pipeline`, `profiles`, `max_in_flight` and `delivery` stand in the main file only. Files can't include each other in a circle, and their paths are written out: `${...}` is replaced after the files are read."#,
    },
    CodeInfo {
        code: BAD_TEMPLATE,
        title: "a template goes wrong",
        explanation: r#"A template has names for what it reads, and steps that read these and each other:

```yaml
templates:
  scoring:
    parameters:
      threshold: { type: float64, default: 0.9 }
    inputs: [transactions]
    operators:
      history: { type: rolling, input: transactions, key: card, over: 5m, columns: { n: count(*) } }
      risky: { type: filter, input: history, where: n * amount > param.threshold }
    output: risky             # what an instance's own name stands for; the last step unless said
```

Inputs and steps have names of their own, no step is named `errors` (`INSTANCE.errors` are the rows that fail in any step), and the output is a step. All instances of all templates have at most 10,000 steps, and templates stand in one another at most 16 deep."#,
    },
    CodeInfo {
        code: UNKNOWN_TEMPLATE,
        title: "there is no such template",
        explanation: r#"An operator of `type: template` names a template that neither this file nor one that it includes has."#,
    },
    CodeInfo {
        code: TEMPLATE_CIRCLE,
        title: "templates use each other in a circle",
        explanation: r#"An operator of `type: template` is replaced by the template's steps, so a template can't use itself, nor one that uses it. What both need can be a template of its own, which both use."#,
    },
    CodeInfo {
        code: BAD_INSTANCE,
        title: "an instance of a template goes wrong",
        explanation: r#"An instance gives the template what it reads, and values for its parameters:

```yaml
operators:
  cards: { type: template, template: scoring, input: valid, with: { threshold: 0.8 } }
  wires: { type: template, template: matching, inputs: { left: orders, right: payments } }
```

`input` is for a template with one input; `inputs` names each of several. The name of the template is written out."#,
    },
    CodeInfo {
        code: UNUSED_TEMPLATE,
        title: "nothing uses a template, or an input of it",
        explanation: r#"A template stands in this file and no operator is an instance of it; or no step of a template reads one of its inputs. An included file may have templates that a pipeline does not use."#,
    },
];
