//! What names mean: the pipeline's parameters, the columns of a step's input, and the rows beside it.

use crate::aggregate::Aggregation;
use crate::error::ExprError;
use crate::panics::catching;
use crate::plan;
use crate::scalar::Scalar;
use crate::types::type_name;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion_common::ScalarValue;
use engine_base::codes::expr as codes;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The value of a parameter, as the file or the command line gives it.
#[derive(Clone, Debug, PartialEq)]
pub enum ParamValue {
    /// None: null if the parameter may be, else a row that needs it fails (a dry-run without the value).
    Null,
    /// A boolean.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// An integer beyond the signed ones.
    UInt(u64),
    /// A number.
    Float(f64),
    /// A text; also dates, timestamps and decimals, read as the parameter's type.
    String(String),
}

/// A parameter as expressions see it.
#[derive(Clone, Debug)]
pub(crate) struct Param {
    pub(crate) data_type: DataType,
    pub(crate) nullable: bool,
    /// Its typed value, or why there is none.
    pub(crate) value: Result<ScalarValue, String>,
}

/// Plans the expressions of one pipeline: functions and parameters. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Context {
    params: Arc<BTreeMap<String, Param>>,
}

/// Marks a schema that has more columns than are known. An expression may name any of them, and comes to nothing then.
const OPEN: &str = "@open";

/// The same columns, and others that are not known: of a step that is wrong, and is told so itself. A column of type null
/// is one whose type is not known; no other column has that type.
pub fn open(schema: &Schema) -> SchemaRef {
    let metadata = HashMap::from([(OPEN.to_owned(), String::new())]);
    Arc::new(Schema::new_with_metadata(schema.fields().clone(), metadata))
}

/// Whether there are columns that are not known.
pub fn is_open(schema: &Schema) -> bool {
    schema.metadata().contains_key(OPEN)
}

/// The columns that an expression may name.
#[derive(Clone, Debug)]
pub struct Scope {
    pub(crate) columns: SchemaRef,
    pub(crate) beside: Vec<(String, SchemaRef)>,
    pub(crate) groups: Vec<(String, SchemaRef)>,
}

impl Scope {
    /// The columns of the input, by their bare names.
    pub fn new(schema: SchemaRef) -> Self {
        Scope { columns: schema, beside: Vec::new(), groups: Vec::new() }
    }

    /// Also the columns of another row, behind a qualifier: `current.x`, `left.x`, `this.x`.
    ///
    /// A program reads such a column by the name `qualifier.column`.
    #[must_use]
    pub fn with(mut self, qualifier: &str, schema: SchemaRef) -> Self {
        self.beside.push((qualifier.to_owned(), schema));
        self
    }

    /// Also the columns of a group among the rows, behind a qualifier, within aggregates: `first(small.at)`, `count(small)`. An
    /// aggregate is over the rows of one group ([`AggregateCall::group`](crate::AggregateCall::group)), or over all rows by
    /// bare names. A program reads such a column by the name `qualifier.column`.
    #[must_use]
    pub fn with_group(mut self, qualifier: &str, schema: SchemaRef) -> Self {
        self.groups.push((qualifier.to_owned(), schema));
        self
    }

    pub(crate) fn group(&self, qualifier: &str) -> Option<&SchemaRef> {
        self.groups.iter().find(|(name, _)| name == qualifier).map(|(_, schema)| schema)
    }

    pub(crate) fn beside(&self, qualifier: &str) -> Option<&SchemaRef> {
        self.beside.iter().find(|(name, _)| name == qualifier).map(|(_, schema)| schema)
    }
}

impl Context {
    /// A context with these parameters: name, type, whether it may be null, value. One of type null is declared and wrong: it
    /// is of no known type.
    pub fn new(params: Vec<(String, DataType, bool, ParamValue)>) -> Self {
        let params = params.into_iter().map(|(name, data_type, nullable, value)| {
            let value = typed(&name, &data_type, nullable, value);
            (name, Param { data_type, nullable, value })
        });
        Context { params: Arc::new(params.collect()) }
    }

    pub(crate) fn param(&self, name: &str) -> Option<&Param> {
        self.params.get(name)
    }

    pub(crate) fn params(&self) -> impl Iterator<Item = &str> {
        self.params.keys().map(String::as_str)
    }

    /// Plans an expression over one row.
    pub fn scalar(&self, text: &str, scope: &Scope) -> Result<Scalar, ExprError> {
        guarded(text, || plan::scalar(self, scope, text, false))
    }

    /// Plans a condition: an expression over one row that is true, false or null.
    pub fn predicate(&self, text: &str, scope: &Scope) -> Result<Scalar, ExprError> {
        guarded(text, || plan::scalar(self, scope, text, true))
    }

    /// Plans an expression over aggregates, such as `coalesce(stddev(amount), 0)` or `sum(a) / current.b`.
    ///
    /// The arguments of the aggregates name the scope's bare columns; outside of them only qualified ones may stand.
    pub fn aggregate(&self, text: &str, scope: &Scope) -> Result<Aggregation, ExprError> {
        guarded(text, || plan::aggregate(self, scope, text))
    }
}

/// Texts longer than this are planned on a stack of their own: the tree may be deep before it is found to be too deep.
const LONG_TEXT_BYTES: usize = 1024;
/// That stack. Only what is touched of it is ever real.
const LONG_TEXT_STACK_BYTES: usize = 256 * 1024 * 1024;

/// Plans with a panic of the libraries turned into an error, and with stack enough.
fn guarded<T: Send>(text: &str, work: impl FnOnce() -> Result<T, ExprError> + Send) -> Result<T, ExprError> {
    let failed = |_: String| {
        Err(ExprError::new(codes::INTERNAL, "the planner failed on this expression")
            .help("this is a mistake of the engine; please report it with the expression"))
    };
    if text.len() <= LONG_TEXT_BYTES {
        return catching(work).unwrap_or_else(failed);
    }
    std::thread::scope(|scope| {
        let planner =
            std::thread::Builder::new().stack_size(LONG_TEXT_STACK_BYTES).spawn_scoped(scope, || catching(work));
        match planner.map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(planned)) => planned.unwrap_or_else(failed),
            _ => Err(ExprError::new(codes::TOO_LARGE, "the expression is too long for the memory there is")),
        }
    })
}

fn typed(name: &str, data_type: &DataType, nullable: bool, value: ParamValue) -> Result<ScalarValue, String> {
    let value = match value {
        ParamValue::Null if nullable => ScalarValue::Null,
        ParamValue::Null => return Err(format!("the parameter `{name}` has no value")),
        ParamValue::Bool(value) => value.into(),
        ParamValue::Int(value) => value.into(),
        ParamValue::UInt(value) => value.into(),
        ParamValue::Float(value) => value.into(),
        ParamValue::String(value) => ScalarValue::Utf8(Some(value)),
    };
    value
        .cast_to(data_type)
        .map_err(|_| format!("the value of the parameter `{name}` is not a value of type {}", type_name(data_type)))
}
