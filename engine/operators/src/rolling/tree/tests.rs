//! The tree against its definition.

use super::*;
use crate::aggregates::states::StateKind;
use engine_state::SlotState;

const CALLS: [CallState; 2] = [
    CallState { kind: StateKind::SumFloat, at: 0, index: 0, value: Some(1) },
    CallState { kind: StateKind::Moments, at: 2, index: 1, value: Some(1) },
];
const WORDS: usize = 5;
const SHAPE: Shape = Shape { words: WORDS as u16, row_words: 2, extras: 0 };

/// What is kept of a row.
fn row(value: f64) -> Vec<u64> {
    let mut row = vec![0, value.to_bits()];
    CALLS.iter().for_each(|call| call.set(&mut row));
    row
}

/// Its state, word for word.
fn leaf(value: f64) -> Vec<u64> {
    vec![1, value.to_bits(), 1, value.to_bits(), 0]
}

/// The definition in the module's head, word for word.
fn defined(rows: &[(u64, Vec<u64>)]) -> Vec<u64> {
    match rows {
        [] => vec![0; WORDS],
        [(_, words)] => words.clone(),
        _ => {
            let bit = 63 - (rows[0].0 ^ rows[rows.len() - 1].0).leading_zeros();
            let split = rows.partition_point(|(anchor, _)| anchor >> bit == rows[0].0 >> bit);
            let mut left = defined(&rows[..split]);
            let right = defined(&rows[split..]);
            for call in &CALLS {
                call.kind.merge(&mut left[call.words()], &right[call.words()]);
            }
            left
        }
    }
}

/// Random rows in some disorder, with dropping, snapshots and restores, each window against the definition.
fn check(seed: u64) {
    let mut random = seed;
    let mut next = move |bound: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % bound
    };
    let (over, delay) = (1 + next(50) as i64, next(20) as i64);
    let last = [0, 1, 5, 100][next(4) as usize];
    let mut rows = KeyRows::new(SHAPE);
    let mut all: Vec<(i64, u64, Vec<u64>)> = Vec::new();
    let (mut now, mut offset, mut fold) = (0i64, 0u64, Fold::default());
    for _ in 0..300 {
        now += next(6) as i64;
        let stride = if next(20) == 0 { 100_000 } else { 5 };
        offset += 1 + next(stride);
        let time = now - next(delay as u64 + 1) as i64;
        let greatest = rows.greatest_with(time);
        let value = if next(50) == 0 { f64::INFINITY } else { next(1000) as f64 / 7.0 };
        let words = leaf(value);
        let keep_after = greatest - over - delay;
        let new = NewRow { time_ns: time, anchor: offset, row: &row(value), extras: &mut Vec::new() };
        rows.push(new, Keep { after_ns: keep_after, rows: last }, &CALLS, &mut fold);
        all.push((time, offset, words));
        let window = Window::of_time((time - over).max(keep_after), time);
        let mut out = vec![0; WORDS];
        rows.combine(window, &CALLS, &mut fold, &mut out);
        let inside: Vec<_> = all
            .iter()
            .filter(|(time, ..)| window.holds(*time))
            .map(|(_, anchor, words)| (*anchor, words.clone()))
            .collect();
        assert_eq!(out, defined(&inside), "seed {seed}");
        let sum: f64 = inside.iter().map(|(_, words)| f64::from_bits(words[1])).sum();
        let got = f64::from_bits(out[1]);
        assert!((got - sum).abs() < 1e-9 * sum.abs().max(1.0) || (got == sum), "seed {seed}: {got} {sum}");
        let asked = 1 + next(last.max(1) as u64) as usize;
        if asked <= last {
            rows.combine(rows.last_rows(asked), &CALLS, &mut fold, &mut out);
            let inside: Vec<_> = all.iter().map(|(_, anchor, words)| (*anchor, words.clone())).collect();
            assert_eq!(out, defined(&inside[all.len().saturating_sub(asked)..]), "seed {seed}: the last {asked}");
        }
        if next(40) == 0 {
            let mut bytes = Vec::new();
            rows.encode(&mut bytes);
            for cut in 0..bytes.len() {
                assert!(KeyRows::decode(&bytes[..cut]).is_err());
            }
            let mut restored = KeyRows::decode(&bytes).unwrap();
            restored.revive(&CALLS, &mut fold);
            rows = restored;
        }
    }
    let within = all.iter().filter(|(time, ..)| *time > now - over - delay - 6).count();
    assert!(rows.len() <= within.max(last) + 40, "rows are dropped: {} of {}", rows.len(), all.len());
}

#[test]
fn windows_equal_their_definition() {
    (0..300).for_each(check);
}
