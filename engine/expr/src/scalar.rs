//! A planned expression over one row.

use crate::error::ExprError;
use crate::failure::row_error;
use crate::narrow;
use crate::program::{Program, lower, schema_of};
use crate::types::type_name;
use arrow::compute::can_cast_types;
use arrow::datatypes::{DataType, FieldRef, SchemaRef};
use datafusion_expr::Expr;
use datafusion_expr::expr::Cast;
use engine_base::codes::expr as codes;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A typed expression. It is bound to a batch's columns by [`Scalar::compile`]. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Scalar {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    text: String,
    expr: Expr,
    fields: Vec<FieldRef>,
    columns: BTreeSet<String>,
    data_type: DataType,
    nullable: bool,
}

/// What is read of the row beside its columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hidden {
    /// The recorded ingest time.
    Now,
    /// The event time.
    EventTime,
    /// A number drawn from the position, at this place of the expression.
    Random(u32),
    /// A UUID drawn from the position, at this place of the expression.
    Uuid(u32),
}

/// Hidden columns start with a character that no column's name has.
const HIDDEN: char = '\u{0}';

impl Hidden {
    pub(crate) fn column(self) -> String {
        match self {
            Hidden::Now => format!("{HIDDEN}now"),
            Hidden::EventTime => format!("{HIDDEN}event_time"),
            Hidden::Random(place) => format!("{HIDDEN}random:{place}"),
            Hidden::Uuid(place) => format!("{HIDDEN}uuid:{place}"),
        }
    }

    pub(crate) fn of(column: &str) -> Option<Hidden> {
        let name = column.strip_prefix(HIDDEN)?;
        match name.split_once(':') {
            None if name == "now" => Some(Hidden::Now),
            None if name == "event_time" => Some(Hidden::EventTime),
            Some(("random", place)) => place.parse().ok().map(Hidden::Random),
            Some(("uuid", place)) => place.parse().ok().map(Hidden::Uuid),
            _ => None,
        }
    }
}

impl Scalar {
    /// `fields` are the columns that the expression names, hidden ones included.
    pub(crate) fn new(text: &str, expr: Expr, fields: &[FieldRef], data_type: DataType, nullable: bool) -> Self {
        let named: BTreeSet<&str> = expr.column_refs().iter().map(|column| column.name.as_str()).collect();
        let fields: Vec<FieldRef> =
            fields.iter().filter(|field| named.contains(field.name().as_str())).cloned().collect();
        let columns =
            fields.iter().map(|field| field.name()).filter(|name| Hidden::of(name).is_none()).cloned().collect();
        Scalar { inner: Arc::new(Inner { text: text.to_owned(), expr, fields, columns, data_type, nullable }) }
    }

    pub(crate) fn expr(&self) -> &Expr {
        &self.inner.expr
    }

    pub(crate) fn fields(&self) -> &[FieldRef] {
        &self.inner.fields
    }

    /// The type of its value.
    pub fn data_type(&self) -> &DataType {
        &self.inner.data_type
    }

    /// Whether its value may be null.
    pub fn nullable(&self) -> bool {
        self.inner.nullable
    }

    /// The columns it reads, a qualified one as `qualifier.column`. What was simplified away is not read.
    pub fn columns(&self) -> &BTreeSet<String> {
        &self.inner.columns
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.inner.text
    }

    /// The columns that are not null in a row for which the expression is true.
    pub fn non_null_when_true(&self) -> BTreeSet<String> {
        let mut columns = narrow::when_true(self.expr());
        columns.retain(|column| Hidden::of(column).is_none());
        columns
    }

    /// Whether it reads the row's recorded ingest time: `now()`, `current_date`.
    pub fn reads_now(&self) -> bool {
        self.reads(|hidden| hidden == Hidden::Now)
    }

    /// Whether it reads the row's event time: `event_time()`.
    pub fn reads_event_time(&self) -> bool {
        self.reads(|hidden| hidden == Hidden::EventTime)
    }

    /// Whether it draws from the row's position: `random()`, `uuid()`.
    pub fn reads_position(&self) -> bool {
        self.reads(|hidden| matches!(hidden, Hidden::Random(_) | Hidden::Uuid(_)))
    }

    fn reads(&self, what: impl Fn(Hidden) -> bool) -> bool {
        self.inner.fields.iter().filter_map(|field| Hidden::of(field.name())).any(what)
    }

    /// The column, if the expression is nothing but a column.
    pub fn as_column(&self) -> Option<&str> {
        match self.expr() {
            Expr::Column(column) if Hidden::of(&column.name).is_none() => Some(&column.name),
            _ => None,
        }
    }

    /// Whether it is the same for every row.
    pub fn is_constant(&self) -> bool {
        matches!(self.expr(), Expr::Literal(..))
    }

    /// The same value as one of another type. A row whose value has no counterpart there fails; so does a constant, at once.
    pub fn cast(&self, to: &DataType) -> Result<Scalar, ExprError> {
        if self.data_type() == to {
            return Ok(self.clone());
        }
        if !can_cast_types(self.data_type(), to) {
            let (from, to) = (type_name(self.data_type()), type_name(to));
            let message = format!("a value of type {from} can't become one of type {to}");
            return Err(ExprError::new(codes::IMPOSSIBLE_CAST, message));
        }
        let expr = match self.expr() {
            Expr::Literal(value, metadata) => match value.cast_to(to) {
                Ok(value) => Expr::Literal(value, metadata.clone()),
                Err(error) => {
                    let reason = row_error(&error).reason;
                    return Err(ExprError::new(codes::ALWAYS_FAILS, format!("every row would fail here: {reason}")));
                }
            },
            expr => Expr::Cast(Cast::new(Box::new(expr.clone()), to.clone())),
        };
        let refused = |error| {
            let reason = row_error(&error).reason;
            ExprError::new(codes::UNSUPPORTED, format!("this can't be computed: {reason}"))
        };
        lower(&expr, &schema_of(self.fields()).map_err(refused)?).map_err(refused)?;
        Ok(Scalar::new(self.text(), expr, self.fields(), to.clone(), self.nullable()))
    }

    /// Binds it to the columns of a batch, by name; the schema may have more columns than it reads.
    pub fn compile(&self, schema: &SchemaRef) -> Result<Program, ExprError> {
        Program::new(self, schema)
    }
}
