//! `json_get(text, '$.a.b')`: one value of a JSON text, as text.
//!
//! A text comes without its quotes, a number or boolean as it is written, an object or list as JSON; null and what is not
//! there are null. Text that is not JSON fails its row. Of JSONPath it has `$`, `.name`, `['name']` and `[0]`.

use crate::failure::{CAST, clip, failed};
use arrow::array::{Array, StringArray, StringBuilder};
use arrow::datatypes::DataType;
use datafusion_common::cast::as_string_array;
use datafusion_common::{Result, ScalarValue};
use datafusion_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use sonic_rs::{JsonValueTrait, PointerNode};
use std::sync::Arc;

pub(super) fn json_get() -> Arc<ScalarUDF> {
    let signature = Signature::exact(vec![DataType::Utf8, DataType::Utf8], Volatility::Immutable);
    Arc::new(ScalarUDF::new_from_impl(JsonGet { signature }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct JsonGet {
    signature: Signature,
}

impl ScalarUDFImpl for JsonGet {
    fn name(&self) -> &str {
        "json_get"
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
        let [text, path] = datafusion_common::utils::take_function_args(self.name(), args.args)?;
        let texts = text.to_array(args.number_rows)?;
        let texts = as_string_array(&texts)?;
        let found = match path {
            ColumnarValue::Scalar(ScalarValue::Utf8(Some(path))) => {
                let path = parse_path(&path).map_err(|reason| failed(CAST, reason))?;
                collect(texts, |_| Ok(Some(path.clone())))?
            }
            ColumnarValue::Scalar(_) => StringArray::new_null(args.number_rows),
            ColumnarValue::Array(paths) => {
                let paths = as_string_array(&paths)?;
                collect(texts, |row| {
                    let path = paths.is_valid(row).then(|| parse_path(paths.value(row))).transpose();
                    path.map_err(|reason| failed(CAST, reason))
                })?
            }
        };
        Ok(ColumnarValue::Array(Arc::new(found)))
    }
}

fn collect(texts: &StringArray, path: impl Fn(usize) -> Result<Option<Vec<PointerNode>>>) -> Result<StringArray> {
    let mut found = StringBuilder::with_capacity(texts.len(), 16 * texts.len());
    for row in 0..texts.len() {
        match path(row)?.filter(|_| texts.is_valid(row)) {
            None => found.append_null(),
            Some(path) => get(texts.value(row), &path, &mut found)?,
        }
    }
    Ok(found.finish())
}

fn get(text: &str, path: &[PointerNode], found: &mut StringBuilder) -> Result<()> {
    match sonic_rs::get_from_str(text, path) {
        Ok(value) if value.is_null() => found.append_null(),
        Ok(value) => match value.as_str() {
            Some(text) => found.append_value(text),
            None => found.append_value(value.as_raw_str()),
        },
        Err(error) if error.is_not_found() || error.is_unmatched_type() => found.append_null(),
        Err(_) => return Err(failed(CAST, format!("'{}' is not JSON", clip(text, 32)))),
    }
    Ok(())
}

/// What is wrong with a path that is constant, if anything.
pub(crate) fn check_path(path: &str) -> std::result::Result<(), String> {
    parse_path(path).map(|_| ())
}

fn parse_path(path: &str) -> std::result::Result<Vec<PointerNode>, String> {
    let wrong = || format!("'{}' is not a JSON path such as '$.a.b' or '$.list[0]'", clip(path, 32));
    let mut rest = path.trim().strip_prefix('$').ok_or_else(wrong)?;
    let mut nodes = Vec::new();
    while !rest.is_empty() {
        if let Some(name) = rest.strip_prefix('.') {
            let end = name.find(['.', '[']).unwrap_or(name.len());
            if end == 0 || name[..end].contains(['*', '?', '@', ']']) {
                return Err(wrong());
            }
            nodes.push(PointerNode::Key(name[..end].to_owned().into()));
            rest = &name[end..];
        } else if let Some(inside) = rest.strip_prefix('[') {
            let quote = inside.chars().next().filter(|c| matches!(c, '\'' | '"'));
            if let Some(quote) = quote {
                let inside = &inside[1..];
                let end = inside.find(quote).ok_or_else(wrong)?;
                nodes.push(PointerNode::Key(inside[..end].to_owned().into()));
                rest = inside[end + 1..].strip_prefix(']').ok_or_else(wrong)?;
            } else {
                let end = inside.find(']').ok_or_else(wrong)?;
                nodes.push(PointerNode::Index(inside[..end].trim().parse().map_err(|_| wrong())?));
                rest = &inside[end + 1..];
            }
        } else {
            return Err(wrong());
        }
    }
    Ok(nodes)
}
