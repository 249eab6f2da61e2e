//! The table of a `postgres` sink: whether it can take the rows, and the statements that give them to it.

use super::connection::fault;
use crate::database::Fault;
use crate::database::columns::Kind;
use crate::database::plan::{Table, quote, quoted_list};
use arrow::datatypes::{DataType, Field};
use engine_plan::types::column_text;
use std::collections::HashMap;
use tokio_postgres::Client;

/// A column as the server has it.
struct Held {
    /// The base type: of a domain, what it is made of.
    base: String,
    /// The type as it is declared, for messages.
    declared: String,
    /// The base type's name, without a length.
    name: String,
    category: String,
    is_enum: bool,
    typmod: i32,
    /// It must be given: not null, and without a default.
    due: bool,
    /// Why it can't be given.
    fixed: Option<&'static str>,
}

/// How a column goes into the server's.
struct Fit {
    /// The type of the parameter.
    parameter: &'static str,
    /// What the text is made into before it is assigned.
    cast: Option<String>,
    /// The server's type, for keys.
    name: String,
}

/// The statements of a table.
#[derive(Debug)]
pub(super) struct Statements {
    pub(super) put: String,
    pub(super) delete: Option<String>,
}

/// Makes the table if that is asked for, checks it, and gives its statements.
pub(super) async fn prepare(client: &Client, table: &Table) -> Result<Statements, Fault> {
    let asked = |error: &tokio_postgres::Error| fault(error).about(&format!("`{}`", table.written()));
    let mut oid = find(client, table).await?;
    if oid.is_none() && table.create {
        let made = client.batch_execute(&definition(table)).await;
        oid = find(client, table).await?;
        // Another may have made it at the same moment.
        if let (Err(error), None) = (&made, oid) {
            return Err(
                fault(error).about(&table.complaint("the table can't be made", "make it yourself, or allow it"))
            );
        }
    }
    let Some(oid) = oid else {
        let lower = table.written().to_lowercase();
        let remedy = match lower != table.written() {
            true => {
                "names are taken as they are written, capitals included: write it as the server has it, or add `create: true`"
            }
            false => "make it, or add `create: true` to have it made",
        };
        return Err(Fault::Stop(table.complaint(format!("there is no table `{}`", table.written()), remedy)));
    };
    let rows = client
        .query(
            "SELECT a.attname::text, t.typname::text, format_type(a.atttypid, a.atttypmod), format_type(t.oid, -1), \
             t.typcategory::text, t.typtype::text = 'e', \
             CASE WHEN d.typtype = 'd' THEN d.typtypmod ELSE a.atttypmod END, a.attnotnull AND NOT a.atthasdef, \
             a.attidentity::text, a.attgenerated::text FROM pg_attribute a JOIN pg_type d ON d.oid = a.atttypid \
             JOIN pg_type t ON t.oid = CASE WHEN d.typtype = 'd' THEN d.typbasetype ELSE d.oid END \
             WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped",
            &[&oid],
        )
        .await
        .map_err(|error| asked(&error))?;
    let mut held: HashMap<String, Held> = HashMap::new();
    for row in rows {
        let (identity, generated): (String, String) = (row.get(8), row.get(9));
        let column = Held {
            base: row.get(1),
            declared: row.get(2),
            name: row.get(3),
            category: row.get(4),
            is_enum: row.get(5),
            typmod: row.get(6),
            due: row.get::<_, bool>(7) && identity.is_empty(),
            fixed: match (identity.as_str(), generated.as_str()) {
                (_, "s" | "v") => Some("the server computes it"),
                ("a", _) => Some("the server numbers it (`GENERATED ALWAYS`)"),
                _ => None,
            },
        };
        held.insert(row.get(0), column);
    }
    let fits = fit_all(table, &held).map_err(Fault::Stop)?;
    if !table.key.is_empty() {
        check_index(client, table, oid).await?;
    }
    Ok(statements(table, &fits))
}

async fn find(client: &Client, table: &Table) -> Result<Option<u32>, Fault> {
    let found = client.query_opt("SELECT to_regclass($1)::oid", &[&table.quoted()]).await;
    let found = found.map_err(|error| fault(&error).about(&format!("`{}`", table.written())))?;
    Ok(found.and_then(|row| row.get(0)))
}

/// The statement that makes the table.
fn definition(table: &Table) -> String {
    let columns = table.fields().zip(&table.kinds).map(|(field, kind)| {
        let data_type = match (kind, field.data_type()) {
            (Kind::Bool, _) => "boolean".to_owned(),
            (Kind::Int, DataType::Int8 | DataType::UInt8 | DataType::Int16) => "smallint".to_owned(),
            (Kind::Int, DataType::Int32 | DataType::UInt16) => "integer".to_owned(),
            (Kind::Int, _) => "bigint".to_owned(),
            (Kind::UInt64, _) => "numeric(20, 0)".to_owned(),
            (Kind::Float32, _) => "real".to_owned(),
            (Kind::Float64, _) => "double precision".to_owned(),
            (Kind::Decimal { precision, scale: scale @ 0.. }, _) => format!("numeric({precision}, {scale})"),
            (Kind::Decimal { .. }, _) => "numeric".to_owned(),
            (Kind::Text, _) => "text".to_owned(),
            (Kind::Json, _) => "jsonb".to_owned(),
            (Kind::Binary, _) => "bytea".to_owned(),
            (Kind::Date, _) => "date".to_owned(),
            (Kind::Timestamp, DataType::Timestamp(_, None)) => "timestamp".to_owned(),
            (Kind::Timestamp, _) => "timestamptz".to_owned(),
        };
        let null = if field.is_nullable() { "" } else { " NOT NULL" };
        format!("{} {data_type}{null}", quote(field.name()))
    });
    let mut parts: Vec<String> = columns.collect();
    if !table.key.is_empty() {
        parts.push(format!("PRIMARY KEY ({})", quoted_list(table.key.iter().map(String::as_str))));
    }
    format!("CREATE TABLE IF NOT EXISTS {} ({})", table.quoted(), parts.join(", "))
}

fn fit_all(table: &Table, held: &HashMap<String, Held>) -> Result<Vec<Fit>, String> {
    let name = table.written();
    let mut fits = Vec::new();
    for (field, kind) in table.fields().zip(&table.kinds) {
        let Some(column) = held.get(field.name()) else {
            let mut known: Vec<&str> = held.keys().map(String::as_str).collect();
            known.sort_unstable();
            let remedy = format!("its columns are {}: rename or leave out the others with `columns`", known.join(", "));
            return Err(table.complaint(format!("the table `{name}` has no column `{}`", field.name()), remedy));
        };
        if let Some(why) = column.fixed {
            let problem = format!("the column `{}` of `{name}` can't be written: {why}", field.name());
            return Err(table.complaint(problem, "leave it out with `columns`"));
        }
        fits.push(fit(field, *kind, column).map_err(|remedy| {
            let (text, declared) = (column_text(field), &column.declared);
            let problem = format!("`{}` is {text}, and that column of `{name}` is {declared}", field.name());
            table.complaint(problem, remedy)
        })?);
    }
    let mut missing: Vec<&str> = held
        .iter()
        .filter(|(name, column)| column.due && !table.fields().any(|field| field.name() == *name))
        .map(|(name, _)| name.as_str())
        .collect();
    missing.sort_unstable();
    if let Some(column) = missing.first() {
        let problem = format!("the column `{column}` of `{name}` must not be null and has no default");
        return Err(table.complaint(problem, "give it in `columns`, or give it a default in the table"));
    }
    Ok(fits)
}

/// How values go into a column; a remedy if they don't.
fn fit(field: &Field, kind: Kind, held: &Held) -> Result<Fit, String> {
    let base = held.base.as_str();
    let takes =
        |parameter, cast: Option<&str>| Ok(Fit { parameter, cast: cast.map(str::to_owned), name: held.name.clone() });
    let is_text = held.category == "S";
    let whole = matches!(base, "int2" | "int4" | "int8" | "numeric");
    match kind {
        Kind::Bool if base == "bool" => takes("bool", None),
        Kind::Int if whole => takes("int8", None),
        Kind::UInt64 if whole => takes("text", Some("numeric")),
        Kind::Float32 if matches!(base, "float4" | "float8" | "numeric") => takes("float8", None),
        Kind::Float64 if matches!(base, "float8" | "numeric") => takes("float8", None),
        Kind::Float64 if base == "float4" => {
            Err("digits would be lost: write `CAST(... AS REAL)` in `columns`, or make it double precision".to_owned())
        }
        Kind::Decimal { scale, .. } if base == "numeric" => {
            // The lower half of a type's modifier is its scale and the length of a header.
            let held_scale = i64::from(held.typmod - 4) & 0x7ff;
            if held.typmod >= 4 && held_scale < i64::from(scale) {
                return Err("digits behind the point would be rounded away: round it in `columns`".to_owned());
            }
            takes("text", Some("numeric"))
        }
        Kind::Text if is_text => takes("text", None),
        Kind::Text
            if held.is_enum
                || matches!(
                    base,
                    "uuid" | "inet" | "cidr" | "macaddr" | "macaddr8" | "xml" | "json" | "jsonb" | "interval"
                ) =>
        {
            takes("text", Some(&held.name))
        }
        Kind::Json if matches!(base, "json" | "jsonb") => takes("text", Some(&held.name)),
        Kind::Json if is_text => takes("text", None),
        Kind::Binary if base == "bytea" => takes("bytea", None),
        Kind::Date if base == "date" => takes("date", None),
        Kind::Timestamp if base == "timestamp" => takes("timestamp", None),
        Kind::Timestamp if base == "timestamptz" && !matches!(field.data_type(), DataType::Timestamp(_, None)) => {
            takes("timestamptz", None)
        }
        _ => Err(format!(
            "make one of them like the other: `columns` can cast, as in `{0}: CAST({0} AS ...)`",
            field.name()
        )),
    }
}

/// Whether there is what `ON CONFLICT` goes by.
async fn check_index(client: &Client, table: &Table, oid: u32) -> Result<(), Fault> {
    let rows = client
        .query(
            "SELECT (SELECT array_agg(a.attname::text ORDER BY a.attname::text) FROM pg_attribute a WHERE \
             a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey::int2[]) AND a.attnum IN (SELECT \
             (i.indkey::int2[])[at] FROM generate_series(0, i.indnkeyatts - 1) at)) FROM pg_index i WHERE \
             i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND \
             i.indexprs IS NULL",
            &[&oid],
        )
        .await
        .map_err(|error| fault(&error).about(&format!("`{}`", table.written())))?;
    let mut key: Vec<String> = table.key.clone();
    key.sort_unstable();
    let found = rows.iter().any(|row| row.get::<_, Option<Vec<String>>>(0).is_some_and(|columns| columns == key));
    if found {
        return Ok(());
    }
    let list = quoted_list(table.key.iter().map(String::as_str));
    let problem = format!("the table `{}` has no unique index of ({})", table.written(), table.key.join(", "));
    let remedy = format!("`upsert` goes by one: CREATE UNIQUE INDEX ON {} ({list})", table.quoted());
    Err(Fault::Stop(table.complaint(problem, remedy)))
}

fn statements(table: &Table, fits: &[Fit]) -> Statements {
    let name = table.quoted();
    let columns = quoted_list(table.fields().map(|field| field.name().as_str()));
    let value = |at: usize| match &fits[at].cast {
        Some(cast) => format!("v{at}::{cast}"),
        None => format!("v{at}"),
    };
    let each = |of: &dyn Fn(usize) -> String, columns: &[usize]| {
        columns.iter().map(|column| of(*column)).collect::<Vec<_>>().join(", ")
    };
    let unnest = |columns: &[usize]| {
        let parameters: Vec<String> = columns
            .iter()
            .enumerate()
            .map(|(at, column)| format!("${}::{}[]", at + 1, fits[*column].parameter))
            .collect();
        format!("unnest({}) AS u({})", parameters.join(", "), each(&|column| format!("v{column}"), columns))
    };
    let all: Vec<usize> = (0..fits.len()).collect();
    let mut put = format!("INSERT INTO {name} ({columns}) SELECT {} FROM {}", each(&value, &all), unnest(&all));
    let key = &table.layout.key;
    if key.is_empty() {
        return Statements { put, delete: None };
    }
    let list = quoted_list(table.key.iter().map(String::as_str));
    let others = table.fields().filter(|field| !table.key.contains(field.name())).map(|field| {
        let column = quote(field.name());
        format!("{column} = EXCLUDED.{column}")
    });
    let others = others.collect::<Vec<_>>().join(", ");
    put += &match others.is_empty() {
        true => format!(" ON CONFLICT ({list}) DO NOTHING"),
        false => format!(" ON CONFLICT ({list}) DO UPDATE SET {others}"),
    };
    // Compared as the server's own type, so that its index serves.
    let same = key.iter().zip(&table.key).map(|(column, name)| {
        let value = value(*column);
        format!("t.{} = {value}::{}", quote(name), fits[*column].name)
    });
    let same = same.collect::<Vec<_>>().join(" AND ");
    let delete = format!("DELETE FROM {name} AS t USING {} WHERE {same}", unnest(key));
    Statements { put, delete: Some(delete) }
}
