//! The file of a queue: its tables, and all that is done with them. Every operation is a transaction, and none is unbounded but
//! those that the user asks to be (`replay` and `discard` of all letters).

use crate::database::Fault;
use crate::delivery::Health;
use crate::sqlite::plain;
use rusqlite::types::Value;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Row, params_from_iter};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The table of letters, as the sink writes to it.
pub(crate) const TABLE: &str = "letters";

/// Says in the head of a file of SQLite whose it is: `ELTR`.
const APPLICATION_ID: i32 = 0x454c_5452;
/// The format of the tables.
const FORMAT: i32 = 1;
/// How long another's transaction is waited for.
const LOCK_WAIT: Duration = Duration::from_secs(2);
/// How many letters are removed in one transaction.
const REMOVED_AT_ONCE: u64 = 5_000;
/// How many pages are given back to the disk after a removal.
const PAGES_GIVEN_BACK: u32 = 2_000;
/// How many refused letters are named.
const NAMED_MAX: usize = 20;

/// What is read of a letter last is what may be large.
const TABLES: &str = "
CREATE TABLE letters (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  step TEXT NOT NULL,
  code TEXT NOT NULL,
  reason TEXT NOT NULL,
  position TEXT NOT NULL,
  at TEXT NOT NULL,
  arrived TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
  turn INTEGER,
  payload TEXT NOT NULL
);
CREATE UNIQUE INDEX letters_by_turn ON letters (turn) WHERE turn IS NOT NULL;
CREATE INDEX letters_by_kind ON letters (step, code, turn);
CREATE TABLE queue (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  name TEXT NOT NULL,
  next_turn INTEGER NOT NULL,
  done INTEGER NOT NULL,
  removed INTEGER NOT NULL
);
INSERT INTO queue VALUES (1, lower(hex(randomblob(8))), 0, 0, 0);
";

/// Whether a payload is not what it was: columns that were too large for it are left out, or the end of a record that could not be
/// decoded, or bytes that are no text are replaced ([`engine_dataflow::errors::REPLACED`]).
const IS_CUT: &str = r#"(instr(payload, '"@left_out":') > 0 AND json_valid(payload) AND json_type(payload, '$."@left_out"') IS NOT NULL
    OR reason LIKE '%(of its % bytes, the first % are kept)'
    OR reason LIKE '%(bytes of the payload that are not UTF-8 are shown as U+FFFD)')"#;

/// An answer, or why there is none.
pub type Answer<T> = Result<T, Fault>;

/// An open queue.
#[derive(Debug)]
pub struct Queue {
    connection: Connection,
    path: PathBuf,
}

/// Where a queue stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Tells the file from others.
    pub name: String,
    /// The turn that is given next.
    pub next_turn: u64,
    /// Letters of turns before this one have acted.
    pub done: u64,
    /// Letters of turns before this one are gone from the file.
    pub removed: u64,
}

/// A letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// Its number.
    pub id: i64,
    /// The step in which the row failed.
    pub step: String,
    /// Why, in a word.
    pub code: String,
    /// Why, in a sentence.
    pub reason: String,
    /// Which row it was: source, partition and offset.
    pub position: String,
    /// When the row entered the engine, as RFC 3339.
    pub at: String,
    /// When the letter was written, as RFC 3339.
    pub arrived: String,
    /// Its turn, if it was ordered to be replayed.
    pub turn: Option<u64>,
    /// The row.
    pub payload: String,
}

/// Which letters are meant: all that fit every part that is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Those that failed in this step.
    pub step: Option<String>,
    /// Those with this code.
    pub code: Option<String>,
    /// Those that were written at or after this time, RFC 3339 in UTC.
    pub since: Option<String>,
    /// Those with these numbers.
    pub ids: Option<Vec<i64>>,
}

/// Some letters, and how many there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The oldest of those that were asked for, without their payloads.
    pub letters: Vec<Letter>,
    /// How many of those that were asked for wait.
    pub waiting: u64,
    /// How many of them are being replayed.
    pub replaying: u64,
}

/// What became of letters that were meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// How many it was done with.
    pub count: u64,
    /// How many are being replayed already.
    pub replaying: u64,
    /// How many of those that wait could not be replayed, since only a part of their payload was kept.
    pub cut: u64,
    /// The first of these.
    pub cut_ids: Vec<i64>,
    /// Numbers of which there is no letter, or no longer.
    pub missing: Vec<i64>,
}

/// Opens or makes the file.
pub(crate) fn make(path: &Path) -> Answer<Queue> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)
            .map_err(|error| Fault::Stop(format!("the folder {} can't be made: {error}", folder.display())))?;
    }
    open(path, OpenFlags::SQLITE_OPEN_CREATE)
}

fn open(path: &Path, more: OpenFlags) -> Answer<Queue> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | more;
    let connection = Connection::open_with_flags(path, flags).map_err(|error| plain(&error))?;
    connection.busy_timeout(LOCK_WAIT).map_err(|error| plain(&error))?;
    set_up(&connection, path)?;
    // A turn that the source has seen must be there after a loss of power.
    connection.pragma_update(None, "synchronous", "full").map_err(|error| plain(&error))?;
    Ok(Queue { connection, path: path.to_owned() })
}

/// Makes a queue of a file that is empty, and says of another one what it is.
pub(crate) fn set_up(connection: &Connection, path: &Path) -> Answer<()> {
    let shown = path.display();
    let none = |what: &str| {
        Fault::Stop(format!(
            "`{shown}` is no queue of dead letters: {what}; name another `path`, or move the file away"
        ))
    };
    let told = |error: rusqlite::Error| match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => none("it is no file of SQLite"),
        _ => plain(&error),
    };
    let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    let is_ours = |id: i32, format: i32| match (id, format) {
        (APPLICATION_ID, FORMAT) => Ok(true),
        (APPLICATION_ID, format) => Err(Fault::Stop(format!(
            "`{shown}` has format {format} of dead letters, and this engine knows format {FORMAT}: a newer one wrote it; use that one"
        ))),
        (0, _) => Ok(false),
        _ => Err(none("it is a file of another program")),
    };
    if is_ours(number("application_id").map_err(told)?, number("user_version").map_err(told)?)? {
        return Ok(());
    }
    let tables = |connection: &Connection| {
        connection.query_row("SELECT count(*) FROM sqlite_schema", (), |row| row.get::<_, i64>(0))
    };
    if tables(connection).map_err(told)? > 0 {
        return Err(none("it has other tables"));
    }
    // These come before the first table, and outside of a transaction.
    connection.pragma_update(None, "auto_vacuum", "incremental").map_err(told)?;
    connection.pragma_update(None, "journal_mode", "wal").map_err(told)?;
    connection.execute_batch("BEGIN IMMEDIATE").map_err(told)?;
    // Another may have been quicker.
    let made = is_ours(number("application_id").map_err(told)?, 1).and_then(|is_made| {
        if is_made || tables(connection).map_err(told)? > 0 {
            return Ok(());
        }
        connection.execute_batch(TABLES).map_err(told)?;
        connection.pragma_update(None, "application_id", APPLICATION_ID).map_err(told)?;
        connection.pragma_update(None, "user_version", FORMAT).map_err(told)
    });
    connection.execute_batch(if made.is_ok() { "COMMIT" } else { "ROLLBACK" }).map_err(told)?;
    made
}

impl Queue {
    /// Opens a queue that is there. The error is a sentence.
    pub fn open(path: &Path) -> Result<Queue, String> {
        let shown = path.display();
        if !path.is_file() {
            return Err(format!("there is no file `{shown}`; name the `path` of a sink of type `dead_letters`"));
        }
        if path.metadata().is_ok_and(|about| about.len() == 0) {
            return Err(format!("`{shown}` is no queue of dead letters: it is empty"));
        }
        open(path, OpenFlags::empty()).map_err(|fault| sentence(path, fault))
    }

    /// A fault as a sentence.
    pub fn sentence(&self, fault: Fault) -> String {
        sentence(&self.path, fault)
    }

    /// Where it stands.
    pub fn standing(&self) -> Answer<Standing> {
        let all = "SELECT name, next_turn, done, removed FROM queue";
        let read = |row: &Row<'_>| {
            Ok(Standing { name: row.get(0)?, next_turn: row.get(1)?, done: row.get(2)?, removed: row.get(3)? })
        };
        self.connection.prepare_cached(all).and_then(|mut all| all.query_row((), read)).map_err(|error| plain(&error))
    }

    /// A number that is another one when somebody else has written to the file.
    pub(crate) fn version(&self) -> Answer<i64> {
        let version = self.connection.pragma_query_value(None, "data_version", |row| row.get(0));
        version.map_err(|error| plain(&error))
    }

    /// The letters whose turn it is, from one on and before another: so many, or so many bytes, at most, and at least one. All of these turns must have been
    /// given.
    pub(crate) fn take(&self, from: u64, before: u64, count: usize, bytes: usize) -> Answer<Vec<Letter>> {
        let some = "SELECT id, step, code, reason, position, at, arrived, turn, payload FROM letters \
                    WHERE turn >= ?1 AND turn < ?2 ORDER BY turn";
        let taken = self.connection.prepare_cached(some).and_then(|mut some| {
            let (mut letters, mut held) = (Vec::new(), 0);
            let mut rows = some.query((number(from), number(before)))?;
            while letters.len() < count && held < bytes {
                let Some(row) = rows.next()? else { break };
                let letter = letter(row)?;
                held += letter.payload.len();
                letters.push(letter);
            }
            Ok(letters)
        });
        let letters = taken.map_err(|error| plain(&error))?;
        let is_due = |(at, letter): (usize, &Letter)| letter.turn == Some(from + at as u64);
        let gone = match letters.iter().enumerate().position(|place| !is_due(place)) {
            Some(at) => Some(from + at as u64),
            None => (letters.is_empty() && from < before).then_some(from),
        };
        match gone {
            None => Ok(letters),
            Some(turn) => Err(Fault::Stop(format!(
                "the letter of turn {turn} is gone from `{}`, and another than the engine removed it; put the file back from a copy",
                self.path.display()
            ))),
        }
    }

    /// Letters of turns before this one have acted.
    pub(crate) fn committed(&mut self, before: u64) -> Answer<()> {
        let set = "UPDATE queue SET done = max(done, ?1) WHERE done < ?1";
        self.connection.execute(set, [number(before)]).map(|_| ()).map_err(|error| plain(&error))
    }

    /// Letters of turns before this one are never asked for again. Some of them are removed: whether all are.
    pub(crate) fn released(&mut self, before: u64) -> Answer<bool> {
        let removed = (|| {
            let whole = self.connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            let removed: u64 = whole.query_row("SELECT removed FROM queue", (), |row| row.get(0))?;
            let upto = before.min(removed.saturating_add(REMOVED_AT_ONCE));
            if upto > removed {
                whole.execute("DELETE FROM letters WHERE turn < ?1", [number(upto)])?;
                whole.execute("UPDATE queue SET removed = ?1, done = max(done, ?1)", [number(upto)])?;
                whole.commit()?;
                give_back(&self.connection)?;
            }
            Ok(upto >= before)
        })();
        removed.map_err(|error: rusqlite::Error| plain(&error))
    }

    /// The oldest letters that are meant, so many at most, and how many are meant.
    pub fn list(&self, filter: &Filter, limit: u64) -> Answer<Listed> {
        let (fits, mut values) = filter.sql();
        let listed = (|| {
            let counts = format!(
                "SELECT count(*) FILTER (WHERE turn IS NULL), count(turn) FROM letters WHERE {fits} AND {SHOWN}"
            );
            let counts =
                self.connection.query_row(&counts, params_from_iter(&values), |row| Ok((row.get(0)?, row.get(1)?)));
            let (waiting, replaying) = counts?;
            values.push(Value::Integer(number(limit)));
            let some = format!(
                "SELECT id, step, code, reason, position, at, arrived, turn, '' FROM letters WHERE {fits} AND {SHOWN} ORDER BY id LIMIT ?"
            );
            let mut some = self.connection.prepare(&some)?;
            let letters = some.query_map(params_from_iter(&values), letter)?.collect::<Result<_, _>>()?;
            Ok(Listed { letters, waiting, replaying })
        })();
        listed.map_err(|error: rusqlite::Error| plain(&error))
    }

    /// A letter.
    pub fn show(&self, id: i64) -> Answer<Option<Letter>> {
        let one = format!(
            "SELECT id, step, code, reason, position, at, arrived, turn, payload FROM letters WHERE id = ?1 AND {SHOWN}"
        );
        self.connection.query_row(&one, [id], letter).optional().map_err(|error| plain(&error))
    }

    /// Gives the letters that are meant and wait their turns, in the order of their numbers.
    pub fn replay(&mut self, filter: &Filter) -> Answer<Done> {
        self.change(filter, |file, fits, values, done| {
            let some_kept = format!("{fits} AND turn IS NULL AND {IS_CUT}");
            let count = format!("SELECT count(*) FROM letters WHERE {some_kept}");
            done.cut = file.query_row(&count, params_from_iter(values), |row| row.get(0))?;
            if done.cut > 0 {
                let some = format!("SELECT id FROM letters WHERE {some_kept} ORDER BY id LIMIT {NAMED_MAX}");
                let mut some = file.prepare(&some)?;
                done.cut_ids = some.query_map(params_from_iter(values), |row| row.get(0))?.collect::<Result<_, _>>()?;
            }
            let order = format!(
                "WITH chosen AS (SELECT id AS letter, row_number() OVER (ORDER BY id) - 1 AS place FROM letters \
                 WHERE {fits} AND turn IS NULL AND NOT {IS_CUT}) \
                 UPDATE letters SET turn = (SELECT next_turn FROM queue) + place FROM chosen WHERE id = letter"
            );
            let count = file.execute(&order, params_from_iter(values))?;
            file.execute("UPDATE queue SET next_turn = next_turn + ?1", [count as i64])?;
            Ok(count)
        })
    }

    /// Removes the letters that are meant and wait.
    pub fn discard(&mut self, filter: &Filter) -> Answer<Done> {
        let done = self.change(filter, |file, fits, values, _| {
            file.execute(&format!("DELETE FROM letters WHERE {fits} AND turn IS NULL"), params_from_iter(values))
        })?;
        give_back(&self.connection).map_err(|error| plain(&error))?;
        Ok(done)
    }

    fn change(
        &mut self,
        filter: &Filter,
        act: impl FnOnce(&Connection, &str, &[Value], &mut Done) -> rusqlite::Result<usize>,
    ) -> Answer<Done> {
        let (fits, values) = filter.sql();
        let changed = (|| {
            let whole = self.connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            let mut done = Done::default();
            let replaying = format!("SELECT count(turn) FROM letters WHERE {fits} AND {SHOWN}");
            done.replaying = whole.query_row(&replaying, params_from_iter(&values), |row| row.get(0))?;
            for id in filter.ids.iter().flatten() {
                let there = format!("SELECT 1 FROM letters WHERE id = ?1 AND {SHOWN}");
                if !whole.prepare_cached(&there)?.exists([id])? {
                    done.missing.push(*id);
                }
            }
            done.count = act(&whole, &fits, &values, &mut done)? as u64;
            whole.commit()?;
            Ok(done)
        })();
        changed.map_err(|error: rusqlite::Error| plain(&error))
    }
}

/// A letter that is done is not there any more, as far as people see.
const SHOWN: &str = "(turn IS NULL OR turn >= (SELECT done FROM queue))";

impl Filter {
    /// As a condition, and the values for it.
    fn sql(&self) -> (String, Vec<Value>) {
        let (mut parts, mut values) = (vec!["1".to_owned()], Vec::new());
        let texts = [("step =", &self.step), ("code =", &self.code), ("arrived >=", &self.since)];
        for (part, text) in texts {
            if let Some(text) = text {
                values.push(Value::Text(text.clone()));
                parts.push(format!("{part} ?{}", values.len()));
            }
        }
        if let Some(ids) = &self.ids {
            let list: Vec<String> = ids.iter().map(i64::to_string).collect();
            values.push(Value::Text(format!("[{}]", list.join(","))));
            parts.push(format!("id IN (SELECT value FROM json_each(?{}))", values.len()));
        }
        (parts.join(" AND "), values)
    }
}

fn letter(row: &Row<'_>) -> rusqlite::Result<Letter> {
    Ok(Letter {
        id: row.get(0)?,
        step: row.get(1)?,
        code: row.get(2)?,
        reason: row.get(3)?,
        position: row.get(4)?,
        at: row.get(5)?,
        arrived: row.get(6)?,
        turn: row.get(7)?,
        payload: row.get(8)?,
    })
}

/// Gives free pages back to the disk.
fn give_back(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma(None, "incremental_vacuum", PAGES_GIVEN_BACK, |_| Ok(()))
}

/// A number as SQLite has it.
fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn sentence(path: &Path, fault: Fault) -> String {
    match fault {
        Fault::Stop(reason) if reason.contains(&*path.to_string_lossy()) => reason,
        Fault::Stop(reason) => format!("`{}`: {reason}", path.display()),
        Fault::Retry { reason, health: Health::Down } => {
            format!(
                "`{}` can't be used now: {reason}; another program holds it, or its disk has no room",
                path.display()
            )
        }
        Fault::Retry { reason, .. } => format!("`{}` can't be used now: {reason}", path.display()),
    }
}
