//! A sink that takes rows and drops them: for trials and measurements. It counts, and reads every column.

use crate::{SinkEntry, SinkHandle, SinkStart, SinkStats};
use engine_dataflow::{Acknowledged, Rows, Waker, Writer};
use engine_plan::{Columns, Cx, ExactlyOnce, Planned, PlannedSink, SinkCommon, SinkKind, StreamType};
use schemars::{JsonSchema, SchemaGenerator};
use serde::Deserialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Takes rows and drops them.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct BlackholeConfig {}

/// The registry's line.
pub(crate) const ENTRY: SinkEntry = SinkEntry {
    kind: SinkKind {
        name: "blackhole",
        summary: "Takes rows and drops them, for trials and measurements.",
        config_schema: |generator: &mut SchemaGenerator| generator.subschema_for::<BlackholeConfig>(),
        encodes: false,
        sees_all: false,
        changelogs: true,
        plan,
    },
    open,
};

/// A planned blackhole.
#[derive(Debug)]
struct BlackholeSink {
    columns: Columns,
}

impl Planned for BlackholeSink {
    fn reads(&self, _wanted: &[Columns]) -> Vec<Columns> {
        vec![self.columns.clone()]
    }
}

fn plan(cx: &mut Cx<'_>, input: &StreamType, _common: &SinkCommon) -> Option<PlannedSink> {
    let BlackholeConfig {} = cx.config()?;
    let columns = input.schema.fields().iter().map(|field| field.name().clone()).collect();
    Some(PlannedSink {
        can_fail: false,
        timeout_ns: None,
        exactly_once: ExactlyOnce::By("doing nothing with them"),
        planned: Arc::new(BlackholeSink { columns }),
    })
}

fn open(_planned: &dyn Planned, _start: SinkStart) -> Result<Box<dyn SinkHandle>, String> {
    Ok(Box::new(Blackhole::default()))
}

#[derive(Default)]
struct Blackhole {
    rows: Arc<AtomicU64>,
}

impl SinkHandle for Blackhole {
    fn writer(&self, _worker: usize, waker: Waker) -> Box<dyn Writer> {
        Box::new(BlackholeWriter { rows: self.rows.clone(), waker, up_to: 0 })
    }

    fn close(self: Box<Self>) -> Result<SinkStats, String> {
        Ok(self.stats())
    }

    fn stats(&self) -> SinkStats {
        SinkStats { rows: self.rows.load(Ordering::Relaxed), ..SinkStats::default() }
    }
}

struct BlackholeWriter {
    rows: Arc<AtomicU64>,
    waker: Waker,
    up_to: u64,
}

impl Writer for BlackholeWriter {
    fn write(&mut self, rows: Rows, ticket: u64) -> Result<(), Rows> {
        self.rows.fetch_add(rows.num_rows() as u64, Ordering::Relaxed);
        self.up_to = ticket;
        self.waker.wake();
        Ok(())
    }

    fn acknowledged(&mut self) -> Acknowledged {
        Acknowledged { up_to: self.up_to, ..Acknowledged::default() }
    }

    fn flush(&mut self) {}
}
