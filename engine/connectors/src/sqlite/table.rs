//! The table of a `sqlite` sink: whether it can take the rows, and the statements that give them to it.

use super::store::plain;
use crate::database::Fault;
use crate::database::columns::Kind;
use crate::database::plan::{Table, quote, quoted_list};
use engine_plan::types::column_text;
use rusqlite::{Connection, OptionalExtension};

/// The statements of a table.
#[derive(Debug)]
pub(super) struct Statements {
    pub(super) put: String,
    pub(super) delete: Option<String>,
}

/// A column as the file has it.
struct Held {
    name: String,
    declared: String,
    not_null: bool,
    has_default: bool,
    /// Its place in the primary key, from one; zero if it is not in it.
    key: i64,
    /// 0 is a column like others, 2 and 3 are computed.
    hidden: i64,
}

/// What SQLite makes of values in a column, by the words of its declared type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Affinity {
    Integer,
    Text,
    Blob,
    Real,
    Numeric,
}

impl Affinity {
    /// The rules of SQLite, in their order.
    fn of(declared: &str) -> Affinity {
        let declared = declared.to_ascii_uppercase();
        let has = |words: &[&str]| words.iter().any(|word| declared.contains(word));
        if has(&["INT"]) {
            Affinity::Integer
        } else if has(&["CHAR", "CLOB", "TEXT"]) {
            Affinity::Text
        } else if declared.is_empty() || has(&["BLOB"]) || declared == "ANY" {
            Affinity::Blob
        } else if has(&["REAL", "FLOA", "DOUB"]) {
            Affinity::Real
        } else {
            Affinity::Numeric
        }
    }

    /// Whether values of a kind stay what they are.
    fn keeps(self, kind: Kind) -> bool {
        match kind {
            Kind::Bool | Kind::Int | Kind::UInt64 => !matches!(self, Affinity::Text | Affinity::Real),
            Kind::Float32 | Kind::Float64 => self != Affinity::Text,
            Kind::Binary => true,
            // Text that looks like a number would become one, and a decimal a float.
            Kind::Decimal { .. } | Kind::Text | Kind::Json | Kind::Date | Kind::Timestamp => {
                matches!(self, Affinity::Text | Affinity::Blob)
            }
        }
    }
}

fn declared(kind: Kind) -> &'static str {
    match kind {
        Kind::Bool | Kind::Int | Kind::UInt64 => "INTEGER",
        Kind::Float32 | Kind::Float64 => "REAL",
        Kind::Binary => "BLOB",
        Kind::Decimal { .. } | Kind::Text | Kind::Json | Kind::Date | Kind::Timestamp => "TEXT",
    }
}

/// Makes the table if that is asked for, checks it, and gives its statements.
pub(super) fn prepare(connection: &Connection, table: &Table) -> Result<Statements, Fault> {
    let name = table.written();
    let mut held = columns(connection, &name).map_err(|error| plain(&error))?;
    if held.is_empty() && table.create {
        connection.execute(&definition(table), ()).map_err(|error| plain(&error))?;
        held = columns(connection, &name).map_err(|error| plain(&error))?;
    }
    if held.is_empty() {
        let remedy = "make it, or add `create: true` to have it made";
        return Err(Fault::Stop(table.complaint(format!("there is no table `{name}`"), remedy)));
    }
    check(table, &held).map_err(Fault::Stop)?;
    if !table.key.is_empty() && !has_index(connection, table, &held).map_err(|error| plain(&error))? {
        let list = quoted_list(table.key.iter().map(String::as_str));
        let index = quote(&format!("{name}_key"));
        let problem = format!("the table `{name}` has no unique index of ({})", table.key.join(", "));
        let remedy = format!("`upsert` goes by one: CREATE UNIQUE INDEX {index} ON {} ({list})", table.quoted());
        return Err(Fault::Stop(table.complaint(problem, remedy)));
    }
    Ok(statements(table))
}

fn columns(connection: &Connection, table: &str) -> rusqlite::Result<Vec<Held>> {
    let mut query = connection
        .prepare("SELECT name, type, \"notnull\", dflt_value IS NOT NULL, pk, hidden FROM pragma_table_xinfo(?1)")?;
    let rows = query.query_map([table], |row| {
        Ok(Held {
            name: row.get(0)?,
            declared: row.get(1)?,
            not_null: row.get(2)?,
            has_default: row.get(3)?,
            key: row.get(4)?,
            hidden: row.get(5)?,
        })
    })?;
    rows.collect()
}

fn definition(table: &Table) -> String {
    let columns = table.fields().zip(&table.kinds).map(|(field, kind)| {
        let null = if field.is_nullable() { "" } else { " NOT NULL" };
        format!("{} {}{null}", quote(field.name()), declared(*kind))
    });
    let mut parts: Vec<String> = columns.collect();
    if !table.key.is_empty() {
        parts.push(format!("PRIMARY KEY ({})", quoted_list(table.key.iter().map(String::as_str))));
    }
    format!("CREATE TABLE IF NOT EXISTS {} ({})", table.quoted(), parts.join(", "))
}

fn check(table: &Table, held: &[Held]) -> Result<(), String> {
    let name = table.written();
    // Names are the same whatever their case, as SQLite has it.
    let find = |wanted: &str| held.iter().find(|column| column.name.eq_ignore_ascii_case(wanted));
    for (field, kind) in table.fields().zip(&table.kinds) {
        let Some(column) = find(field.name()) else {
            let known: Vec<&str> = held.iter().map(|column| column.name.as_str()).collect();
            let remedy = format!("its columns are {}: rename or leave out the others with `columns`", known.join(", "));
            return Err(table.complaint(format!("the table `{name}` has no column `{}`", field.name()), remedy));
        };
        if column.hidden > 1 {
            let problem = format!("the column `{}` of `{name}` can't be written: it is computed", field.name());
            return Err(table.complaint(problem, "leave it out with `columns`"));
        }
        if !Affinity::of(&column.declared).keeps(*kind) {
            let (text, declares) = (column_text(field), declared(*kind));
            let problem =
                format!("`{}` is {text}, and `{}` in `{name}` would change it", field.name(), column.declared);
            return Err(table.complaint(problem, format!("declare the column as {declares}")));
        }
    }
    let is_given = |column: &Held| table.fields().any(|field| field.name().eq_ignore_ascii_case(&column.name));
    let missing = held.iter().find(|column| {
        column.not_null && !column.has_default && column.hidden == 0 && column.key == 0 && !is_given(column)
    });
    match missing {
        Some(column) => {
            let problem = format!("the column `{}` of `{name}` must not be null and has no default", column.name);
            Err(table.complaint(problem, "give it in `columns`, or give it a default in the table"))
        }
        None => Ok(()),
    }
}

/// Whether there is what `ON CONFLICT` goes by: the primary key, or a unique index of all rows.
fn has_index(connection: &Connection, table: &Table, held: &[Held]) -> rusqlite::Result<bool> {
    let sorted = |names: Vec<String>| {
        let mut names: Vec<String> = names.iter().map(|name| name.to_ascii_lowercase()).collect();
        names.sort_unstable();
        names
    };
    let key = sorted(table.key.clone());
    let primary = held.iter().filter(|column| column.key > 0).map(|column| column.name.clone()).collect();
    if sorted(primary) == key {
        return Ok(true);
    }
    let mut indices =
        connection.prepare("SELECT name FROM pragma_index_list(?1) WHERE \"unique\" = 1 AND partial = 0")?;
    let indices: Vec<String> = indices.query_map([table.written()], |row| row.get(0))?.collect::<Result<_, _>>()?;
    for index in indices {
        let mut columns = connection.prepare("SELECT name FROM pragma_index_info(?1)")?;
        let columns: Option<Vec<Option<String>>> =
            columns.query_map([&index], |row| row.get(0))?.collect::<Result<_, _>>().optional()?;
        // A part that is an expression has no name.
        let columns: Option<Vec<String>> = columns.and_then(|columns| columns.into_iter().collect());
        if columns.is_some_and(|columns| sorted(columns) == key) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn statements(table: &Table) -> Statements {
    let name = table.quoted();
    let columns = quoted_list(table.fields().map(|field| field.name().as_str()));
    let values = vec!["?"; table.layout.fields.len()].join(", ");
    let mut put = format!("INSERT INTO {name} ({columns}) VALUES ({values})");
    if table.key.is_empty() {
        return Statements { put, delete: None };
    }
    let list = quoted_list(table.key.iter().map(String::as_str));
    let others = table.fields().filter(|field| !table.key.contains(field.name())).map(|field| {
        let column = quote(field.name());
        format!("{column} = excluded.{column}")
    });
    let others = others.collect::<Vec<_>>().join(", ");
    put += &match others.is_empty() {
        true => format!(" ON CONFLICT ({list}) DO NOTHING"),
        false => format!(" ON CONFLICT ({list}) DO UPDATE SET {others}"),
    };
    let same = table.key.iter().map(|column| format!("{} = ?", quote(column))).collect::<Vec<_>>().join(" AND ");
    Statements { put, delete: Some(format!("DELETE FROM {name} WHERE {same}")) }
}
