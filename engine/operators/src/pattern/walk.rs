//! The rule by which a walk takes rows.
//!
//! ```text
//!            where it stands      the next row goes to
//! a{2..} ──▶ a, 1 of 2            a, or is passed over
//! b?         a, enough            c, else b, else a: the farthest that takes it
//! c          b                    c
//! ```
//!
//! An absent element is a row that must not lie between the row taken before it and the one taken after it: once such a row is
//! seen, what stands behind it is closed until another row is taken. A row that is taken lies between no others.

use smallvec::SmallVec;
use std::ops::Range;

/// More elements than this are refused: what holds for a row is a set of 64 bits.
pub(super) const ELEMENTS_MAX: usize = 64;

/// An element of the sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Element {
    /// The least number of its rows, where it is there at all.
    pub(super) min: u32,
    /// The greatest number of its rows; as many as come where there is none.
    pub(super) max: Option<u32>,
    pub(super) optional: bool,
    pub(super) absent: bool,
}

/// The last row of each element whose columns later conditions read: its number and one, or 0 where it has no row.
pub(super) type Last = SmallVec<[u64; 2]>;

/// Where a walk stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stand {
    /// The element that took the last row.
    pub(super) at: usize,
    /// How many rows it took. More than it needs are not counted where it takes as many as come.
    pub(super) count: u32,
    /// The first absent element of which a row came since, as a bit; 0 for none.
    pub(super) seen: u64,
    pub(super) last: Last,
}

/// What a walk does with a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// It passes the row over.
    Nothing,
    /// This element takes it.
    Takes(usize),
    /// The row is of this absent element, which closes what is behind it.
    Seen(u64),
}

/// The sequence.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) elements: Vec<Element>,
    /// The elements whose last rows later conditions read, each with the last element whose condition does.
    pub(super) read: Vec<(usize, usize)>,
}

impl Shape {
    /// What may come after an element, or first: up to the next one that must be there.
    fn ahead(&self, after: Option<usize>) -> Range<usize> {
        let from = after.map_or(0, |at| at + 1);
        let must = |element: &Element| !element.absent && !element.optional;
        let end = self.elements[from..].iter().position(must).map_or(self.elements.len(), |at| from + at + 1);
        from..end
    }

    /// What may come next where a walk stands, and whether the element that it stands at may take another row. An absent element
    /// that was seen closes what is behind it.
    fn next(&self, stand: Option<&Stand>) -> (Range<usize>, bool) {
        let Some(stand) = stand else { return (self.ahead(None), false) };
        let Element { min, max, .. } = self.elements[stand.at];
        let again = max.is_none_or(|max| stand.count < max);
        if stand.count < min {
            return (0..0, again);
        }
        let ahead = self.ahead(Some(stand.at));
        (ahead.start..ahead.end.min(stand.seen.trailing_zeros() as usize), again)
    }

    /// The elements whose conditions matter where a walk stands.
    pub(super) fn asked(&self, stand: Option<&Stand>) -> u64 {
        let (ahead, again) = self.next(stand);
        let own = stand.filter(|_| again).map_or(0, |stand| 1 << stand.at);
        ahead.fold(own, |asked, at| asked | 1 << at)
    }

    /// What a walk does with a row for which these conditions hold.
    pub(super) fn find(&self, stand: Option<&Stand>, holds: u64) -> Found {
        let (ahead, again) = self.next(stand);
        let takes = |at: &usize| !self.elements[*at].absent && holds & 1 << at != 0;
        if let Some(at) = ahead.clone().rev().find(takes) {
            return Found::Takes(at);
        }
        let Some(stand) = stand else { return Found::Nothing };
        if again && holds & 1 << stand.at != 0 {
            return Found::Takes(stand.at);
        }
        let absent = |at: &usize| self.elements[*at].absent && holds & 1 << at != 0;
        match ahead.clone().find(absent) {
            None => Found::Nothing,
            // What is behind it makes no difference any more.
            Some(at) => Found::Seen(1 << at),
        }
    }

    /// Where a walk stands that did this with the row of this number.
    pub(super) fn go(&self, stand: Option<&Stand>, found: Found, row: u64) -> Option<Stand> {
        let at = match found {
            Found::Nothing => return stand.cloned(),
            Found::Seen(seen) => return stand.map(|stand| Stand { seen, ..stand.clone() }),
            Found::Takes(at) => at,
        };
        let element = &self.elements[at];
        let before = stand.filter(|stand| stand.at == at).map_or(0, |stand| stand.count);
        let count = (before + 1).min(element.max.unwrap_or(element.min));
        let mut last = stand.map_or_else(|| Last::from_elem(0, self.read.len()), |stand| stand.last.clone());
        for ((of, until), last) in self.read.iter().zip(&mut last) {
            if *of == at {
                *last = row + 1;
            } else if *until < at {
                // Nobody asks any more: walks that differ in no more than this are one.
                *last = 0;
            }
        }
        Some(Stand { at, count, seen: 0, last })
    }

    /// Whether nothing that must be there is missing.
    pub(super) fn is_complete(&self, stand: &Stand) -> bool {
        let enough = stand.count >= self.elements[stand.at].min;
        enough
            && stand.seen == 0
            && self.elements[stand.at + 1..].iter().all(|element| element.absent || element.optional)
    }

    /// Whether it is complete and nothing that comes can change it.
    pub(super) fn is_final(&self, stand: &Stand) -> bool {
        let (ahead, again) = self.next(Some(stand));
        !again && ahead.is_empty() && self.is_complete(stand)
    }

    /// Whether no match can come of it.
    pub(super) fn is_dead(&self, stand: &Stand) -> bool {
        let (mut ahead, again) = self.next(Some(stand));
        !again && !ahead.any(|at| !self.elements[at].absent) && !self.is_complete(stand)
    }

    /// Whether a match may have to wait for the end of its time.
    pub(super) fn waits(&self) -> bool {
        match self.elements.last() {
            Some(last) => last.absent || last.optional || last.max != Some(last.min),
            None => false,
        }
    }
}
