//! SQLite: the sink `sqlite`.
//!
//! One connection a process writes for all workers, since a file has one writer at a time: each batch in a transaction of
//! prepared statements. A row that is refused undoes its own statement only, so the others go on.

mod store;
mod table;

use crate::database::line::TableSink;
use crate::database::plan::{Table, own_keys, plan as plan_table, schema};
use crate::database::{Fault, Sent, columns::Kind};
use crate::{SinkEntry, SinkHandle, SinkStart};
use engine_base::Diagnostic;
use engine_base::codes::connector as codes;
use engine_plan::{Claim, Columns, Cx, Planned, PlannedSink, SinkCommon, SinkKind, StreamType, Use};
use schemars::JsonSchema;
use serde::Deserialize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
pub use store::SqliteStore;
pub(crate) use store::plain;

/// The registry line.
pub const ENTRY: SinkEntry = SinkEntry {
    kind: SinkKind {
        name: "sqlite",
        summary: "Rows into a table of an SQLite file.",
        config_schema: |generator| schema::<SqliteKeys>(generator),
        encodes: false,
        sees_all: false,
        changelogs: true,
        plan,
    },
    open: |planned, start| open(planned, start),
};

/// How long a sink that is opened waits for another's lock before the pipeline begins without it.
const OPEN_WAIT: Duration = Duration::from_secs(10);

/// The keys of a `sqlite` sink, beside those of every sink, of tables and of delivery.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SqliteKeys {
    /// The file; relative to this file. It is made with `create: true`.
    path: String,
}

/// A planned sink.
#[derive(Debug)]
pub(crate) struct SqliteSink {
    /// The path as it was written.
    pub(crate) written: String,
    /// What it is relative to.
    pub(crate) base_dir: PathBuf,
    pub(crate) table: Table,
}

impl Planned for SqliteSink {
    fn reads(&self, _wanted: &[Columns]) -> Vec<Columns> {
        self.table.reads()
    }

    fn facts(&self) -> Vec<(String, String)> {
        let mut facts = vec![("path".to_owned(), self.written.clone())];
        facts.extend(self.table.facts());
        facts
    }

    /// Several may write to tables of one file, which SQLite keeps apart; but nobody may write to it in another way.
    fn claims(&self) -> Vec<Claim> {
        vec![Claim::file(&self.base_dir, &self.written, Use::Read)]
    }
}

fn plan(cx: &mut Cx<'_>, input: &StreamType, _common: &SinkCommon) -> Option<PlannedSink> {
    let keys: Option<SqliteKeys> = own_keys(cx);
    let path = keys.map(|keys| keys.path).filter(|path| check_path(cx, path, "out/cases.db"));
    let table = plan_table(cx, input, 1, |kind| match kind {
        Kind::Bool | Kind::Int | Kind::UInt64 => Sent::Int,
        Kind::Float32 | Kind::Float64 => Sent::FloatNotNan,
        Kind::Binary => Sent::Binary,
        Kind::Decimal { .. } | Kind::Text | Kind::Json | Kind::Date | Kind::Timestamp => Sent::Text,
    });
    let (path, table) = (path?, table?);
    let (can_fail, timeout_ns) = table.ends();
    let base_dir = cx.component.dir(&["path"]).to_path_buf();
    Some(PlannedSink {
        can_fail,
        timeout_ns,
        exactly_once: table.exactly_once(),
        planned: Arc::new(SqliteSink { written: path, base_dir, table }),
    })
}

/// Notes an error where a path can't name a file of SQLite's.
pub(crate) fn check_path(cx: &mut Cx<'_>, path: &str, example: &str) -> bool {
    let names_none = path.trim().is_empty() || path.ends_with('/');
    if names_none || path.contains(['*', '?', '\0']) || path.starts_with(':') || path.starts_with("file:") {
        let found = Diagnostic::error(codes::BAD_PATH, cx.span(&["path"]), "the path names no file")
            .help(format!("name a file: `path: {example}`"));
        cx.push(found);
        return false;
    }
    true
}

fn open(planned: &dyn Planned, start: SinkStart) -> Result<Box<dyn SinkHandle>, String> {
    let plan: &SqliteSink = planned.downcast().ok_or("not a planned sqlite sink")?;
    open_store(SqliteStore::new(plan.base_dir.join(&plan.written), plan.table.clone()), &plan.table, start)
}

/// Opens a sink that writes to a table by a store of its file.
pub(crate) fn open_store(
    mut store: SqliteStore,
    table: &Table,
    start: SinkStart,
) -> Result<Box<dyn SinkHandle>, String> {
    // What is wrong with the table is told before anything runs; a lock that another holds now is waited for.
    match store.open() {
        Ok(()) => {}
        Err(Fault::Stop(reason)) => return Err(reason),
        Err(Fault::Retry { reason, .. }) => {
            tracing::warn!(name = &*start.name, reason, "the database can't be written to yet: its rows wait");
        }
    }
    let store = Arc::new(tokio::sync::Mutex::new(store));
    let sink = TableSink::new(table.clone(), start, Box::new(move || store.clone()))?;
    sink.claim(OPEN_WAIT)?;
    Ok(Box::new(sink))
}

#[cfg(test)]
mod tests;
