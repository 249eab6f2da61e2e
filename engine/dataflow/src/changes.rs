//! Changelogs on differential dataflow (architecture, decision 6): rows as bytes with multiplicities, kept by key in
//! arrangements, and put out as what changed in each epoch.
//!
//! ```text
//! Rows ─encode─▶ ((key, row), epoch, ±1) ─▶ distinct │ top │ join │ reduce ─▶ gather: an epoch's changes, consolidated,
//!                                                                            in the order of their bytes ─build─▶ Rows
//! ```
//!
//! What comes out of an epoch is a function of what stands at its end, so neither batches nor workers show.

use crate::meter::Meter;
use crate::operate::{StepShared, give_errors, measure};
use crate::rows::Rows;
use crate::snapshot::{LAST, Part, Participant, Participants, Snapshots};
use crate::step::StepOutput;
use differential_dataflow::VecCollection;
use differential_dataflow::consolidation::consolidate;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use timely::container::NoopBuilder;
use timely::dataflow::channels::pact::{Exchange, ParallelizationContract, Pipeline};
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::vec::Map;
use timely::dataflow::{Stream, StreamVec};
use timely::progress::operate::FrontierInterest;
use xxhash_rust::xxh3::xxh3_64;

/// A row as bytes: what it is ordered by, and all of it.
pub type Row = (Vec<u8>, Vec<u8>);

/// Takes the rows of a batch apart. Each that does not fail is given with its number, the bytes of its key (`None` where it has
/// none that could match another), what it is ordered by within the key, and its own bytes.
pub type Encode = Box<dyn FnMut(&Rows, &mut Give<'_>, &mut StepOutput)>;

/// Where rows that are taken apart go.
pub type Give<'a> = dyn FnMut(usize, Option<&[u8]>, &[u8], &[u8]) + 'a;

/// Puts changed rows together, of an epoch and at a time in nanoseconds since 1970 UTC: each with its sides (one, but for
/// joins) and by how many there are more or less of it. Rows that go come before those that come, each in the order of their
/// bytes.
pub type Build = Box<dyn FnMut(u64, i64, &[(Sides, isize)], &mut StepOutput)>;

/// What a step does on differential dataflow.
pub struct RegionStep {
    /// How the rows of each input are taken apart.
    pub inputs: Vec<Encode>,
    /// What becomes of them.
    pub region: Region,
    /// How what changed is put together.
    pub build: Build,
}

/// The streams of a region.
pub struct RegionStreams<'scope> {
    /// What changes.
    pub changes: Stream<'scope, u64, Rows>,
    /// The rows that failed: of each input, then of those that were put together.
    pub errors: Vec<Stream<'scope, u64, Rows>>,
}

/// The encoded rows that a row put out is made of; `None` for a side of a join that has no match.
pub type Sides = (Option<Vec<u8>>, Option<Vec<u8>>);

/// What becomes of the rows of a key.
pub enum Region {
    /// Each row once.
    Distinct,
    /// The first rows of each key.
    Top {
        /// How many.
        limit: usize,
        /// And all that are ordered as the last of them.
        ties: bool,
    },
    /// The pairs of rows of two inputs with one key.
    Join(Join),
}

/// Which rows a join puts out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    /// Pairs.
    Inner,
    /// Pairs, and left rows without any.
    Left,
    /// Pairs, and right rows without any.
    Right,
    /// Pairs, and rows of both sides without any.
    Full,
    /// Left rows that have a match, once each.
    Semi,
    /// Left rows that have none.
    Anti,
}

type Keyed<'scope> = VecCollection<'scope, u64, (Vec<u8>, Row), isize>;
/// What is put out, with what brings changes of one key together.
type Outcome<'scope> = VecCollection<'scope, u64, (u64, Sides), isize>;

/// Into how many parts the rows of a key fall at each level of [`Region::Top`]: a change reads one part of each again, not
/// all rows of its key.
const TOP_PARTS: [u64; 2] = [4_096, 64];
/// What a row takes in an arrangement beside its bytes, about.
const UPDATE_BYTES: usize = 96;
/// How many changes are put together at once.
const BUILD_ROWS: usize = 8_192;

/// Builds the operators of a region; the stream of what changes.
pub fn region<'scope>(
    name: &str,
    inputs: Vec<Stream<'scope, u64, Rows>>,
    step: RegionStep,
    meter: Arc<dyn Meter>,
    shared: &StepShared,
    kept: KeptInputs,
    participants: &Participants,
) -> RegionStreams<'scope> {
    let mut kept = kept.into_iter();
    let mut keyed = Vec::new();
    let mut alone = Vec::new();
    let mut errors = Vec::new();
    for (at, (stream, encode)) in inputs.into_iter().zip(step.inputs).enumerate() {
        let log = Rc::new(RefCell::new(Log { name: name.into(), input: at as u16, rows: BTreeMap::new(), taken: 0 }));
        if shared.snapshots.is_some() {
            participants.add(log.clone());
        }
        let kept = kept.next().unwrap_or_default();
        let (updates, failed) = updates(name, stream, encode, log, kept, meter.clone(), shared);
        errors.push(failed);
        let (with, without) = (updates.clone(), updates);
        keyed.push(with.flat_map(|((key, row), time, diff)| key.map(|key| ((key, row), time, diff))).into_collection());
        alone.push(
            without.flat_map(|((key, row), time, diff)| key.is_none().then_some((row.1, time, diff))).into_collection(),
        );
    }
    let is_join = matches!(step.region, Region::Join(_));
    let outcome = outcome(name, step.region, keyed, alone).inner;
    let changes = match is_join {
        // What a row without a match puts out and takes back comes of operators that may stand on several workers.
        true => {
            let pact = Exchange::new(|((shard, _), _, _): &((u64, Sides), u64, isize)| *shard);
            gather(name, outcome, pact, step.build, meter, shared)
        }
        false => gather(name, outcome, Pipeline, step.build, meter, shared),
    };
    let (changes, failed) = changes;
    errors.push(failed);
    RegionStreams { changes, errors }
}

/// A stream of updates as a collection.
trait IntoCollection<'scope, D> {
    fn into_collection(self) -> VecCollection<'scope, u64, D, isize>;
}

impl<'scope, D: Clone + 'static> IntoCollection<'scope, D> for StreamVec<'scope, u64, (D, u64, isize)> {
    fn into_collection(self) -> VecCollection<'scope, u64, D, isize> {
        VecCollection::new(self)
    }
}

fn outcome<'scope>(
    name: &str,
    region: Region,
    mut keyed: Vec<Keyed<'scope>>,
    mut alone: Vec<VecCollection<'scope, u64, Vec<u8>, isize>>,
) -> Outcome<'scope> {
    let first = keyed.remove(0);
    let first_alone = alone.remove(0);
    let one = |row: Vec<u8>| (0, (Some(row), None));
    match region {
        Region::Distinct => first.map(|(_, row)| row.1).distinct().map(one),
        Region::Top { limit, ties } => {
            let mut rows = first;
            for parts in TOP_PARTS {
                let split = move |(key, row): (Vec<u8>, Row)| ((key, xxh3_64(&row.1) % parts), row);
                rows = top(name, rows.map(split), limit, ties).map(|((key, _), row)| (key, row));
            }
            top(name, rows, limit, ties).map(move |(_, row)| one(row.1))
        }
        Region::Join(join) => {
            let right = keyed.remove(0).map(|(key, row)| (key, row.1));
            let right_alone = alone.remove(0);
            pairs(join, first.map(|(key, row)| (key, row.1)), right, first_alone, right_alone)
        }
    }
}

fn top<'scope, K>(
    name: &str,
    rows: VecCollection<'scope, u64, (K, Row), isize>,
    limit: usize,
    ties: bool,
) -> VecCollection<'scope, u64, (K, Row), isize>
where
    K: differential_dataflow::ExchangeData + differential_dataflow::Hashable,
{
    rows.reduce_named(name, move |_key, input, output| {
        let mut left = isize::try_from(limit).unwrap_or(isize::MAX);
        let mut last: Option<&Vec<u8>> = None;
        for (row, count) in input {
            let tied = ties && last == Some(&row.0);
            if *count <= 0 || left <= 0 && !tied {
                if *count > 0 {
                    break;
                }
                continue;
            }
            let taken = if ties { *count } else { (*count).min(left) };
            output.push(((*row).clone(), taken));
            left = left.saturating_sub(taken);
            last = Some(&row.0);
        }
    })
}

fn pairs<'scope>(
    join: Join,
    left: VecCollection<'scope, u64, (Vec<u8>, Vec<u8>), isize>,
    right: VecCollection<'scope, u64, (Vec<u8>, Vec<u8>), isize>,
    left_alone: VecCollection<'scope, u64, Vec<u8>, isize>,
    right_alone: VecCollection<'scope, u64, Vec<u8>, isize>,
) -> Outcome<'scope> {
    let keys =
        |rows: &VecCollection<'scope, u64, (Vec<u8>, Vec<u8>), isize>| rows.clone().map(|(key, _)| key).distinct();
    let both = |left: VecCollection<'scope, u64, (Vec<u8>, Vec<u8>), isize>, right| {
        left.join_map(right, |key, left: &Vec<u8>, right: &Vec<u8>| {
            (xxh3_64(key), (Some(left.clone()), Some(right.clone())))
        })
    };
    let of_left = |(key, row): (Vec<u8>, Vec<u8>)| (xxh3_64(&key), (Some(row), None));
    let of_right = |(key, row): (Vec<u8>, Vec<u8>)| (xxh3_64(&key), (None, Some(row)));
    let left_alone = left_alone.map(|row| (xxh3_64(&row), (Some(row), None)));
    let right_alone = right_alone.map(|row| (xxh3_64(&row), (None, Some(row))));
    match join {
        Join::Inner => both(left, right),
        Join::Semi => left.semijoin(keys(&right)).map(of_left),
        Join::Anti => left.antijoin(keys(&right)).map(of_left).concat(left_alone),
        Join::Left | Join::Right | Join::Full => {
            let mut all = both(left.clone(), right.clone());
            if join != Join::Right {
                let without = left.clone().antijoin(keys(&right)).map(of_left);
                all = all.concat(without).concat(left_alone);
            }
            if join != Join::Left {
                let without = right.antijoin(keys(&left)).map(of_right);
                all = all.concat(without).concat(right_alone);
            }
            all
        }
    }
}

type Update = ((Option<Vec<u8>>, Row), u64, isize);

/// The rows of each input of a region that a former run has kept, as a [`Part::Input`] has them.
pub type KeptInputs = Vec<Vec<(Vec<u8>, i64)>>;

/// The time of rows that a former run has kept: before the first epoch of a run that makes snapshots, which is 1.
const KEPT: u64 = 0;

/// The rows that came to an input of a region since the last snapshot, by epoch.
struct Log {
    name: Arc<str>,
    input: u16,
    rows: BTreeMap<u64, Vec<(Vec<u8>, i64)>>,
    taken: u64,
}

impl Participant for Log {
    fn take_part(&mut self, number: u64, snapshots: &Snapshots) {
        if std::mem::replace(&mut self.taken, number) == number {
            return;
        }
        // Rows come before their epoch has closed: those of later epochs are of the next snapshot.
        let later = match number {
            LAST => BTreeMap::new(),
            _ => self.rows.split_off(&(snapshots.latest().1 + 1)),
        };
        let mut rows: HashMap<Vec<u8>, i64> = HashMap::new();
        for (row, diff) in std::mem::replace(&mut self.rows, later).into_values().flatten() {
            *rows.entry(row).or_default() += diff;
        }
        let rows: Vec<(Vec<u8>, i64)> = rows.into_iter().filter(|(_, diff)| *diff != 0).collect();
        if !rows.is_empty() {
            snapshots.give(number, Part::Input { step: self.name.clone(), input: self.input, rows });
        }
    }

    /// It is given at once.
    fn give(&mut self, _bytes: usize, _snapshots: &Snapshots) -> bool {
        false
    }
}

/// `0, or 1 and the length of the key u32 and the key │ length of the order u32 │ order │ row`
fn to_log((key, (order, row)): &(Option<Vec<u8>>, Row)) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(9 + key.as_ref().map_or(0, Vec::len) + order.len() + row.len());
    bytes.push(u8::from(key.is_some()));
    for text in key.iter().chain([order]) {
        bytes.extend_from_slice(&(text.len() as u32).to_le_bytes());
        bytes.extend_from_slice(text);
    }
    bytes.extend_from_slice(row);
    bytes
}

fn logged(bytes: &[u8]) -> Option<(Option<Vec<u8>>, Row)> {
    fn text<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
        let (length, rest) = bytes.split_at_checked(4)?;
        let (text, rest) = rest.split_at_checked(u32::from_le_bytes(length.try_into().ok()?) as usize)?;
        *bytes = rest;
        Some(text)
    }
    let (has_key, mut rest) = bytes.split_first()?;
    let key = match has_key {
        0 => None,
        _ => Some(text(&mut rest)?.to_vec()),
    };
    let order = text(&mut rest)?.to_vec();
    Some((key, (order, rest.to_vec())))
}

/// Rows as updates, at their epochs.
fn updates<'scope>(
    name: &str,
    rows: Stream<'scope, u64, Rows>,
    mut encode: Encode,
    log: Rc<RefCell<Log>>,
    kept: Vec<(Vec<u8>, i64)>,
    meter: Arc<dyn Meter>,
    shared: &StepShared,
) -> (StreamVec<'scope, u64, Update>, Stream<'scope, u64, Rows>) {
    let mut builder = OperatorBuilder::new(format!("{name}: encode"), rows.scope());
    let mut input = builder.new_input(rows, Pipeline);
    builder.set_notify_for(0, FrontierInterest::Never);
    let (output, updates) = builder.new_output::<Vec<Update>>();
    let mut output = OutputBuilder::<_, NoopBuilder<Vec<Update>>>::from(output);
    let (errors_out, errors) = builder.new_output::<Rows>();
    let mut errors_out = OutputBuilder::<_, NoopBuilder<Rows>>::from(errors_out);
    let shared = shared.clone();
    let step = name.to_owned();
    builder.build(move |mut caps: Vec<Capability<u64>>| {
        caps.truncate(1);
        // What was kept comes before all epochs.
        let mut start = caps.pop().map(|cap| (cap, kept));
        move |_frontiers| {
            if let Some((cap, kept)) = start.take() {
                let mut all: Vec<Update> = Vec::with_capacity(kept.len());
                let mut bytes = 0;
                for (row, diff) in kept {
                    match logged(&row) {
                        Some(update) => {
                            bytes += (row.len() + UPDATE_BYTES) as i64 * diff;
                            all.push((update, KEPT, diff as isize));
                        }
                        None => shared.control.fail(format!("step `{step}`: a row that was kept can't be read")),
                    }
                }
                if let Some(room) = &shared.room {
                    (room.0)(bytes);
                }
                if !all.is_empty() {
                    output.activate().session_with_builder(&cap).give_container(&mut all);
                }
            }
            input.for_each(|cap, rows| {
                let rows = std::mem::take(rows);
                let Some(epoch) = cap.least().copied() else { return };
                let start_ns = shared.clock.monotonic_ns();
                let mut all: Vec<Update> = Vec::with_capacity(rows.num_rows());
                let mut out = StepOutput::new(1);
                let mut bytes = 0;
                let mut give = |row: usize, key: Option<&[u8]>, order: &[u8], bytes_of_row: &[u8]| {
                    let diff = if rows.is_removed(row) { -1 } else { 1 };
                    let len = key.map_or(0, <[u8]>::len) + order.len() + bytes_of_row.len() + UPDATE_BYTES;
                    bytes += len as i64 * diff as i64;
                    all.push(((key.map(<[u8]>::to_vec), (order.to_vec(), bytes_of_row.to_vec())), epoch, diff));
                };
                encode(&rows, &mut give, &mut out);
                if let Some(room) = &shared.room
                    && !(room.0)(bytes)
                {
                    shared.control.fail(format!(
                        "step `{step}`: the rows that it keeps take more than `memory_limit` allows, and they can't leave the memory. \
                         Raise the limit, or bound what comes in: a window in its key, `expire_after` before it"
                    ));
                    return;
                }
                if shared.snapshots.is_some() {
                    let (mut log, updates) = (log.borrow_mut(), all.iter());
                    let of_epoch = log.rows.entry(epoch).or_default();
                    of_epoch.extend(updates.map(|(update, _, diff)| (to_log(update), *diff as i64)));
                }
                measure(&*meter, rows.num_rows() as u64, &out, start_ns, &shared);
                give_errors(&mut errors_out, out.errors, &cap, &shared.names);
                output.activate().session_with_builder(&cap).give_container(&mut all);
            });
        }
    });
    (updates, errors)
}

/// The changes of an epoch that has not closed, with a capability for each output.
type Waiting = ([Capability<u64>; 2], Vec<(Sides, isize)>);

/// The changes of each epoch that has closed, as rows.
fn gather<'scope>(
    name: &str,
    changes: StreamVec<'scope, u64, ((u64, Sides), u64, isize)>,
    pact: impl ParallelizationContract<u64, Vec<((u64, Sides), u64, isize)>>,
    mut build: Build,
    meter: Arc<dyn Meter>,
    shared: &StepShared,
) -> (Stream<'scope, u64, Rows>, Stream<'scope, u64, Rows>) {
    let mut builder = OperatorBuilder::new(name.to_owned(), changes.scope());
    let mut input = builder.new_input(changes, pact);
    builder.set_notify_for(0, FrontierInterest::IfCapability);
    let (output, rows) = builder.new_output::<Rows>();
    let mut output = OutputBuilder::<_, NoopBuilder<Rows>>::from(output);
    let (errors_out, errors) = builder.new_output::<Rows>();
    let mut errors_out = OutputBuilder::<_, NoopBuilder<Rows>>::from(errors_out);
    let shared = shared.clone();
    builder.build(move |caps| {
        drop(caps);
        let mut waiting: BTreeMap<u64, Waiting> = BTreeMap::new();
        move |frontiers| {
            input.for_each(|cap, changes| {
                for ((_, sides), epoch, diff) in changes.drain(..) {
                    let entry = waiting
                        .entry(epoch)
                        .or_insert_with(|| ([cap.delayed(&epoch, 0), cap.delayed(&epoch, 1)], Vec::new()));
                    entry.1.push((sides, diff));
                }
            });
            while let Some(entry) = waiting.first_entry() {
                let epoch = *entry.key();
                if frontiers[0].less_equal(&epoch) {
                    break;
                }
                let start_ns = shared.clock.monotonic_ns();
                let ([cap, errors_cap], mut changes) = entry.remove();
                if epoch == KEPT && shared.snapshots.is_some() {
                    // It was put out by the run that kept it.
                    continue;
                }
                consolidate(&mut changes);
                changes.sort_by_key(|(_, diff)| *diff > 0);
                let now_ns = shared.clock.now_ns();
                let mut out = StepOutput::new(1);
                for portion in changes.chunks(BUILD_ROWS) {
                    build(epoch, now_ns, portion, &mut out);
                }
                measure(&*meter, 0, &out, start_ns, &shared);
                give_errors(&mut errors_out, out.errors, &errors_cap, &shared.names);
                let mut output = output.activate();
                let mut session = output.session_with_builder(&cap);
                for mut rows in out.ports.into_iter().flatten() {
                    session.give_container(&mut rows);
                }
            }
        }
    });
    (rows, errors)
}
