//! Names: columns, parameters, the rows beside, and the fields of values.

use super::{Mode, Planner, internal};
use crate::context::is_open;
use crate::error::{ExprError, both, every};
use crate::functions::fail;
use crate::parse::short;
use crate::types::type_name;
use arrow::datatypes::{DataType, Field, Schema};
use datafusion_common::ScalarValue;
use datafusion_expr::Expr;
use datafusion_expr::expr::ScalarFunction;
use datafusion_sql::sqlparser::ast::{self, AccessExpr, Ident, Subscript};
use engine_base::RowError;
use engine_base::codes::expr as codes;
use std::collections::BTreeSet;
use std::ops::Range;

fn of_schema<'a>(schema: &'a Schema, name: &Ident) -> Option<&'a Field> {
    schema.field_with_name(&name.value).ok()
}

impl Planner<'_> {
    /// A name of one part, or a dotted one that the reader joined.
    pub(super) fn identifier(&mut self, ident: &Ident) -> Result<Expr, ExprError> {
        let parsed = self.parsed;
        match parsed.dotted(ident) {
            Some(parts) => self.name(parts),
            None => self.bare(ident),
        }
    }

    /// A column by its bare name.
    fn bare(&mut self, ident: &Ident) -> Result<Expr, ExprError> {
        let name = ident.value.as_str();
        let columns = self.scope.columns.clone();
        let Ok(field) = columns.field_with_name(name) else {
            return Err(if is_open(&columns) { ExprError::follows() } else { self.no_column(ident) });
        };
        if self.mode == Mode::Around {
            let error = ExprError::new(codes::OUTSIDE_AGGREGATE, format!("`{name}` stands outside an aggregate"))
                .at(self.parsed.span(ident.span))
                .help(format!("take one value of the rows': `last({name})`, `max({name})`"));
            return Err(match self.scope.beside("current") {
                Some(current) if current.field_with_name(name).is_ok() => {
                    error.help(format!("the row's own value is `current.{name}`"))
                }
                _ => error,
            });
        }
        self.column(name.to_owned(), field.data_type(), field.is_nullable())
    }

    /// The bare name of no column.
    fn no_column(&self, ident: &Ident) -> ExprError {
        let name = ident.value.as_str();
        let place = self.parsed.span(ident.span);
        let known: Vec<&str> = self.scope.columns.fields().iter().map(|field| field.name().as_str()).collect();
        if ident.quote_style == Some('"') {
            return ExprError::new(
                codes::DOUBLE_QUOTES,
                format!("double quotes name a column, and there is no column `{}`", short(name)),
            )
            .at(place)
            .help(format!("for text, write single quotes: `'{}'`", short(name)))
            .did_you_mean(name, known.iter().copied());
        }
        let mut error = ExprError::new(codes::UNKNOWN_COLUMN, format!("there is no column `{}`", short(name)))
            .at(place)
            .did_you_mean(name, known.iter().copied());
        for (qualifier, schema) in &self.scope.beside {
            if schema.field_with_name(name).is_ok() {
                error = error.help(format!("did you mean `{qualifier}.{name}`?"));
            }
        }
        if name == "param" {
            error = error.known("the parameters are", self.context.params());
        }
        if self.context.param(name).is_some() {
            error = error.help(format!("the parameter is `param.{name}`"));
        }
        if self.functions.scalar(&name.to_lowercase()).is_some() {
            error = error.help(format!("the function is called with parentheses: `{name}(…)`"));
        }
        error
            .known("the columns are", known)
            .help(format!("for text, write single quotes: `'{0}'`, in YAML `\"'{0}'\"`", short(name)))
    }

    /// A dotted name: a parameter, a column of the row beside, or a field of a column.
    pub(super) fn name(&mut self, parts: &[Ident]) -> Result<Expr, ExprError> {
        let (head, second, rest) = match parts {
            [] => return Err(ExprError::new(codes::SYNTAX, "a name is due here")),
            [only] => return self.bare(only),
            [head, second, rest @ ..] => (head, second, rest),
        };
        let whole = self.parsed.span(head.span.union(&parts[parts.len() - 1].span));
        if head.value == "param" && head.quote_style.is_none() {
            let param = self.param(second, whole.clone())?;
            return self.fields(param, rest);
        }
        if let Some(group) = self.scope.group(&head.value).cloned() {
            let qualifier = head.value.as_str();
            if self.mode == Mode::Within {
                let field = of_schema(&group, second).ok_or_else(|| self.not_of(qualifier, &group, second))?;
                let column =
                    self.column(format!("{qualifier}.{}", second.value), field.data_type(), field.is_nullable())?;
                return self.fields(column, rest);
            }
            if self.scope.beside(qualifier).is_none() {
                let named = format!("{qualifier}.{}", second.value);
                return Err(ExprError::new(codes::OUTSIDE_AGGREGATE, format!("`{named}` may be of many rows"))
                    .at(whole)
                    .help(format!("take one value of them: `last({named})`, `max({named})`")));
            }
        }
        if let Some(beside) = self.scope.beside(&head.value).cloned() {
            let column = self.beside(&head.value, &beside, second, whole)?;
            return self.fields(column, rest);
        }
        if self.scope.columns.field_with_name(&head.value).is_ok() || is_open(&self.scope.columns) {
            let column = self.bare(head)?;
            return self.fields(column, &parts[1..]);
        }
        let names: Vec<&str> = self
            .scope
            .groups
            .iter()
            .chain(&self.scope.beside)
            .map(|(name, _)| name.as_str())
            .chain(self.scope.columns.fields().iter().map(|field| field.name().as_str()))
            .collect();
        let mut once = BTreeSet::new();
        let names: Vec<&str> = names.into_iter().filter(|name| once.insert(*name)).collect();
        let what =
            if self.scope.beside.is_empty() && self.scope.groups.is_empty() { "column" } else { "column or row" };
        let mut error = ExprError::new(codes::UNKNOWN_COLUMN, format!("there is no {what} `{}`", short(&head.value)))
            .at(self.parsed.span(head.span))
            .did_you_mean(&head.value, names.iter().copied().chain(["param"]));
        if rest.is_empty() && self.scope.columns.field_with_name(&second.value).is_ok() {
            error = error.help(format!("the columns of the input stand alone: `{}`", second.value));
        }
        Err(error.known("there are", names))
    }

    /// The value of a parameter.
    fn param(&mut self, name: &Ident, place: Option<Range<usize>>) -> Result<Expr, ExprError> {
        let Some(param) = self.context.param(&name.value) else {
            let error =
                ExprError::new(codes::UNKNOWN_PARAMETER, format!("there is no parameter `{}`", short(&name.value)))
                    .at(place);
            let known: Vec<&str> = self.context.params().collect();
            return Err(match known.is_empty() {
                true => error.help(format!(
                    "declare it: `parameters: {{ {}: {{ type: float64, default: 0.9 }} }}`",
                    short(&name.value)
                )),
                false => error.did_you_mean(&name.value, known.iter().copied()).known("the parameters are", known),
            });
        };
        if param.data_type.is_null() {
            return Err(ExprError::follows());
        }
        Ok(match &param.value {
            Ok(value) => Expr::Literal(value.clone(), None),
            // Checked without the value, as a dry-run may: what needs it would fail.
            Err(reason) => fail(&RowError::new("invalid", reason), param.data_type.clone(), param.nullable),
        })
    }

    /// A column of the row beside.
    fn beside(
        &mut self,
        qualifier: &str,
        schema: &Schema,
        name: &Ident,
        place: Option<Range<usize>>,
    ) -> Result<Expr, ExprError> {
        let field = of_schema(schema, name).ok_or_else(|| self.not_of(qualifier, schema, name))?;
        if self.mode == Mode::Within {
            return Err(ExprError::new(
                codes::UNSUPPORTED,
                format!("`{qualifier}.{}` can't stand within an aggregate", name.value),
            )
            .at(place)
            .help(
                "an aggregate's argument is computed for each row as it comes; use the row's own value outside of it",
            ));
        }
        self.column(format!("{qualifier}.{}", name.value), field.data_type(), field.is_nullable())
    }

    /// A column that the row or the rows beside don't have.
    fn not_of(&self, qualifier: &str, schema: &Schema, name: &Ident) -> ExprError {
        if is_open(schema) {
            return ExprError::follows();
        }
        let known: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        ExprError::new(codes::UNKNOWN_COLUMN, format!("`{qualifier}` has no column `{}`", short(&name.value)))
            .at(self.parsed.span(name.span))
            .did_you_mean(&name.value, known.iter().copied())
            .known("its columns are", known)
    }

    /// Fields behind dots.
    fn fields(&mut self, mut value: Expr, names: &[Ident]) -> Result<Expr, ExprError> {
        for name in names {
            value = self.field(value, &name.value, true, self.parsed.span(name.span))?;
        }
        Ok(value)
    }

    /// One field, behind a dot or as `['name']`.
    fn field(&self, value: Expr, name: &str, dotted: bool, place: Option<Range<usize>>) -> Result<Expr, ExprError> {
        let data_type = self.type_of(&value);
        let error = |message: String| ExprError::new(codes::UNKNOWN_FIELD, message).at(place.clone());
        match &data_type {
            DataType::Struct(fields) if fields.iter().any(|field| field.name() == name) => {
                self.get_field(value, name.into(), place)
            }
            DataType::Struct(fields) => {
                let known: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
                Err(error(format!("there is no field `{}`", short(name)))
                    .did_you_mean(name, known.iter().copied())
                    .known("the fields are", known))
            }
            DataType::Map(..) => match dotted {
                true => {
                    Err(error("a map has keys, not fields".to_owned()).help(format!("write `['{}']`", short(name))))
                }
                false => self.map_value(value, Expr::Literal(name.into(), None), place),
            },
            DataType::Utf8 => Err(error("a text has no fields".to_owned())
                .help(format!("if it holds JSON, write `json_get(text, '$.{}')`", short(name)))),
            DataType::List(_) => Err(error("a list has no fields".to_owned()).help("its first element is `l[1]`")),
            DataType::Null => Ok(Expr::Literal(ScalarValue::Null, None)),
            other => Err(error(format!("a value of type {} has no fields", type_name(other)))),
        }
    }

    fn get_field(&self, value: Expr, key: ScalarValue, place: Option<Range<usize>>) -> Result<Expr, ExprError> {
        let Some(function) = self.functions.scalar("get_field").cloned() else {
            return Err(ExprError::new(codes::INTERNAL, "there is no way to a field"));
        };
        let call = Expr::ScalarFunction(ScalarFunction::new_udf(function, vec![value, Expr::Literal(key, None)]));
        self.settle(call, &self.parsed.tree, |_, error| internal(error).at(place))
    }

    /// A map's value of a key.
    fn map_value(&self, map: Expr, key: Expr, place: Option<Range<usize>>) -> Result<Expr, ExprError> {
        let key_type = match self.type_of(&map) {
            DataType::Map(entries, _) => match entries.data_type() {
                DataType::Struct(fields) if fields.len() == 2 => fields[0].data_type().clone(),
                _ => DataType::Null,
            },
            _ => DataType::Null,
        };
        if let Expr::Literal(value, _) = &key {
            let given = value.data_type();
            let fits = given == key_type || (given.is_integer() && key_type.is_integer());
            let Some(value) = value.cast_to(&key_type).ok().filter(|_| fits) else {
                return Err(ExprError::new(
                    codes::UNKNOWN_FIELD,
                    format!(
                        "the map's keys are of type {}, and this is of type {}",
                        type_name(&key_type),
                        type_name(&self.type_of(&key))
                    ),
                )
                .at(place));
            };
            return self.get_field(map, value, place);
        }
        // A key of each row's own.
        let key = Expr::Cast(datafusion_expr::expr::Cast::new(Box::new(key), key_type));
        let values = self.call_typed("map_extract", vec![map, key], place.clone())?;
        self.call_typed("array_element", vec![values, Expr::Literal(ScalarValue::Int64(Some(1)), None)], place)
    }

    fn call_typed(&self, name: &str, args: Vec<Expr>, place: Option<Range<usize>>) -> Result<Expr, ExprError> {
        let Some(function) = self.functions.scalar(name).cloned() else {
            return Err(ExprError::new(codes::INTERNAL, format!("there is no function `{name}`")));
        };
        let call = Expr::ScalarFunction(ScalarFunction::new_udf(function, args));
        self.settle(call, &self.parsed.tree, |_, error| internal(error).at(place))
    }

    /// `x['key']`, `x[1]`, `x[2:3]`, and dots behind brackets.
    pub(super) fn access(
        &mut self,
        root: &ast::Expr,
        chain: &[AccessExpr],
        node: &ast::Expr,
    ) -> Result<Expr, ExprError> {
        let mut value = match self.plan(root) {
            Ok(value) => value,
            Err(problem) => {
                // What stands in brackets can be wrong by itself.
                let indices = chain.iter().filter_map(|step| match step {
                    AccessExpr::Subscript(Subscript::Index { index }) => self.plan(index).err(),
                    _ => None,
                });
                return Err(indices.fold(problem, ExprError::and));
            }
        };
        for step in chain {
            value = match step {
                AccessExpr::Dot(ast::Expr::Identifier(name)) => {
                    self.field(value, &name.value, true, self.parsed.span(name.span))?
                }
                AccessExpr::Dot(_) => {
                    return Err(ExprError::new(codes::SYNTAX, "a name is due behind this dot").at(self.place(node)));
                }
                AccessExpr::Subscript(Subscript::Index { index }) => self.index(value, index, node)?,
                AccessExpr::Subscript(Subscript::Slice { lower_bound, upper_bound, stride }) => {
                    let bounds = [lower_bound.as_ref(), upper_bound.as_ref(), stride.as_ref()];
                    self.slice(value, bounds, node)?
                }
            };
        }
        Ok(value)
    }

    fn index(&mut self, value: Expr, index: &ast::Expr, node: &ast::Expr) -> Result<Expr, ExprError> {
        let place = self.place(index).or_else(|| self.place(node));
        if let ast::Expr::Value(ast::ValueWithSpan { value: ast::Value::SingleQuotedString(key), .. }) = index {
            return match self.parsed.dot_field(key) {
                Some(field) => self.field(value, field, true, place),
                None => self.field(value, key, false, place),
            };
        }
        let index_type = {
            let key = self.plan(index)?;
            let data_type = self.type_of(&value);
            match &data_type {
                DataType::Map(..) => return self.map_value(value, key, place),
                DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => {}
                DataType::Null => return Ok(Expr::Literal(ScalarValue::Null, None)),
                DataType::Struct(_) => {
                    return Err(ExprError::new(codes::UNKNOWN_FIELD, "a struct's field is a constant name")
                        .at(place)
                        .help("write `s.field`"));
                }
                other => {
                    return Err(ExprError::new(
                        codes::UNKNOWN_FIELD,
                        format!("a value of type {} has no elements", type_name(other)),
                    )
                    .at(place)
                    .help("`substr(text, 1, 1)` is a text's first character"));
                }
            }
            if let Expr::Literal(ScalarValue::Int64(Some(0)), _) = key {
                return Err(ExprError::new(codes::UNKNOWN_FIELD, "a list counts from one")
                    .at(place)
                    .help("the first element is `[1]`"));
            }
            let index_type = self.type_of(&key);
            if index_type.is_integer() || index_type.is_null() {
                return self.call_typed("array_element", vec![value, key], place);
            }
            index_type
        };
        Err(ExprError::new(
            codes::UNKNOWN_FIELD,
            format!("a list's element is a whole number, not a value of type {}", type_name(&index_type)),
        )
        .at(place))
    }

    fn slice(&mut self, value: Expr, bounds: [Option<&ast::Expr>; 3], node: &ast::Expr) -> Result<Expr, ExprError> {
        let place = self.place(node);
        let data_type = self.type_of(&value);
        if !matches!(data_type, DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..)) {
            return Err(ExprError::new(
                codes::UNKNOWN_FIELD,
                format!("a value of type {} has no elements", type_name(&data_type)),
            )
            .at(place));
        }
        let one = || Expr::Literal(ScalarValue::Int64(Some(1)), None);
        let lower = bounds[0].map_or_else(|| Ok(one()), |bound| self.plan(bound));
        let upper = match bounds[1] {
            Some(bound) => self.plan(bound),
            None => {
                let length = self.call_typed("array_length", vec![value.clone()], place.clone())?;
                self.cast_to(length, DataType::Int64, false, node)
            }
        };
        let stride = bounds[2].map(|stride| self.plan(stride)).transpose();
        let (bounds, stride) = both(every([lower, upper]), stride)?;
        let args = std::iter::once(value).chain(bounds).chain(stride).collect();
        self.call_typed("array_slice", args, place)
    }
}
