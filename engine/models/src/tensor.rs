//! The grammar of a card's tensors: `f32[N, 6]`, a type and a shape whose first dimension is the batch.

use engine_base::Code;
use engine_base::codes::model as codes;
use engine_plan::{Dim, TensorSpec, TensorType};
use std::ops::Range;

/// The widest row: four million values, 16 MiB.
pub(crate) const MAX_WIDTH: usize = 1 << 22;

/// Other spellings of `f32`.
const SPELLINGS: &[&str] = &["float32", "fp32", "float", "f32"];
/// Types that models have elsewhere and that can't be fed here.
const OTHERS: &[&str] = &[
    "f64", "float64", "double", "fp64", "f16", "float16", "fp16", "half", "bf16", "bfloat16", "i8", "int8", "i16",
    "int16", "i32", "int32", "i64", "int64", "u8", "uint8", "u16", "uint16", "u32", "uint32", "u64", "uint64", "bool",
    "string",
];

/// What is wrong with a tensor's text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) code: Code,
    pub(crate) message: String,
    /// Bytes of the text.
    pub(crate) range: Range<usize>,
    pub(crate) help: String,
}

/// Reads `text` as the tensor called `name`.
pub(crate) fn parse(name: &str, text: &str) -> Result<TensorSpec, Problem> {
    let grammar = |range: Range<usize>, message: String| Problem {
        code: codes::BAD_TENSOR,
        message,
        range,
        help: "write the type and the shape, `f32[N, 6]`: `N` is the rows of the batch".to_owned(),
    };
    let open = text.find('[').unwrap_or(text.len());
    let dtype = text[..open].trim();
    if OTHERS.contains(&dtype.to_lowercase().as_str()) {
        return Err(Problem {
            code: codes::TENSOR_TYPE,
            message: format!("a tensor of `{dtype}` can't be fed or read"),
            range: 0..text[..open].trim_end().len(),
            help: "write `f32`: columns of integers and float64 are cast to it".to_owned(),
        });
    }
    if dtype != "f32" {
        let mut problem = grammar(0..open, format!("`{text}` is not a tensor"));
        if SPELLINGS.contains(&dtype.to_lowercase().as_str()) {
            problem.help = format!("write `f32{}`", &text[open..]);
        } else if dtype.is_empty() || open == text.len() {
            problem.range = 0..text.len();
        }
        return Err(problem);
    }
    let Some(inside) = text[open..].trim_end().strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) else {
        return Err(grammar(open..text.len(), format!("`{text}` has no shape")));
    };
    let mut shape = Vec::new();
    let mut at = open + 1;
    for (place, part) in inside.split(',').enumerate() {
        let start = at + (part.len() - part.trim_start().len());
        let range = start..start + part.trim().len().max(1);
        at += part.len() + 1;
        let part = part.trim();
        match (place, part) {
            (0, "N") => shape.push(Dim::Batch),
            (0, _) => return Err(grammar(range, "the first dimension is the batch, `N`".to_owned())),
            (_, "N") => {
                return Err(grammar(range, "`N`, the rows of the batch, stands first and only there".to_owned()));
            }
            _ => match part.parse::<usize>() {
                Ok(size) if size > 0 => shape.push(Dim::Size(size)),
                _ => return Err(grammar(range, format!("`{part}` is not a size: a whole number from one up is"))),
            },
        }
    }
    let width = shape.iter().try_fold(1usize, |width, dim| match dim {
        Dim::Batch => Some(width),
        Dim::Size(size) => width.checked_mul(*size).filter(|width| *width <= MAX_WIDTH),
    });
    if width.is_none() {
        return Err(grammar(open..text.len(), format!("a row of `{text}` has more than {MAX_WIDTH} values")));
    }
    Ok(TensorSpec { name: name.to_owned(), dtype: TensorType::F32, shape, default: None })
}

/// A shape in the words of a card.
pub(crate) fn show(spec: &TensorSpec) -> String {
    let dims: Vec<String> = spec
        .shape
        .iter()
        .map(|dim| match dim {
            Dim::Batch => "N".to_owned(),
            Dim::Size(size) => size.to_string(),
        })
        .collect();
    format!("f32[{}]", dims.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, want: Result<usize, (&str, &str)>) {
        match (parse("x", text), want) {
            (Ok(spec), Ok(width)) => {
                assert_eq!(spec.width(), width, "{text}");
                assert_eq!(spec.shape[0], Dim::Batch, "{text}");
                assert_eq!(parse("x", &show(&spec)), Ok(spec), "{text}");
            }
            (Err(problem), Err((code, at))) => {
                assert_eq!((problem.code.0, text.get(problem.range.clone())), (code, Some(at)), "{text}: {problem:?}");
            }
            (got, _) => panic!("{text}: {got:?}"),
        }
    }

    #[test]
    fn grammar() {
        check("f32[N, 6]", Ok(6));
        check("f32[N]", Ok(1));
        check("f32[N,1]", Ok(1));
        check(" f32 [ N , 2, 3 ] ", Ok(6));
        check("float32[N, 6]", Err(("E0501", "float32")));
        check("i64[N, 6]", Err(("E0502", "i64")));
        check("f16[N]", Err(("E0502", "f16")));
        check("", Err(("E0501", "")));
        check("f32", Err(("E0501", "")));
        check("six", Err(("E0501", "six")));
        check("f32[6]", Err(("E0501", "6")));
        check("f32[N, 0]", Err(("E0501", "0")));
        check("f32[N, x]", Err(("E0501", "x")));
        check("f32[N, N]", Err(("E0501", "N")));
        check("f32[N, 6", Err(("E0501", "[N, 6")));
        check("f32[]", Err(("E0501", "]")));
        check("f32[N, -1]", Err(("E0501", "-1")));
        check("f32[N, 99999999999, 99999999999]", Err(("E0501", "[N, 99999999999, 99999999999]")));
        check("f32[N, é]", Err(("E0501", "é")));
    }
}
