//! Dead letters: a durable queue of rows that failed, which is a sink and a source.
//!
//! ```text
//! NAME.errors ─▶ sink ─▶ waiting ──replay──▶ has a turn ─▶ source ─▶ read ──committed──▶ done ──released──▶ gone
//!                           │                                 ▲                            (not shown)
//!                           └──drop──▶ gone                   └── a restart reads it again ──┘
//! ```
//!
//! A queue is one file of SQLite ([`queue`]): transactions hold the engine and the command line apart, and the room of letters that
//! are gone is used again. A letter waits until a person orders it to be replayed. It then gets the next *turn*, a number that is
//! counted in the file, without gaps, and never given twice. The turn is the record's offset in the source's only partition.
//!
//! # Why no letter is lost, and none acts twice
//!
//! What removes a letter is the source's mark in the journal of the engine that reads it. The file only follows.
//!
//! 1. A turn is the same letter from the moment the transaction that gives it is durable until the letter is released. It can't be
//!    dropped, its row is never changed, and the source sees it only when that transaction is on the disk (`synchronous = full`).
//! 2. Before the epoch that read a letter is committed, a crash leaves a mark at or before its turn, and the row is there: the
//!    restart reads it. What it had become was not committed, so it had acted nowhere exactly once.
//! 3. With the commit of the epoch, in one record of the journal, stand the mark behind the turn and the staged output that the
//!    letter became: a row for a sink, or an error row on its way to a sink of dead letters. So the letter is removed and put in
//!    again together, or neither.
//! 4. Between that commit and the moment the file hears of it, a crash leaves the letter in the file as one that is being replayed. The
//!    restart goes on behind its turn by the journal, or reads it once more to get its state back and drops what comes of it,
//!    as it does with any input.
//! 5. `committed` makes letters *done*: they are not shown any more, and an engine without this state begins behind them. It is told
//!    after every sink has acknowledged what came of them, and that is durable. The rows stay, since a restart may begin with
//!    an older checkpoint and read them again.
//! 6. `released` removes the rows. It is told once no checkpoint or savepoint that is kept has a mark before them, after the manifest
//!    that made it so was published. A crash in between leaves rows behind, which the next start is told of again.
//! 7. A start with a mark before what was removed, behind what was ever given a turn, or of another file, is refused: the state and
//!    the file are not of one time.
//!
//! Without a state directory a letter is done and released when every sink has acknowledged it: at least once.
//!
//! Two engines can't read one file: the source holds a lock beside it.

pub mod queue;
pub(crate) mod sink;
pub(crate) mod source;

#[cfg(test)]
mod tests;
