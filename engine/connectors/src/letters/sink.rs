//! The sink `dead_letters`: error rows into a queue, by the very code that writes tables of SQLite.

use super::queue::{TABLE, set_up};
use crate::database::Sent;
use crate::database::columns::Kind;
use crate::database::plan::{Table, place};
use crate::delivery::{DeliveryKeys, schema_with_keys};
use crate::sqlite::{SqliteStore, check_path, open_store};
use crate::{SinkEntry, SinkHandle, SinkStart};
use engine_base::Diagnostic;
use engine_base::codes::connector as codes;
use engine_expr::is_open;
use engine_plan::{Claim, Columns, Cx, Planned, PlannedSink, SinkCommon, SinkKind, StreamType, Use, error_schema};
use schemars::JsonSchema;
use serde::Deserialize;
use std::path::PathBuf;
use std::sync::Arc;

/// The registry's line.
pub(crate) const ENTRY: SinkEntry = SinkEntry {
    kind: SinkKind {
        name: "dead_letters",
        summary: "Error rows into a durable queue, from which they can be replayed.",
        config_schema: |generator| schema_with_keys::<LettersKeys>(generator),
        encodes: false,
        sees_all: false,
        changelogs: false,
        plan,
    },
    open,
};

/// Keeps the rows of an error output in a durable queue, from which `engine dead-letters` shows, replays and drops them.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LettersKeys {
    /// The file of the queue; relative to this file. It is made where it is not there, with its folders.
    path: String,
}

/// The columns of error rows, as a file of SQLite takes them.
const SENT: [(Kind, Sent); 6] = [
    (Kind::Text, Sent::Text),
    (Kind::Text, Sent::Text),
    (Kind::Text, Sent::Text),
    (Kind::Text, Sent::Text),
    (Kind::Text, Sent::Text),
    (Kind::Timestamp, Sent::Text),
];

/// A planned sink.
#[derive(Debug)]
struct LettersSink {
    /// The path as it was written.
    written: String,
    /// What it is relative to.
    base_dir: PathBuf,
    table: Table,
}

impl Planned for LettersSink {
    fn reads(&self, _wanted: &[Columns]) -> Vec<Columns> {
        self.table.reads()
    }

    fn facts(&self) -> Vec<(String, String)> {
        vec![("path".to_owned(), self.written.clone())]
    }

    /// Several may write to one queue, and a source may read it; but nobody may write to the file in another way.
    fn claims(&self) -> Vec<Claim> {
        vec![Claim::file(&self.base_dir, &self.written, Use::Read)]
    }
}

fn plan(cx: &mut Cx<'_>, input: &StreamType, _common: &SinkCommon) -> Option<PlannedSink> {
    let keys: Option<LettersKeys> = cx.config.without(&DeliveryKeys::NAMES).decode(cx.diagnostics);
    let delivery = DeliveryKeys::read(cx);
    let path = keys.map(|keys| keys.path).filter(|path| check_path(cx, path, "letters/holds.db"));
    let are_errors = input.schema.fields() == error_schema().fields();
    if !are_errors && is_open(&input.schema) {
        cx.follows(&["input"]);
        return None;
    }
    if !are_errors {
        let message = format!("`{}` keeps error rows, and its input has other columns", cx.component.name);
        let help = match cx.component.node.get("columns") {
            Some(_) => "leave `columns` out: letters are kept whole",
            None => "read the error output of a step or sink: `input: NAME.errors`",
        };
        let found = Diagnostic::error(codes::NO_ERROR_ROWS, cx.span(&["input"]), message).help(help);
        cx.push(found);
        return None;
    }
    let place = place(cx.sources, cx.span(&["path"]));
    let table = Table::fixed(TABLE, &error_schema(), &SENT, place, delivery?);
    let (can_fail, timeout_ns) = table.ends();
    let base_dir = cx.component.dir(&["path"]).to_path_buf();
    Some(PlannedSink {
        can_fail,
        timeout_ns,
        exactly_once: table.exactly_once(),
        planned: Arc::new(LettersSink { written: path?, base_dir, table }),
    })
}

fn open(planned: &dyn Planned, start: SinkStart) -> Result<Box<dyn SinkHandle>, String> {
    let plan: &LettersSink = planned.downcast().ok_or("not a planned sink of dead letters")?;
    let store = SqliteStore::new(plan.base_dir.join(&plan.written), plan.table.clone()).set_up_by(set_up);
    open_store(store, &plan.table, start)
}
