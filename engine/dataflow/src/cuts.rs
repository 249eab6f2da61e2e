//! Cuts: where each partition stood at the close of each epoch.
//!
//! ```text
//! ingest (each worker)  ──closed(e, marks)──▶  CutBoard  ──take(frontier)──▶  committer
//! ```
//!
//! When the probe behind all sinks has passed epoch `e`, everything read up to the cut of `e` is acknowledged by every sink,
//! counted as filtered, or in an error output. That cut may be written down; nothing before it is needed again.

use crate::source::{Mark, Marks};
use crate::watermark::{Standing, Statement, Timeline};
use engine_base::{Epoch, SourceId};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Where the partitions of all sources stand.
pub type Cut = BTreeMap<SourceId, Marks>;

/// The offset before which each partition of each source was read.
pub type Offsets = BTreeMap<(SourceId, u32), u64>;

/// What keyed steps saw of each partition.
pub type Events = BTreeMap<(SourceId, u32), Seen>;

/// What keyed steps saw of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The greatest event time, nanoseconds since 1970 UTC.
    pub event_ns: i64,
    /// When its last row was read, nanoseconds since 1970 UTC.
    pub read_ns: i64,
}

impl Seen {
    fn add(&mut self, other: Seen) {
        self.event_ns = self.event_ns.max(other.event_ns);
        self.read_ns = self.read_ns.max(other.read_ns);
    }
}

fn add_events(to: &mut Events, seen: impl IntoIterator<Item = ((SourceId, u32), Seen)>) {
    for (partition, seen) in seen {
        to.entry(partition).and_modify(|known| known.add(seen)).or_insert(seen);
    }
}

/// What every sink has acknowledged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acknowledged {
    /// Where each partition stands: everything before it is acknowledged.
    pub cut: Cut,
    /// What keyed steps saw of each partition before the cut.
    pub seen: Events,
    /// Where each partition stood when the pipeline first saw it.
    pub origin: Cut,
}

/// Closed epochs and their cuts, shared by the workers of a process.
#[derive(Debug, Default)]
pub struct CutBoard(Mutex<Board>);

#[derive(Debug, Default)]
struct Board {
    /// Marks that changed in an epoch which is not yet acknowledged.
    closed: BTreeMap<u64, Cut>,
    /// What keyed steps saw in an epoch which is not yet acknowledged.
    events: BTreeMap<u64, Events>,
    /// Everything acknowledged so far.
    acknowledged: Cut,
    /// What keyed steps saw of it.
    seen: Events,
    /// Where each partition stood when it was first seen.
    origin: Cut,
    /// It has partitions that no taken cut has.
    origin_grew: bool,
    /// Every closed epoch, kept only while recording.
    recorded: Option<BTreeMap<u64, Offsets>>,
    /// What workers stated of the sources' event time, kept only while recording.
    stated: BTreeMap<u64, Vec<Statement>>,
}

impl CutBoard {
    /// A board that goes on from what an earlier run has had acknowledged.
    pub fn starting_at(resume: Acknowledged) -> Self {
        CutBoard(Mutex::new(Board {
            acknowledged: resume.cut,
            seen: resume.seen,
            origin: resume.origin,
            ..Board::default()
        }))
    }

    /// A worker sees partitions of a source for the first time, before anything is read from them.
    pub fn starts(&self, source: SourceId, marks: &Marks) {
        let mut board = self.board();
        let known = board.origin.entry(source).or_default();
        let before = known.len();
        for (partition, mark) in marks {
            known.entry(*partition).or_insert_with(|| mark.clone());
        }
        if known.len() > before {
            board.origin_grew = true;
        }
    }

    /// Whether partitions were seen for the first time since the last [`CutBoard::take`]. Where each started must be durable
    /// before long: a run that is killed before its first acknowledgement may not start elsewhere.
    pub fn origin_grew(&self) -> bool {
        self.board().origin_grew
    }

    /// A keyed step saw these rows in an epoch. Called before the frontier can pass it.
    pub fn saw(&self, epoch: Epoch, seen: Events) {
        add_events(self.board().events.entry(epoch.0).or_default(), seen);
    }

    /// Keeps every cut from now on, for [`CutBoard::recorded`].
    pub fn record(&self) {
        self.board().recorded.get_or_insert_default();
    }

    /// A worker states where a source stands in event time, at the close of an epoch.
    pub fn stated(&self, epoch: Epoch, statement: Statement) {
        let mut board = self.board();
        if let Some(recorded) = &mut board.recorded {
            recorded.entry(epoch.0).or_default();
            board.stated.entry(epoch.0).or_default().push(statement);
        }
    }

    /// A worker closed an epoch: where the partitions of one of its sources stand. Called before the frontier can pass it.
    pub fn closed(&self, epoch: Epoch, source: SourceId, marks: &Marks) {
        let mut board = self.board();
        if let Some(recorded) = &mut board.recorded {
            let at = recorded.entry(epoch.0).or_default();
            at.extend(marks.iter().map(|(partition, mark)| ((source, *partition), mark.next)));
        }
        board
            .closed
            .entry(epoch.0)
            .or_default()
            .entry(source)
            .or_default()
            .extend(marks.iter().map(|(partition, mark)| (*partition, mark.clone())));
    }

    /// What is acknowledged once the frontier behind all sinks is at `frontier` (`None`: empty, all done), if it moved
    /// since the last call.
    pub fn take(&self, frontier: Option<u64>) -> Option<Acknowledged> {
        fn passed<V>(of: &mut BTreeMap<u64, V>, frontier: Option<u64>) -> BTreeMap<u64, V> {
            let later = frontier.map_or_else(BTreeMap::new, |frontier| of.split_off(&frontier));
            std::mem::replace(of, later)
        }
        let mut board = self.board();
        for seen in passed(&mut board.events, frontier).into_values() {
            add_events(&mut board.seen, seen);
        }
        let cuts = passed(&mut board.closed, frontier);
        if cuts.is_empty() && !std::mem::take(&mut board.origin_grew) {
            return None;
        }
        board.origin_grew = false;
        for (source, marks) in cuts.into_values().flatten() {
            let acknowledged = board.acknowledged.entry(source).or_default();
            for (partition, mark) in marks {
                // What is read again to rebuild state was acknowledged before: the account never goes back.
                if acknowledged.get(&partition).is_none_or(|known| known.next < mark.next) {
                    acknowledged.insert(partition, mark);
                }
            }
        }
        Some(Acknowledged { cut: board.acknowledged.clone(), seen: board.seen.clone(), origin: board.origin.clone() })
    }

    /// The recorded cuts, for a later run to follow.
    pub fn recorded(&self) -> RecordedCuts {
        let board = self.board();
        let epochs = board.recorded.iter().flatten();
        RecordedCuts {
            epochs: epochs.map(|(epoch, marks)| (Epoch(*epoch), marks.clone())).collect(),
            times: together(&board.stated),
        }
    }

    fn board(&self) -> std::sync::MutexGuard<'_, Board> {
        // A panic elsewhere ends the process; the board itself is never left half-changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the workers stated, as one worker would have: where it changed, by epoch.
fn together(stated: &BTreeMap<u64, Vec<Statement>>) -> BTreeMap<u64, Vec<Statement>> {
    let all = || stated.values().flatten();
    let sources = all().map(|statement| usize::from(statement.source) + 1).max().unwrap_or(0);
    let workers = all().map(|statement| statement.worker as usize + 1).max().unwrap_or(0);
    let mut timeline = Timeline::new(sources, workers);
    let mut last = vec![Standing::Unknown; sources];
    let mut times = BTreeMap::new();
    for (epoch, statements) in stated {
        statements.iter().for_each(|statement| timeline.hear(*statement));
        let clock_ns = timeline.clock_ns();
        let moved: Vec<Statement> = (0..sources)
            .filter_map(|source| {
                let standing = timeline.standing(source);
                let moved = std::mem::replace(&mut last[source], standing) != standing;
                moved.then_some(Statement { worker: 0, source: source as u16, standing, clock_ns })
            })
            .collect();
        if !moved.is_empty() {
            times.insert(*epoch, moved);
        }
    }
    times
}

/// The cuts of a run: by epoch, the offset before which each partition was read. What a source follows to cut the same
/// input the same way again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordedCuts {
    /// In order of epochs. A partition that is not named in an epoch did not move in it.
    pub epochs: Vec<(Epoch, Offsets)>,
    /// Where each source stood in event time once an epoch had closed, where it had moved.
    pub times: BTreeMap<u64, Vec<Statement>>,
}

impl RecordedCuts {
    /// What is stated at the close of an epoch, for one worker of several to state.
    pub fn stated(&self, epoch: u64) -> impl Iterator<Item = Statement> {
        self.times.get(&epoch).into_iter().flatten().copied()
    }

    /// One line an epoch: `epoch source/partition=next ... source@standing,clock ...`, where a standing is `active:TIME`,
    /// `idle:TIME`, `idle`, `unknown`, `absent` or `ended`. Times are nanoseconds since 1970 UTC.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for (epoch, marks) in &self.epochs {
            text.push_str(&epoch.to_string());
            for ((source, partition), next) in marks {
                text.push_str(&format!(" {}/{partition}={next}", source.0));
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
                marks.insert(key, next.parse().map_err(|_| bad())?);
            }
            epochs.push((Epoch(epoch), marks));
        }
        Ok(RecordedCuts { epochs, times })
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
        board.closed(Epoch(0), SourceId(0), &marks(10));
        board.closed(Epoch(1), SourceId(0), &marks(20));
        board.closed(Epoch(1), SourceId(1), &marks(5));
        board.starts(SourceId(0), &marks(3));
        board.starts(SourceId(0), &marks(9));
        let seen = |event_ns, read_ns| Events::from([((SourceId(0), 0), Seen { event_ns, read_ns })]);
        board.saw(Epoch(1), seen(70, 1));
        board.saw(Epoch(1), seen(60, 2));
        let start = board.take(Some(0)).unwrap();
        assert_eq!((start.cut, start.origin), (Cut::new(), Cut::from([(SourceId(0), marks(3))])));
        assert_eq!(board.take(Some(0)), None);
        let first = board.take(Some(1)).unwrap();
        assert_eq!(first.cut, Cut::from([(SourceId(0), marks(10))]));
        assert_eq!(first.seen, Events::new());
        assert_eq!(first.origin, Cut::from([(SourceId(0), marks(3))]));
        assert_eq!(board.take(Some(1)), None);
        let all = board.take(None).unwrap();
        assert_eq!(all.cut, Cut::from([(SourceId(0), marks(20)), (SourceId(1), marks(5))]));
        assert_eq!(all.seen, seen(70, 2));
        // Read again from an earlier cut.
        board.closed(Epoch(7), SourceId(0), &marks(12));
        assert_eq!(board.take(None).unwrap().cut, all.cut);
        let recorded = board.recorded();
        assert_eq!(RecordedCuts::from_text(&recorded.to_text()), Ok(recorded));
        assert!(RecordedCuts::from_text("1 0/0=x").is_err());
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
