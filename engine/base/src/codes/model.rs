//! E05xx: models, cards and weights.

use super::CodeInfo;
use crate::diagnostic::Code;

/// A tensor's text in a card can't be read.
pub const BAD_TENSOR: Code = Code("E0501");
/// A tensor of a card is of a type that can't be fed.
pub const TENSOR_TYPE: Code = Code("E0502");
/// The weights file can't be read.
pub const WEIGHTS_UNREADABLE: Code = Code("E0503");
/// The weights file is not what its kind reads.
pub const NOT_SAFETENSORS: Code = Code("E0504");
/// The weights file is cut short.
pub const WEIGHTS_TRUNCATED: Code = Code("E0505");
/// A layer names a tensor that the weights lack.
pub const MISSING_TENSOR: Code = Code("E0506");
/// A tensor's shape is not its layer's.
pub const TENSOR_SHAPE: Code = Code("E0507");
/// A tensor's type can't be read.
pub const TENSOR_DTYPE: Code = Code("E0508");
/// A layer takes another width than it is given.
pub const LAYER_WIDTH: Code = Code("E0509");
/// The layers give another width than the output declares.
pub const OUTPUT_SHAPE: Code = Code("E0510");
/// A residual's layers change the width.
pub const RESIDUAL_WIDTH: Code = Code("E0511");
/// `normalize` does not fit the inputs.
pub const BAD_NORMALIZE: Code = Code("E0512");
/// A part of the card is for an input that the model does not have.
pub const UNKNOWN_INPUT: Code = Code("E0513");
/// A head is for an output that the model does not have, or an output has none.
pub const UNKNOWN_OUTPUT: Code = Code("E0514");
/// Layers are missing.
pub const NO_LAYERS: Code = Code("E0515");
/// A number of a layer is out of its range.
pub const BAD_VALUE: Code = Code("E0516");
/// The weights hold NaN or infinity.
pub const BAD_WEIGHT: Code = Code("E0517");
/// The weights hold a tensor that no layer reads.
pub const UNUSED_TENSOR: Code = Code("E0518");

/// The codes of this subject, in order.
pub const CODES: &[CodeInfo] = &[
    CodeInfo {
        code: BAD_TENSOR,
        title: "not a tensor",
        explanation: "\
A card says what its model takes and gives as a type and a shape. The first dimension is always `N`, the rows of a batch; the
others are whole numbers from one up.

```yaml
inputs: { features: \"f32[6]\" }          # wrong: no batch
inputs: { features: \"f32[N, 6]\" }       # six values a row
outputs: { score: \"f32[N]\" }            # one value a row
```

Write the shape in quotes: in YAML `[` starts a list.",
    },
    CodeInfo {
        code: TENSOR_TYPE,
        title: "a tensor of a type that can't be fed",
        explanation: "\
Models take and give 32-bit floats for now. Columns of integers and of float64 are cast when they are fed, so a card needs no
other type:

```yaml
inputs: { features: \"i64[N, 6]\" }       # wrong
inputs: { features: \"f32[N, 6]\" }
```",
    },
    CodeInfo {
        code: WEIGHTS_UNREADABLE,
        title: "the weights can't be read",
        explanation: "\
The file under `weights:` is not there or can't be opened. Its path is relative to the card, or to the pipeline where the card
stands inline.",
    },
    CodeInfo {
        code: NOT_SAFETENSORS,
        title: "the weights are not a safetensors file",
        explanation: "\
Cards of `type: candle` read safetensors: names, shapes and numbers, and nothing that could run. A checkpoint of PyTorch
(`.pt`, `.bin`) is turned into one by `safetensors.torch.save_file(model.state_dict(), \"model.safetensors\")`.",
    },
    CodeInfo {
        code: WEIGHTS_TRUNCATED,
        title: "the weights are cut short",
        explanation: "\
The header of a safetensors file says where each tensor lies. This file ends before the last one does, or goes on after it: a
copy or download was interrupted. Copy it again.",
    },
    CodeInfo {
        code: MISSING_TENSOR,
        title: "a tensor is missing in the weights",
        explanation: "\
`linear` and `layer_norm` read the tensors `NAME.weight` and `NAME.bias`. One of them is not in the file: the `name` is
misspelt, the file is of another model, or the layer was trained without a bias (`bias: false`).

```yaml
layers: [ { linear: { from: 6, to: 64, name: fc1 } } ]     # reads fc1.weight, of shape [64, 6], and fc1.bias, of [64]
```",
    },
    CodeInfo {
        code: TENSOR_SHAPE,
        title: "a tensor has another shape",
        explanation: "\
The weights of `linear: { from, to }` have the shape `[to, from]`, as PyTorch and Candle store them, its bias `[to]`; those of
`layer_norm: { size }` have `[size]`. Where the two numbers are swapped, the file was saved transposed.",
    },
    CodeInfo {
        code: TENSOR_DTYPE,
        title: "a tensor of a type that can't be read",
        explanation: "\
Weights may be f32, f16, bf16 or f64 and are read as f32. Integers and 8-bit floats come from quantization, which this kind of
card does not undo: save the model as it was before.",
    },
    CodeInfo {
        code: LAYER_WIDTH,
        title: "a layer takes another width than it is given",
        explanation: "\
Each layer takes what the one before it gives; the first takes the inputs, several of them side by side in the order of
`inputs`.

```yaml
inputs: { features: \"f32[N, 6]\" }
layers:
  - linear: { from: 6, to: 64, name: fc1 }
  - relu
  - linear: { from: 32, to: 1, name: fc2 }      # wrong: 64 are given
```",
    },
    CodeInfo {
        code: OUTPUT_SHAPE,
        title: "an output has another shape than its layers give",
        explanation: "\
What an output declares is what the rest of the pipeline is checked with, so it must be what the last layer gives: `f32[N]` for
one value a row, `f32[N, 3]` for three.",
    },
    CodeInfo {
        code: RESIDUAL_WIDTH,
        title: "a residual changes the width",
        explanation: "\
`residual: [layers]` adds what the layers give to what went in, value by value, so both are of one width.

```yaml
- residual:
    - linear: { from: 64, to: 16, name: down }
    - relu
    - linear: { from: 16, to: 64, name: up }       # back to 64
```",
    },
    CodeInfo {
        code: BAD_NORMALIZE,
        title: "`normalize` does not fit the inputs",
        explanation: "\
`normalize` gives a mean and a standard deviation for each value of a row, in the order of the features; inputs become
`(x - mean) / std` before the first layer. With several inputs it stands below each one's name. A standard deviation is above
zero: a column that never varied takes 1.

```yaml
inputs: { features: \"f32[N, 3]\" }
normalize: { mean: [0.5, 12, 1], std: [1, 6.9, 1] }
```",
    },
    CodeInfo {
        code: UNKNOWN_INPUT,
        title: "the model has no such input",
        explanation: "\
`normalize`, `defaults` and `branches` go by the names under `inputs:` of the same card.",
    },
    CodeInfo {
        code: UNKNOWN_OUTPUT,
        title: "outputs and heads do not agree",
        explanation: "\
A model with several outputs says for each which layers lead to it, after the ones that all share:

```yaml
outputs: { score: \"f32[N]\", kind: \"f32[N, 3]\" }
layers: [ { linear: { from: 6, to: 64, name: fc } }, relu ]
heads:
  score: [ { linear: { from: 64, to: 1, name: score } }, sigmoid ]
  kind: [ { linear: { from: 64, to: 3, name: kind } }, softmax ]
```

Each output needs a head, and each head goes by an output's name. A head may be empty, `[]`: the output is then what `layers`
give. A model with one output needs none.",
    },
    CodeInfo {
        code: NO_LAYERS,
        title: "layers are missing",
        explanation: "\
A card of `type: candle` lists its layers; a residual lists at least one.",
    },
    CodeInfo {
        code: BAD_VALUE,
        title: "a number of a layer is out of its range",
        explanation: "\
Widths are from one up, `dropout` is a share from 0 up to but not including 1, `eps` is a small number above zero, and a default
is a finite number.",
    },
    CodeInfo {
        code: BAD_WEIGHT,
        title: "the weights hold NaN or infinity",
        explanation: "\
A number in a tensor is not finite, most often because training diverged, or because an f64 is beyond what f32 can hold. Every
score would be NaN, and every row an error.",
    },
    CodeInfo {
        code: UNUSED_TENSOR,
        title: "the weights hold a tensor that no layer reads",
        explanation: "\
A warning. Either the card lacks a layer, and scores are wrong, or the file holds more than this model needs.",
    },
];
