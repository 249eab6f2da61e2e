//! What should come out, by plain loops over the input.

use super::input::Given;
use super::world::World;
use std::collections::{BTreeMap, BTreeSet};

/// Seconds that a row sees, and that a window is long.
const OVER_S: i64 = 10;

/// `rolled`: of each row that is not late what its key had in the ten seconds up to it, in the order in which the rows came.
pub(super) fn rolled(partitions: &[Vec<Given>], late: &BTreeSet<i64>) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for rows in partitions {
        let rows: Vec<&Given> = rows.iter().filter(|row| !late.contains(&row.id)).collect();
        for (at, row) in rows.iter().enumerate() {
            let (mut count, mut total) = (0, 0);
            for seen in &rows[..=at] {
                if seen.key == row.key && seen.at_s <= row.at_s && seen.at_s > row.at_s - OVER_S {
                    count += 1;
                    total += seen.value;
                }
            }
            all.push([row.id, row.key, row.value, count, total].map(|cell| cell.to_string()).to_vec());
        }
    }
    all.sort();
    all
}

/// `windows`: of each group and ten seconds the rows that were not late.
pub(super) fn windows(partitions: &[Vec<Given>], late: &BTreeSet<i64>) -> Vec<Vec<String>> {
    let mut windows: BTreeMap<(i64, i64), (i64, i64, i64)> = BTreeMap::new();
    for row in partitions.iter().flatten().filter(|row| !late.contains(&row.id)) {
        let start_s = row.at_s - row.at_s.rem_euclid(OVER_S);
        let window = windows.entry((row.group, start_s)).or_insert((0, 0, i64::MAX));
        window.0 += 1;
        window.1 += row.value;
        window.2 = window.2.min(row.id);
    }
    let row = |((group, start_s), (count, total, least))| {
        [group, start_s, count, total, least].map(|cell: i64| cell.to_string()).to_vec()
    };
    let mut all: Vec<Vec<String>> = windows.into_iter().map(row).collect();
    all.sort();
    all
}

/// Where what the systems have differs from what they should have.
pub(super) fn difference(world: &World) -> Option<String> {
    let partitions: Vec<Vec<Given>> = world.partitions.iter().map(|partition| partition.rows.clone()).collect();
    let rows = |sink: &str| {
        let mut rows = world.systems.get(sink).map(|system| system.rows.clone()).unwrap_or_default();
        rows.sort();
        rows
    };
    let late = |sink: &str| world.systems.get(sink).map(|system| system.ids().clone()).unwrap_or_default();
    let once = |sink: &str, expected: &[Vec<String>]| same(sink, &rows(sink), expected);
    let at_least = |sink: &str, expected: &[Vec<String>]| {
        let mut rows = rows(sink);
        rows.dedup();
        if world.idles {
            // What came of epochs that were never committed was by other late rows.
            rows.retain(|row| expected.contains(row));
        }
        same(sink, &rows, expected)
    };
    let all = rolled(&partitions, &late("late_rolled"));
    let (refused, taken): (Vec<_>, Vec<_>) =
        all.iter().cloned().partition(|row| row[0].parse::<i64>().is_ok_and(Given::is_refused));
    let refused: Vec<Vec<String>> = refused.into_iter().map(|row| vec![row[0].clone()]).collect();
    let closed = windows(&partitions, &late("late_windows"));
    once("rolled", &taken)
        .or_else(|| once("windows", &closed))
        .or_else(|| once("refused", &refused))
        .or_else(|| at_least("refused_copies", &refused))
        .or_else(|| at_least("copies", &all))
        .or_else(|| at_least("window_copies", &closed))
        .or_else(|| ["late_rolled", "late_windows"].into_iter().find_map(|sink| twice(sink, &rows(sink))))
        .or_else(|| (!world.idles).then(|| once("late_rolled", &[]).or_else(|| once("late_windows", &[])))?)
}

/// The first row that one has and the other has not; both are sorted.
fn same(sink: &str, rows: &[Vec<String>], expected: &[Vec<String>]) -> Option<String> {
    let at = (0..rows.len().max(expected.len())).find(|at| rows.get(*at) != expected.get(*at))?;
    Some(match (rows.get(at), expected.get(at)) {
        (Some(row), Some(expected)) if row < expected => {
            format!("`{sink}` has {row:?}, which it should not, or not again")
        }
        (Some(row), None) => format!("`{sink}` has {row:?}, which it should not, or not again"),
        (_, expected) => format!("`{sink}` does not have {:?}", expected.cloned().unwrap_or_default()),
    })
}

fn twice(sink: &str, rows: &[Vec<String>]) -> Option<String> {
    let pair = rows.windows(2).find(|pair| pair[0] == pair[1])?;
    Some(format!("`{sink}` has {:?} twice", pair[0]))
}
