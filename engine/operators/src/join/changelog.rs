//! `join` without bounds: all pairs of rows with one key, on differential dataflow. What a row meets later takes back that it
//! had no match.

use super::pairs::{Pairs, Portion};
use super::plan::{JoinKind, JoinPlan};
use super::slot::View;
use super::taken::Reader;
use super::{LEFT, RIGHT};
use crate::RenderCx;
use crate::changes::suffix;
use arrow::array::{Array, BinaryBuilder};
use engine_dataflow::changes::{Encode, Join, Region, RegionStep, Sides};
use engine_dataflow::rows::made_by;
use engine_dataflow::{Positions, StepOutput, Times};

/// Makes the step of a planned join on a worker.
pub(super) fn region(plan: &JoinPlan, cx: &RenderCx<'_>) -> Result<RegionStep, String> {
    let wanted = cx.wanted.first().ok_or("a join without an output")?;
    let encoder = |side: usize| -> Result<Encode, String> {
        let reader = Reader::new(cx, side, &plan.keys[side], &plan.key_types, &plan.kept(side, wanted))?;
        Ok(Box::new(move |rows, give, out| {
            let taken = reader.take(vec![rows.clone()], &mut |_| false, out);
            for at in &taken.rows {
                give(at.1 as usize, Some(taken.key(*at)), &[], taken.view(*at).data);
            }
            for at in &taken.unkeyed {
                give(at.1 as usize, None, &[], taken.view(*at).data);
            }
        }))
    };
    let join = match plan.kind {
        JoinKind::Inner => Join::Inner,
        JoinKind::Left => Join::Left,
        JoinKind::Right => Join::Right,
        JoinKind::Full => Join::Full,
        JoinKind::Semi => Join::Semi,
        JoinKind::Anti => Join::Anti,
    };
    let mut pairs = Pairs::new(plan, cx)?;
    let step_id = cx.step_id;
    let build = move |epoch: u64, now_ns: i64, changes: &[(Sides, isize)], out: &mut StepOutput| {
        for comes in [false, true] {
            for form in [[true, true], [true, false], [false, true]] {
                let of_form = |(sides, count): &&(Sides, isize)| {
                    (*count > 0) == comes && [sides.0.is_some(), sides.1.is_some()] == form
                };
                let mut portion = Portion::default();
                let mut suffixes = BinaryBuilder::new();
                for (sides, count) in changes.iter().filter(of_form) {
                    for ordinal in 0..count.unsigned_abs() {
                        portion.push([view(&sides.0), view(&sides.1)], 0, now_ns);
                        suffixes.append_value(suffix(sides, comes, ordinal));
                    }
                }
                let suffixes = suffixes.finish();
                let count = suffixes.len();
                if count == 0 {
                    continue;
                }
                let mut rows = pairs.gather(portion, now_ns);
                rows.positions = Positions::Mixed {
                    origins: vec![made_by(step_id); count].into(),
                    offsets: vec![epoch; count].into(),
                    suffixes: Some(suffixes),
                };
                rows.born_ns = Times::One(now_ns);
                rows.removes = (!comes).then(|| (0..count).map(|_| true).collect());
                let matching = if form == [true, true] { pairs.matching(&rows) } else { None };
                let mask = pairs.sort_out(&rows, matching, out);
                pairs.put_out(&rows, mask.as_ref(), out);
            }
        }
    };
    Ok(RegionStep { inputs: vec![encoder(LEFT)?, encoder(RIGHT)?], region: Region::Join(join), build: Box::new(build) })
}

/// A row of which only the columns are known.
fn view(row: &Option<Vec<u8>>) -> Option<View<'_>> {
    row.as_deref().map(|data| View { time_ns: 0, origin: 0, offset: 0, suffix: &[], data })
}
