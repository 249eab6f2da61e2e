//! Transactions of the sink `sqlite`.

use super::table::{Statements, prepare};
use crate::Exact;
use crate::database::line::rejected;
use crate::database::plan::Table;
use crate::database::{
    Act, Batch, Column, FAILED_KEPT, Fault, MARKERS, Marker, Owner, Store, Written, failed_to_text, known_again,
};
use crate::delivery::Health;
use crate::exact::{agree, taken_over};
use engine_base::RowError;
use rusqlite::types::ToSqlOutput;
use rusqlite::types::ValueRef;
use rusqlite::{CachedStatement, Connection, Error, ErrorCode, OpenFlags, OptionalExtension, ToSql};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long another writer's lock is waited for before the attempt counts as failed.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// The rows of a sink in the table of markers.
const OURS: &str = "pipeline = ?1 AND sink = ?2 AND shard = ?3";

/// A table of an SQLite file.
#[derive(Debug)]
pub struct SqliteStore {
    path: PathBuf,
    table: Table,
    set_up: Option<SetUp>,
    open: Option<Open>,
}

/// What a file must be beside its table: makes a new one so, and says what another one is.
pub(crate) type SetUp = fn(&Connection, &Path) -> Result<(), Fault>;

#[derive(Debug)]
struct Open {
    connection: Connection,
    statements: Statements,
    has_markers: bool,
}

impl SqliteStore {
    pub(crate) fn new(path: PathBuf, table: Table) -> SqliteStore {
        SqliteStore { path, table, set_up: None, open: None }
    }

    /// The same where the file is to be more than its table.
    pub(crate) fn set_up_by(self, set_up: SetUp) -> SqliteStore {
        SqliteStore { set_up: Some(set_up), ..self }
    }

    /// Opens the file and checks the table, unless that is done.
    pub(crate) fn open(&mut self) -> Result<(), Fault> {
        if self.open.is_some() {
            return Ok(());
        }
        let stop = |problem: String, remedy: &str| Fault::Stop(self.table.complaint(problem, remedy));
        let shown = self.path.display();
        let is_new = !self.path.exists();
        if is_new && !self.table.create {
            return Err(stop(format!("there is no file `{shown}`"), "add `create: true` to have it made"));
        }
        if let (true, Some(folder)) = (is_new, self.path.parent()) {
            let made = std::fs::create_dir_all(folder);
            made.map_err(|error| stop(format!("`{shown}` can't be made: {error}"), "name another path"))?;
        }
        let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        flags.set(OpenFlags::SQLITE_OPEN_CREATE, self.table.create);
        let connection = Connection::open_with_flags(&self.path, flags).map_err(|error| plain(&error))?;
        connection.busy_timeout(LOCK_WAIT).map_err(|error| plain(&error))?;
        if let Some(set_up) = self.set_up {
            set_up(&connection, &self.path)?;
        }
        let set_up = || {
            if is_new {
                // Readers and the writer don't wait for each other. It stays with the file, so only a new one gets it.
                connection.pragma_update(None, "journal_mode", "wal")?;
            }
            // What is acknowledged is on the disk.
            connection.pragma_update(None, "synchronous", "full")
        };
        set_up().map_err(|error| plain(&error))?;
        let statements = prepare(&connection, &self.table)?;
        self.open = Some(Open { connection, statements, has_markers: false });
        Ok(())
    }

    /// Where the markers stand, for messages.
    fn place(&self) -> String {
        format!("the table `{MARKERS}` in `{}`", self.path.display())
    }

    fn opened(&mut self) -> Result<&mut Open, Fault> {
        self.open()?;
        self.open.as_mut().ok_or_else(|| Fault::Stop("the file is not open".to_owned()))
    }
}

impl Store for SqliteStore {
    async fn claim(&mut self, owner: &Owner, exact: &Exact) -> Result<(), Fault> {
        let place = self.place();
        let result = self.opened()?.claim(owner, exact, &place);
        if result.is_err() {
            self.open = None;
        }
        result
    }

    async fn write(&mut self, batch: &Batch, marker: Option<&Marker>) -> Result<Written, Fault> {
        let place = self.place();
        let result = self.opened()?.write(batch, marker, &place);
        if result.is_err() {
            // Closing undoes what is not committed.
            self.open = None;
        }
        result
    }
}

impl Open {
    /// Makes the table of markers where it is not there. A sink's marker stands in `batch` 0; the others are batches of which
    /// rows failed.
    fn find_markers(&mut self) -> Result<(), Fault> {
        if !self.has_markers {
            let make = format!(
                "CREATE TABLE IF NOT EXISTS {MARKERS} (pipeline TEXT, sink TEXT, shard INTEGER, batch INTEGER, sequence \
                 INTEGER NOT NULL, failed TEXT, writer TEXT, PRIMARY KEY (pipeline, sink, shard, batch))"
            );
            self.connection.execute(&make, ()).map_err(|error| plain(&error))?;
            self.has_markers = true;
        }
        Ok(())
    }

    fn claim(&mut self, owner: &Owner, exact: &Exact, place: &str) -> Result<(), Fault> {
        self.find_markers()?;
        self.plain("BEGIN IMMEDIATE")?;
        let Owner { pipeline, sink, shard, writer } = owner;
        let get = format!("SELECT sequence FROM {MARKERS} WHERE {OURS} AND batch = 0");
        let found = self.connection.query_row(&get, (pipeline, sink, shard), |row| row.get(0)).optional();
        let found: Option<i64> = found.map_err(|error| plain(&error))?;
        let delivered = exact.delivered_sequence() as i64;
        let (sequence, gone) = match exact.reset {
            true => (delivered, i64::MAX),
            false => {
                let known = found.map(|sequence| u64::try_from(sequence).unwrap_or(0));
                agree(sink, place, exact, known).map_err(Fault::Stop)?;
                (found.unwrap_or(0), delivered)
            }
        };
        let clear = format!("DELETE FROM {MARKERS} WHERE {OURS} AND batch <= ?4");
        let set = format!("INSERT INTO {MARKERS} VALUES (?1, ?2, ?3, 0, ?4, NULL, ?5)");
        let cleared = self.connection.execute(&clear, (pipeline, sink, shard, gone));
        let done = cleared.and_then(|_| self.connection.execute(&set, (pipeline, sink, shard, sequence, writer)));
        done.map_err(|error| plain(&error))?;
        self.plain("COMMIT")
    }

    fn write(&mut self, batch: &Batch, marker: Option<&Marker>, place: &str) -> Result<Written, Fault> {
        if marker.is_some() {
            self.find_markers()?;
        }
        self.plain("BEGIN IMMEDIATE")?;
        if let Some(written) = marker.map_or(Ok(None), |marker| self.mark(marker, place))? {
            self.plain("ROLLBACK")?;
            return Ok(written);
        }
        let mut failed = self.apply(batch)?;
        failed.extend_from_slice(&batch.given_up);
        if let Some((_, error)) = failed.first().filter(|_| batch.all_or_nothing) {
            self.plain("ROLLBACK")?;
            return Err(Fault::Stop(format!("a row could not be delivered: {error}")));
        }
        if let (Some(marker), Some(text)) = (marker, failed_to_text(&failed)) {
            self.keep(marker, &text).map_err(|error| plain(&error))?;
        }
        self.plain("COMMIT")?;
        Ok(Written { failed, skipped: false })
    }

    /// Writes the marker. What is known of the batch, if it is in already.
    fn mark(&self, marker: &Marker, place: &str) -> Result<Option<Written>, Fault> {
        let Marker { owner: Owner { pipeline, sink, shard, writer }, sequence } = marker;
        let set =
            format!("UPDATE {MARKERS} SET sequence = ?4 WHERE {OURS} AND batch = 0 AND writer = ?5 AND sequence < ?4");
        let set = self.connection.prepare_cached(&set);
        let set = set.and_then(|mut set| set.execute((pipeline, sink, shard, sequence, writer)));
        if set.map_err(|error| plain(&error))? > 0 {
            return Ok(None);
        }
        let get = format!("SELECT sequence, writer FROM {MARKERS} WHERE {OURS} AND batch = 0");
        let found = self.connection.query_row(&get, (pipeline, sink, shard), |row| Ok((row.get(0)?, row.get(1)?)));
        let found: Option<(i64, String)> = found.optional().map_err(|error| plain(&error))?;
        let last = match found {
            Some((last, found)) if found == *writer && last >= *sequence => last,
            _ => return Err(Fault::Stop(taken_over(sink, place))),
        };
        let get = format!("SELECT failed FROM {MARKERS} WHERE {OURS} AND batch = ?4");
        let text = self.connection.query_row(&get, (pipeline, sink, shard, sequence), |row| row.get(0)).optional();
        let text: Option<Option<String>> = text.map_err(|error| plain(&error))?;
        known_again(marker, last, text.flatten().as_deref()).map(Some)
    }

    /// Keeps the rows that failed, and forgets those of long ago.
    fn keep(&self, marker: &Marker, text: &str) -> rusqlite::Result<()> {
        let Marker { owner: Owner { pipeline, sink, shard, .. }, sequence } = marker;
        let keep = format!("INSERT INTO {MARKERS} VALUES (?1, ?2, ?3, ?4, ?4, ?5, NULL)");
        let forget = format!("DELETE FROM {MARKERS} WHERE {OURS} AND batch BETWEEN 1 AND ?4");
        self.connection.prepare_cached(&keep)?.execute((pipeline, sink, shard, sequence, text))?;
        self.connection.prepare_cached(&forget)?.execute((pipeline, sink, shard, sequence - FAILED_KEPT))?;
        Ok(())
    }

    /// Does all acts that the table takes, and gives the rows that it does not.
    fn apply(&self, batch: &Batch) -> Result<Vec<(u32, RowError)>, Fault> {
        let prepare = |sql: &str| self.connection.prepare_cached(sql).map_err(|error| plain(&error));
        let mut put = prepare(&self.statements.put)?;
        let mut delete = self.statements.delete.as_deref().map(prepare).transpose()?;
        let mut failed = Vec::new();
        for act in &batch.acts {
            let Some(refused) = self.step(&mut put, delete.as_mut(), batch, *act)? else { continue };
            match batch.steps(*act).as_slice() {
                [_] => failed.push((act.row, rejected(refused))),
                // What came before of this key counts now.
                steps => {
                    for step in steps {
                        if let Some(refused) = self.step(&mut put, delete.as_mut(), batch, *step)? {
                            failed.push((step.row, rejected(refused)));
                        }
                    }
                }
            }
        }
        Ok(failed)
    }

    /// Does one act: why it was refused.
    fn step(
        &self,
        put: &mut CachedStatement<'_>,
        delete: Option<&mut CachedStatement<'_>>,
        batch: &Batch,
        act: Act,
    ) -> Result<Option<String>, Fault> {
        let row = act.row as usize;
        let done = match (act.delete, delete) {
            (true, Some(delete)) => bind(delete, batch.key.iter().map(|at| &batch.columns[*at]), row),
            (true, None) => Ok(()),
            (false, _) => bind(put, batch.columns.iter(), row),
        };
        match done {
            Ok(()) => Ok(None),
            // A trigger or constraint may undo the whole transaction, and then nothing is left to go on with.
            Err(error) if is_refusal(&error) && self.connection.is_autocommit() => Err(Fault::Stop(format!(
                "a row made the database undo the whole transaction, as `ON CONFLICT ROLLBACK` says: {error}"
            ))),
            Err(error) if is_refusal(&error) => Ok(Some(error.to_string())),
            Err(error) => Err(plain(&error)),
        }
    }

    fn plain(&self, statement: &str) -> Result<(), Fault> {
        self.connection.prepare_cached(statement).and_then(|mut sql| sql.execute(())).map(|_| ()).map_err(|error| {
            match statement == "COMMIT" && is_refusal(&error) {
                true => Fault::Stop(format!("a constraint that is checked at COMMIT is not kept: {error}")),
                false => plain(&error),
            }
        })
    }
}

/// A value of a column.
struct Cell<'a>(&'a Column, usize);

impl ToSql for Cell<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let row = self.1;
        if self.0.array().is_null(row) {
            return Ok(ToSqlOutput::Borrowed(ValueRef::Null));
        }
        Ok(ToSqlOutput::Borrowed(match self.0 {
            Column::Bool(values) => ValueRef::Integer(values.value(row).into()),
            Column::Int(values) | Column::Micros(values) => ValueRef::Integer(values.value(row)),
            Column::Float(values) => ValueRef::Real(values.value(row)),
            Column::Text(values) => ValueRef::Text(values.value(row).as_bytes()),
            Column::Binary(values) => ValueRef::Blob(values.value(row)),
            Column::Date(values) => ValueRef::Integer(values.value(row).into()),
        }))
    }
}

fn bind<'a>(
    statement: &mut CachedStatement<'_>,
    columns: impl Iterator<Item = &'a Column>,
    row: usize,
) -> rusqlite::Result<()> {
    for (at, column) in columns.enumerate() {
        statement.raw_bind_parameter(at + 1, Cell(column, row))?;
    }
    statement.raw_execute().map(|_| ())
}

/// Whether an error is about the row.
fn is_refusal(error: &Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig)
    )
}

/// An error that is not about a row.
pub(crate) fn plain(error: &Error) -> Fault {
    let reason = error.to_string();
    match error.sqlite_error_code() {
        // Another's lock passes, however long it takes: no row is given up for it.
        Some(
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::DiskFull
            | ErrorCode::SystemIoFailure
            | ErrorCode::CannotOpen
            | ErrorCode::OutOfMemory
            | ErrorCode::FileLockingProtocolFailed
            | ErrorCode::SchemaChanged,
        ) => Fault::Retry { reason, health: Health::Down },
        _ => Fault::Stop(reason),
    }
}
