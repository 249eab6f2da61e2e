//! State that is converted against state that never was another: a step that always had those calls, over the same rows.

use crate::testing::{Given, with_step};
use crate::{Render, RenderCx, conversion, render_of};
use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::SchemaRef;
use engine_base::{Epoch, SourceId};
use engine_dataflow::rows::origin;
use engine_dataflow::{Moment, Positions, Rows, StepOutput, Times};
use engine_plan::Plan;
use engine_state::Change;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::sync::Arc;

const SOURCE: &str = "
    schema: { id: int64, k: string, v: int64 | null, x: float64, at: timestamp }
    event_time: { column: at }";

const CALLS: [&str; 18] = [
    "count(*)",
    "count(v)",
    "count(*) FILTER (WHERE v > 3)",
    "sum(v)",
    "sum(x)",
    "sum(x) FILTER (WHERE v > 3)",
    "avg(x)",
    "min(v)",
    "max(x)",
    "stddev(x)",
    "count(DISTINCT v)",
    "median(x)",
    "first(id)",
    "last(v)",
    "sum(DISTINCT v)",
    "array_to_string(array_agg(id ORDER BY v DESC), ' ')",
    "sum(v) + count(*)",
    "max(id) - min(id)",
];

/// By key and slice, the bytes of a slot.
type Slots = BTreeMap<(Vec<u8>, i64), Vec<u8>>;

fn plan(step: &str, calls: &[&str]) -> Plan {
    let columns: String = calls.iter().enumerate().map(|(at, call)| format!("             c{at}: {call}\n")).collect();
    let operators = format!("w:\n           input: rows\n           key: k\n{step}           columns:\n{columns}");
    let given = Given { source: SOURCE, operators: &operators, read: &[("w", &[])], ..Given::default() };
    let (plan, problems) = given.plan();
    plan.unwrap_or_else(|| panic!("{problems}"))
}

fn rows(random: &mut SmallRng, first: i64, schema: &SchemaRef) -> Rows {
    let ids: Vec<i64> = (first..first + random.random_range(1..12)).collect();
    let times: Vec<i64> = ids.iter().map(|id| id + random.random_range(0..4)).collect();
    let column = |name: &str| -> ArrayRef {
        match name {
            "id" => Arc::new(Int64Array::from(ids.clone())),
            "k" => Arc::new(ids.iter().map(|id| Some(["a", "b", "c"][*id as usize * 7 % 3])).collect::<StringArray>()),
            "v" => Arc::new(ids.iter().map(|id| (id % 4 > 0).then_some(id * 31 % 9)).collect::<Int64Array>()),
            "x" => Arc::new(ids.iter().map(|id| (id * 17 % 13) as f64 / 3.0).collect::<Float64Array>()),
            _ => {
                let of_type = schema.field_with_name(name).unwrap().data_type();
                arrow::compute::cast(&Int64Array::from(times.clone()), of_type).unwrap()
            }
        }
    };
    Rows {
        batch: RecordBatch::try_new(schema.clone(), schema.fields().iter().map(|field| column(field.name())).collect())
            .unwrap(),
        positions: Positions::Offsets {
            origin: origin(SourceId(0), 0),
            offsets: ids.iter().map(|id| *id as u64).collect::<Vec<_>>().into(),
        },
        ingest_ns: Times::One(0),
        born_ns: Times::One(0),
        event_ns: Some(Times::Each(times.into())),
        removes: None,
    }
}

/// What a step keeps of some rows, and the parts that its plan tells.
fn kept(plan: &Plan, seed: u64) -> (Slots, String) {
    let step = plan.find("w").unwrap();
    let mut random = SmallRng::seed_from_u64(seed);
    let (mut running, schema) = with_step(plan, "w", |planned, cx| {
        let cx = RenderCx {
            step: cx.step.clone(),
            clock: cx.clock.clone(),
            waiting_for_time: cx.waiting_for_time.clone(),
            state_memory: None,
            durable: true,
            ..*cx
        };
        let Some(Render::Epochs(render)) = render_of(step.kind, planned) else { panic!("it keeps state") };
        (render(planned, &cx).unwrap(), cx.inputs[0].clone())
    });
    let mut slots = Slots::new();
    for epoch in 0..random.random_range(1..20) {
        let watermark = random.random_bool(0.3).then_some(epoch * 11);
        let moment =
            Moment { epoch: Epoch(epoch as u64), late_ns: vec![None], watermark_ns: vec![watermark], clock_ns: 0 };
        let mut out = StepOutput::new(2);
        running.close(&moment, vec![vec![rows(&mut random, epoch * 12, &schema)]], &mut out);
        while running.resume(&mut out) {}
        running.state().unwrap().drain_changes(&mut |change| match change {
            Change::Put { key, slice, state } => drop(slots.insert((key.to_vec(), slice), state.to_vec())),
            Change::Delete { key, slice } => drop(slots.remove(&(key.to_vec(), slice))),
        });
    }
    (slots, plan.identities[step.id.0 as usize].parts.clone())
}

fn some<'a>(random: &mut SmallRng, of: &[&'a str]) -> Vec<&'a str> {
    let mut some: Vec<&str> = of.iter().copied().filter(|_| random.random_bool(0.5)).collect();
    some.shuffle(random);
    if some.is_empty() { vec![of[0]] } else { some }
}

#[test]
fn what_is_converted_is_as_if_it_had_always_been_so() {
    let steps = [
        "           type: window\n           tumbling: 40ns\n           lateness: 30ns\n",
        "           type: window\n           hopping: { size: 60ns, every: 20ns }\n           lateness: 5ns\n",
        "           type: window\n           session: { gap: 3ns }\n",
        "           type: window\n           count: 7\n",
        "           type: rolling\n           over: 1m\n",
        "           type: rolling\n           over: 30ns\n           order: event_time\n",
    ];
    let (mut converted, mut seen) = (0, 0);
    for seed in 0..600 {
        let mut random = SmallRng::seed_from_u64(seed);
        let step = steps[random.random_range(0..steps.len())];
        // In the order of event time whole rows wait, so all of them read the same.
        let whole = ["sum(v)", "sum(x)", "max(id)", "count(*)"];
        let in_order = step.contains("event_time");
        let with = |mut calls: Vec<&'static str>| {
            calls.extend(whole.iter().filter(|_| in_order));
            calls
        };
        let both = some(&mut random, &CALLS);
        let one = with([&both[..], &some(&mut random, &CALLS)].concat());
        let mut other = with([&both[..], &some(&mut random, &CALLS)].concat());
        other.shuffle(&mut random);
        let common: Vec<&str> = one.iter().copied().filter(|call| other.contains(call)).collect();
        let plans = [plan(step, &one), plan(step, &other), plan(step, &common)];
        let digest = |plan: &Plan| plan.identities[plan.find("w").unwrap().id.0 as usize].digest.clone();
        assert_eq!(digest(&plans[0]), digest(&plans[1]), "seed {seed}");
        let [(slots, parts), (others, other_parts), (due, common_parts)] =
            plans.each_ref().map(|plan| kept(plan, seed));
        assert_eq!(slots.keys().collect::<Vec<_>>(), others.keys().collect::<Vec<_>>());
        let kind = plans[0].find("w").unwrap().kind;
        let change = |from: &str, to: &str| conversion(kind, from, to).unwrap();
        let (over, down) = (change(&parts, &other_parts), change(&other_parts, &common_parts));
        let at_once = change(&parts, &common_parts);
        for (place, state) in &slots {
            let other = over.convert(state).unwrap();
            assert!(down.convert(&other).unwrap() == due[place], "seed {seed} {step} {one:?} {common:?}");
            assert!(at_once.convert(state).unwrap() == due[place], "seed {seed} {step} {one:?} {common:?}");
            assert!(over.convert(&state[..state.len() - 1]).is_err());
            converted += 1;
            seen += usize::from(*state != due[place]);
        }
        assert!(down.new.is_empty() && at_once.new.is_empty());
    }
    assert!(converted > 2_000 && seen > 1_000, "{converted} {seen}");
}
