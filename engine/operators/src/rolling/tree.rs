//! The rows of one key, and the combination of those inside a window without subtraction.
//!
//! Rows stand in arrival order. Each has an *anchor*, a number that grows with arrival: its offset in its partition (or one
//! more than the anchor before, where rows of several partitions meet). The combination of any set of rows is *defined* by
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

use super::calls::CallState;
use engine_state::SlotState;

/// A row or an inner node: the index, with the top bit set for a node.
type Ref = u32;
const NODE: u32 = 1 << 31;

/// What is kept for one key.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct KeyRows {
    /// Words of a node's state.
    words: usize,
    /// Words of a row.
    row_words: usize,
    /// Encoded arguments of a row, for aggregates whose states do not fit in words.
    extras: usize,
    times_ns: Vec<i64>,
    anchors: Vec<u64>,
    rows: Vec<u64>,
    leaf_extras: Vec<Option<Box<[u8]>>>,
    /// Node `j` joins the rows up to `j` with those from `j + 1` on.
    nodes: Vec<Node>,
    node_words: Vec<u64>,
    /// Nodes that still grow to the right, outermost first.
    spine: Vec<Open>,
    /// The states of their left sides, which stand still: what a window that reaches so far is put together from.
    spine_words: Vec<u64>,
    /// The least and the greatest time of all rows in the tree, nanoseconds.
    times: Option<(i64, i64)>,
    /// Rows at the front that no window can reach any more.
    expired: usize,
    /// The greatest event time seen, nanoseconds.
    greatest_ns: Option<i64>,
    last_anchor: Option<u64>,
    /// The event time of the row before, nanoseconds.
    last_ns: Option<i64>,
    /// The arguments of `lag` at the row before.
    pub(super) lag: Vec<Box<[u8]>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Node {
    left: Ref,
    right: Ref,
    level: u8,
    earliest_ns: i64,
    latest_ns: i64,
}

/// A node that still grows to the right.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Open {
    node: u32,
    /// The least and the greatest time of its left side and everything before it, nanoseconds.
    earliest_ns: i64,
    latest_ns: i64,
}

/// A row to be added.
pub(super) struct NewRow<'a> {
    pub(super) time_ns: i64,
    pub(super) offset: u64,
    /// What is kept of it: see [`CallState`].
    pub(super) row: &'a [u64],
    pub(super) extras: &'a mut Vec<Option<Box<[u8]>>>,
}

/// The rows with `after_ns < time <= until_ns`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) after_ns: i64,
    pub(super) until_ns: i64,
}

impl Window {
    fn holds(self, time_ns: i64) -> bool {
        self.after_ns < time_ns && time_ns <= self.until_ns
    }
}

impl KeyRows {
    /// No rows yet; nodes of `words` words, rows of `row_words` words and so many encoded arguments.
    pub(super) fn new(words: usize, row_words: usize, extras: usize) -> Self {
        KeyRows { words, row_words, extras, ..KeyRows::default() }
    }

    /// The greatest event time with `time_ns` counted in.
    pub(super) fn greatest_with(&self, time_ns: i64) -> i64 {
        self.greatest_ns.map_or(time_ns, |greatest| greatest.max(time_ns))
    }

    /// The event time of the row that was added last.
    pub(super) fn last_ns(&self) -> Option<i64> {
        self.last_ns
    }

    /// Adds a row and drops those with times at or before `keep_after_ns`, which no window will ask for again.
    pub(super) fn push(&mut self, row: NewRow<'_>, keep_after_ns: i64, calls: &[CallState], pool: &mut Pool) {
        self.greatest_ns = Some(self.greatest_with(row.time_ns));
        self.last_ns = Some(row.time_ns);
        while self.times_ns.get(self.expired).is_some_and(|time| *time <= keep_after_ns) {
            self.expired += 1;
        }
        if self.expired > 16 && self.expired > self.times_ns.len() / 2 {
            self.rebuild(calls, pool);
        }
        let anchor = self.last_anchor.map_or(row.offset, |last| row.offset.max(last.saturating_add(1)));
        self.last_anchor = Some(anchor);
        self.append(row.time_ns, anchor, row.row, row.extras, calls, pool);
    }

    fn append(
        &mut self,
        time_ns: i64,
        anchor: u64,
        row: &[u64],
        extras: &mut Vec<Option<Box<[u8]>>>,
        calls: &[CallState],
        pool: &mut Pool,
    ) {
        let leaf = self.times_ns.len() as u32;
        if let Some(before) = self.anchors.last() {
            // At least bit 0, should the anchors ever be used up.
            let level = (63 - (before ^ anchor).leading_zeros().min(63)) as u8;
            let mut whole: Ref = leaf - 1;
            while let Some(open) = self.spine.last().copied() {
                if self.nodes[open.node as usize].level > level {
                    break;
                }
                self.spine.pop();
                self.finish(open.node, whole, calls, pool);
                whole = open.node | NODE;
            }
            self.nodes.push(Node { left: whole, right: leaf, level, earliest_ns: 0, latest_ns: 0 });
            self.node_words.resize(self.nodes.len() * self.words, 0);
            let (earliest_ns, latest_ns) = self.times.unwrap_or((time_ns, time_ns));
            self.spine.push(Open { node: leaf - 1, earliest_ns, latest_ns });
            let mut state = pool.take(self.words);
            self.load(whole, calls, &mut state);
            self.spine_words.extend_from_slice(&state);
            pool.give([state]);
        }
        self.times =
            Some(self.times.map_or((time_ns, time_ns), |(least, most)| (least.min(time_ns), most.max(time_ns))));
        self.times_ns.push(time_ns);
        self.anchors.push(anchor);
        self.rows.extend_from_slice(row);
        self.leaf_extras.append(extras);
    }

    /// The innermost open node has its right side whole: caches its state and times.
    fn finish(&mut self, node: u32, right: Ref, calls: &[CallState], pool: &mut Pool) {
        let left = self.nodes[node as usize].left;
        let (left_times, right_times) = (self.span_of(left), self.span_of(right));
        let mut right_state = pool.take(self.words);
        self.load(right, calls, &mut right_state);
        let below = self.spine_words.len() - self.words;
        merge(calls, &mut self.spine_words[below..], &right_state);
        let at = node as usize * self.words;
        self.node_words[at..at + self.words].copy_from_slice(&self.spine_words[below..]);
        self.spine_words.truncate(below);
        pool.give([right_state]);
        let node = &mut self.nodes[node as usize];
        node.right = right;
        node.earliest_ns = left_times.0.min(right_times.0);
        node.latest_ns = left_times.1.max(right_times.1);
    }

    /// The states of all rows of a part.
    #[inline]
    fn load(&self, place: Ref, calls: &[CallState], out: &mut [u64]) {
        if place & NODE == 0 {
            let at = place as usize * self.row_words;
            let row = &self.rows[at..at + self.row_words];
            calls.iter().for_each(|call| call.load(row, out));
        } else {
            let at = (place & !NODE) as usize * self.words;
            let node = &self.node_words[at..at + self.words];
            for call in calls {
                let words = call.words();
                out[words.clone()].copy_from_slice(&node[words]);
            }
        }
    }

    fn span_of(&self, place: Ref) -> (i64, i64) {
        if place & NODE == 0 {
            let time = self.times_ns[place as usize];
            (time, time)
        } else {
            let node = &self.nodes[(place & !NODE) as usize];
            (node.earliest_ns, node.latest_ns)
        }
    }

    /// The combined state of the rows in a window, for the calls given; zeros where there are none.
    pub(super) fn combine(&self, window: Window, calls: &[CallState], pool: &mut Pool, out: &mut [u64]) {
        out.fill(0);
        let Some(last) = self.times_ns.len().checked_sub(1) else { return };
        let mut left_state = pool.take(self.words);
        // From the innermost side of the spine outwards: left(s0) ⊕ (left(s1) ⊕ (... ⊕ last row)).
        let mut have = self.gather(last as Ref, window, calls, pool, out);
        for (at, open) in self.spine.iter().enumerate().rev() {
            if open.latest_ns <= window.after_ns {
                break;
            }
            let whole = open.earliest_ns > window.after_ns && open.latest_ns <= window.until_ns;
            let left: &[u64] = if whole {
                &self.spine_words[at * self.words..(at + 1) * self.words]
            } else {
                let left = self.nodes[open.node as usize].left;
                if !self.gather(left, window, calls, pool, &mut left_state) {
                    continue;
                }
                &left_state
            };
            for call in calls {
                let words = call.words();
                if have {
                    call.kind.merge_before(&left[words.clone()], &mut out[words]);
                } else {
                    out[words.clone()].copy_from_slice(&left[words]);
                }
            }
            have = true;
        }
        pool.give([left_state]);
    }

    /// Writes the combined state of a part's rows in the window; false where there are none, and then `out` means nothing.
    fn gather(&self, place: Ref, window: Window, calls: &[CallState], pool: &mut Pool, out: &mut [u64]) -> bool {
        let (earliest, latest) = self.span_of(place);
        if latest <= window.after_ns || earliest > window.until_ns {
            return false;
        }
        if window.holds(earliest) && window.holds(latest) {
            self.load(place, calls, out);
            return true;
        }
        if place & NODE == 0 {
            return false;
        }
        let node = self.nodes[(place & !NODE) as usize];
        if !self.gather(node.left, window, calls, pool, out) {
            return self.gather(node.right, window, calls, pool, out);
        }
        let mut right = pool.take(self.words);
        if self.gather(node.right, window, calls, pool, &mut right) {
            merge(calls, out, &right);
        }
        pool.give([right]);
        true
    }

    /// The encoded arguments `extra` of the rows in a window, in arrival order.
    pub(super) fn extras_in(&self, window: Window, extra: usize) -> impl DoubleEndedIterator<Item = &[u8]> {
        (self.expired..self.times_ns.len())
            .filter(move |row| window.holds(self.times_ns[*row]))
            .filter_map(move |row| self.leaf_extras[row * self.extras + extra].as_deref())
    }

    /// Builds the same tree again from the rows that are left.
    fn rebuild(&mut self, calls: &[CallState], pool: &mut Pool) {
        let mut fresh = KeyRows::new(self.words, self.row_words, self.extras);
        for row in self.expired..self.times_ns.len() {
            let kept = &self.rows[row * self.row_words..(row + 1) * self.row_words];
            let extras = &mut self.leaf_extras[row * self.extras..(row + 1) * self.extras];
            let mut extras: Vec<_> = extras.iter_mut().map(Option::take).collect();
            fresh.append(self.times_ns[row], self.anchors[row], kept, &mut extras, calls, pool);
        }
        fresh.greatest_ns = self.greatest_ns;
        fresh.last_anchor = self.last_anchor;
        fresh.last_ns = self.last_ns;
        fresh.lag = std::mem::take(&mut self.lag);
        *self = fresh;
    }

    /// How many rows are kept.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.times_ns.len() - self.expired
    }
}

#[inline]
fn merge(calls: &[CallState], a: &mut [u64], b: &[u64]) {
    for call in calls {
        let words = call.words();
        call.kind.merge(&mut a[words.clone()], &b[words]);
    }
}

/// Room for states on their way, used again and again.
#[derive(Debug, Default)]
pub(super) struct Pool(Vec<Vec<u64>>);

impl Pool {
    /// Room for so many words, with anything in it.
    fn take(&mut self, words: usize) -> Vec<u64> {
        let mut room = self.0.pop().unwrap_or_default();
        room.resize(words, 0);
        room
    }

    fn give<const N: usize>(&mut self, rooms: [Vec<u64>; N]) {
        self.0.extend(rooms);
    }
}

/// The states of one key as bytes: the rows only. The tree is built again by [`KeyRows::revive`], which needs the calls.
impl SlotState for KeyRows {
    fn encode(&self, out: &mut Vec<u8>) {
        let put = |value: u64, out: &mut Vec<u8>| out.extend_from_slice(&value.to_le_bytes());
        let put_bytes = |bytes: &[u8], out: &mut Vec<u8>| {
            put(bytes.len() as u64, out);
            out.extend_from_slice(bytes);
        };
        out.push(FORMAT);
        put(self.words as u64, out);
        put(self.row_words as u64, out);
        put(self.extras as u64, out);
        let times = [self.greatest_ns, self.last_ns].map(|time| time.map(|time| time as u64));
        for optional in [times[0], times[1], self.last_anchor] {
            out.push(optional.is_some().into());
            put(optional.unwrap_or_default(), out);
        }
        put(self.lag.len() as u64, out);
        for lag in &self.lag {
            put_bytes(lag, out);
        }
        put((self.times_ns.len() - self.expired) as u64, out);
        for row in self.expired..self.times_ns.len() {
            put(self.times_ns[row] as u64, out);
            put(self.anchors[row], out);
            for word in &self.rows[row * self.row_words..(row + 1) * self.row_words] {
                put(*word, out);
            }
            for extra in &self.leaf_extras[row * self.extras..(row + 1) * self.extras] {
                out.push(extra.is_some().into());
                put_bytes(extra.as_deref().unwrap_or_default(), out);
            }
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let mut reader = Bytes(bytes);
        let format = reader.byte()?;
        if format != FORMAT {
            return Err(format!("rolling state of format {format}; this engine reads format {FORMAT}"));
        }
        let mut rows = KeyRows::new(reader.number()? as usize, reader.number()? as usize, reader.number()? as usize);
        let (has_greatest, greatest) = (reader.byte()? == 1, reader.number()?);
        let (has_last, last) = (reader.byte()? == 1, reader.number()?);
        let (has_anchor, anchor) = (reader.byte()? == 1, reader.number()?);
        rows.greatest_ns = has_greatest.then_some(greatest as i64);
        rows.last_ns = has_last.then_some(last as i64);
        rows.last_anchor = has_anchor.then_some(anchor);
        for _ in 0..reader.number()? {
            rows.lag.push(reader.bytes()?.into());
        }
        for _ in 0..reader.number()? {
            rows.times_ns.push(reader.number()? as i64);
            rows.anchors.push(reader.number()?);
            for _ in 0..rows.row_words {
                rows.rows.push(reader.number()?);
            }
            for _ in 0..rows.extras {
                let some = reader.byte()? == 1;
                let extra: Box<[u8]> = reader.bytes()?.into();
                rows.leaf_extras.push(some.then_some(extra));
            }
        }
        if !reader.0.is_empty() {
            return Err(format!("rolling state has {} bytes too many", reader.0.len()));
        }
        Ok(rows)
    }

    fn heap_bytes(&self) -> usize {
        let extras: usize = self.leaf_extras.iter().flatten().map(|extra| extra.len()).sum();
        self.times_ns.capacity() * 8
            + self.anchors.capacity() * 8
            + (self.rows.capacity() + self.node_words.capacity()) * 8
            + self.leaf_extras.capacity() * size_of::<Option<Box<[u8]>>>()
            + self.nodes.capacity() * size_of::<Node>()
            + self.spine.capacity() * size_of::<Open>()
            + self.spine_words.capacity() * 8
            + extras
    }
}

impl KeyRows {
    /// Whether the rows were restored and their tree is still to be built.
    pub(super) fn is_dormant(&self) -> bool {
        self.nodes.is_empty() && self.times_ns.len() > 1
    }

    /// Builds the tree of restored rows.
    pub(super) fn revive(&mut self, calls: &[CallState], pool: &mut Pool) {
        self.rebuild(calls, pool);
    }
}

/// The format of encoded rolling state.
const FORMAT: u8 = 1;

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let (head, rest) = self.0.split_at_checked(len).ok_or("rolling state is cut short")?;
        self.0 = rest;
        Ok(head)
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    fn number(&mut self) -> Result<u64, String> {
        let mut eight = [0; 8];
        eight.copy_from_slice(self.take(8)?);
        Ok(u64::from_le_bytes(eight))
    }

    fn bytes(&mut self) -> Result<&'a [u8], String> {
        let len = self.number()? as usize;
        self.take(len)
    }
}

#[cfg(test)]
mod tests {
    use super::super::calls::StateKind;
    use super::*;

    const CALLS: [CallState; 2] = [
        CallState { kind: StateKind::SumFloat, at: 0, index: 0, value: Some(1) },
        CallState { kind: StateKind::Moments, at: 2, index: 1, value: Some(1) },
    ];
    const WORDS: usize = 5;
    const ROW_WORDS: usize = 2;

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
                merge(&CALLS, &mut left, &defined(&rows[split..]));
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
        let mut rows = KeyRows::new(WORDS, ROW_WORDS, 0);
        let mut all: Vec<(i64, u64, Vec<u64>)> = Vec::new();
        let (mut now, mut offset, mut pool) = (0i64, 0u64, Pool::default());
        for _ in 0..300 {
            now += next(6) as i64;
            let stride = if next(20) == 0 { 100_000 } else { 5 };
            offset += 1 + next(stride);
            let time = now - next(delay as u64 + 1) as i64;
            let greatest = rows.greatest_with(time);
            let value = if next(50) == 0 { f64::INFINITY } else { next(1000) as f64 / 7.0 };
            let words = leaf(value);
            let keep_after = greatest - over - delay;
            let new = NewRow { time_ns: time, offset, row: &row(value), extras: &mut Vec::new() };
            rows.push(new, keep_after, &CALLS, &mut pool);
            all.push((time, offset, words));
            let window = Window { after_ns: (time - over).max(keep_after), until_ns: time };
            let mut out = vec![0; WORDS];
            rows.combine(window, &CALLS, &mut pool, &mut out);
            let inside: Vec<_> = all
                .iter()
                .filter(|(time, ..)| window.holds(*time))
                .map(|(_, anchor, words)| (*anchor, words.clone()))
                .collect();
            assert_eq!(out, defined(&inside), "seed {seed}");
            let sum: f64 = inside.iter().map(|(_, words)| f64::from_bits(words[1])).sum();
            let got = f64::from_bits(out[1]);
            assert!((got - sum).abs() < 1e-9 * sum.abs().max(1.0) || (got == sum), "seed {seed}: {got} {sum}");
            if next(40) == 0 {
                let mut bytes = Vec::new();
                rows.encode(&mut bytes);
                for cut in 0..bytes.len() {
                    assert!(KeyRows::decode(&bytes[..cut]).is_err());
                }
                let mut restored = KeyRows::decode(&bytes).unwrap();
                restored.revive(&CALLS, &mut pool);
                rows = restored;
            }
        }
        let within = all.iter().filter(|(time, ..)| *time > now - over - delay - 6).count();
        assert!(rows.len() <= within + 40, "rows are dropped: {} of {}", rows.len(), all.len());
    }

    #[test]
    fn windows_equal_their_definition() {
        (0..300).for_each(check);
    }
}
