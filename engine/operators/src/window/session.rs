//! Sessions of a key: rows less than a gap apart, however they come.

use super::pane::Session;

/// Where a row that is a session of its own, from `start` to `end`, goes among sessions in order: those that it touches,
/// which become one with it.
pub(super) fn touched(sessions: &[Session], start: i64, end: i64) -> std::ops::Range<usize> {
    let first = sessions.partition_point(|session| session.end <= start);
    let last = first + sessions[first..].iter().take_while(|session| session.start < end).count();
    first..last
}

#[cfg(test)]
mod tests {
    use super::super::pane::Pane;
    use super::*;

    #[test]
    fn a_row_joins_the_sessions_that_it_touches() {
        let session = |start, end| Session { start, end, pane: Pane::default() };
        let sessions = [session(0, 10), session(20, 30), session(35, 45)];
        assert_eq!(touched(&sessions, 5, 15), 0..1);
        assert_eq!(touched(&sessions, 10, 20), 1..1);
        assert_eq!(touched(&sessions, 27, 37), 1..3);
        assert_eq!(touched(&sessions, -20, -10), 0..0);
        assert_eq!(touched(&sessions, 45, 55), 3..3);
        assert_eq!(touched(&sessions, 9, 36), 0..3);
    }
}
