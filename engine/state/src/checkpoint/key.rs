//! Where an entry stands in the store, and which of its versions a reader sees.
//!
//! ```text
//! entry    space u8 │ step u32 │ group u16 │ length of the key u16 │ key │ slice i64          a place
//! version  entry │ inverted stamp u64 ─▶ 0 (deleted) or 1, value
//! grave    255 │ stamp u64 │ entry ─▶ nothing           entries deleted at a stamp, so that they can be swept away later
//! ```
//!
//! Numbers are big-endian, so that versions lie together, the newest first, and entries by space, step and group. The
//! length before the key keeps apart keys of which one begins with another.
//!
//! A *stamp* is never used twice: the generation of the process and a counter within it. A checkpoint sees the stamps up to
//! its own, without those of attempts that were never published.

use crate::error::{Result, StateError, StateErrorKind};
use std::path::Path;

/// Bytes before the key.
const HEAD_BYTES: usize = 9;
/// Bytes of the slice.
const SLICE_BYTES: usize = 8;
const STAMP_BYTES: usize = 8;
/// The store's own entries lie behind all others.
const GRAVES: u8 = 255;
/// The greatest key, in bytes: the store takes 64 KiB with what stands around it.
pub const KEY_BYTES_MAX: usize = 65_000;

/// What sort of state an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Space(u8);

impl Space {
    /// The slots of keyed steps.
    pub const SLOTS: Space = Space(0);
    /// The logged inputs of changelog regions.
    pub const INPUTS: Space = Space(1);
    /// Rows that wait for an answer.
    pub const PENDING: Space = Space(2);
    /// All sorts.
    pub const ALL: [Space; 3] = [Space::SLOTS, Space::INPUTS, Space::PENDING];

    /// Its number.
    pub fn number(self) -> u8 {
        self.0
    }
}

/// The number that stands for a step's name, given by the manifest and never to another name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StepId(pub u32);

/// The place of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryKey<'a> {
    /// The sort of state.
    pub space: Space,
    /// The step whose state it is.
    pub step: StepId,
    /// The key group, by which workers share the keys.
    pub group: u16,
    /// The key, as the step encoded it. At most [`KEY_BYTES_MAX`].
    pub key: &'a [u8],
    /// The slice: a window's start, or 0.
    pub slice: i64,
}

impl EntryKey<'_> {
    /// Adds the entry's bytes.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        let length = u16::try_from(self.key.len()).ok().filter(|length| usize::from(*length) <= KEY_BYTES_MAX);
        let Some(length) = length else {
            return Err(StateError::new(
                StateErrorKind::TooLarge,
                Path::new("checkpoint"),
                "write an entry to",
                format!("a key of {} bytes is over the bound of {KEY_BYTES_MAX}", self.key.len()),
                "key the step by something shorter, such as a digest of the column",
            ));
        };
        out.reserve(HEAD_BYTES + self.key.len() + SLICE_BYTES + STAMP_BYTES);
        out.push(self.space.0);
        out.extend_from_slice(&self.step.0.to_be_bytes());
        out.extend_from_slice(&self.group.to_be_bytes());
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(self.key);
        // Slices below zero come first.
        out.extend_from_slice(&((self.slice as u64) ^ (1 << 63)).to_be_bytes());
        Ok(())
    }
}

/// Reads an entry's bytes; none where they are no entry's.
pub(crate) fn decode_entry(entry: &[u8]) -> Option<EntryKey<'_>> {
    let (head, rest) = entry.split_at_checked(HEAD_BYTES)?;
    let (key, slice) = rest.split_at_checked(rest.len().checked_sub(SLICE_BYTES)?)?;
    if usize::from(u16::from_be_bytes(head[7..9].try_into().ok()?)) != key.len() {
        return None;
    }
    Some(EntryKey {
        space: Space(head[0]),
        step: StepId(u32::from_be_bytes(head[1..5].try_into().ok()?)),
        group: u16::from_be_bytes(head[5..7].try_into().ok()?),
        key,
        slice: (u64::from_be_bytes(slice.try_into().ok()?) ^ (1 << 63)) as i64,
    })
}

/// The first bytes of the entries of a step from a group on.
pub(crate) fn group_start(space: Space, step: StepId, group: u32) -> Vec<u8> {
    let mut out = vec![space.0];
    match u16::try_from(group) {
        Ok(group) => {
            out.extend_from_slice(&step.0.to_be_bytes());
            out.extend_from_slice(&group.to_be_bytes());
        }
        // Behind the last group comes the next step; behind the last step the next space.
        Err(_) => match step.0.checked_add(1) {
            Some(next) => out.extend_from_slice(&next.to_be_bytes()),
            None => out[0] += 1,
        },
    }
    out
}

/// Adds the stamp to an entry's bytes.
pub(crate) fn push_stamp(out: &mut Vec<u8>, stamp: u64) {
    out.extend_from_slice(&(!stamp).to_be_bytes());
}

/// The entry and the stamp of a version; none where the bytes are no version's.
pub(crate) fn split_version(key: &[u8]) -> Option<(&[u8], u64)> {
    if key.first() == Some(&GRAVES) {
        return None;
    }
    let (entry, stamp) = key.split_at_checked(key.len().checked_sub(STAMP_BYTES)?)?;
    Some((entry, !u64::from_be_bytes(stamp.try_into().ok()?)))
}

/// The note that an entry was deleted at a stamp.
pub(crate) fn grave(stamp: u64, entry: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + STAMP_BYTES + entry.len());
    out.push(GRAVES);
    out.extend_from_slice(&stamp.to_be_bytes());
    out.extend_from_slice(entry);
    out
}

/// The first bytes of the notes of deletions from a stamp on.
pub(crate) fn graves_start(stamp: u64) -> Vec<u8> {
    grave(stamp, &[])
}

/// The stamp and the entry of a note of a deletion.
pub(crate) fn split_grave(key: &[u8]) -> Option<(u64, &[u8])> {
    let (stamp, entry) = key.strip_prefix(&[GRAVES])?.split_at_checked(STAMP_BYTES)?;
    Some((u64::from_be_bytes(stamp.try_into().ok()?), entry))
}

/// What of the store counts: which stamps readers look back from, and which were never published.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lineage {
    /// The stamps up to which retained checkpoints see, in order.
    pub(crate) views: Vec<u64>,
    /// First and last stamps of attempts that were never published, in order and apart.
    pub(crate) dead: Vec<(u64, u64)>,
}

impl Lineage {
    /// The attempts that were never published to which a stamp belongs: first and last stamp.
    pub(crate) fn burial(&self, stamp: u64) -> Option<(u64, u64)> {
        let after = self.dead.partition_point(|(first, _)| *first <= stamp);
        self.dead.get(after.checked_sub(1)?).copied().filter(|(_, last)| stamp <= *last)
    }

    /// Whether a stamp belongs to an attempt that was never published.
    pub(crate) fn is_dead(&self, stamp: u64) -> bool {
        self.burial(stamp).is_some()
    }

    /// Whether any checkpoint sees a version that was followed by another.
    fn sees(&self, stamp: u64, followed_at: u64) -> bool {
        let at = self.views.partition_point(|view| *view < stamp);
        self.views.get(at).is_some_and(|view| *view < followed_at)
    }

    /// Notes a range as never published.
    pub(crate) fn bury(&mut self, first: u64, last: u64) {
        if first > last {
            return;
        }
        self.dead.push((first, last));
        self.dead.sort_unstable();
        let mut merged: Vec<(u64, u64)> = Vec::with_capacity(self.dead.len());
        for (first, last) in self.dead.drain(..) {
            match merged.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        self.dead = merged;
    }
}

/// Goes over versions in the order of the store and tells which of them no checkpoint will ever see.
///
/// A version may go when it was never published, or when a newer one hides it from every view. Deletions stay: an older
/// version may lie where this pass doesn't come by (see `sweep`, which removes both at once).
///
/// ```text
/// versions   9       6    5         2       9: newest, stays     6: view 7 sees it     5: hidden from all, goes
/// views          7            3             2: view 3 sees it
/// ```
#[derive(Debug, Default)]
pub struct Sieve {
    lineage: Option<std::sync::Arc<Lineage>>,
    entry: Vec<u8>,
    newer: Option<u64>,
}

impl Sieve {
    /// A sieve for a pass over some of the store, in order. While it isn't known what counts, everything is kept.
    pub fn new(lineage: Option<std::sync::Arc<Lineage>>) -> Sieve {
        Sieve { lineage, ..Sieve::default() }
    }

    /// Whether a stored key is to be kept.
    pub fn keeps(&mut self, key: &[u8]) -> bool {
        let Some(lineage) = &self.lineage else { return true };
        let Some((entry, stamp)) = split_version(key) else {
            return split_grave(key).is_none_or(|(stamp, _)| !lineage.is_dead(stamp));
        };
        if lineage.is_dead(stamp) {
            return false;
        }
        if self.entry != entry {
            self.entry.clear();
            self.entry.extend_from_slice(entry);
            self.newer = None;
        }
        let kept = self.newer.is_none_or(|newer| lineage.sees(stamp, newer));
        self.newer = Some(stamp);
        kept
    }
}

/// Goes over versions in the order of the store and picks of each entry the one that a view sees.
#[derive(Debug)]
pub(crate) struct Lens<'a> {
    pub(crate) lineage: &'a Lineage,
    pub(crate) view: u64,
    entry: Vec<u8>,
}

impl<'a> Lens<'a> {
    pub(crate) fn new(lineage: &'a Lineage, view: u64) -> Lens<'a> {
        Lens { lineage, view, entry: Vec::new() }
    }

    /// The entry and value of a stored version if it is what the view sees of its entry.
    pub(crate) fn sees<'b>(&mut self, key: &'b [u8], value: &'b [u8]) -> Option<(&'b [u8], &'b [u8])> {
        let (entry, stamp) = split_version(key)?;
        if stamp > self.view || self.entry == entry || self.lineage.is_dead(stamp) {
            return None;
        }
        self.entry.clear();
        self.entry.extend_from_slice(entry);
        match value.split_first() {
            Some((1, value)) => Some((entry, value)),
            _ => None,
        }
    }
}
