//! Cuts: where each partition stood at the close of each epoch.
//!
//! ```text
//! ingest (each worker)  ──closed(e, marks)──▶  CutBoard  ──take(frontier)──▶  committer
//! ```
//!
//! A cut is final once the frontier has passed its epoch: no worker will read more in it.

use crate::source::{Mark, Marks};
use crate::watermark::{Standing, Statement, Timeline};
use engine_base::{Epoch, SourceId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Where the partitions of all sources stand.
pub type Cut = BTreeMap<SourceId, Marks>;

/// The offset before which each partition of each source was read.
pub type Offsets = BTreeMap<(SourceId, u32), u64>;

/// An epoch that has closed on all workers: what was read in it, and what was stated of event time at its close.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClosedEpoch {
    /// Its number.
    pub epoch: u64,
    /// Where the partitions stand that moved in it.
    pub cut: Cut,
    /// When what was read of each was read, nanoseconds since 1970 UTC.
    pub read_ns: ReadTimes,
    /// What was read of each.
    pub checks: Checks,
    /// What the workers stated.
    pub statements: Vec<Statement>,
}

/// When what was read of each partition in an epoch was read, nanoseconds since 1970 UTC.
pub type ReadTimes = BTreeMap<(SourceId, u32), i64>;

/// What was read of a partition in an epoch, as far as it takes to tell it from something else: a topic that was compacted
/// meanwhile has fewer records, and a file that was rewritten has others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// How many records, those that could not be decoded too.
    pub records: u64,
    /// A hash of the first and the last row.
    pub ends: u64,
}

/// What was read of each partition in an epoch.
pub type Checks = BTreeMap<(SourceId, u32), Check>;

/// Closed epochs and their cuts, shared by the workers of a process.
#[derive(Debug, Default)]
pub struct CutBoard(Mutex<Board>);

#[derive(Debug, Default)]
struct Board {
    /// Somebody takes what closes.
    watched: bool,
    closed: BTreeMap<u64, ClosedEpoch>,
    /// Where each partition stood when it was first seen, of those that nobody has taken yet.
    starts: Cut,
    /// Every closed epoch, kept only while recording.
    recorded: Option<RecordedCuts>,
    /// What workers stated of the sources' event time, kept only while recording.
    stated: BTreeMap<u64, Vec<Statement>>,
}

impl CutBoard {
    /// Keeps what closes until it is taken.
    pub fn watch(&self) {
        self.board().watched = true;
    }

    /// Keeps every cut from now on, for [`CutBoard::recorded`].
    pub fn record(&self) {
        self.board().recorded.get_or_insert_default();
    }

    /// Whether somebody wants to know when rows were read: then all rows of a partition in an epoch are read at one time.
    pub fn is_kept(&self) -> bool {
        let board = self.board();
        board.watched || board.recorded.is_some()
    }

    /// A worker sees partitions of a source for the first time, before anything is read from them.
    pub fn starts(&self, source: SourceId, marks: &Marks) {
        let mut board = self.board();
        if !board.watched {
            return;
        }
        let known = board.starts.entry(source).or_default();
        for (partition, mark) in marks {
            known.entry(*partition).or_insert_with(|| mark.clone());
        }
    }

    /// Where the partitions started that were seen for the first time since the last call. It must be durable before long: a
    /// run that is killed before its first commit may not start elsewhere.
    pub fn take_starts(&self) -> Cut {
        std::mem::take(&mut self.board().starts)
    }

    /// A worker states where a source stands in event time, at the close of an epoch.
    pub fn stated(&self, epoch: Epoch, statement: Statement) {
        let mut board = self.board();
        if let Some(recorded) = &mut board.recorded {
            recorded.cut_at(epoch.0);
            board.stated.entry(epoch.0).or_default().push(statement);
        }
        if board.watched {
            board.closed.entry(epoch.0).or_default().statements.push(statement);
        }
    }

    /// A worker closed an epoch: where the partitions of one of its sources stand that moved in it, and when that was read.
    /// Called before the frontier can pass it.
    pub fn closed(&self, epoch: Epoch, source: SourceId, marks: &Marks, read_ns: i64, checks: &BTreeMap<u32, Check>) {
        let mut board = self.board();
        let places = || marks.keys().map(|partition| (source, *partition));
        if let Some(recorded) = &mut board.recorded {
            let at = recorded.cut_at(epoch.0);
            at.extend(marks.iter().map(|(partition, mark)| ((source, *partition), mark.next)));
            recorded.read_ns.entry(epoch.0).or_default().extend(places().map(|place| (place, read_ns)));
        }
        if board.watched {
            let closed = board.closed.entry(epoch.0).or_default();
            closed.read_ns.extend(places().map(|place| (place, read_ns)));
            closed.checks.extend(checks.iter().map(|(partition, check)| ((source, *partition), *check)));
            let cut = closed.cut.entry(source).or_default();
            cut.extend(marks.iter().map(|(partition, mark)| (*partition, mark.clone())));
        }
    }

    /// The epochs that a frontier has passed (`None`: it is empty, all are), and that were not taken yet, in their order.
    pub fn take(&self, frontier: Option<u64>) -> Vec<ClosedEpoch> {
        let mut board = self.board();
        let later = frontier.map_or_else(BTreeMap::new, |frontier| board.closed.split_off(&frontier));
        let passed = std::mem::replace(&mut board.closed, later);
        passed.into_iter().map(|(epoch, closed)| ClosedEpoch { epoch, ..closed }).collect()
    }

    /// The recorded cuts, for a later run to follow.
    pub fn recorded(&self) -> RecordedCuts {
        let board = self.board();
        let recorded = board.recorded.clone().unwrap_or_default();
        RecordedCuts { times: together(&board.stated), ..recorded }
    }

    fn board(&self) -> std::sync::MutexGuard<'_, Board> {
        // A panic elsewhere ends the process; the board itself is never left half-changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the workers state, as one worker would: where it changed.
#[derive(Clone, Debug)]
pub struct Together {
    timeline: Timeline,
    last: Vec<Standing>,
}

impl Together {
    /// Nothing stated yet.
    pub fn new(sources: usize, workers: usize) -> Self {
        Together { timeline: Timeline::new(sources, workers), last: vec![Standing::Unknown; sources] }
    }

    /// Takes what was stated at the close of an epoch.
    pub fn close(&mut self, statements: &[Statement]) -> Vec<Statement> {
        statements.iter().for_each(|statement| self.timeline.hear(*statement));
        let clock_ns = self.timeline.clock_ns();
        let moved = self.last.iter_mut().enumerate().filter_map(|(source, last)| {
            let standing = self.timeline.standing(source);
            let moved = std::mem::replace(last, standing) != standing;
            moved.then_some(Statement { worker: 0, source: source as u16, standing, clock_ns })
        });
        moved.collect()
    }

    /// Where all sources stand now.
    pub fn all(&self) -> Vec<Statement> {
        let clock_ns = self.timeline.clock_ns();
        let of = |(source, standing): (usize, &Standing)| Statement {
            worker: 0,
            source: source as u16,
            standing: *standing,
            clock_ns,
        };
        self.last.iter().enumerate().map(of).collect()
    }
}

fn together(stated: &BTreeMap<u64, Vec<Statement>>) -> BTreeMap<u64, Vec<Statement>> {
    let all = || stated.values().flatten();
    let sources = all().map(|statement| usize::from(statement.source) + 1).max().unwrap_or(0);
    let workers = all().map(|statement| statement.worker as usize + 1).max().unwrap_or(0);
    let mut together = Together::new(sources, workers);
    let times = stated.iter().map(|(epoch, statements)| (*epoch, together.close(statements)));
    times.filter(|(_, moved)| !moved.is_empty()).collect()
}

/// The cuts of a run: by epoch, the offset before which each partition was read. What a source follows to cut the same
/// input the same way again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordedCuts {
    /// In order of epochs. A partition that is not named in an epoch did not move in it.
    pub epochs: Vec<(Epoch, Offsets)>,
    /// Where each source stood in event time once an epoch had closed, where it had moved.
    pub times: BTreeMap<u64, Vec<Statement>>,
    /// When the rows of each epoch were read.
    pub read_ns: BTreeMap<u64, ReadTimes>,
    /// What was read in each epoch, where it is to be compared.
    pub checks: BTreeMap<u64, Checks>,
}

impl RecordedCuts {
    /// The cut of an epoch; a new one where there is none yet. Workers are near each other, so it is among the last.
    fn cut_at(&mut self, epoch: u64) -> &mut Offsets {
        let at = self.epochs.iter().rposition(|(known, _)| known.0 <= epoch);
        let place = match at {
            Some(at) if self.epochs[at].0.0 == epoch => at,
            at => {
                let place = at.map_or(0, |at| at + 1);
                self.epochs.insert(place, (Epoch(epoch), Offsets::new()));
                place
            }
        };
        &mut self.epochs[place].1
    }

    /// When the rows of a partition in an epoch were read.
    pub fn read_ns(&self, epoch: u64, place: (SourceId, u32)) -> Option<i64> {
        self.read_ns.get(&epoch)?.get(&place).copied()
    }

    /// What is stated at the close of an epoch, for one worker of several to state.
    pub fn stated(&self, epoch: u64) -> impl Iterator<Item = Statement> {
        self.times.get(&epoch).into_iter().flatten().copied()
    }

    /// One line an epoch: `epoch source/partition=next,read ... source@standing,clock ...`, where `read` is when it was read, and a standing is `active:TIME`,
    /// `idle:TIME`, `idle`, `unknown`, `absent` or `ended`. Times are nanoseconds since 1970 UTC.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for (epoch, marks) in &self.epochs {
            text.push_str(&epoch.to_string());
            for ((source, partition), next) in marks {
                text.push_str(&format!(" {}/{partition}={next}", source.0));
                if let Some(read_ns) = self.read_ns(epoch.0, (*source, *partition)) {
                    text.push_str(&format!(",{read_ns}"));
                }
            }
            for Statement { source, standing, clock_ns, .. } in self.stated(epoch.0) {
                let standing = match standing {
                    Standing::Active(at) => format!("active:{at}"),
                    Standing::Idle(Some(at)) => format!("idle:{at}"),
                    Standing::Idle(None) => "idle".to_owned(),
                    Standing::Unknown => "unknown".to_owned(),
                    Standing::Absent => "absent".to_owned(),
                    Standing::Ended => "ended".to_owned(),
                };
                text.push_str(&format!(" {source}@{standing},{clock_ns}"));
            }
            text.push('\n');
        }
        text
    }

    /// Reads what [`RecordedCuts::to_text`] wrote; the error names the line.
    pub fn from_text(text: &str) -> Result<Self, String> {
        let mut epochs = Vec::new();
        let mut times = BTreeMap::<u64, Vec<Statement>>::new();
        let mut read_ns = BTreeMap::<u64, ReadTimes>::new();
        for (at, line) in text.lines().enumerate() {
            let bad = || format!("line {}: not `epoch source/partition=next ...`: {line}", at + 1);
            let mut words = line.split_whitespace();
            let epoch = words.next().and_then(|word| word.parse().ok()).ok_or_else(bad)?;
            let mut marks = BTreeMap::new();
            for word in words {
                if let Some((source, said)) = word.split_once('@') {
                    let (standing, clock) = said.split_once(',').ok_or_else(bad)?;
                    let standing = standing_of(standing).ok_or_else(bad)?;
                    let source = source.parse().map_err(|_| bad())?;
                    let clock_ns = clock.parse().map_err(|_| bad())?;
                    times.entry(epoch).or_default().push(Statement { worker: 0, source, standing, clock_ns });
                    continue;
                }
                let (place, next) = word.split_once('=').ok_or_else(bad)?;
                let (source, partition) = place.split_once('/').ok_or_else(bad)?;
                let key = (SourceId(source.parse().map_err(|_| bad())?), partition.parse().map_err(|_| bad())?);
                let (next, read) = next.split_once(',').map_or((next, None), |(next, read)| (next, Some(read)));
                if let Some(read) = read {
                    read_ns.entry(epoch).or_default().insert(key, read.parse().map_err(|_| bad())?);
                }
                marks.insert(key, next.parse().map_err(|_| bad())?);
            }
            epochs.push((Epoch(epoch), marks));
        }
        Ok(RecordedCuts { epochs, times, read_ns, checks: BTreeMap::new() })
    }
}

fn standing_of(text: &str) -> Option<Standing> {
    Some(match text.split_once(':') {
        Some(("active", at)) => Standing::Active(at.parse().ok()?),
        Some(("idle", at)) => Standing::Idle(Some(at.parse().ok()?)),
        None => match text {
            "idle" => Standing::Idle(None),
            "unknown" => Standing::Unknown,
            "absent" => Standing::Absent,
            "ended" => Standing::Ended,
            _ => return None,
        },
        Some(_) => return None,
    })
}

/// Marks without what connectors need to seek: for comparing.
pub fn offsets(marks: &Marks) -> BTreeMap<u32, u64> {
    marks.iter().map(|(partition, mark): (&u32, &Mark)| (*partition, mark.next)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(next: u64) -> Marks {
        Marks::from([(0, Mark { next, detail: String::new() })])
    }

    #[test]
    fn a_cut_is_given_out_once_its_epoch_is_passed() {
        let board = CutBoard::default();
        board.record();
        board.watch();
        let check = Check { records: 10, ends: 77 };
        let checks = BTreeMap::from([(0, check)]);
        board.closed(Epoch(1), SourceId(0), &marks(20), 8, &checks);
        board.closed(Epoch(0), SourceId(0), &marks(10), 7, &BTreeMap::new());
        board.closed(Epoch(1), SourceId(1), &marks(5), 9, &BTreeMap::new());
        board.starts(SourceId(0), &marks(3));
        board.starts(SourceId(0), &marks(9));
        assert_eq!(board.take_starts(), Cut::from([(SourceId(0), marks(3))]));
        assert_eq!((board.take_starts(), board.take(Some(0))), (Cut::new(), vec![]));
        let first = board.take(Some(1));
        assert_eq!(first.len(), 1);
        assert_eq!((first[0].epoch, &first[0].cut), (0, &Cut::from([(SourceId(0), marks(10))])));
        assert_eq!(board.take(Some(1)), vec![]);
        let second = board.take(None);
        assert_eq!(second[0].cut, Cut::from([(SourceId(0), marks(20)), (SourceId(1), marks(5))]));
        assert_eq!(second[0].read_ns, ReadTimes::from([((SourceId(0), 0), 8), ((SourceId(1), 0), 9)]));
        assert_eq!(second[0].checks, Checks::from([((SourceId(0), 0), check)]));
        let recorded = board.recorded();
        assert_eq!(recorded.epochs.iter().map(|(epoch, _)| epoch.0).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(recorded.read_ns(1, (SourceId(1), 0)), Some(9));
        assert_eq!(RecordedCuts::from_text(&recorded.to_text()), Ok(recorded));
        assert!(RecordedCuts::from_text("1 0/0=x").is_err());
        assert!(RecordedCuts::from_text("1 0/0=3,x").is_err());
        assert!(RecordedCuts::from_text("1 0@active,5").is_err());
    }

    #[test]
    fn what_workers_state_is_recorded_as_if_one_had() {
        let board = CutBoard::default();
        board.record();
        let say = |epoch, worker, standing| {
            board.stated(Epoch(epoch), Statement { worker, source: 1, standing, clock_ns: epoch as i64 });
        };
        say(3, 0, Standing::Active(10));
        say(4, 1, Standing::Active(7));
        say(5, 1, Standing::Active(8));
        say(6, 0, Standing::Active(11));
        say(7, 0, Standing::Idle(None));
        say(8, 1, Standing::Ended);
        let recorded = board.recorded();
        assert_eq!(RecordedCuts::from_text(&recorded.to_text()), Ok(recorded.clone()));
        let at = |epoch| recorded.stated(epoch).map(|said| said.standing).collect::<Vec<_>>();
        assert_eq!((at(3), at(4), at(5)), (vec![], vec![Standing::Active(7)], vec![Standing::Active(8)]));
        assert_eq!((at(6), at(7), at(8)), (vec![], vec![], vec![Standing::Idle(None)]));
    }
}
