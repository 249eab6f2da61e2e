//! `distinct`: each row once.
//!
//! Of rows that stay, the first of its kind stays: what comes out is never taken back. Of a changelog, a row is there as long
//! as any of its kind is, which differential dataflow knows. Rows that tell the window that they are of are told apart within
//! their epoch, and nothing is kept.

use crate::changes::{RowCodec, build, comparable, wanted_of};
use crate::render::Projection;
use crate::{OperatorEntry, Render, RenderCx, planned};
use arrow::array::BooleanArray;
use engine_dataflow::changes::{Region, RegionStep};
use engine_dataflow::{EpochStep, Moment, Rows, StepOutput};
use engine_plan::kinds::{Caution, InputKeys};
use engine_plan::{Columns, Cx, OperatorKind, Output, Planned, PlannedOperator, StreamType, hidden, types};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

static KIND: OperatorKind = OperatorKind {
    name: "distinct",
    summary: "Each row once, however often it comes.",
    config_schema: |generator| generator.subschema_for::<Config>(),
    inputs: InputKeys::One,
    plan,
};

/// The registry line of `distinct`.
pub(crate) fn entry() -> OperatorEntry {
    let of_plan = |plan: &dyn Planned| match plan.downcast::<DistinctPlan>() {
        Some(DistinctPlan { at_once: true, .. }) => Render::Epochs(|plan, cx| Ok(Box::new(AtOnce::new(plan, cx)?))),
        _ => Render::Region(region),
    };
    OperatorEntry { kind: &KIND, render: Render::OfPlan(of_plan) }
}

/// Each row once, however often it comes: rows are the same where all their columns are, null and null among them. Drop what
/// does not matter before, with a `map`.
///
/// Of an append stream the first of equal rows comes out, and stays. Of a changelog a row goes when the last one like it does.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {}

/// The planned form of `distinct`.
#[derive(Debug)]
struct DistinctPlan {
    columns: Columns,
    /// Rows that are the same come in one epoch.
    at_once: bool,
}

impl Planned for DistinctPlan {
    fn reads(&self, wanted: &[Columns]) -> Vec<Columns> {
        let mut reads = self.columns.clone();
        let timed = wanted.first().is_some_and(|wanted| wanted.contains(hidden::EVENT_TIME));
        reads.extend((self.at_once && timed).then(|| hidden::EVENT_TIME.to_owned()));
        vec![reads]
    }

    fn endless(&self) -> Option<Caution> {
        (!self.at_once).then(|| Caution {
            message: "each different row is kept for ever".to_owned(),
            help: "where new ones keep coming, take `deduplicate` with `within`, or drop what tells them apart before"
                .to_owned(),
        })
    }
}

fn plan(cx: &mut Cx<'_>, inputs: &[StreamType]) -> Option<PlannedOperator> {
    let input = inputs.first()?;
    let Config {} = cx.config()?;
    let at_once = input.event_time.as_ref().is_some_and(|time| !time.windows.is_empty());
    let event_time = input.event_time.clone().filter(|_| at_once);
    let outputs = vec![Output { port: String::new(), stream: StreamType { event_time, ..input.clone() } }];
    if !comparable(cx, input) {
        return Some(PlannedOperator::wrong(outputs));
    }
    // Rows that are the same have the same of any of their columns.
    let hashed = input.schema.fields().iter().filter(|field| types::unhashable(field.data_type()).is_none());
    let hashed: Vec<String> = hashed.map(|field| field.name().clone()).collect();
    let columns: Columns = input.schema.fields().iter().map(|field| field.name().clone()).collect();
    Some(PlannedOperator {
        outputs,
        can_fail: false,
        exchange: Some(vec![hashed]),
        state: (!at_once).then(|| "each different row".to_owned()),
        timed: false,
        planned: Arc::new(DistinctPlan { columns, at_once }),
    })
}

fn region(plan: &dyn Planned, cx: &RenderCx<'_>) -> Result<RegionStep, String> {
    let plan: &DistinctPlan = planned(plan, "distinct")?;
    let input = cx.inputs.first().ok_or("distinct without an input")?;
    let codec = RowCodec::new(input, |name| plan.columns.contains(name))?;
    let decoder = RowCodec::new(input, |name| plan.columns.contains(name))?;
    let wanted = cx.wanted.first().cloned().unwrap_or_default();
    let places: Vec<usize> = (0..input.fields().len()).filter(|at| wanted.contains(input.field(*at).name())).collect();
    Ok(RegionStep {
        inputs: vec![Box::new(move |rows, give, _| {
            let encoded = codec.encode(rows);
            for row in 0..rows.num_rows() {
                let bytes = encoded.as_ref().map_or(&[][..], |rows| rows.row(row).data());
                give(row, Some(bytes), &[], bytes);
            }
        })],
        region: Region::Distinct,
        build: build(cx, wanted_of(input, &wanted), move |rows| {
            let columns = decoder.decode(rows.iter().map(|sides| sides.0.as_deref()));
            places.iter().map(|at| columns[*at].clone()).collect()
        }),
    })
}

/// Rows whose like come in the same epoch.
struct AtOnce {
    codec: RowCodec,
    port: Projection,
}

impl AtOnce {
    fn new(plan: &dyn Planned, cx: &RenderCx<'_>) -> Result<Self, String> {
        let plan: &DistinctPlan = planned(plan, "distinct")?;
        let input = cx.inputs.first().ok_or("distinct without an input")?;
        let wanted = cx.wanted.first().ok_or("distinct without an output")?;
        Ok(AtOnce {
            codec: RowCodec::new(input, |name| plan.columns.contains(name))?,
            port: Projection::new(input, wanted, &BTreeSet::new()),
        })
    }
}

impl EpochStep for AtOnce {
    fn close(&mut self, _moment: &Moment, inputs: Vec<Vec<Rows>>, out: &mut StepOutput) {
        let mut seen: HashSet<Box<[u8]>> = HashSet::new();
        for rows in inputs.iter().flatten() {
            let encoded = self.codec.encode(rows);
            let mut new = |row| encoded.as_ref().is_none_or(|rows| seen.insert(rows.row(row).data().into()));
            let mask: BooleanArray = (0..rows.num_rows()).map(|row| Some(new(row))).collect();
            out.give(0, self.port.apply(rows, Some(&mask)));
        }
    }
}
