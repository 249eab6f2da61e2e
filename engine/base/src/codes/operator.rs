//! E035x: what a row-wise step asks of its input, and a `predict` of its model.

use super::CodeInfo;
use crate::diagnostic::Code;

/// A step that would do nothing, or leave nothing.
pub const NOTHING_TO_DO: Code = Code("E0350");
/// `keep` and `drop` in one step.
pub const KEEP_AND_DROP: Code = Code("E0351");
/// `flatten` of a column that is not a list.
pub const NOT_A_LIST: Code = Code("E0352");
/// The inputs of a `union` differ.
pub const UNION_MISMATCH: Code = Code("E0353");
/// Too few or too many features for a model.
pub const FEATURE_COUNT: Code = Code("E0354");
/// A feature of a type that no model takes.
pub const FEATURE_TYPE: Code = Code("E0355");
/// Features are not given to the inputs that a model has.
pub const MODEL_INPUTS: Code = Code("E0356");
/// Outputs that a model does not have, or that can't be columns.
pub const MODEL_OUTPUTS: Code = Code("E0357");
/// A fallback that does not stand for every output.
pub const BAD_FALLBACK: Code = Code("E0358");
/// A feature may be null, and the model has no default.
pub const NULLABLE_FEATURE: Code = Code("E0359");
/// A key that changes nothing here.
pub const NO_EFFECT: Code = Code("E0360");

/// The codes of this subject, in order.
pub const CODES: &[CodeInfo] = &[
    CodeInfo {
        code: NOTHING_TO_DO,
        title: "a step that does nothing, or leaves nothing",
        explanation: "\
A `map` with none of `set`, `keep`, `drop` and `rename`, or after which no column is left; a `route` without cases; a
`predict` without features or outputs; a `stateful` step that emits nothing, or keeps nothing.

```yaml
  tidy: { type: map, input: transactions }   # what is it to do?
```

Say what the step is to do, or take it out and read its input directly.",
    },
    CodeInfo {
        code: KEEP_AND_DROP,
        title: "`keep` and `drop` in one step",
        explanation: "\
`keep` names the columns that stay, and all others go; `drop` names those that go, and all others stay. One of them says
it all.

```yaml
  small: { type: map, input: transactions, keep: [id, amount], drop: [card] }   # `card` goes anyway
```",
    },
    CodeInfo {
        code: NOT_A_LIST,
        title: "`flatten` of a column that is not a list",
        explanation: "\
`flatten` puts out one row for each element of a list, so its `column` must be of type `list<T>`. A list inside of a
struct is made a column first:

```yaml
  items: { type: map, input: orders, set: { items: basket.items } }
  lines: { type: flatten, input: items, column: items, as: item }
```",
    },
    CodeInfo {
        code: UNION_MISMATCH,
        title: "the inputs of a `union` differ",
        explanation: "\
All inputs of a `union` have the same columns, by name and type. Their order may differ, and a column may be null if it
may be null in any of them.

Put a `map` before the input that differs: `rename: { amount: total }` for another name, `set: { amount: CAST(amount AS
DOUBLE) }` for another type, `keep` or `drop` for what is too much.",
    },
    CodeInfo {
        code: FEATURE_COUNT,
        title: "too few or too many features",
        explanation: "\
A model's input of shape `f32[N, 6]` takes six numbers a row. Each numeric column under `features:` gives one; a list of
fixed length gives as many as it has elements. One list whose length is not in its type gives what is left, and a row
whose list is longer or shorter is an error row.

The order of the features is that in which the model was trained.",
    },
    CodeInfo {
        code: FEATURE_TYPE,
        title: "a feature of a type that no model takes",
        explanation: "\
Features are numbers: integers, floats, decimals, booleans (as 0 and 1), and lists of these. Text, times and structs are
made into numbers by a `map` before:

```yaml
  features: { type: map, input: transactions, set: { hour: \"date_part('hour', at)\" } }
```",
    },
    CodeInfo {
        code: MODEL_INPUTS,
        title: "features for other inputs than the model has",
        explanation: "\
`features:` is a list for a model with one input, and one list for each input, by its name in the card, for a model with
several:

```yaml
    features: { user: [age, visits], item: [price] }
```",
    },
    CodeInfo {
        code: MODEL_OUTPUTS,
        title: "outputs that the model does not have",
        explanation: "\
`outputs:` is `new column: output of the model`, or a list of outputs that become columns of the same names. What the
model puts out stands in its card.

An output of shape `f32[N]` becomes a `float32` column, one of `f32[N, k]` a `list<float32>`. Outputs of more dimensions
can't be columns.",
    },
    CodeInfo {
        code: BAD_FALLBACK,
        title: "a fallback that does not fit the outputs",
        explanation: "\
With `on_error: { fallback: ... }` a row that the model can't score gets these values. There is one for each new column of
`outputs:`, and no other: a number for a `float32`, a list of numbers of the right length for a list, or `null`.

```yaml
    outputs: { risk: score }
    on_error: { fallback: { risk: 1.0 } }
```",
    },
    CodeInfo {
        code: NULLABLE_FEATURE,
        title: "a feature that may be null",
        explanation: "\
A warning. By its type this feature may be null, and the model's card has no default for a null. A row with a null there
goes to the error output, or gets the fallback.

Write `coalesce(x, 0)` in a `map` before, let only rows through where `x IS NOT NULL`, or write `defaults: { INPUT: 0 }` in
the card.",
    },
    CodeInfo {
        code: NO_EFFECT,
        title: "a key without effect",
        explanation: "\
A warning. The key is right, but changes nothing in this place. A model whose results depend on what else is in its batch
is given one row at a time, so that a row always gets the same score; `batch: { max_rows }` has no effect on it. A column of
a record that no row changes is a constant.",
    },
];
