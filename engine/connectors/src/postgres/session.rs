//! Transactions of the sink `postgres`.
//!
//! ```text
//! BEGIN ─▶ marker? ─▶ DELETE, INSERT over arrays ─▶ COMMIT
//!            │ known: ROLLBACK, nothing to do    │ a row is refused
//!            ▼                                   ▼
//!                                     ROLLBACK, then once more with savepoints: halves, until single rows are left
//! ```
//!
//! The first way costs four turns a batch, and is left only for a batch with a bad row. Constraints that are deferred are
//! checked at once, so that nothing is refused at COMMIT. A connection serves one transaction after the other; after anything that is
//! not known to have ended well it is closed, which makes the server undo what is not committed.

use super::connection::{Connection, Trouble, fault};
use super::table::{Statements, prepare};
use super::values::Many;
use crate::Exact;
use crate::database::batch::parted;
use crate::database::line::rejected;
use crate::database::plan::{Table, quote};
use crate::database::{
    Act, Batch, FAILED_KEPT, Fault, MARKERS, Marker, Owner, Store, Written, failed_to_text, known_again,
};
use crate::delivery::Health;
use crate::exact::{agree, taken_over};
use engine_base::RowError;
use std::sync::Arc;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Statement};

const BEGIN: &str = "BEGIN; SET CONSTRAINTS ALL IMMEDIATE";

/// A table on a server.
#[derive(Debug)]
pub struct Target {
    connection: Connection,
    table: Table,
}

impl Target {
    pub(super) fn new(connection: Connection, table: Table) -> Target {
        Target { connection, table }
    }

    /// Connects, and checks the table.
    pub(super) async fn session(&self) -> Result<Session, Fault> {
        let client = self.connection.client().await?;
        let Statements { put, delete } = prepare(&client, &self.table).await?;
        let about = |error: tokio_postgres::Error| match fault(&error) {
            // The statement itself is at fault: a type that can't be compared, a right that is missing.
            Trouble::Fault(Fault::Stop(reason)) | Trouble::Refused(reason) => {
                Fault::Stop(self.table.complaint(reason, "the statement of the sink does not fit the table"))
            }
            Trouble::Fault(fault) => fault,
        };
        let put = client.prepare(&put).await.map_err(about)?;
        let delete = match delete {
            Some(delete) => Some(client.prepare(&delete).await.map_err(about)?),
            None => None,
        };
        Ok(Session { client, put, delete, marking: None })
    }

    /// The table of markers, beside the sink's own.
    fn markers(&self) -> String {
        match self.table.name.as_slice() {
            [schema, _] => format!("{}.{}", quote(schema), quote(MARKERS)),
            _ => quote(MARKERS),
        }
    }
}

/// A table of PostgreSQL, and the connection to it while there is one.
#[derive(Debug)]
pub struct PostgresStore {
    target: Arc<Target>,
    session: Option<Session>,
}

impl PostgresStore {
    pub(super) fn new(target: Arc<Target>) -> PostgresStore {
        PostgresStore { target, session: None }
    }

    /// The connection, taken out: it goes back only when all ended well, and is closed wherever this is dropped.
    async fn session(&mut self) -> Result<Session, Fault> {
        match self.session.take() {
            Some(session) if !session.client.is_closed() => Ok(session),
            _ => self.target.session().await,
        }
    }
}

impl Store for PostgresStore {
    async fn claim(&mut self, owner: &Owner, exact: &Exact) -> Result<(), Fault> {
        let mut session = self.session().await?;
        let marking = session.find_markers(&self.target).await?;
        session.claim(&marking, owner, exact).await?;
        self.session = Some(session);
        Ok(())
    }

    async fn write(&mut self, batch: &Batch, marker: Option<&Marker>) -> Result<Written, Fault> {
        let mut session = self.session().await?;
        if marker.is_some() {
            session.find_markers(&self.target).await?;
        }
        let written = match session.transact(batch, marker, Way::Whole).await? {
            Some(written) => written,
            None => session.transact(batch, marker, Way::Apart).await?.unwrap_or_default(),
        };
        self.session = Some(session);
        Ok(written)
    }
}

/// How a batch is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// All at once; nothing is written where a row is refused.
    Whole,
    /// In parts, so that only the rows fail that are refused.
    Apart,
}

/// A connection with its statements.
#[derive(Debug)]
pub(super) struct Session {
    client: Client,
    put: Statement,
    delete: Option<Statement>,
    marking: Option<Marking>,
}

#[derive(Clone, Debug)]
struct Marking {
    /// Makes a marker where there is none, and locks it.
    make: Statement,
    lock: Statement,
    /// Makes the marker one's own.
    claim: Statement,
    /// Forgets failed rows.
    forget: Statement,
    set: Statement,
    get: Statement,
    /// Keeps the rows that failed.
    keep: Statement,
    /// Where the markers stand, for messages.
    place: String,
}

impl Session {
    /// The statements of markers. Their table is made where it is not there.
    async fn find_markers(&mut self, target: &Target) -> Result<Marking, Fault> {
        if let Some(marking) = &self.marking {
            return Ok(marking.clone());
        }
        let name = target.markers();
        let about = |error: tokio_postgres::Error| match fault(&error) {
            // Another is making it at this moment.
            Trouble::Refused(reason) => Fault::Retry { reason, health: Health::Busy },
            trouble => trouble.about(&format!("the table `{MARKERS}`, which exactly once needs")),
        };
        // A sink's marker stands in `batch` 0; the others are batches of which rows failed.
        let columns =
            "pipeline text, sink text, shard int, batch bigint, sequence bigint NOT NULL, failed text, writer text";
        let make = format!("CREATE TABLE IF NOT EXISTS {name} ({columns}, PRIMARY KEY (pipeline, sink, shard, batch))");
        let is_there = self.client.query_one("SELECT to_regclass($1) IS NOT NULL", &[&name]).await.map_err(about)?;
        if !is_there.get::<_, bool>(0) {
            self.client.batch_execute(&make).await.map_err(about)?;
        }
        let ours = "pipeline = $1 AND sink = $2 AND shard = $3";
        let prepare = async |sql: String| self.client.prepare(&sql).await.map_err(about);
        // An insert waits for another of the same key, and an update for whoever has changed the row: until those are committed or
        // undone.
        let marking = Marking {
            make: prepare(format!("INSERT INTO {name} VALUES ($1, $2, $3, 0, 0, NULL, NULL) ON CONFLICT DO NOTHING")).await?,
            lock: prepare(format!("SELECT sequence FROM {name} WHERE {ours} AND batch = 0 FOR UPDATE")).await?,
            claim: prepare(format!("UPDATE {name} SET sequence = $4, writer = $5 WHERE {ours} AND batch = 0")).await?,
            forget: prepare(format!("DELETE FROM {name} WHERE {ours} AND batch BETWEEN 1 AND $4")).await?,
            set: prepare(format!(
                "UPDATE {name} SET sequence = $4 WHERE {ours} AND batch = 0 AND writer = $5 AND sequence < $4"
            ))
            .await?,
            get: prepare(format!(
                "SELECT m.sequence, m.writer, f.failed FROM {name} m LEFT JOIN {name} f ON (f.pipeline, f.sink, f.shard, \
                 f.batch) = (m.pipeline, m.sink, m.shard, $4) WHERE m.pipeline = $1 AND m.sink = $2 AND m.shard = $3 AND \
                 m.batch = 0"
            ))
            .await?,
            keep: prepare(format!("INSERT INTO {name} VALUES ($1, $2, $3, $4, $4, $5, NULL)")).await?,
            place: format!("the table `{MARKERS}` of {}", target.connection.shown),
        };
        self.marking = Some(marking.clone());
        Ok(marking)
    }

    /// Makes the markers ours.
    async fn claim(&self, marking: &Marking, owner: &Owner, exact: &Exact) -> Result<(), Fault> {
        let Owner { pipeline, sink, shard, writer } = owner;
        let failed = |error: tokio_postgres::Error| about_marker(&error);
        self.plain(BEGIN).await?;
        self.client.execute(&marking.make, &[pipeline, sink, shard]).await.map_err(failed)?;
        let row = self.client.query_one(&marking.lock, &[pipeline, sink, shard]).await.map_err(failed)?;
        let found: i64 = row.get(0);
        let delivered = exact.delivered_sequence() as i64;
        let (sequence, gone) = match exact.reset {
            true => (delivered, i64::MAX),
            false => {
                let known = u64::try_from(found).unwrap_or(0);
                if let Err(sentence) = agree(sink, &marking.place, exact, Some(known)) {
                    self.plain("ROLLBACK").await?;
                    return Err(Fault::Stop(sentence));
                }
                (found, delivered)
            }
        };
        self.client.execute(&marking.claim, &[pipeline, sink, shard, &sequence, writer]).await.map_err(failed)?;
        self.client.execute(&marking.forget, &[pipeline, sink, shard, &gone]).await.map_err(failed)?;
        self.plain("COMMIT").await
    }

    /// Writes the marker. What is known of the batch, if it is in already.
    async fn mark(&self, marking: &Marking, marker: &Marker) -> Result<Option<Written>, Fault> {
        let Marker { owner: Owner { pipeline, sink, shard, writer }, sequence } = marker;
        let set = self.client.execute(&marking.set, &[pipeline, sink, shard, sequence, writer]).await;
        if set.map_err(|error| about_marker(&error))? > 0 {
            return Ok(None);
        }
        let row = self.client.query_opt(&marking.get, &[pipeline, sink, shard, sequence]).await;
        let row = row.map_err(|error| about_marker(&error))?;
        self.plain("ROLLBACK").await?;
        match row {
            Some(row) if row.get::<_, Option<&str>>(1) == Some(writer) && row.get::<_, i64>(0) >= *sequence => {
                known_again(marker, row.get(0), row.get(2)).map(Some)
            }
            _ => Err(Fault::Stop(taken_over(sink, &marking.place))),
        }
    }

    /// Writes a batch in one transaction. `None` if a row was refused and the way is [`Way::Whole`]; nothing is written then.
    async fn transact(&self, batch: &Batch, marker: Option<&Marker>, way: Way) -> Result<Option<Written>, Fault> {
        self.plain(BEGIN).await?;
        if let (Some(marker), Some(marking)) = (marker, &self.marking)
            && let Some(written) = self.mark(marking, marker).await?
        {
            return Ok(Some(written));
        }
        let mut failed = match way {
            Way::Whole => match self.apply(batch, &batch.acts).await {
                Ok(()) => Vec::new(),
                Err(Trouble::Refused(_)) => {
                    self.plain("ROLLBACK").await?;
                    return Ok(None);
                }
                Err(Trouble::Fault(fault)) => return Err(fault),
            },
            Way::Apart => self.apart(batch).await?,
        };
        failed.extend_from_slice(&batch.given_up);
        if let Some((_, error)) = failed.first().filter(|_| batch.all_or_nothing) {
            self.plain("ROLLBACK").await?;
            return Err(Fault::Stop(format!("a row could not be delivered: {error}")));
        }
        if let (Some(marker), Some(marking), Some(text)) = (marker, &self.marking, failed_to_text(&failed)) {
            let Marker { owner: Owner { pipeline, sink, shard, .. }, sequence } = marker;
            let kept = self.client.execute(&marking.keep, &[pipeline, sink, shard, sequence, &text]).await;
            kept.map_err(|error| about_marker(&error))?;
            let gone = sequence - FAILED_KEPT;
            let forgotten = self.client.execute(&marking.forget, &[pipeline, sink, shard, &gone]).await;
            forgotten.map_err(|error| about_marker(&error))?;
        }
        self.plain("COMMIT").await?;
        Ok(Some(Written { failed, skipped: false }))
    }

    /// Does all that the server takes, and gives the rows that it does not.
    async fn apart(&self, batch: &Batch) -> Result<Vec<(u32, RowError)>, Fault> {
        let mut failed = Vec::new();
        // Parts that are still to be done; the next one is the last. All together were refused before.
        let (first, second) = batch.acts.split_at(batch.acts.len() / 2);
        let mut parts: Vec<&[Act]> = vec![second, first];
        while let Some(part) = parts.pop() {
            let refused = match self.saved(batch, part).await? {
                None => continue,
                Some(refused) => refused,
            };
            match part {
                [act] => match batch.steps(*act).as_slice() {
                    [_] => failed.push((act.row, rejected(refused))),
                    // What came before of this key counts now.
                    steps => {
                        for step in steps {
                            if let Some(refused) = self.saved(batch, std::slice::from_ref(step)).await? {
                                failed.push((step.row, rejected(refused)));
                            }
                        }
                    }
                },
                part => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.push(second);
                    parts.push(first);
                }
            }
        }
        Ok(failed)
    }

    /// Does some acts or none of them: why they were refused.
    async fn saved(&self, batch: &Batch, acts: &[Act]) -> Result<Option<String>, Fault> {
        self.plain("SAVEPOINT part").await?;
        match self.apply(batch, acts).await {
            Ok(()) => self.plain("RELEASE SAVEPOINT part").await.map(|()| None),
            Err(Trouble::Fault(fault)) => Err(fault),
            Err(Trouble::Refused(reason)) => {
                self.plain("ROLLBACK TO SAVEPOINT part; RELEASE SAVEPOINT part").await.map(|()| Some(reason))
            }
        }
    }

    async fn apply(&self, batch: &Batch, acts: &[Act]) -> Result<(), Trouble> {
        let (deleted, put) = parted(acts);
        if let (Some(delete), false) = (&self.delete, deleted.is_empty()) {
            self.execute(delete, batch, &deleted, true).await?;
        }
        if !put.is_empty() {
            self.execute(&self.put, batch, &put, false).await?;
        }
        Ok(())
    }

    async fn execute(&self, statement: &Statement, batch: &Batch, rows: &[u32], by_key: bool) -> Result<(), Trouble> {
        let columns: Vec<Many<'_>> = match by_key {
            true => batch.key.iter().map(|at| Many { column: &batch.columns[*at], rows }).collect(),
            false => batch.columns.iter().map(|column| Many { column, rows }).collect(),
        };
        let parameters: Vec<&(dyn ToSql + Sync)> = columns.iter().map(|many| many as &(dyn ToSql + Sync)).collect();
        self.client.execute(statement, &parameters).await.map(|_| ()).map_err(|error| fault(&error))
    }

    /// A statement that no row has a part in.
    async fn plain(&self, statement: &str) -> Result<(), Fault> {
        self.client.batch_execute(statement).await.map_err(|error| match fault(&error) {
            Trouble::Refused(reason) => Fault::Retry { reason, health: Health::Faulty },
            Trouble::Fault(fault) => fault,
        })
    }
}

fn about_marker(error: &tokio_postgres::Error) -> Fault {
    fault(error).about("the marker can't be written")
}
