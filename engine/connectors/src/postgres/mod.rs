//! PostgreSQL: the connection and the sink `postgres`.
//!
//! A worker has a connection and writes one batch after the other, each in a transaction: rows that are taken back are
//! deleted, then rows are inserted (or replace those with their key), each with one statement over arrays. A batch that the
//! server refuses is taken apart until only the rows remain that it refuses ([`session`]).

pub mod connection;
pub mod session;
pub mod table;
mod values;

use crate::database::line::TableSink;
use crate::database::plan::{Table, own_keys, plan as plan_table, schema};
use crate::database::{Fault, Sent, columns::Kind};
use crate::{SinkEntry, SinkHandle, SinkStart, runtime};
use connection::Connection;
use engine_plan::{Columns, Cx, Planned, PlannedSink, SinkCommon, SinkKind, StreamType};
use schemars::JsonSchema;
use serde::Deserialize;
use session::{PostgresStore, Target};
use std::sync::Arc;
use std::time::Duration;

/// The registry line.
pub const ENTRY: SinkEntry = SinkEntry {
    kind: SinkKind {
        name: "postgres",
        summary: "Rows into a table of PostgreSQL.",
        config_schema: |generator| schema::<PostgresKeys>(generator),
        encodes: false,
        sees_all: false,
        changelogs: true,
        plan,
    },
    open: |planned, start| open(planned, start),
};

/// How long a sink that is opened waits for the server before the pipeline begins without it.
const OPEN_WAIT: Duration = Duration::from_secs(10);

/// The keys of a `postgres` sink, beside those of every sink, of tables and of delivery.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PostgresKeys {
    /// The connection, of type `postgres`.
    connection: String,
}

/// A planned sink.
#[derive(Debug)]
pub(crate) struct PostgresSink {
    pub(crate) connection: Connection,
    pub(crate) table: Table,
}

impl Planned for PostgresSink {
    fn reads(&self, _wanted: &[Columns]) -> Vec<Columns> {
        self.table.reads()
    }

    fn facts(&self) -> Vec<(String, String)> {
        let mut facts = vec![("to".to_owned(), self.connection.shown.clone())];
        facts.extend(self.table.facts());
        facts
    }
}

fn plan(cx: &mut Cx<'_>, input: &StreamType, _common: &SinkCommon) -> Option<PlannedSink> {
    let keys: Option<PostgresKeys> = own_keys(cx);
    let connection = keys.and_then(|keys| Connection::find(cx, &keys.connection));
    let table = plan_table(cx, input, 2, |kind| match kind {
        Kind::Bool => Sent::Bool,
        Kind::Int => Sent::Int,
        Kind::Float32 | Kind::Float64 => Sent::Float,
        // The server makes `numeric` of the text, exactly.
        Kind::UInt64 | Kind::Decimal { .. } | Kind::Text | Kind::Json => Sent::Text,
        Kind::Binary => Sent::Binary,
        Kind::Date => Sent::Date,
        Kind::Timestamp => Sent::Micros,
    });
    let (connection, table) = (connection?, table?);
    let (can_fail, timeout_ns) = table.ends();
    Some(PlannedSink {
        can_fail,
        timeout_ns,
        exactly_once: table.exactly_once(),
        planned: Arc::new(PostgresSink { connection, table }),
    })
}

fn open(planned: &dyn Planned, start: SinkStart) -> Result<Box<dyn SinkHandle>, String> {
    let plan: &PostgresSink = planned.downcast().ok_or("not a planned postgres sink")?;
    let target = Arc::new(Target::new(plan.connection.clone(), plan.table.clone()));
    let name = start.name.clone();
    // What is wrong with the table is told before anything runs; a server that is not there now is waited for.
    let first = runtime::shared()?.block_on(async { tokio::time::timeout(OPEN_WAIT, target.session()).await });
    let unreachable = match first {
        Ok(Ok(_)) => None,
        Ok(Err(Fault::Stop(reason))) => return Err(reason),
        Ok(Err(Fault::Retry { reason, .. })) => Some(reason),
        Err(_) => Some("no answer".to_owned()),
    };
    if let Some(reason) = unreachable {
        tracing::warn!(name = &*name, reason, "the database can't be reached yet: its rows wait");
    }
    let store = move || Arc::new(tokio::sync::Mutex::new(PostgresStore::new(target.clone())));
    let sink = TableSink::new(plan.table.clone(), start, Box::new(store))?;
    sink.claim(OPEN_WAIT)?;
    Ok(Box::new(sink))
}

#[cfg(test)]
mod tests;
