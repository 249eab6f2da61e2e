//! A source that can be read again.

use super::input::PARTITIONS;
use super::world::Shared;
use arrow::array::{ArrayRef, Int64Array, RecordBatch, TimestampNanosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use engine_base::SourceId;
use engine_connectors::{SourceStart, Started};
use engine_dataflow::rows::origin;
use engine_dataflow::{Mark, Marks, Polled, Positions, Reader, Removal, Rows, SourceRows, Times};
use engine_plan::{Columns, Planned, PlannedSource, SourceKind};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// For how many bytes a row is taken.
const ROW_BYTES: u64 = 40;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {}

/// What the planner sees of it.
pub(super) static KIND: SourceKind = SourceKind {
    name: "simulated",
    summary: "",
    config_schema: |generator| generator.subschema_for::<Config>(),
    decodes: false,
    metadata: &[],
    plan: |cx, _| {
        let Config {} = cx.config()?;
        Some(PlannedSource { schema: schema(), replayable: true, finite: true, planned: Arc::new(Simulated) })
    },
};

#[derive(Debug)]
struct Simulated;

impl Planned for Simulated {
    fn reads(&self, _wanted: &[Columns]) -> Vec<Columns> {
        Vec::new()
    }
}

fn schema() -> SchemaRef {
    let whole = |name: &str| Field::new(name, DataType::Int64, false);
    let at = Field::new("at", DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())), false);
    Arc::new(Schema::new(vec![whole("id"), whole("k"), whole("g"), whole("v"), at]))
}

/// Starts the share of a worker.
pub(super) fn start(world: &Shared, start: SourceStart) -> Started {
    let mine = |partition: &u32| *partition as usize % start.workers == start.worker;
    let next: BTreeMap<u32, u64> = (0..PARTITIONS)
        .filter(mine)
        .map(|partition| (partition, start.resume.get(&partition).map_or(0, |mark| mark.next)))
        .collect();
    if next.is_empty() {
        return Ok(None);
    }
    {
        let mut world = world.lock();
        world.readers.push(start.waker.clone());
        next.iter().for_each(|(partition, next)| world.check_begun(*partition, *next));
    }
    Ok(Some(Box::new(SimReader { world: world.clone(), source: start.source, next, start })))
}

struct SimReader {
    world: Shared,
    source: SourceId,
    next: BTreeMap<u32, u64>,
    start: SourceStart,
}

/// Lets go of rows that are never read again, as a queue would.
struct SimRemoval(Shared);

impl std::fmt::Debug for SimRemoval {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SimRemoval")
    }
}

impl Removal for SimRemoval {
    fn committed(&self, _marks: &Marks) {}

    fn released(&self, marks: &Marks) {
        let mut world = self.0.lock();
        marks.iter().for_each(|(partition, mark)| world.release(*partition, mark.next));
    }

    fn close(&self) -> Result<(), String> {
        Ok(())
    }
}

impl Reader for SimReader {
    fn poll(&mut self, max_bytes: usize, until: Option<&BTreeMap<u32, u64>>) -> Polled {
        let mut world = self.world.lock();
        let mut polled = SourceRows::default();
        for (partition, next) in &mut self.next {
            let limit = until.map_or(u64::MAX, |until| until.get(partition).copied().unwrap_or(0));
            let end = world.partitions[*partition as usize].there.min(limit);
            if *next >= end || world.random.once_in(4) {
                continue;
            }
            let room = (max_bytes as u64 / ROW_BYTES).saturating_sub(polled.records);
            let count = (1 + world.random.below(6)).min(end - *next).min(room.max(1));
            if room == 0 && polled.records > 0 {
                break;
            }
            let rows = &world.partitions[*partition as usize].rows[*next as usize..(*next + count) as usize];
            let whole = |value: fn(&super::input::Given) -> i64| -> ArrayRef {
                Arc::new(rows.iter().map(value).collect::<Int64Array>())
            };
            let at: TimestampNanosecondArray = rows.iter().map(|row| Some(row.at_s * 1_000_000_000)).collect();
            let columns = [
                whole(|row| row.id),
                whole(|row| row.key),
                whole(|row| row.group),
                whole(|row| row.value),
                Arc::new(at.with_timezone("UTC")) as ArrayRef,
            ];
            let all = schema();
            let wanted = self.start.columns.fields().iter();
            let columns = wanted.filter_map(|field| Some(columns[all.index_of(field.name()).ok()?].clone())).collect();
            let batch = RecordBatch::try_new(self.start.columns.clone(), columns);
            let batch = match batch {
                Ok(batch) => batch,
                Err(error) => return Polled::Failed(error.to_string()),
            };
            let now_ns = self.start.clock.now_ns();
            polled.rows.push(Rows {
                batch,
                positions: Positions::Range { origin: origin(self.source, *partition), first: *next },
                ingest_ns: Times::One(now_ns),
                born_ns: Times::One(now_ns),
                event_ns: None,
                removes: None,
            });
            polled.bytes += count * ROW_BYTES;
            polled.records += count;
            world.note(&format!("read {partition}: {next} and {count}"));
            *next += count;
        }
        let is_over =
            |(partition, next): (&u32, &u64)| *next >= world.partitions[*partition as usize].rows.len() as u64;
        match polled.rows.is_empty() {
            false => Polled::Some(polled),
            true if self.next.iter().all(is_over) => Polled::Done,
            true => {
                // What was left out by chance must be asked for again.
                let may_have = |(partition, next): (&u32, &u64)| *next < world.partitions[*partition as usize].there;
                if self.next.iter().any(may_have) {
                    self.start.waker.wake();
                }
                Polled::Pending
            }
        }
    }

    fn marks(&self) -> Marks {
        self.next.iter().map(|(partition, next)| (*partition, Mark { next: *next, detail: String::new() })).collect()
    }

    fn at_end(&self, partition: u32) -> bool {
        let world = self.world.lock();
        self.next.get(&partition).is_some_and(|next| *next >= world.partitions[partition as usize].there)
    }

    fn removal(&self) -> Option<Arc<dyn Removal>> {
        Some(Arc::new(SimRemoval(self.world.clone())))
    }

    fn committed(&mut self, marks: &Marks) {
        for (partition, mark) in marks.iter().filter(|(partition, _)| self.next.contains_key(partition)) {
            self.world.lock().check_committed(*partition, mark.next);
        }
    }
}
