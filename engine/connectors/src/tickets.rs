//! Acknowledging tickets in order: rows are done in any order, a ticket counts when all before it count.

use std::collections::VecDeque;

/// The tickets of one writer that are not done yet.
#[derive(Debug, Default)]
pub struct Tickets {
    /// Rows left of each ticket after `up_to`, in order.
    left: VecDeque<usize>,
    up_to: u64,
}

impl Tickets {
    /// Tickets of which all up to this one are done.
    pub fn after(up_to: u64) -> Tickets {
        Tickets { left: VecDeque::new(), up_to }
    }

    /// A writer took rows. Tickets grow by one; the first that is added begins the count.
    pub fn add(&mut self, ticket: u64, rows: usize) {
        if self.left.is_empty() {
            self.up_to = ticket.saturating_sub(1);
        }
        self.left.push_back(rows);
        self.release();
    }

    /// Rows of a ticket are done: taken or failed. True if tickets were released by it.
    pub fn done(&mut self, ticket: u64, rows: usize) -> bool {
        let at = ticket.checked_sub(self.up_to + 1).and_then(|at| usize::try_from(at).ok());
        if let Some(left) = at.and_then(|at| self.left.get_mut(at)) {
            *left = left.saturating_sub(rows);
        }
        self.release()
    }

    fn release(&mut self) -> bool {
        let before = self.up_to;
        while self.left.front() == Some(&0) {
            self.left.pop_front();
            self.up_to += 1;
        }
        self.up_to > before
    }

    /// Every ticket up to this one is done.
    pub fn up_to(&self) -> u64 {
        self.up_to
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_in_order() {
        let mut tickets = Tickets::default();
        tickets.add(1, 2);
        tickets.add(2, 1);
        tickets.add(3, 3);
        assert!(!tickets.done(2, 1));
        assert!(!tickets.done(1, 1));
        assert_eq!(tickets.up_to(), 0);
        assert!(tickets.done(1, 1));
        assert_eq!(tickets.up_to(), 2);
        assert!(tickets.done(3, 3));
        assert_eq!(tickets.up_to(), 3);
        tickets.add(4, 0);
        assert_eq!(tickets.up_to(), 4, "a ticket without rows is done");
        assert!(!tickets.done(9, 1), "an unknown one is nobody's");
    }
}
