//! `regexp_extract(text, regex, group)`: what a group of the first match holds.
//!
//! Null where nothing matches; group 0, the whole match, unless another is given.

use crate::failure::{CAST, INVALID, clip, failed};
use arrow::array::{Array, Int64Array, StringArray, StringBuilder};
use arrow::datatypes::{DataType, Int64Type};
use datafusion_common::Result;
use datafusion_common::cast::{as_primitive_array, as_string_array};
use datafusion_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};
use regex::Regex;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

/// How many compiled patterns a thread keeps.
const KEPT: usize = 64;

thread_local! {
    static COMPILED: RefCell<HashMap<String, Regex>> = RefCell::new(HashMap::new());
}

pub(super) fn regexp_extract() -> Arc<ScalarUDF> {
    let two = TypeSignature::Exact(vec![DataType::Utf8, DataType::Utf8]);
    let three = TypeSignature::Exact(vec![DataType::Utf8, DataType::Utf8, DataType::Int64]);
    let signature = Signature::one_of(vec![two, three], Volatility::Immutable);
    Arc::new(ScalarUDF::new_from_impl(RegexpExtract { signature }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct RegexpExtract {
    signature: Signature,
}

impl ScalarUDFImpl for RegexpExtract {
    fn name(&self) -> &str {
        "regexp_extract"
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }
    fn is_strict(&self) -> bool {
        true
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = args.args.iter().map(|arg| arg.to_array(args.number_rows)).collect::<Result<Vec<_>>>()?;
        let [texts, patterns, ..] = arrays.as_slice() else {
            return Err(failed(INVALID, "regexp_extract takes two or three arguments"));
        };
        let (texts, patterns) = (as_string_array(texts)?, as_string_array(patterns)?);
        let groups = arrays.get(2).map(|groups| as_primitive_array::<Int64Type>(groups)).transpose()?;
        Ok(ColumnarValue::Array(Arc::new(extract(texts, patterns, groups)?)))
    }
}

fn extract(texts: &StringArray, patterns: &StringArray, groups: Option<&Int64Array>) -> Result<StringArray> {
    let mut found = StringBuilder::with_capacity(texts.len(), 16 * texts.len());
    for row in 0..texts.len() {
        if texts.is_null(row) || patterns.is_null(row) || groups.is_some_and(|groups| groups.is_null(row)) {
            found.append_null();
            continue;
        }
        let (text, pattern) = (texts.value(row), patterns.value(row));
        let group = groups.map_or(0, |groups| groups.value(row));
        let matched = with_regex(pattern, |regex| match usize::try_from(group) {
            Ok(group) if group < regex.captures_len() => Ok(regex.captures(text).and_then(|groups| groups.get(group))),
            _ => Err(failed(INVALID, format!("the pattern '{}' has no group {group}", clip(pattern, 40)))),
        })??;
        found.append_option(matched.map(|found| found.as_str()));
    }
    Ok(found.finish())
}

fn with_regex<T>(pattern: &str, work: impl FnOnce(&Regex) -> T) -> Result<T> {
    COMPILED.with_borrow_mut(|compiled| {
        if !compiled.contains_key(pattern) {
            let regex = Regex::new(pattern)
                .map_err(|_| failed(CAST, format!("'{}' is not a regular expression", clip(pattern, 40))))?;
            if compiled.len() >= KEPT {
                compiled.clear();
            }
            compiled.insert(pattern.to_owned(), regex);
        }
        compiled.get(pattern).map(work).ok_or_else(|| failed(INVALID, "the pattern was lost"))
    })
}
