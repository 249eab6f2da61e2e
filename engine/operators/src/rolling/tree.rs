//! The rows of one key, and the combination of those inside a window without subtraction.
//!
//! Rows stand in the order in which they were taken. Each has an *anchor*, a number that grows in that order: its offset in its
//! partition (or one more than the anchor before, where rows of several partitions meet); where rows are taken in the order of
//! event time, that time (or one more, where rows of one time meet). The combination of any set of rows is *defined* by
//! their anchors alone:
//!
//! ```text
//! combine({r})  = the state of r
//! combine(S)    = combine(S without bit b) ⊕ combine(S with bit b),   b = the highest bit in which anchors of S differ
//!
//!        anchors 4 5 7 12      highest differing bit: 4|5 → 0, 5|7 → 1, 7|12 → 3
//!
//!                 ∘ bit 3
//!               ╱         ╲
//!              ∘ bit 1     12
//!            ╱   ╲
//!           ∘     7        the same as a radix tree with skipped levels; its nodes cache their ⊕
//!         ╱   ╲
//!        4     5
//! ```
//!
//! So the bits of a result do not depend on when rows were dropped, on batches, on epochs, nor on whether the rows were read
//! again after a restart: rebuilding equals continuing. A node whose rows are all inside the window gives its cached state;
//! one with some inside is asked further down; so an in-order window costs a logarithm, and disorder costs what it touches.

mod state;
#[cfg(test)]
mod tests;

use super::order::Pending;
use crate::aggregates::states::CallState;
use engine_dataflow::RowPosition;
use engine_state::prefetch;
use std::collections::BTreeMap;

/// Parts of the tree with fewer rows than this have no node: what they come to is computed again from their rows, which stand
/// side by side. A node for each pair of rows took three times the rows' own memory, and a cache miss for each level.
const NODE_ROWS: usize = 8;
/// No node: a part with few rows.
const NONE: u32 = u32::MAX;

/// What is kept for one key.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct KeyRows {
    shape: Shape,
    /// Rows at the front that no window can reach any more.
    expired: u32,
    /// A row is its time in nanoseconds, its anchor, and what [`CallState`] says.
    rows: Vec<u64>,
    /// A node is `start | split`, `left | right`, the least and the greatest time, nanoseconds, and the states of its rows.
    nodes: Vec<u64>,
    /// Splits whose left side is whole and has a node, and whose right side still grows, outermost first.
    spine: Vec<Open>,
    last: Option<Last>,
    /// The rows were restored and their tree is still to be built.
    dormant: bool,
    /// What only some calls need.
    more: Option<Box<More>>,
}

/// The sizes of a key's parts, the same for all keys of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Shape {
    /// Words of the states in a node.
    pub(super) words: u16,
    /// Words of what is kept of a row.
    pub(super) row_words: u16,
    /// Encoded arguments of a row, for aggregates whose states do not fit in words.
    pub(super) extras: u16,
}

/// What is known of the rows so far, also when they are gone.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Last {
    /// The greatest event time seen, nanoseconds.
    greatest_ns: i64,
    /// The event time of the row before, nanoseconds.
    time_ns: i64,
    anchor: u64,
    /// The most that a row in the tree was behind the greatest time before it, nanoseconds.
    disorder_ns: i64,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct More {
    extras: Vec<Option<Box<[u8]>>>,
    /// The arguments of `lag` at the row before.
    lag: Vec<Box<[u8]>>,
    /// Rows that wait for event time to pass them, by their event time in nanoseconds.
    pending: BTreeMap<(i64, RowPosition), Pending>,
}

/// A node that still grows to the right.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Open {
    /// The node of its left side, which ends before row `split`.
    left: u32,
    split: u32,
    level: u8,
    /// The greatest time of its left side and everything before it, nanoseconds.
    latest_ns: i64,
}

/// A whole part of the tree, from row `start` on.
#[derive(Clone, Copy, Debug)]
struct Node {
    start: u32,
    /// Where its right side starts.
    split: u32,
    left: u32,
    right: u32,
    earliest_ns: i64,
    latest_ns: i64,
}

const ROW_HEAD: usize = 2;
const NODE_HEAD: usize = 4;

/// A row to be added.
pub(super) struct NewRow<'a> {
    pub(super) time_ns: i64,
    /// Its anchor, unless the row before has that one or a greater one already.
    pub(super) anchor: u64,
    /// What is kept of it: see [`CallState`].
    pub(super) row: &'a [u64],
    pub(super) extras: &'a mut Vec<Option<Box<[u8]>>>,
}

/// Which rows are kept for the windows of later ones: those with times after `after_ns`, and so many of the last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keep {
    pub(super) after_ns: i64,
    pub(super) rows: usize,
}

/// The rows from the place `from` on with `after_ns < time <= until_ns`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) after_ns: i64,
    pub(super) until_ns: i64,
    /// Good until a row is added.
    from: usize,
}

impl Window {
    const ALL: Window = Window { after_ns: i64::MIN, until_ns: i64::MAX, from: 0 };

    /// The rows with `after_ns < time <= until_ns`.
    pub(super) fn of_time(after_ns: i64, until_ns: i64) -> Window {
        Window { after_ns, until_ns, from: 0 }
    }

    #[inline]
    fn holds(self, time_ns: i64) -> bool {
        self.after_ns < time_ns && time_ns <= self.until_ns
    }

    fn holds_all(self, node: &Node) -> bool {
        self.holds(node.earliest_ns) && self.holds(node.latest_ns)
    }
}

/// The highest bit in which two anchors differ; at least bit 0, should the anchors ever be used up.
#[inline]
fn level(earlier: u64, later: u64) -> u8 {
    (63 - (earlier ^ later).leading_zeros().min(63)) as u8
}

impl KeyRows {
    /// No rows yet.
    pub(super) fn new(shape: Shape) -> Self {
        KeyRows { shape, ..KeyRows::default() }
    }

    fn stride(&self) -> usize {
        ROW_HEAD + usize::from(self.shape.row_words)
    }

    fn words(&self) -> usize {
        usize::from(self.shape.words)
    }

    fn row_count(&self) -> usize {
        self.rows.len() / self.stride()
    }

    #[inline]
    fn time_ns(&self, row: usize) -> i64 {
        self.rows[row * self.stride()] as i64
    }

    #[inline]
    fn anchor(&self, row: usize) -> u64 {
        self.rows[row * self.stride() + 1]
    }

    #[inline]
    fn node(&self, node: u32) -> (Node, &[u64]) {
        let size = NODE_HEAD + self.words();
        let words = &self.nodes[node as usize * size..][..size];
        let node = Node {
            start: words[0] as u32,
            split: (words[0] >> 32) as u32,
            left: words[1] as u32,
            right: (words[1] >> 32) as u32,
            earliest_ns: words[2] as i64,
            latest_ns: words[3] as i64,
        };
        (node, &words[NODE_HEAD..])
    }

    /// The greatest event time with `time_ns` counted in.
    pub(super) fn greatest_with(&self, time_ns: i64) -> i64 {
        self.last.map_or(time_ns, |last| last.greatest_ns.max(time_ns))
    }

    /// The greatest event time of the rows so far.
    pub(super) fn greatest_ns(&self) -> Option<i64> {
        self.last.map(|last| last.greatest_ns)
    }

    /// The window of so many of the last rows.
    pub(super) fn last_rows(&self, rows: usize) -> Window {
        Window { from: self.row_count().saturating_sub(rows), ..Window::ALL }
    }

    /// Forgets all rows, but not those that wait.
    pub(super) fn begin_anew(&mut self) {
        let pending = self.more.take().map(|more| more.pending).unwrap_or_default();
        *self = KeyRows::new(self.shape);
        if !pending.is_empty() {
            self.more = Some(Box::new(More { pending, ..More::default() }));
        }
    }

    /// The event time of the row that was added last.
    pub(super) fn last_ns(&self) -> Option<i64> {
        self.last.map(|last| last.time_ns)
    }

    /// The arguments of `lag` at the row before; `index` of `count`.
    pub(super) fn lag(&self, index: usize) -> Option<&[u8]> {
        self.more.as_ref()?.lag.get(index).map(|bytes| &**bytes)
    }

    /// Keeps the argument `index` of `lag` for the next row.
    pub(super) fn set_lag(&mut self, index: usize, bytes: &[u8]) {
        let lag = &mut self.more.get_or_insert_default().lag;
        lag.resize(lag.len().max(index + 1), Box::from([]));
        lag[index] = bytes.into();
    }

    /// Keeps a row for when event time has passed it.
    pub(super) fn wait(&mut self, time_ns: i64, position: RowPosition, row: Pending) {
        self.more.get_or_insert_default().pending.insert((time_ns, position), row);
    }

    /// The times and positions of the rows that wait for event time to pass them, in order.
    pub(super) fn pending(&self) -> impl DoubleEndedIterator<Item = &(i64, RowPosition)> {
        self.more.iter().flat_map(|more| more.pending.keys())
    }

    /// Takes out the rows that wait with event times before `bound_ns`; all of them where there is no bound.
    pub(super) fn ripe(&mut self, bound_ns: Option<i64>) -> BTreeMap<(i64, RowPosition), Pending> {
        let Some(more) = &mut self.more else { return BTreeMap::new() };
        let later = match bound_ns {
            Some(bound_ns) => more.pending.split_off(&(bound_ns, RowPosition::default())),
            None => BTreeMap::new(),
        };
        std::mem::replace(&mut more.pending, later)
    }

    /// Asks the memory for what [`KeyRows::combine`] and [`KeyRows::push`] will touch first.
    pub(super) fn prefetch(&self) {
        let rows = self.rows.as_ptr_range();
        prefetch(rows.end.wrapping_sub(4));
        prefetch(rows.end.wrapping_sub(12));
        prefetch(rows.end.wrapping_sub(20));
        prefetch(rows.end.wrapping_sub(28));
        prefetch(self.nodes.as_ptr_range().end.wrapping_sub(NODE_HEAD));
        prefetch(self.spine.as_ptr());
    }

    /// Adds a row and drops those from the front that no window will ask for again.
    pub(super) fn push(&mut self, row: NewRow<'_>, keep: Keep, calls: &[CallState], fold: &mut Fold) {
        let greatest_ns = self.greatest_with(row.time_ns);
        let count = self.row_count();
        // The row itself is one of the last.
        let droppable = (count + 1).saturating_sub(keep.rows).min(count);
        while (self.expired as usize) < droppable && self.time_ns(self.expired as usize) <= keep.after_ns {
            self.expired += 1;
        }
        if self.expired > 16 && self.expired as usize > count / 2 {
            self.rebuild(calls, fold);
        }
        let anchor = self.last.map_or(row.anchor, |last| row.anchor.max(last.anchor.saturating_add(1)));
        let disorder_ns = self.last.map_or(0, |last| last.disorder_ns).max(greatest_ns.saturating_sub(row.time_ns));
        self.last = Some(Last { greatest_ns, time_ns: row.time_ns, anchor, disorder_ns });
        self.append(row.time_ns, anchor, row.row, calls, fold);
        if self.shape.extras > 0 {
            self.more.get_or_insert_default().extras.append(row.extras);
        }
    }

    fn append(&mut self, time_ns: i64, anchor: u64, row: &[u64], calls: &[CallState], fold: &mut Fold) {
        let count = self.row_count();
        if let Some(before) = count.checked_sub(1) {
            self.split(count, level(self.anchor(before), anchor), anchor, calls, fold);
        }
        self.rows.extend_from_slice(&[time_ns as u64, anchor]);
        self.rows.extend_from_slice(row);
    }

    /// The next row, `end`, differs from the one before in bit `level`: parts below are whole, and stand left of it.
    fn split(&mut self, end: usize, level: u8, anchor: u64, calls: &[CallState], fold: &mut Fold) {
        // The part that ends before `end` and is whole: where it starts, and its node.
        let mut whole = (end, NONE);
        while let Some(open) = self.spine.pop_if(|open| open.level < level) {
            let right = self.build(open.split as usize, end, whole, calls, fold);
            let start = self.node(open.left).0.start as usize;
            whole = (start, self.add(start, open.split as usize, end, open.left, right, calls, fold));
        }
        let (after, latest_ns) = self.spine.last().map_or((0, i64::MIN), |open| (open.split as usize, open.latest_ns));
        // Left of the split are those that share the bits above it.
        let above = |anchor: u64| anchor.checked_shr(u32::from(level) + 1).unwrap_or(0);
        let mut start = whole.0;
        while start > after && above(self.anchor(start - 1)) == above(anchor) {
            start -= 1;
        }
        if end - start >= NODE_ROWS {
            let left = self.build(start, end, whole, calls, fold);
            let before = (after..start).map(|row| self.time_ns(row)).max().unwrap_or(i64::MIN);
            let latest_ns = latest_ns.max(before).max(self.node(left).0.latest_ns);
            self.spine.push(Open { left, split: end as u32, level, latest_ns });
        }
    }

    /// The node of the rows from `start` to `end`, a whole part of the tree, of which `whole` has its node already.
    fn build(&mut self, start: usize, end: usize, whole: (usize, u32), calls: &[CallState], fold: &mut Fold) -> u32 {
        if start == whole.0 {
            return whole.1;
        }
        if end - start < NODE_ROWS {
            return NONE;
        }
        let bit = level(self.anchor(start), self.anchor(end - 1));
        let right = |row: &usize| self.anchor(*row) >> bit == self.anchor(end - 1) >> bit;
        // Left sides without a node are short.
        let split = (start + 1..end).find(right).unwrap_or(end - 1);
        let left = self.build(start, split, (split, NONE), calls, fold);
        let right = self.build(split, end, whole, calls, fold);
        self.add(start, split, end, left, right, calls, fold)
    }

    #[allow(clippy::too_many_arguments)] // a node is made of these
    fn add(
        &mut self,
        start: usize,
        split: usize,
        end: usize,
        left: u32,
        right: u32,
        calls: &[CallState],
        fold: &mut Fold,
    ) -> u32 {
        let node = (self.nodes.len() / (NODE_HEAD + self.words())) as u32;
        fold.start(self.words());
        let (mut earliest_ns, mut latest_ns) = (i64::MAX, i64::MIN);
        for (child, from, to) in [(left, start, split), (right, split, end)] {
            if child == NONE {
                let times = (from..to).map(|row| self.time_ns(row));
                (earliest_ns, latest_ns) =
                    times.fold((earliest_ns, latest_ns), |(least, most), time| (least.min(time), most.max(time)));
            } else {
                let child = self.node(child).0;
                earliest_ns = earliest_ns.min(child.earliest_ns);
                latest_ns = latest_ns.max(child.latest_ns);
            }
            self.gather(child, from, to, Window::ALL, calls, fold);
        }
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let head = [pair(start as u32, split as u32), pair(left, right), earliest_ns as u64, latest_ns as u64];
        self.nodes.extend_from_slice(&head);
        self.nodes.extend_from_slice(fold.finish(calls));
        node
    }

    /// The combined state of the rows in a window, for the calls given; zeros where there are none.
    pub(super) fn combine(&self, window: Window, calls: &[CallState], fold: &mut Fold, out: &mut [u64]) {
        fold.start(self.words());
        let reached = |open: &&Open| open.latest_ns > window.after_ns && open.split as usize > window.from;
        let first = self.spine.len() - self.spine.iter().rev().take_while(reached).count();
        let mut from = first.checked_sub(1).map_or(0, |before| self.spine[before].split as usize);
        for open in &self.spine[first..] {
            let start = self.node(open.left).0.start as usize;
            self.gather(NONE, from, start, window, calls, fold);
            self.gather(open.left, start, open.split as usize, window, calls, fold);
            from = open.split as usize;
        }
        // A row so old that no disorder puts an earlier one into the window.
        let disorder_ns = self.last.map_or(0, |last| last.disorder_ns);
        let out_of_reach = |row: &usize| self.time_ns(*row).saturating_add(disorder_ns) <= window.after_ns;
        let end = self.row_count();
        from = from.max(window.from);
        from = (from..end).rev().find(out_of_reach).map_or(from, |row| row + 1);
        self.gather(NONE, from, end, window, calls, fold);
        out.copy_from_slice(fold.finish(calls));
    }

    /// Folds the rows of a part that are in the window, in order, with the node of the part if it has one.
    fn gather(&self, node: u32, start: usize, end: usize, window: Window, calls: &[CallState], fold: &mut Fold) {
        if end <= window.from {
            return;
        }
        if node == NONE {
            let stride = self.stride();
            let start = start.max(window.from);
            for row in self.rows[start * stride..end * stride].chunks_exact(stride) {
                if window.holds(row[0] as i64) {
                    let state = fold.next(row[1], row[1], calls);
                    calls.iter().for_each(|call| call.load(&row[ROW_HEAD..], state));
                }
            }
            return;
        }
        let (node, words) = self.node(node);
        if node.latest_ns <= window.after_ns || node.earliest_ns > window.until_ns {
            return;
        }
        if start >= window.from && window.holds_all(&node) {
            let state = fold.next(self.anchor(start), self.anchor(end - 1), calls);
            for call in calls {
                state[call.words()].copy_from_slice(&words[call.words()]);
            }
            return;
        }
        let split = node.split as usize;
        self.gather(node.left, start, split, window, calls, fold);
        self.gather(node.right, split, end, window, calls, fold);
    }

    /// The encoded arguments `extra` of the rows in a window, in the order of the rows.
    pub(super) fn extras_in(&self, window: Window, extra: usize) -> impl DoubleEndedIterator<Item = &[u8]> {
        let extras = self.more.as_ref().map_or(&[][..], |more| &more.extras);
        let each = usize::from(self.shape.extras);
        (window.from.max(self.expired as usize)..self.row_count())
            .filter(move |row| window.holds(self.time_ns(*row)))
            .filter_map(move |row| extras[row * each + extra].as_deref())
    }

    /// Builds the same tree again from the rows that are left.
    fn rebuild(&mut self, calls: &[CallState], fold: &mut Fold) {
        let expired = std::mem::take(&mut self.expired) as usize;
        let rows = std::mem::take(&mut self.rows);
        self.nodes.clear();
        self.spine.clear();
        let (mut greatest_ns, mut disorder_ns) = (i64::MIN, 0);
        for row in rows.chunks_exact(self.stride()).skip(expired) {
            greatest_ns = greatest_ns.max(row[0] as i64);
            disorder_ns = disorder_ns.max(greatest_ns.saturating_sub(row[0] as i64));
            self.append(row[0] as i64, row[1], &row[ROW_HEAD..], calls, fold);
        }
        if let Some(last) = &mut self.last {
            last.disorder_ns = disorder_ns;
        }
        if let Some(more) = &mut self.more {
            more.extras.drain(..expired * usize::from(self.shape.extras));
        }
    }

    /// Whether the rows were restored and their tree is still to be built.
    pub(super) fn is_dormant(&self) -> bool {
        self.dormant
    }

    /// Builds the tree of restored rows.
    pub(super) fn revive(&mut self, calls: &[CallState], fold: &mut Fold) {
        self.dormant = false;
        self.rebuild(calls, fold);
    }

    /// How many rows are kept.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.row_count() - self.expired as usize
    }
}

/// Puts states together in the order of their rows: each joins its neighbour at the lowest bit first, which is the tree of
/// the module's head without building it. The room is used again and again.
#[derive(Debug, Default)]
pub(super) struct Fold {
    words: usize,
    /// States that wait for their right side, outermost first; the last is the newest.
    states: Vec<u64>,
    /// The bit in which each differs from the next.
    levels: Vec<u8>,
    last_anchor: u64,
    depth: usize,
}

impl Fold {
    fn start(&mut self, words: usize) {
        self.words = words;
        self.depth = 0;
    }

    /// The room for the state of the rows with anchors from `first` to `last`, right of all so far.
    #[inline]
    fn next(&mut self, first: u64, last: u64, calls: &[CallState]) -> &mut [u64] {
        if self.depth > 0 {
            let level = level(self.last_anchor, first);
            while self.depth > 1 && self.levels[self.depth - 2] < level {
                self.join(calls);
            }
            self.levels[self.depth - 1] = level;
        }
        self.last_anchor = last;
        self.depth += 1;
        if self.levels.len() < self.depth {
            self.levels.resize(self.depth, 0);
        }
        if self.states.len() < self.depth * self.words {
            self.states.resize(self.depth * self.words, 0);
        }
        &mut self.states[(self.depth - 1) * self.words..self.depth * self.words]
    }

    /// The last two become one.
    #[inline]
    fn join(&mut self, calls: &[CallState]) {
        self.depth -= 1;
        let (before, last) = self.states.split_at_mut(self.depth * self.words);
        let before = &mut before[(self.depth - 1) * self.words..];
        for call in calls {
            let words = call.words();
            call.kind.merge(&mut before[words.clone()], &last[words]);
        }
    }

    /// The state of all of them; zeros if there are none.
    fn finish(&mut self, calls: &[CallState]) -> &[u64] {
        while self.depth > 1 {
            self.join(calls);
        }
        if self.states.len() < self.words {
            self.states.resize(self.words, 0);
        }
        let state = &mut self.states[..self.words];
        if self.depth == 0 {
            state.fill(0);
        }
        state
    }
}
