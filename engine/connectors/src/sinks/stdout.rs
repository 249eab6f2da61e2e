//! Rows as lines on standard output.
//!
//! Several sinks may write there; whole lines stay whole. Where the reader has gone (`| head`), the pipeline stops.

use super::bytes::{StreamSink, Target};
use crate::formats::Encoding;
use crate::{SinkEntry, SinkHandle, SinkStart};
use engine_plan::{Columns, Cx, ExactlyOnce, Planned, PlannedSink, SinkCommon, SinkKind, StreamType};
use schemars::{JsonSchema, SchemaGenerator};
use serde::Deserialize;
use std::io::{self, Write};
use std::sync::Arc;

/// Writes rows to standard output.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct StdoutConfig {}

/// The registry's line.
pub(crate) const ENTRY: SinkEntry = SinkEntry {
    kind: SinkKind {
        name: "stdout",
        summary: "Rows as lines of JSON or CSV on standard output.",
        config_schema: |generator: &mut SchemaGenerator| generator.subschema_for::<StdoutConfig>(),
        encodes: true,
        sees_all: false,
        changelogs: true,
        plan,
    },
    open,
};

/// A planned standard output.
#[derive(Debug)]
struct StdoutSink {
    columns: Columns,
    encoding: Encoding,
}

impl Planned for StdoutSink {
    fn reads(&self, _wanted: &[Columns]) -> Vec<Columns> {
        vec![self.columns.clone()]
    }

    fn facts(&self) -> Vec<(String, String)> {
        vec![("format".into(), self.encoding.name().into())]
    }
}

fn plan(cx: &mut Cx<'_>, input: &StreamType, common: &SinkCommon) -> Option<PlannedSink> {
    let config: Option<StdoutConfig> = cx.config();
    let encoding = Encoding::plan(cx, common);
    let (StdoutConfig {}, encoding) = (config?, encoding?);
    let columns = input.schema.fields().iter().map(|field| field.name().clone()).collect();
    Some(PlannedSink {
        can_fail: false,
        timeout_ns: None,
        exactly_once: ExactlyOnce::No {
            reason: "nobody can tell what was read from standard output",
            help: "write to a file, a topic or a table",
        },
        planned: Arc::new(StdoutSink { columns, encoding }),
    })
}

fn open(planned: &dyn Planned, start: SinkStart) -> Result<Box<dyn SinkHandle>, String> {
    let Some(sink) = planned.downcast::<StdoutSink>() else { return Err("this is no standard output".to_owned()) };
    Ok(Box::new(StreamSink::open(start, &sink.encoding, Box::new(Stdout), true)?))
}

struct Stdout;

impl Target for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        // The lock keeps the lines of another sink apart; the flush passes on what the standard library would hold.
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        out.flush()
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn syncs(&self) -> bool {
        false
    }

    fn problem(&self, error: &io::Error) -> String {
        match error.kind() {
            io::ErrorKind::BrokenPipe => "standard output was closed by its reader".to_owned(),
            _ => format!("can't write to standard output: {error}"),
        }
    }
}
