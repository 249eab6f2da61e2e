//! What comes out of a `join`, and what names mean in its expressions: `left.x`, `right.x`, the inputs' own names, and the bare
//! names of columns that only one side has.

use super::plan::JoinKind;
use super::{LEFT, RIGHT};
use crate::check;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use engine_base::codes::{join as codes, plan as plan_codes, spec as spec_codes};
use engine_base::{Diagnostic, Span, suggest};
use engine_expr::{Scalar, Scope, is_open};
use engine_plan::Cx;
use engine_spec::{Assignments, Expression, Node, Value as Written};
use std::sync::Arc;

/// The qualifiers that always stand for the sides.
const SIDES: [&str; 2] = ["left", "right"];

/// A column that comes out.
#[derive(Debug)]
pub(super) struct Column {
    pub(super) field: Field,
    pub(super) value: Value,
}

/// What a column that comes out is.
#[derive(Debug)]
pub(super) enum Value {
    /// A column of a side.
    Of(usize, String),
    /// That of the side that is there, for a column that both sides match by. It can fail only where the sides' types differ.
    Either(Term, bool),
    /// An expression over both rows.
    Term(Term),
    /// The start of the window.
    Start,
    /// The end of the window.
    End,
    /// It could not be planned, which is noted.
    Unknown,
}

impl Value {
    /// The columns of a side that it reads.
    pub(super) fn reads(&self, side: usize) -> Box<dyn Iterator<Item = &str> + '_> {
        match self {
            Value::Of(of, name) => Box::new((*of == side).then_some(name.as_str()).into_iter()),
            Value::Either(term, _) | Value::Term(term) => Box::new(term.reads(side)),
            Value::Start | Value::End | Value::Unknown => Box::new(std::iter::empty()),
        }
    }

    /// Whether it can fail for a row.
    pub(super) fn can_fail(&self) -> bool {
        matches!(self, Value::Term(_) | Value::Either(_, true))
    }
}

/// An expression, and the columns behind the names that its program reads.
#[derive(Debug)]
pub(super) struct Term {
    pub(super) scalar: Scalar,
    /// (name in the program, side, column)
    pub(super) names: Vec<(String, usize, String)>,
}

impl Term {
    /// The columns of a side that it reads.
    pub(super) fn reads(&self, side: usize) -> impl Iterator<Item = &str> {
        self.names.iter().filter(move |(_, of, _)| *of == side).map(|(.., column)| column.as_str())
    }
}

/// What names mean.
pub(super) struct Names {
    schemas: [SchemaRef; 2],
    /// `left` and `right`, then the names of the inputs where they can be told from anything else.
    qualifiers: Vec<(String, usize)>,
}

impl Names {
    pub(super) fn new(cx: &Cx<'_>, schemas: [SchemaRef; 2]) -> Names {
        let mut qualifiers: Vec<(String, usize)> = vec![("left".to_owned(), LEFT), ("right".to_owned(), RIGHT)];
        let named = SIDES.map(|key| {
            let node = cx.component.node.get(key)?;
            node.get("from").unwrap_or(node).as_str().map(str::to_owned)
        });
        let is_column = |name: &str| schemas.iter().any(|schema| schema.field_with_name(name).is_ok());
        if named[LEFT] != named[RIGHT] {
            for (side, name) in named.into_iter().enumerate() {
                let Some(name) = name else { continue };
                let plain = !name.contains('.') && name != "param" && !SIDES.contains(&name.as_str());
                if plain && !is_column(&name) {
                    qualifiers.push((name, side));
                }
            }
        }
        Names { schemas, qualifiers }
    }

    /// What an expression may name of some sides; the columns of a side that is optional may be null.
    pub(super) fn scope(&self, optional: [bool; 2], sides: &[usize]) -> Scope {
        let loose = |side: usize| -> SchemaRef {
            let schema = &self.schemas[side];
            if !optional[side] {
                return schema.clone();
            }
            let fields: Vec<Field> =
                schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
            Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
        };
        let loose = [loose(LEFT), loose(RIGHT)];
        let mut bare: Vec<Field> = Vec::new();
        let mut metadata = std::collections::HashMap::new();
        for side in sides {
            let fields = loose[*side].fields().iter();
            bare.extend(
                fields.filter(|field| self.bare(field.name(), sides).is_some()).map(|field| field.as_ref().clone()),
            );
            metadata.extend(loose[*side].metadata().clone());
        }
        let mut scope = Scope::new(Arc::new(Schema::new_with_metadata(bare, metadata)));
        for (qualifier, side) in self.qualifiers.iter().filter(|(_, side)| sides.contains(side)) {
            scope = scope.with(qualifier, loose[*side].clone());
        }
        scope
    }

    /// The side of a bare name that only one of these has.
    fn bare(&self, name: &str, sides: &[usize]) -> Option<usize> {
        if self.qualified(name).is_some() {
            return None;
        }
        let mut having = sides.iter().copied().filter(|side| self.schemas[*side].field_with_name(name).is_ok());
        let side = having.next()?;
        having.next().is_none().then_some(side)
    }

    /// The side and the column of a qualified name, whether or not there is such a column.
    fn qualified<'n>(&self, name: &'n str) -> Option<(usize, &'n str)> {
        let (qualifier, column) = name.split_once('.')?;
        self.qualifiers.iter().find(|(known, _)| known == qualifier).map(|(_, side)| (*side, column))
    }

    /// An expression with what its names mean.
    pub(super) fn term(&self, scalar: Scalar) -> Term {
        let of = |name: &String| {
            let (side, column) = match self.qualified(name) {
                Some((side, column)) => (side, column),
                // Planned over such a scope: one side has it.
                None => (self.bare(name, &[LEFT, RIGHT]).unwrap_or(LEFT), name.as_str()),
            };
            (name.clone(), side, column.to_owned())
        };
        let names = scalar.columns().iter().map(of).collect();
        Term { scalar, names }
    }

    fn field(&self, side: usize, name: &str, optional: [bool; 2]) -> Option<Field> {
        let field = self.schemas[side].field_with_name(name).ok()?;
        Some(field.clone().with_nullable(field.is_nullable() || optional[side]))
    }
}

/// All columns of the left, and those of the right with other names. A column of `same`, by which both sides match, is that of
/// the side that is there.
pub(super) fn default_columns(cx: &mut Cx<'_>, names: &Names, kind: JoinKind, same: &[String]) -> Vec<Column> {
    let optional = kind.optional();
    let mut columns = Vec::new();
    for field in names.schemas[LEFT].fields() {
        let name = field.name();
        if optional[LEFT] && same.contains(name) {
            columns.extend(either(cx, names, name, optional));
        } else if let Some(field) = names.field(LEFT, name, optional) {
            columns.push(Column { field, value: Value::Of(LEFT, name.clone()) });
        }
    }
    if kind.pairs() {
        for field in names.schemas[RIGHT].fields() {
            let name = field.name();
            if names.schemas[LEFT].field_with_name(name).is_err()
                && let Some(field) = names.field(RIGHT, name, optional)
            {
                columns.push(Column { field, value: Value::Of(RIGHT, name.clone()) });
            }
        }
    }
    columns
}

/// The column of a name by which both sides match, of whichever side is there.
fn either(cx: &mut Cx<'_>, names: &Names, name: &str, optional: [bool; 2]) -> Option<Column> {
    let fields = [LEFT, RIGHT].map(|side| names.schemas[side].field_with_name(name).ok().cloned());
    let [Some(left), Some(right)] = fields else { return None };
    let nullable = left.is_nullable() || right.is_nullable();
    let field = |data_type: DataType| left.clone().with_data_type(data_type).with_nullable(nullable);
    let quoted = format!("\"{}\"", name.replace('"', "\"\""));
    let text = format!("coalesce(left.{quoted}, right.{quoted})");
    // A column that is wrong, or sides that don't agree, are noted elsewhere.
    let planned = cx.expr.scalar(&text, &names.scope(optional, &[LEFT, RIGHT]));
    Some(match planned {
        Ok(scalar) => {
            let differ = left.data_type() != right.data_type();
            Column { field: field(scalar.data_type().clone()), value: Value::Either(names.term(scalar), differ) }
        }
        Err(_) => Column { field: field(DataType::Null), value: Value::Unknown },
    })
}

/// The columns that `columns:` asks for.
pub(super) fn chosen(cx: &mut Cx<'_>, written: &Node, names: &Names, kind: JoinKind) -> Vec<Column> {
    let mut columns: Vec<Column> = Vec::new();
    let before = cx.diagnostics.len();
    match &written.value {
        Written::List(items) => {
            for (at, item) in items.iter().enumerate() {
                if let Some(name) = item.decode::<String>(cx.diagnostics) {
                    listed(cx, &at.to_string(), &name, names, kind, &mut columns);
                }
            }
        }
        _ => {
            let assignments: Option<Assignments> = written.decode(cx.diagnostics);
            let sides: &[usize] = if kind.pairs() { &[LEFT, RIGHT] } else { &[LEFT] };
            let scope = names.scope(kind.optional(), sides);
            for (name, expression) in assignments.iter().flatten() {
                if !kind.pairs() && reads_right(cx, expression, names) {
                    let span = cx.span(&["columns", name]);
                    left_only(cx, span);
                    columns.push(Column { field: Field::new(name, DataType::Null, true), value: Value::Unknown });
                    continue;
                }
                columns.push(assigned(cx, name, expression, names, &scope, kind));
            }
        }
    }
    if columns.is_empty() && cx.diagnostics.len() == before {
        cx.push(
            Diagnostic::error(spec_codes::BAD_VALUE, written.span, "`columns` names no column")
                .help("name at least one, or leave the key out for all"),
        );
    }
    columns
}

/// The column of a side that is named at `span`, or a problem, with what may help.
pub(super) fn column_of(
    cx: &mut Cx<'_>,
    span: Span,
    name: &str,
    side: usize,
    schema: &SchemaRef,
    hint: Option<&str>,
) -> Option<Field> {
    if schema.field_with_name(name).is_ok() || is_open(schema) {
        return cx.column_at(span, name, schema).cloned();
    }
    let columns = || schema.fields().iter().map(|field| field.name().as_str());
    let message = format!("the {} rows have no column `{name}`", SIDES[side]);
    let mut problem = Diagnostic::error(plan_codes::UNKNOWN_COLUMN, span, message).did_you_mean(name, columns());
    problem.help.extend(hint.map(str::to_owned));
    cx.push(problem.help(format!("their columns are {}", check::listed(columns()))));
    None
}

/// Whether an expression that is sound over both sides names the right one.
fn reads_right(cx: &Cx<'_>, expression: &Expression, names: &Names) -> bool {
    let planned = cx.expr.scalar(&expression.0, &names.scope([false, false], &[LEFT, RIGHT]));
    planned.is_ok_and(|scalar| names.term(scalar).reads(RIGHT).next().is_some())
}

/// Notes a column of the right side where only left rows come out.
fn left_only(cx: &mut Cx<'_>, span: Span) {
    let message = "only left rows come out of this join, without columns of the right side";
    cx.push(
        Diagnostic::error(codes::LEFT_ROWS_ONLY, span, message)
            .help("leave it out; `join: inner` and `join: left` have the columns of both"),
    );
}

/// A column that is an expression over both rows.
fn assigned(
    cx: &mut Cx<'_>,
    name: &str,
    expression: &Expression,
    names: &Names,
    scope: &Scope,
    kind: JoinKind,
) -> Column {
    let Some(scalar) = cx.scalar(&["columns", name], expression, scope) else {
        return Column { field: Field::new(name, DataType::Null, true), value: Value::Unknown };
    };
    let nullable = scalar.nullable();
    let term = names.term(scalar);
    // What is known of a column beside its type (that it is JSON) goes along with it.
    let plain = match (&term.scalar.as_column(), term.names.as_slice()) {
        (Some(_), [(_, side, column)]) => names.field(*side, column, kind.optional()).map(|field| (*side, field)),
        _ => None,
    };
    match plain {
        Some((side, field)) => {
            let value = Value::Of(side, field.name().clone());
            Column { field: field.with_name(name), value }
        }
        None => Column { field: Field::new(name, term.scalar.data_type().clone(), nullable), value: Value::Term(term) },
    }
}

/// The columns of an entry of a list: `left.*`, `right.x`, or a bare name.
fn listed(cx: &mut Cx<'_>, at: &str, name: &str, names: &Names, kind: JoinKind, columns: &mut Vec<Column>) {
    let span = cx.span(&["columns", at]);
    let optional = kind.optional();
    let bare = || match kind.pairs() {
        true => names.bare(name, &[LEFT, RIGHT]),
        false => names.bare(name, &[LEFT]).or_else(|| names.bare(name, &[RIGHT])),
    };
    let Some((side, column)) = names.qualified(name).or_else(|| bare().map(|side| (side, name))) else {
        unknown(cx, at, name, names);
        return;
    };
    if side == RIGHT && !kind.pairs() {
        left_only(cx, span);
        return;
    }
    let fields: Vec<Field> = match column {
        "*" => {
            let all = names.schemas[side].fields().iter();
            all.filter_map(|field| names.field(side, field.name(), optional)).collect()
        }
        column => match column_of(cx, span, column, side, &names.schemas[side], None) {
            Some(_) => names.field(side, column, optional).into_iter().collect(),
            // Noted, or of a step that is wrong: it is there and of no known type.
            None => vec![Field::new(column, DataType::Null, true)],
        },
    };
    for field in fields {
        let name = field.name().clone();
        if columns.iter().any(|column| *column.field.name() == name) {
            let side = SIDES[side];
            cx.push(
                check::taken(span, &name).help(format!(
                    "write a map to give it another name: `columns: {{ {side}_{name}: {side}.{name} }}`"
                )),
            );
            continue;
        }
        columns.push(Column { value: Value::Of(side, name), field });
    }
}

/// Notes a name in a list that is no column of one side.
fn unknown(cx: &mut Cx<'_>, at: &str, name: &str, names: &Names) {
    let path = ["columns", at];
    let span = cx.span(&path);
    if names.schemas.iter().all(|schema| schema.field_with_name(name).is_ok()) {
        let message = format!("both sides have a column `{name}`");
        cx.push(
            Diagnostic::error(plan_codes::UNKNOWN_COLUMN, span, message)
                .help(format!("write `left.{name}` or `right.{name}`")),
        );
        return;
    }
    if names.schemas.iter().any(|schema| is_open(schema)) {
        cx.follows(&path);
        return;
    }
    let mut known: Vec<String> = names.qualifiers.iter().map(|(qualifier, _)| format!("{qualifier}.*")).collect();
    for side in [LEFT, RIGHT] {
        for field in names.schemas[side].fields() {
            match names.bare(field.name(), &[LEFT, RIGHT]) {
                Some(_) => known.push(field.name().clone()),
                None => known.push(format!("{}.{}", SIDES[side], field.name())),
            }
        }
    }
    let mut problem = Diagnostic::error(plan_codes::UNKNOWN_COLUMN, span, format!("there is no column `{name}` here"));
    if let Some(near) = suggest::nearest(name, known.iter().map(String::as_str)) {
        problem = problem.help(format!("did you mean `{near}`?"));
    }
    cx.push(problem.help(format!("the columns are {}", check::listed(known.iter().map(String::as_str)))));
}
