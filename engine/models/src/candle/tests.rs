//! Cards against weights made up here: what is refused and with which words, and what scores come out, compared with
//! candle-nn and with double precision.

use super::*;
use candle_core::{DType, Device, Module, Tensor};
use candle_nn::{VarBuilder, VarMap};
use engine_base::{Severity, SourceMap};
use engine_plan::Dim;
use engine_spec::Files;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

/// Files in memory.
#[derive(Default)]
struct Memory(HashMap<PathBuf, Vec<u8>>);

impl Files for Memory {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.0.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
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

/// A repeatable stream of numbers, evenly from -1 to 1.
struct Numbers(u64);

impl Numbers {
    fn take(&mut self, n: usize) -> Vec<f32> {
        (0..n)
            .map(|_| {
                self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (self.0 >> 40) as f32 / (1u32 << 23) as f32 - 1.0
            })
            .collect()
    }
}

/// Tensors of these names and shapes, in a type.
fn weights_of(tensors: &[(&str, &[usize])], dtype: DType) -> Vec<u8> {
    let mut numbers = Numbers(1);
    let tensors: Vec<(String, Tensor)> = tensors
        .iter()
        .map(|(name, shape)| {
            let values = numbers.take(shape.iter().product());
            let tensor = Tensor::from_vec(values, *shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
            ((*name).to_owned(), tensor)
        })
        .collect();
    safetensors_of(&tensors)
}

fn safetensors_of(tensors: &[(String, Tensor)]) -> Vec<u8> {
    let all: HashMap<String, Tensor> = tensors.iter().cloned().collect();
    let path = std::env::temp_dir().join(format!(
        "engine-models-{}-{:?}.safetensors",
        std::process::id(),
        std::thread::current().id()
    ));
    candle_core::safetensors::save(&all, &path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    bytes
}

const SMALL: &[(&str, &[usize])] =
    &[("fc1.weight", &[4, 3]), ("fc1.bias", &[4]), ("fc2.weight", &[1, 4]), ("fc2.bias", &[1])];

fn small() -> Vec<u8> {
    weights_of(SMALL, DType::F32)
}

/// Plans a card without its `type` over one file, `w.safetensors`.
fn planned(card: &str, weights: &[u8]) -> (Option<Arc<dyn PlannedModel>>, Diagnostics, SourceMap) {
    let mut sources = SourceMap::default();
    let mut diagnostics = Diagnostics::new();
    let file = sources.add("model.yaml", card);
    let node = engine_spec::yaml::parse(file, card, &mut diagnostics).root.expect("the card is YAML");
    let files = Memory([(PathBuf::from("/cards/w.safetensors"), weights.to_vec())].into());
    let model = (KIND.plan)(&mut ModelCx {
        name: "m",
        card: &node,
        base_dir: Path::new("/cards"),
        files: &files,
        diagnostics: &mut diagnostics,
        sources: &mut sources,
    });
    (model, diagnostics, sources)
}

/// The card of `SMALL`, with a line replaced.
fn card(from: &str, to: &str) -> String {
    let good = "\
model: small
weights: w.safetensors
inputs: { x: \"f32[N, 3]\" }
outputs: { y: \"f32[N]\" }
normalize: { mean: [0, 1, 2], std: [1, 2, 3] }
layers:
  - linear: { from: 3, to: 4, name: fc1 }
  - relu
  - linear: { from: 4, to: 1, name: fc2 }
  - sigmoid
";
    assert!(good.contains(from), "{from}");
    good.replace(from, to)
}

/// The problems of a card: code, the text at the caret, and a part of the message or a help.
fn check(card: &str, weights: &[u8], want: &[(&str, &str, &str)]) {
    let (model, found, sources) = planned(card, weights);
    let got: Vec<(&str, &str, String)> = found
        .iter()
        .map(|problem| {
            let at = problem.primary.as_ref().map_or("", |label| {
                let text = &sources.file(label.span.file).unwrap().text;
                text.get(label.span.start..label.span.end).unwrap_or("?").trim_end()
            });
            (problem.code.0, at, format!("{}; {}", problem.message, problem.help.join("; ")))
        })
        .collect();
    let same = got.len() == want.len()
        && got.iter().zip(want).all(|(got, want)| got.0 == want.0 && got.1 == want.1 && got.2.contains(want.2));
    assert!(same, "{card}\ngot {got:#?}\nwant {want:#?}");
    let errors = found.iter().any(|problem| problem.severity == Severity::Error);
    assert_eq!(model.is_none(), errors, "{card}");
}

fn model(card: &str, weights: &[u8]) -> Arc<dyn PlannedModel> {
    let (model, found, _) = planned(card, weights);
    model.unwrap_or_else(|| panic!("{found:#?}"))
}

fn score(scorer: &mut dyn Scorer, rows: usize, inputs: &[&[f32]], outputs: usize) -> Result<Vec<Vec<f32>>, String> {
    let mut out = vec![vec![9.0]; outputs];
    scorer.score(rows, inputs, &mut out)?;
    Ok(out)
}

#[test]
fn a_good_card_is_planned() {
    let model = model(&card("", ""), &small());
    assert_eq!(model.name(), "m");
    assert_eq!(model.inputs()[0].shape, [Dim::Batch, Dim::Size(3)]);
    assert_eq!(model.outputs()[0].shape, [Dim::Batch]);
    assert_eq!(model.digest().len(), 64);
    assert!(model.batch_invariant());
    let facts: HashMap<_, _> = model.facts().into_iter().collect();
    assert_eq!(facts["layers"], "linear 4, relu, linear 1, sigmoid");
    assert_eq!(facts["parameters"], "21");
}

#[test]
fn the_digest_is_of_what_decides_a_score() {
    let digest = |card: &str, weights: &[u8]| model(card, weights).digest().to_owned();
    let base = digest(&card("", ""), &small());
    assert_eq!(digest(&card("model: small\n", "description: other words\n"), &small()), base);
    assert_ne!(digest(&card("relu", "gelu"), &small()), base);
    assert_ne!(digest(&card("mean: [0,", "mean: [0.5,"), &small()), base);
    let mut other = small();
    *other.last_mut().unwrap() ^= 1;
    assert_ne!(digest(&card("", ""), &other), base);
}

#[test]
fn slips_in_a_card_are_named_where_they_stand() {
    let w = small();
    let slip = |from: &str, to: &str, want: &[(&str, &str, &str)]| check(&card(from, to), &w, want);
    slip("", "", &[]);
    slip("f32[N, 3]", "f64[N, 3]", &[("E0502", "f64", "write `f32`")]);
    slip("f32[N, 3]", "f32[3]", &[("E0501", "3", "batch")]);
    slip("{ y: \"f32[N]\" }", "{}", &[("E0501", "{}", "empty")]);
    slip("w.safe", "v.safe", &[("E0503", "v.safetensors", "is not there")]);
    slip(
        "to: 4, name: fc1",
        "to: 4, name: fcl",
        &[("E0506", "fcl", "no tensors `fcl.weight` and `fcl.bias`; did you mean `fc1`?")],
    );
    slip("name: fc2", "name: head", &[("E0506", "head", "it has `fc1.bias`, `fc1.weight`, `fc2.bias`, `fc2.weight`")]);
    // One slip in a width is one error, or two where both its ends are at odds with it.
    slip(
        "from: 3, to: 4",
        "from: 3, to: 5",
        &[
            ("E0507", "fc1", "is [4, 3] where the layer needs [5, 3]; the weights were trained with `from: 3, to: 4`"),
            ("E0509", "4", "`fc2` takes 4 where 5 are given; `fc2.weight` has 4: the slip is in what comes before it"),
        ],
    );
    slip("from: 4, to: 1", "from: 8, to: 1", &[("E0509", "8", "write 4, as `fc2.weight` has it")]);
    slip(
        "f32[N, 3]",
        "f32[N, 2]",
        &[
            ("E0512", "[0, 1, 2]", "`mean` has 3 numbers where a row of `x` has 2 values"),
            ("E0512", "[1, 2, 3]", "`std` has"),
            ("E0509", "3", "`fc1` takes 3 where 2 are given"),
        ],
    );
    slip("f32[N]\"", "f32[N, 2]\"", &[("E0510", "\"f32[N, 2]\"", "has 2 here and 1 from its layers; write `f32[N]`")]);
    slip("std: [1, 2, 3]", "std: [1, 0, 3]", &[("E0512", "0", "takes 1")]);
    slip(", std: [1, 2, 3]", "", &[("E0512", "{ mean: [0, 1, 2] }", "no `std`")]);
    slip("std: [1, 2, 3]", "std: [1, 2]", &[("E0512", "[1, 2]", "2 numbers")]);
    slip(
        "normalize: {",
        "normalize: { z: { mean: [1], std: [1] },",
        &[
            ("E0513", "z", "no input `z`"),
            ("E0512", "{ z: { mean: [1], std: [1] }, mean: [0, 1, 2], std: [1, 2, 3] }", "stand beside inputs"),
        ],
    );
    slip(
        "normalize: { mean: [0, 1, 2], std: [1, 2, 3] }",
        "defaults: { xx: 1 }",
        &[("E0513", "xx", "did you mean `x`?")],
    );
    slip("model: small", "baseline: b.arrow", &[("E0143", "baseline", "not built yet")]);
    slip("  - sigmoid", "  - dropout: 1.5", &[("E0516", "1.5", "no share")]);
    slip("  - sigmoid", "  - linear: { from: 0, to: 1, name: fc2 }", &[("E0516", "0", "width")]);
    slip("  - sigmoid", "  - residual: []", &[("E0515", "[]", "doubles")]);
    slip(
        "  - relu",
        "  - residual: [ { linear: { from: 4, to: 1, name: fc2 } } ]",
        &[("E0511", "residual: [ { linear: { from: 4, to: 1, name: fc2 } } ]", "these layers give 1 where 4 went in")],
    );
    slip(", name: fc2", ", name: fc2, bias: false", &[("E0506", "false", "the weights have `fc2.bias`")]);
    slip(
        "  - relu",
        "  - layer_norm: { size: 4, name: ln, eps: 0 }",
        &[("E0516", "0", "dividing by zero"), ("E0506", "ln", "no tensors `ln.weight` and `ln.bias`")],
    );
    slip(
        "outputs: { y: \"f32[N]\" }",
        "outputs: { y: \"f32[N]\", z: \"f32[N]\" }",
        &[
            ("E0514", "\"f32[N]\"", "nothing leads to the output `y`; say which layers do: `heads: { y: [...] }`"),
            ("E0514", "\"f32[N]\"", "nothing leads to the output `z`"),
        ],
    );
    slip(
        "model: small",
        "heads: { yy: [] }",
        &[("E0514", "yy", "did you mean `y`?"), ("E0514", "\"f32[N]\"", "nothing leads")],
    );
    slip("model: small", "branches: { words: [] }", &[("E0513", "words", "it has `x`")]);
    // The decoder's own: unknown keys and layers.
    slip("model: small", "modle: small", &[("E0117", "modle", "")]);
    slip("  - relu", "  - rlu", &[("E0121", "rlu", "relu")]);
}

#[test]
fn slips_in_weights_are_named() {
    let good = card("", "");
    let w = small();
    check(&good, &w[..w.len() - 4], &[("E0505", "w.safetensors", "bytes by its header")]);
    check(&good, &[&w[..], &[0; 8]].concat(), &[("E0505", "w.safetensors", "bytes by its header")]);
    check(&good, &w[..40], &[("E0505", "w.safetensors", "within its header")]);
    check(&good, b"", &[("E0505", "w.safetensors", "empty")]);
    check(&good, b"abc", &[("E0504", "w.safetensors", "not a safetensors file")]);
    check(&good, b"PK\x03\x04 and so on, as a zip file", &[("E0504", "w.safetensors", "PyTorch")]);
    check(&good, b"version https://git-lfs.github.com/spec/v1\n", &[("E0504", "w.safetensors", "git lfs pull")]);
    check(&good, &[0xff; 64], &[("E0504", "w.safetensors", "")]);

    let turned = [("fc1.weight", &[3, 4][..]), SMALL[1], SMALL[2], SMALL[3]];
    check(&good, &weights_of(&turned, DType::F32), &[("E0507", "fc1", "transposed")]);
    check(&good, &weights_of(SMALL, DType::I64), &[("E0508", "fc1", "type i64"), ("E0508", "fc2", "type i64")]);
    let more = [SMALL, &[("fc3.weight", &[1, 1])]].concat();
    check(&good, &weights_of(&more, DType::F32), &[("E0518", "w.safetensors", "`fc3.weight`")]);

    // One NaN, in the first tensor's first element.
    let mut w = small();
    let start = 8 + u64::from_le_bytes(w[..8].try_into().unwrap()) as usize;
    w[start..start + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    let (_, found, _) = planned(&good, &w);
    assert!(found.iter().any(|problem| problem.code.0 == "E0517"), "{found:#?}");
}

#[test]
fn no_bytes_make_it_panic() {
    let good = small();
    let mut numbers = Numbers(3);
    for round in 0..2000 {
        let mut bytes = good.clone();
        for place in numbers.take(1 + round % 5) {
            let at = ((place + 1.0) / 2.0 * (bytes.len() - 1) as f32) as usize;
            // The header more often than the numbers.
            let at = if round % 2 == 0 { at % 200 } else { at };
            bytes[at] = bytes[at].wrapping_add((place.abs() * 255.0) as u8).wrapping_add(1);
        }
        let (model, _, _) = planned(&card("", ""), &bytes);
        if let Some(model) = model {
            let mut scorer = model.load().unwrap();
            let _ = score(&mut *scorer, 2, &[&[1.0; 6]], 1);
        }
    }
}

/// A card with everything: two inputs, a branch, a residual, layer norms, every activation, two outputs.
const WIDE: &str = "\
weights: w.safetensors
inputs: { text: \"f32[N, 5]\", numbers: \"f32[N, 2, 2]\" }
outputs: { score: \"f32[N]\", kind: \"f32[N, 3]\" }
normalize: { numbers: { mean: [1, 2, 3, 4], std: [1, 2, 1, 2] } }
defaults: { numbers: 0.5 }
branches:
  text:
    - linear: { from: 5, to: 9, name: text }
    - gelu
    - layer_norm: { size: 9, name: norm1 }
layers:
  - tanh
  - linear: { from: 13, to: 20, name: in, bias: false }
  - relu
  - dropout: 0.1
  - residual:
      - layer_norm: { size: 20, name: norm2, eps: 1e-6 }
      - linear: { from: 20, to: 7, name: down }
      - gelu
      - linear: { from: 7, to: 20, name: up }
  - tanh
heads:
  score:
    - linear: { from: 20, to: 1, name: score }
    - sigmoid
  kind:
    - linear: { from: 20, to: 3, name: kind }
    - softmax
";
const WIDE_TENSORS: &[(&str, &[usize])] = &[
    ("text.weight", &[9, 5]),
    ("text.bias", &[9]),
    ("norm1.weight", &[9]),
    ("norm1.bias", &[9]),
    ("in.weight", &[20, 13]),
    ("norm2.weight", &[20]),
    ("norm2.bias", &[20]),
    ("down.weight", &[7, 20]),
    ("down.bias", &[7]),
    ("up.weight", &[20, 7]),
    ("up.bias", &[20]),
    ("score.weight", &[1, 20]),
    ("score.bias", &[1]),
    ("kind.weight", &[3, 20]),
    ("kind.bias", &[3]),
];

#[test]
fn every_layer_agrees_with_candle_nn() {
    const ROWS: usize = 257;
    let bytes = weights_of(WIDE_TENSORS, DType::F32);
    let model = model(WIDE, &bytes);
    assert_eq!(model.inputs()[1].default, Some(0.5));
    assert_eq!(model.inputs()[0].default, None);
    let mut numbers = Numbers(8);
    let text: Vec<f32> = numbers.take(ROWS * 5);
    let others: Vec<f32> = numbers.take(ROWS * 4).into_iter().map(|x| x * 4.0 + 2.0).collect();
    let mut scorer = model.load().unwrap();
    let got = score(&mut *scorer, ROWS, &[&text, &others], 2).unwrap();

    // The same through candle-nn alone.
    let card: CandleCard = {
        let mut sources = SourceMap::default();
        let mut found = Diagnostics::new();
        let file = sources.add("model.yaml", WIDE);
        engine_spec::yaml::parse(file, WIDE, &mut found).root.unwrap().decode(&mut found).unwrap()
    };
    let names = WIDE_TENSORS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let tensors = VarBuilder::from_tensors(weights::tensors(&bytes, &names).unwrap(), DType::F32, &Device::Cpu);
    let network = |layers: &[Layer]| Network::build(layers, &tensors).unwrap();
    let text_in = Tensor::from_slice(&text, (ROWS, 5), &Device::Cpu).unwrap();
    let mean = Tensor::new(&[1f32, 2., 3., 4.], &Device::Cpu).unwrap();
    let std = Tensor::new(&[1f32, 2., 1., 2.], &Device::Cpu).unwrap();
    let others_in = Tensor::from_slice(&others, (ROWS, 4), &Device::Cpu).unwrap();
    let others_in = others_in.broadcast_sub(&mean).unwrap().broadcast_div(&std).unwrap();
    let branch = network(&card.branches["text"]).forward(&text_in).unwrap();
    let trunk = network(&card.layers).forward(&Tensor::cat(&[&branch, &others_in], 1).unwrap()).unwrap();
    for (at, name) in ["score", "kind"].into_iter().enumerate() {
        let want = network(&card.heads[name]).forward(&trunk).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(want.len(), got[at].len());
        for (got, want) in got[at].iter().zip(&want) {
            assert!((got - want).abs() < 1e-6, "{name}: {got} for {want}");
        }
    }
    // A row of probabilities.
    assert!(got[1].chunks(3).all(|row| (row.iter().sum::<f32>() - 1.0).abs() < 1e-6));
}

#[test]
fn a_row_has_the_same_bits_in_every_batch() {
    const ROWS: usize = 300;
    let model = model(WIDE, &weights_of(WIDE_TENSORS, DType::F32));
    let mut numbers = Numbers(4);
    let (text, others) = (numbers.take(ROWS * 5), numbers.take(ROWS * 4));
    let mut scorer = model.load().unwrap();
    let bits =
        |out: &[Vec<f32>]| out.iter().map(|y| y.iter().map(|y| y.to_bits()).collect()).collect::<Vec<Vec<u32>>>();
    let whole = bits(&score(&mut *scorer, ROWS, &[&text, &others], 2).unwrap());
    for rows in 1..=ROWS {
        let first = (rows * 13) % (ROWS - rows + 1);
        let end = first + rows;
        let part = score(&mut *scorer, rows, &[&text[first * 5..end * 5], &others[first * 4..end * 4]], 2).unwrap();
        let part = bits(&part);
        assert_eq!(part[0], whole[0][first..end], "batch of {rows}");
        assert_eq!(part[1], whole[1][first * 3..end * 3], "batch of {rows}");
    }
}

#[test]
fn weights_of_other_float_types_are_read() {
    let x = Numbers(2).take(30);
    let mut scores = Vec::new();
    for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16] {
        let model = model(&card("", ""), &weights_of(SMALL, dtype));
        scores.push(score(&mut *model.load().unwrap(), 10, &[&x], 1).unwrap().remove(0));
    }
    assert_eq!(scores[0], scores[1], "numbers of 24 bits pass through f64");
    for other in &scores[2..] {
        assert!(scores[0].iter().zip(other).all(|(a, b)| (a - b).abs() < 0.02 && a != b));
    }
}

#[test]
fn numbers_that_are_none_are_refused() {
    let model = model(&card("", ""), &small());
    let mut scorer = model.load().unwrap();
    let mut of = |values: &[f32]| score(&mut *scorer, values.len() / 3, &[values], 1);
    assert!(of(&[1.0, 2.0, 3.0]).is_ok());
    assert_eq!(of(&[]), Ok(vec![vec![]]));
    assert_eq!(of(&[1.0, f32::NAN, 3.0]).unwrap_err(), "value 2 of input `x` is not a number (NaN)");
    assert_eq!(of(&[1.0, 2.0, 3.0, 1.0, 2.0, f32::INFINITY]).unwrap_err(), "value 3 of input `x` is infinite");
    assert_eq!(of(&[f32::NEG_INFINITY, 2.0, 3.0]).unwrap_err(), "value 1 of input `x` is minus infinite");
    assert!(of(&[1.0, 2.0]).is_err(), "half a row");
    assert!(score(&mut *scorer, 1, &[], 1).is_err());
    assert!(score(&mut *scorer, 1, &[&[1.0, 2.0, 3.0]], 2).is_err());
    assert!(score(&mut *scorer, usize::MAX, &[&[1.0, 2.0, 3.0]], 1).is_err());
    // A score beyond f32, from inputs within it.
    let linear = card("  - sigmoid\n", "").replace("std: [1, 2, 3]", "std: [0.01, 0.01, 0.01]");
    let mut scorer = self::model(&linear, &small()).load().unwrap();
    let error = score(&mut *scorer, 1, &[&[3e38, -3e38, 3e38]], 1).unwrap_err();
    assert!(error.starts_with("value 1 of output `y` is"), "{error}");
}

#[test]
fn a_network_that_was_just_made_trains_and_compiles() {
    let layers = [
        Layer::Linear(Linear { from: 2, to: 3, name: "a".to_owned(), bias: true }),
        Layer::Relu,
        Layer::LayerNorm(LayerNorm { size: 3, name: "b".to_owned(), eps: 1e-5 }),
    ];
    let variables = VarMap::new();
    let tensors = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
    let network = Network::build(&layers, &tensors).unwrap();
    assert_eq!(variables.all_vars().len(), 4);
    let x = Tensor::new(&[[1f32, 2.], [3., 4.]], &Device::Cpu).unwrap();
    let want = network.forward(&x).unwrap().to_vec2::<f32>().unwrap();
    let got = Compiled::new(&network, crate::fused::Isa::best()).unwrap().forward(&x).unwrap();
    for (got, want) in got.to_vec2::<f32>().unwrap().concat().iter().zip(want.concat()) {
        assert!((got - want).abs() < 1e-6);
    }
}

/// Files on disk.
struct Disk;

impl Files for Disk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        std::fs::read(path)
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

/// The folder of this package: where cargo says it is now, since a binary of another clone may be found in a shared build
/// folder.
fn package() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

/// The model of a folder of `models`, ready to score.
fn shipped(name: &str) -> (PathBuf, Box<dyn Scorer>) {
    let folder = package().join("../../models").join(name);
    let mut sources = SourceMap::default();
    let mut diagnostics = Diagnostics::new();
    let text = std::fs::read_to_string(folder.join("model.yaml")).unwrap();
    let file = sources.add("model.yaml", text.as_str());
    let card = engine_spec::yaml::parse(file, &text, &mut diagnostics).root.unwrap().without(&["type"]);
    let model = (KIND.plan)(&mut ModelCx {
        name,
        card: &card,
        base_dir: &folder,
        files: &Disk,
        diagnostics: &mut diagnostics,
        sources: &mut sources,
    });
    assert!(diagnostics.is_empty(), "{diagnostics:#?}");
    let scorer = model.unwrap().load().unwrap();
    (folder, scorer)
}

#[test]
fn the_risk_model_scores_as_its_python_reference() {
    let (folder, mut scorer) = shipped("risk");

    #[derive(serde::Deserialize)]
    struct Expected {
        features: Vec<f64>,
        score: f64,
    }
    let expected = std::fs::read(folder.join("expected.json")).unwrap();
    let expected: Vec<Expected> = serde_json::from_slice(&expected).unwrap();
    assert!(expected.len() > 200);
    let rows: Vec<f32> = expected.iter().flat_map(|row| row.features.iter().map(|x| *x as f32)).collect();
    let scores = score(&mut *scorer, expected.len(), &[&rows], 1).unwrap().remove(0);
    let worst =
        expected.iter().zip(&scores).map(|(row, score)| (row.score - f64::from(*score)).abs()).fold(0.0, f64::max);
    assert!(worst < 1e-5, "{worst:e}");
    // The fixture covers the whole range.
    assert!(expected.iter().any(|row| row.score > 0.9) && expected.iter().any(|row| row.score < 0.01));
}

#[test]
fn the_fleet_model_deviates_as_its_python_reference() {
    let (folder, mut scorer) = shipped("fleet");

    #[derive(serde::Deserialize)]
    struct Expected {
        features: Vec<f64>,
        deviations: Vec<f64>,
    }
    let expected = std::fs::read(folder.join("expected.json")).unwrap();
    let expected: Vec<Expected> = serde_json::from_slice(&expected).unwrap();
    assert!(expected.len() > 100);
    let rows: Vec<f32> = expected.iter().flat_map(|row| row.features.iter().map(|x| *x as f32)).collect();
    let deviations = score(&mut *scorer, expected.len(), &[&rows], 1).unwrap().remove(0);
    let (mut worst, mut greatest) = (0.0_f64, 0.0_f64);
    for (row, deviations) in expected.iter().zip(deviations.chunks_exact(12)) {
        let length = row.deviations.iter().map(|x| x * x).sum::<f64>().sqrt();
        greatest = greatest.max(length);
        for (expected, deviation) in row.deviations.iter().zip(deviations) {
            worst = worst.max((expected - f64::from(*deviation)).abs() / length.max(1.0));
        }
    }
    assert!(worst < 1e-5, "{worst:e}");
    // The fixture has rows on both sides of the threshold.
    assert!(greatest > 20.0, "{greatest}");
}
