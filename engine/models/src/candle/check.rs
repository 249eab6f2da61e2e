//! A card against its weights: names, shapes, types, and widths that chain.
//!
//! A width that can't be known after a problem is taken from what the card says next, so that one slip is one error.

use super::weights::{Weights, is_float};
use super::{CandleCard, Layer, LayerNorm, Linear, Normalize, Statistics};
use crate::tensor::{self, MAX_WIDTH};
use engine_base::codes::model as codes;
use engine_base::{Code, Diagnostic, Diagnostics, Span};
use engine_plan::TensorSpec;
use engine_spec::Node;
use std::collections::{BTreeMap, BTreeSet};

/// How many tensors a message lists.
const MAX_LISTED: usize = 8;

/// The checks of one card.
pub(super) struct Check<'a> {
    node: &'a Node,
    card: &'a CandleCard,
    weights: Option<&'a Weights>,
    found: &'a mut Diagnostics,
    /// Tensors that layers name, and whether their shape is right.
    used: BTreeMap<String, bool>,
    /// The span of what gave the width that flows, and its words.
    giver: Option<(Span, String)>,
    parameters: usize,
}

/// Where a list of layers stands in the card.
type Path = Vec<String>;

impl<'a> Check<'a> {
    pub(super) fn new(
        node: &'a Node,
        card: &'a CandleCard,
        weights: Option<&'a Weights>,
        found: &'a mut Diagnostics,
    ) -> Check<'a> {
        Check { node, card, weights, found, used: BTreeMap::new(), giver: None, parameters: 0 }
    }

    /// `normalize`: known inputs, a number for each value, and nothing to divide by zero with.
    pub(super) fn normalize(&mut self, inputs: &[Option<TensorSpec>]) {
        let card = self.card;
        match &card.normalize {
            None => {}
            Some(Normalize::Only(statistics)) => {
                if card.inputs.len() > 1 {
                    let names = backticked(card.inputs.keys().map(String::as_str));
                    self.error(
                        codes::BAD_NORMALIZE,
                        &["normalize"],
                        "which input does `normalize` mean? The model has several",
                        format!("write `normalize: {{ INPUT: {{ mean, std }} }}`, of {names}"),
                    );
                } else {
                    self.statistics(statistics, &["normalize"], inputs.first().and_then(Option::as_ref));
                }
            }
            Some(Normalize::ByInput(by_input)) => {
                for (name, statistics) in by_input {
                    let Some(at) = card.inputs.get_index_of(name) else {
                        if name == "mean" && !self.node.at(&["normalize", "mean"]).is_some_and(is_map) {
                            self.error(
                                codes::BAD_NORMALIZE,
                                &["normalize"],
                                "`mean` and `std` stand beside inputs",
                                "write `{ mean, std }` below each input".to_owned(),
                            );
                        } else {
                            self.unknown(codes::UNKNOWN_INPUT, "normalize", name, "input", card.inputs.keys());
                        }
                        continue;
                    };
                    self.statistics(statistics, &["normalize", name], inputs.get(at).and_then(Option::as_ref));
                }
            }
        }
    }

    fn statistics(&mut self, statistics: &Statistics, path: &[&str], input: Option<&TensorSpec>) {
        for (key, values) in [("mean", &statistics.mean), ("std", &statistics.std)] {
            let path = [path, &[key]].concat();
            if self.node.at(&path).is_none() {
                self.error(
                    codes::BAD_NORMALIZE,
                    &path[..path.len() - 1],
                    format!("`normalize` has no `{key}`"),
                    "give both `mean` and `std`, a number for each value of a row".to_owned(),
                );
                continue;
            }
            if let Some(input) = input.filter(|input| input.width() != values.len()) {
                self.error(
                    codes::BAD_NORMALIZE,
                    &path,
                    format!(
                        "`{key}` has {} where a row of `{}` has {}",
                        count(values.len(), "number"),
                        input.name,
                        count(input.width(), "value")
                    ),
                    format!("`{}` is `{}`", input.name, tensor::show(input)),
                );
            }
            for (at, value) in values.iter().enumerate() {
                let as_f32 = *value as f32;
                let at = at.to_string();
                let path = [&path[..], &[&at]].concat();
                if !as_f32.is_finite() {
                    self.error(
                        codes::BAD_NORMALIZE,
                        &path,
                        format!("{value} is not a number that an f32 can hold"),
                        "use finite numbers".to_owned(),
                    );
                } else if key == "std" && as_f32 <= 0.0 {
                    self.error(
                        codes::BAD_NORMALIZE,
                        &path,
                        format!("a standard deviation of {value} can't be divided by"),
                        "a column that never varied takes 1".to_owned(),
                    );
                }
            }
        }
    }

    /// `defaults`: known inputs and finite numbers.
    pub(super) fn defaults(&mut self, inputs: &[Option<TensorSpec>]) {
        let card = self.card;
        for (name, default) in &card.defaults {
            if !card.inputs.contains_key(name) {
                self.unknown(codes::UNKNOWN_INPUT, "defaults", name, "input", card.inputs.keys());
            } else if !(*default as f32).is_finite() {
                self.error(
                    codes::BAD_VALUE,
                    &["defaults", name],
                    format!("{default} is not a number that an f32 can hold"),
                    "use a finite number".to_owned(),
                );
            }
        }
        debug_assert!(inputs.len() == card.inputs.len());
    }

    /// Branches, trunk and heads, from the inputs' widths to the outputs'.
    pub(super) fn layers(&mut self, inputs: &[Option<TensorSpec>], outputs: &[Option<TensorSpec>]) {
        let card = self.card;
        for name in card.branches.keys() {
            if !card.inputs.contains_key(name) {
                self.unknown(codes::UNKNOWN_INPUT, "branches", name, "input", card.inputs.keys());
            }
        }
        for name in card.heads.keys() {
            if !card.outputs.contains_key(name) {
                self.unknown(codes::UNKNOWN_OUTPUT, "heads", name, "output", card.outputs.keys());
            }
        }
        let mut width = Some(0);
        for (input, name) in inputs.iter().zip(card.inputs.keys()) {
            let mut one = input.as_ref().map(TensorSpec::width);
            self.giver = Some((self.node.span_at(&["inputs", name]), format!("`{name}` gives {}", shown(one))));
            if let Some(branch) = card.branches.get(name) {
                one = self.walk(branch, &[String::from("branches"), name.clone()], one);
            }
            width = width.zip(one).map(|(width, one)| width + one);
        }
        if inputs.len() > 1 {
            let words = format!("the inputs together give {}", shown(width));
            self.giver = Some((self.node.span_at(&["inputs"]), words));
        }
        if card.layers.is_empty() && card.heads.is_empty() {
            let span = self.node.get("layers").map_or_else(|| self.node.head(), |layers| layers.span);
            self.found.push(
                Diagnostic::error(codes::NO_LAYERS, span, "the card has no layers")
                    .help("list them: `layers: [{ linear: { from: 6, to: 1, name: fc } }, sigmoid]`"),
            );
            return;
        }
        let width = self.walk(&card.layers, &[String::from("layers")], width);
        let giver = self.giver.clone();
        for (output, name) in outputs.iter().zip(card.outputs.keys()) {
            self.giver.clone_from(&giver);
            let got = match card.heads.get(name) {
                Some(head) => self.walk(head, &[String::from("heads"), name.clone()], width),
                None if card.heads.is_empty() && card.outputs.len() == 1 => width,
                None => {
                    self.error(
                        codes::UNKNOWN_OUTPUT,
                        &["outputs", name],
                        format!("nothing leads to the output `{name}`"),
                        format!("say which layers do: `heads: {{ {name}: [...] }}`"),
                    );
                    continue;
                }
            };
            if let (Some(output), Some(got)) = (output, got)
                && output.width() != got
            {
                let span = self.node.span_at(&["outputs", name]);
                let message =
                    format!("a row of the output `{name}` has {} here and {got} from its layers", output.width());
                let better = if got == 1 { "f32[N]".to_owned() } else { format!("f32[N, {got}]") };
                let problem = Diagnostic::error(codes::OUTPUT_SHAPE, span, message);
                let problem = self.with_giver(problem).help(format!("write `{better}`, or change the last layer"));
                self.found.push(problem);
            }
        }
    }

    /// The width that `layers` make of `width`.
    fn walk(&mut self, layers: &[Layer], path: &[String], mut width: Option<usize>) -> Option<usize> {
        for (at, layer) in layers.iter().enumerate() {
            let mut place: Path = path.to_vec();
            place.push(at.to_string());
            width = match layer {
                Layer::Linear(linear) => self.linear(linear, &place, width),
                Layer::LayerNorm(norm) => self.layer_norm(norm, &place, width),
                Layer::Residual(inner) => self.residual(inner, &place, width),
                Layer::Dropout(share) => {
                    if !(0.0..1.0).contains(share) {
                        place.push("dropout".to_owned());
                        self.error_at(
                            codes::BAD_VALUE,
                            &place,
                            format!("a dropout of {share} is no share"),
                            "it is from 0 up to, but not including, 1".to_owned(),
                        );
                    }
                    width
                }
                Layer::Relu | Layer::Gelu | Layer::Tanh | Layer::Sigmoid | Layer::Softmax => width,
            };
        }
        width
    }

    fn linear(&mut self, linear: &Linear, place: &Path, width: Option<usize>) -> Option<usize> {
        let Linear { from, to, name, bias } = linear;
        let under = |keys: &[&str]| -> Path {
            place.iter().cloned().chain(["linear".to_owned()]).chain(keys.iter().map(|key| (*key).to_owned())).collect()
        };
        let sized = self.size(*from, &under(&["from"])) & self.size(*to, &under(&["to"]));
        if sized {
            let at = under(&["name"]);
            let good = self.takes(name, *from, width, &[*to], &under(&["from"]));
            // The layer's weights may be just what is given: then `from` alone is wrong, and that was said.
            let from =
                if good { *from } else { width.filter(|width| self.stored(name, &[*to, *width])).unwrap_or(*from) };
            let bias_shape = [*to];
            let bias_shape = bias.then_some(&bias_shape[..]);
            self.tensors(name, &[*to, from], bias_shape, &at);
            if !*bias && self.weights.is_some_and(|weights| weights.get(&format!("{name}.bias")).is_some()) {
                self.error_at(
                    codes::MISSING_TENSOR,
                    &under(&["bias"]),
                    format!("`{name}` is said to have no bias, but the weights have `{name}.bias`"),
                    "take `bias: false` out".to_owned(),
                );
                self.used.insert(format!("{name}.bias"), false);
            }
        }
        self.giver = Some((self.span(&under(&["to"])), format!("`{name}` gives {to}")));
        sized.then_some(*to)
    }

    fn layer_norm(&mut self, norm: &LayerNorm, place: &Path, width: Option<usize>) -> Option<usize> {
        let LayerNorm { size, name, eps } = norm;
        let under =
            |key: &str| -> Path { place.iter().cloned().chain(["layer_norm".to_owned(), key.to_owned()]).collect() };
        if !(eps.is_finite() && *eps > 0.0) {
            self.error_at(
                codes::BAD_VALUE,
                &under("eps"),
                format!("an `eps` of {eps} does not keep from dividing by zero"),
                "use a small number above zero, such as 1e-5".to_owned(),
            );
        }
        let sized = self.size(*size, &under("size"));
        if sized {
            self.takes(name, *size, width, &[], &under("size"));
            self.tensors(name, &[*size], Some(&[*size]), &under("name"));
        }
        self.giver = Some((self.span(&under("size")), format!("`{name}` gives {size}")));
        sized.then_some(*size)
    }

    fn residual(&mut self, inner: &[Layer], place: &Path, width: Option<usize>) -> Option<usize> {
        let path: Path = place.iter().cloned().chain(["residual".to_owned()]).collect();
        if inner.is_empty() {
            self.error_at(
                codes::NO_LAYERS,
                &path,
                "a residual without layers doubles its input".to_owned(),
                "list the layers whose result is added to their input".to_owned(),
            );
            return width;
        }
        let before = self.giver.clone();
        let after = self.walk(inner, &path, width);
        if let (Some(width), Some(after)) = (width, after)
            && width != after
        {
            let message = format!("these layers give {after} where {width} went in, so they can't be added");
            let problem = Diagnostic::error(codes::RESIDUAL_WIDTH, self.span(place), message);
            let problem = self.with_giver(problem).help(format!("end them with a layer `to: {width}`"));
            self.found.push(problem);
        }
        self.giver = before;
        width.or(after)
    }

    /// Whether a width is one.
    fn size(&mut self, size: usize, path: &Path) -> bool {
        let good = (1..=MAX_WIDTH).contains(&size);
        if !good {
            let help = format!("a width is from 1 to {MAX_WIDTH}");
            self.error_at(codes::BAD_VALUE, path, format!("{size} is no width"), help);
        }
        good
    }

    /// Whether a layer takes the width that flows. `to` is the width out, of a layer whose weights have one.
    fn takes(&mut self, name: &str, takes: usize, width: Option<usize>, to: &[usize], path: &Path) -> bool {
        let Some(width) = width.filter(|width| *width != takes) else { return true };
        let message = format!("`{name}` takes {takes} where {width} {} given", if width == 1 { "is" } else { "are" });
        let problem = Diagnostic::error(codes::LAYER_WIDTH, self.span(path), message);
        let help = if self.stored(name, &[to, &[width]].concat()) {
            format!("write {width}, as `{name}.weight` has it")
        } else if self.stored(name, &[to, &[takes]].concat()) {
            format!("`{name}.weight` has {takes}: the slip is in what comes before it")
        } else {
            format!("write {width}, if the weights were trained so")
        };
        let problem = self.with_giver(problem).help(help);
        self.found.push(problem);
        false
    }

    /// Whether the weights of a layer have this shape.
    fn stored(&self, name: &str, shape: &[usize]) -> bool {
        let info = self.weights.and_then(|weights| weights.get(&format!("{name}.weight")));
        info.is_some_and(|info| info.shape == shape)
    }

    /// `NAME.weight` and `NAME.bias`. A name that has neither is said once, and a bias whose weight is wrong not at all.
    fn tensors(&mut self, name: &str, weight_shape: &[usize], bias_shape: Option<&[usize]>, path: &Path) {
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        if let Some(weights) = self.weights.filter(|weights| bias_shape.is_some() && weights.get(&weight).is_none())
            && weights.get(&bias).is_none()
        {
            if self.used.insert(weight.clone(), false).is_none() {
                let message = format!("`{}` has no tensors `{weight}` and `{bias}`", self.card.weights);
                let problem = Diagnostic::error(codes::MISSING_TENSOR, self.span(path), message);
                let spoken_for = self.card.layer_names();
                let free: BTreeSet<&str> = weights
                    .names()
                    .filter_map(|tensor| tensor.strip_suffix(".weight"))
                    .filter(|layer| !spoken_for.contains(layer))
                    .collect();
                self.found.push(match engine_base::suggest::nearest(name, free.iter().copied()) {
                    Some(near) => problem.help(format!("did you mean `{near}`?")),
                    None => problem.help(format!("it has {}", listed(weights.names()))),
                });
            }
            self.used.insert(bias, false);
            return;
        }
        let good = self.tensor(&weight, weight_shape, path);
        match bias_shape {
            Some(shape) if good => {
                self.tensor(&bias, shape, path);
            }
            Some(_) => {
                self.used.insert(bias, false);
            }
            None => {}
        }
    }

    /// Whether a tensor is there, of floats, of this shape, with finite numbers.
    fn tensor(&mut self, name: &str, shape: &[usize], path: &Path) -> bool {
        let before = self.used.insert(name.to_owned(), false);
        let Some(weights) = self.weights else { return true };
        if before == Some(false) {
            return false;
        }
        let span = self.span(path);
        let file = &self.card.weights;
        let Some(info) = weights.get(name) else {
            let problem = Diagnostic::error(codes::MISSING_TENSOR, span, format!("`{file}` has no tensor `{name}`"));
            let problem = match name.strip_suffix(".bias") {
                Some(layer) => problem.help(format!("write `bias: false` if `{layer}` was trained without one")),
                None => problem.did_you_mean(name, weights.names()),
            };
            self.found.push(problem);
            return false;
        };
        if !is_float(info.dtype) {
            self.found.push(
                Diagnostic::error(
                    codes::TENSOR_DTYPE,
                    span,
                    format!("`{name}` of `{file}` is of type {}", format!("{:?}", info.dtype).to_lowercase()),
                )
                .help("weights are f32, f16, bf16 or f64: save them without quantization"),
            );
            return false;
        }
        if info.shape != shape {
            let mut problem = Diagnostic::error(
                codes::TENSOR_SHAPE,
                span,
                format!("`{name}` of `{file}` is {:?} where the layer needs {shape:?}", info.shape),
            );
            let turned: Vec<usize> = info.shape.iter().rev().copied().collect();
            problem = if shape.len() == 2 && turned == shape {
                problem
                    .help("it is stored transposed: PyTorch and Candle keep `[to, from]`; transpose it before saving")
            } else if let [to, from] = info.shape[..]
                && shape.len() == 2
            {
                problem.help(format!("the weights were trained with `from: {from}, to: {to}`"))
            } else {
                problem.help("the card and the file are of two versions of the model, or the layer has another's name")
            };
            self.found.push(problem);
            return false;
        }
        self.used.insert(name.to_owned(), true);
        self.parameters += shape.iter().product::<usize>();
        let finite = weights.load(name).and_then(|tensor| tensor.flatten_all()?.to_vec1::<f32>());
        let message = match finite {
            Ok(values) => match values.iter().position(|value| !value.is_finite()) {
                None => return true,
                Some(at) => format!("`{name}` of `{file}` holds {} as f32, at element {at}", values[at]),
            },
            Err(error) => format!("`{name}` of `{file}` can't be read: {error}"),
        };
        self.found.push(
            Diagnostic::error(codes::BAD_WEIGHT, span, message)
                .help("training diverged or the numbers are beyond f32: every score would be an error"),
        );
        false
    }

    /// Warns of tensors that nothing reads; returns the names of those that are read, and how many numbers they hold.
    pub(super) fn finish(self) -> (BTreeSet<String>, usize) {
        let read_all = self.used.values().all(|good| *good);
        if let Some(weights) = self.weights.filter(|_| read_all && !self.used.is_empty()) {
            let unused: Vec<&str> = weights.names().filter(|name| !self.used.contains_key(*name)).collect();
            if !unused.is_empty() {
                let span = self.node.span_at(&["weights"]);
                let tensors =
                    if unused.len() == 1 { "a tensor that no layer reads" } else { "tensors that no layer reads" };
                self.found.push(
                    Diagnostic::warning(
                        codes::UNUSED_TENSOR,
                        span,
                        format!("`{}` has {tensors}: {}", self.card.weights, listed(unused.iter().copied())),
                    )
                    .help("if a layer is missing in the card, scores are wrong; else save the file without them"),
                );
            }
        }
        (self.used.into_keys().collect(), self.parameters)
    }

    fn span(&self, path: &Path) -> Span {
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        self.node.span_at(&path)
    }

    fn with_giver(&self, problem: Diagnostic) -> Diagnostic {
        match &self.giver {
            Some((span, words)) if problem.primary.as_ref().is_none_or(|label| label.span != *span) => {
                problem.also(*span, words.clone())
            }
            _ => problem,
        }
    }

    fn error(&mut self, code: Code, path: &[&str], message: impl Into<String>, help: String) {
        self.found.push(Diagnostic::error(code, self.node.span_at(path), message).help(help));
    }

    fn error_at(&mut self, code: Code, path: &Path, message: String, help: String) {
        self.found.push(Diagnostic::error(code, self.span(path), message).help(help));
    }

    /// A key below `key` that names no input or output.
    fn unknown<'n>(&mut self, code: Code, key: &str, name: &str, what: &str, known: impl Iterator<Item = &'n String>) {
        let known: Vec<&str> = known.map(String::as_str).collect();
        let span = self
            .node
            .get(key)
            .and_then(|node| node.entry(name))
            .map_or_else(|| self.node.span_at(&[key]), |entry| entry.key_span);
        let problem = Diagnostic::error(code, span, format!("the model has no {what} `{name}`"));
        let near = engine_base::suggest::nearest(name, known.iter().copied());
        self.found.push(match near {
            Some(near) => problem.help(format!("did you mean `{near}`?")),
            None => problem.help(format!("it has {}", backticked(known.into_iter()))),
        });
    }
}

fn is_map(node: &Node) -> bool {
    matches!(node.value, engine_spec::Value::Map(_))
}

fn shown(width: Option<usize>) -> String {
    width.map_or_else(|| "an unknown width".to_owned(), |width| width.to_string())
}

fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn backticked<'n>(names: impl Iterator<Item = &'n str>) -> String {
    names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// The first few of many names.
fn listed<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let names: Vec<&str> = names.collect();
    let shown = backticked(names.iter().take(MAX_LISTED).copied());
    match names.len().saturating_sub(MAX_LISTED) {
        0 if names.is_empty() => "none".to_owned(),
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
