//! For tests: pipelines from text through the real planner, and a bell that workers' wakers ring.

use crate::{SinkHandle, SinkStart, SourceStart, connection_kinds, find_sink, find_source, sink_kinds, source_kinds};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use engine_base::{Diagnostics, SourceMap, SystemClock};
use engine_dataflow::{ErrorRow, Marks, Polled, Positions, Reader, Rows, SourceRows, Times, Waker, Writer};
use engine_plan::{Plan, Registries, Role, Step, plan as plan_pipeline};
use engine_spec::{Files, LoadOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// How long a test waits for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A pipeline in memory, everything else on the disk; the secret `TOKEN` is `s3cret`.
struct OnePipeline(String);

const PATH: &str = "/pipeline.yaml";

impl Files for OnePipeline {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        if path == Path::new(PATH) { Ok(self.0.clone().into_bytes()) } else { std::fs::read(path) }
    }
    fn env(&self, _: &str) -> Option<String> {
        None
    }
    fn secret(&self, name: &str) -> Option<String> {
        (name == "TOKEN").then(|| "s3cret".to_owned())
    }
    fn glob(&self, _: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }
}

/// The plan of a pipeline, or its problems: code and message of each.
pub(crate) fn plan(yaml: &str) -> Result<Plan, Vec<String>> {
    let files = OnePipeline(format!("version: 1\npipeline: test\n{yaml}"));
    let (mut sources, mut found) = (SourceMap::default(), Diagnostics::new());
    let registries = Registries {
        sources: source_kinds(),
        sinks: sink_kinds(),
        connections: connection_kinds(),
        ..Registries::default()
    };
    let pipeline = engine_spec::load(Path::new(PATH), &files, &LoadOptions::default(), &mut sources, &mut found);
    let plan = pipeline.and_then(|pipeline| plan_pipeline(&pipeline, &registries, &files, &mut sources, &mut found));
    let problems = || found.iter().map(|found| format!("{} {}", found.code, found.message)).collect();
    plan.ok_or_else(problems)
}

/// A step of a plan.
pub(crate) fn step<'a>(plan: &'a Plan, name: &str) -> &'a Step {
    plan.find(name).expect("there is such a step")
}

/// The columns that a sink gets.
pub(crate) fn sink_schema(plan: &Plan, name: &str) -> SchemaRef {
    plan.output(step(plan, name).inputs[0]).stream.schema.clone()
}

/// Opens a sink of a plan.
pub(crate) fn open(plan: &Plan, name: &str) -> Box<dyn SinkHandle> {
    open_with(plan, name, |_| {}).expect("it opens")
}

/// Opens a sink of a plan with something changed, or says why it can't be.
pub(crate) fn open_with(plan: &Plan, name: &str, change: impl FnOnce(&mut SinkStart)) -> crate::Opened {
    let sink = step(plan, name);
    let entry = find_sink(sink.kind).expect("a sink");
    let mut start = SinkStart {
        name: Arc::from(name),
        schema: sink_schema(plan, name),
        clock: SystemClock::shared(),
        resumed: false,
        begun: false,
        exact: None,
    };
    change(&mut start);
    (entry.open)(&*sink.planned, start)
}

/// How a source of a plan is to be started.
pub(crate) struct Begin<'a> {
    pub(crate) name: &'a str,
    pub(crate) worker: usize,
    pub(crate) workers: usize,
    pub(crate) resume: Marks,
    /// All, if there are none.
    pub(crate) columns: &'a [&'a str],
    pub(crate) finite: bool,
}

/// Starts a source of a plan.
pub(crate) fn begin(plan: &Plan, begin: Begin<'_>, bell: &Bell) -> Box<dyn Reader> {
    let source = step(plan, begin.name);
    let entry = find_source(source.kind).expect("a source");
    let schema = &source.outputs[0].stream.schema;
    let columns = match begin.columns {
        [] => schema.clone(),
        names => {
            let places: Vec<usize> = names.iter().map(|name| schema.index_of(name).expect("a column")).collect();
            Arc::new(schema.project(&places).expect("columns"))
        }
    };
    let Role::Source { source: id, .. } = source.role else { panic!("not a source") };
    let start = SourceStart {
        name: Arc::from(begin.name),
        source: id,
        worker: begin.worker,
        workers: begin.workers,
        waker: bell.waker(),
        resume: begin.resume,
        columns,
        clock: SystemClock::shared(),
        finite_from_start: begin.finite,
    };
    (entry.start)(&*source.planned, start).expect("it starts").expect("there is a share")
}

/// Rows of a batch, one after the other from an offset of partition 0 of source 0.
pub(crate) fn rows(batch: RecordBatch, first: u64) -> Rows {
    Rows {
        batch,
        positions: Positions::Range { origin: 0, first },
        ingest_ns: Times::One(1_000),
        born_ns: Times::One(1_000),
        event_ns: None,
        removes: None,
    }
}

/// What a worker sleeps on.
#[derive(Clone, Default)]
pub(crate) struct Bell(Arc<(Mutex<bool>, Condvar)>);

impl Bell {
    pub(crate) fn waker(&self) -> Waker {
        let bell = self.0.clone();
        Waker::new(move || {
            *bell.0.lock().unwrap() = true;
            bell.1.notify_all();
        })
    }

    /// Sleeps until it rings. False if it did not.
    pub(crate) fn wait(&self, time: Duration) -> bool {
        let rung = self.0.0.lock().unwrap();
        let (mut rung, _) = self.0.1.wait_timeout_while(rung, time, |rung| !*rung).unwrap();
        std::mem::take(&mut *rung)
    }
}

/// Polls a reader, sleeping only on its bell, until `enough` says so of all that it gave. Fails when it fails.
pub(crate) fn read_until(
    reader: &mut dyn Reader,
    bell: &Bell,
    until: Option<&std::collections::BTreeMap<u32, u64>>,
    mut enough: impl FnMut(&SourceRows, &dyn Reader) -> bool,
) -> Result<SourceRows, String> {
    let deadline = Instant::now() + PATIENCE;
    let mut all = SourceRows::default();
    loop {
        match reader.poll(256 << 10, until) {
            Polled::Some(some) => {
                all.rows.extend(some.rows);
                all.errors.extend(some.errors);
                all.bytes += some.bytes;
                all.records += some.records;
            }
            Polled::Pending => {
                if enough(&all, reader) {
                    return Ok(all);
                }
                if Instant::now() > deadline {
                    return Err(format!("only {} records came in time", all.records));
                }
                bell.wait(Duration::from_millis(200));
            }
            Polled::Done => return Ok(all),
            Polled::Failed(reason) => return Err(reason),
        }
    }
}

/// Writes rows to a writer and waits until all is acknowledged: the rows that failed.
pub(crate) fn write_all(writer: &mut dyn Writer, bell: &Bell, batches: Vec<Rows>) -> Result<Vec<ErrorRow>, String> {
    let deadline = Instant::now() + PATIENCE;
    let (mut ticket, mut up_to, mut failed) = (0, 0, Vec::new());
    let mut waiting: std::collections::VecDeque<Rows> = batches.into();
    loop {
        while let Some(rows) = waiting.pop_front() {
            match writer.write(rows, ticket + 1) {
                Ok(()) => ticket += 1,
                Err(rows) => {
                    waiting.push_front(rows);
                    break;
                }
            }
        }
        writer.flush();
        let answered = writer.acknowledged();
        assert!(answered.up_to >= up_to, "tickets are released in order");
        assert!(answered.up_to <= ticket, "only what was written");
        up_to = answered.up_to;
        failed.extend(answered.failed);
        if let Some(reason) = answered.fatal {
            return Err(reason);
        }
        if waiting.is_empty() && up_to == ticket {
            return Ok(failed);
        }
        if Instant::now() > deadline {
            return Err(format!("only {up_to} of {ticket} tickets were acknowledged in time"));
        }
        bell.wait(Duration::from_secs(5));
    }
}
