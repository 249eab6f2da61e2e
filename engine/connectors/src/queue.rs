//! The bounded queue between a connector thread and a worker (architecture, decision 12).
//!
//! The bound is in bytes, as the one who puts an item in states them. An item larger than the bound is let into an empty
//! queue, so that nothing can get stuck; what a queue holds is thus at most its bound and one item.
//!
//! One side is a worker, which never blocks ([`Sender::try_push`], [`Receiver::try_pop`]) and is woken; the other a thread
//! of the connector, which blocks ([`Sender::push`], [`Receiver::pop`]). Each side notices when the other is gone.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What is called on the two events that a worker waits for. Both run outside the queue's lock.
pub struct Events {
    /// An item came into an empty queue, or the last sender is gone.
    pub filled: Box<dyn Fn() + Send + Sync>,
    /// There is room again after a `try_push` was refused, or the receiver is gone.
    pub room: Box<dyn Fn() + Send + Sync>,
}

impl Default for Events {
    fn default() -> Self {
        Events { filled: Box::new(|| ()), room: Box::new(|| ()) }
    }
}

/// The end that puts items in. Clones share the queue; the receiver sees the end when the last is gone.
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

/// The end that takes items out.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
}

/// The answer of a receiver.
#[derive(Debug, PartialEq, Eq)]
pub enum Popped<T> {
    /// The oldest item.
    Item(T),
    /// None now.
    Empty,
    /// None, and the last sender is gone.
    Closed,
}

/// A queue that holds about `bytes_max` bytes.
pub fn bounded<T>(bytes_max: usize, events: Events) -> (Sender<T>, Receiver<T>) {
    let state =
        State { items: VecDeque::new(), bytes: 0, senders: 1, receiver: true, refused: false, pushing: 0, popping: 0 };
    let shared = Arc::new(Shared {
        state: Mutex::new(state),
        not_empty: Condvar::new(),
        not_full: Condvar::new(),
        bytes_max,
        events,
    });
    (Sender { shared: shared.clone() }, Receiver { shared })
}

struct Shared<T> {
    state: Mutex<State<T>>,
    not_empty: Condvar,
    not_full: Condvar,
    bytes_max: usize,
    events: Events,
}

struct State<T> {
    items: VecDeque<(T, usize)>,
    bytes: usize,
    senders: usize,
    receiver: bool,
    /// A `try_push` was refused since the last call of `room`.
    refused: bool,
    /// Threads that wait in `push`. A wake-up costs a system call, so nobody is woken who does not wait.
    pushing: usize,
    /// Threads that wait in `pop`.
    popping: usize,
}

impl<T> State<T> {
    fn admits(&self, bytes: usize, bytes_max: usize) -> bool {
        self.items.is_empty() || self.bytes.saturating_add(bytes) <= bytes_max
    }
}

impl<T> Shared<T> {
    /// The state is whole after every critical section, so a panic elsewhere in a thread that held the lock does no harm.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, mut state: MutexGuard<'_, State<T>>, item: T, bytes: usize) {
        let was_empty = state.items.is_empty();
        state.bytes = state.bytes.saturating_add(bytes);
        state.items.push_back((item, bytes));
        let popping = state.popping > 0;
        drop(state);
        if popping {
            self.not_empty.notify_one();
        }
        if was_empty {
            (self.events.filled)();
        }
    }

    fn take(&self, mut state: MutexGuard<'_, State<T>>) -> Option<T> {
        let (item, bytes) = state.items.pop_front()?;
        state.bytes -= bytes;
        let refused = std::mem::take(&mut state.refused);
        let pushing = state.pushing > 0;
        drop(state);
        if pushing {
            self.not_full.notify_all();
        }
        if refused {
            (self.events.room)();
        }
        Some(item)
    }
}

impl<T> Sender<T> {
    /// Puts an item in, waiting for room. Gives it back when the receiver is gone.
    pub fn push(&self, item: T, bytes: usize) -> Result<(), T> {
        let mut state = self.shared.lock();
        while state.receiver && !state.admits(bytes, self.shared.bytes_max) {
            state.pushing += 1;
            state = self.shared.not_full.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.pushing -= 1;
        }
        if !state.receiver {
            return Err(item);
        }
        self.shared.put(state, item, bytes);
        Ok(())
    }

    /// Puts an item in if there is room; `room` is called when there is some again. Gives the item back otherwise.
    pub fn try_push(&self, item: T, bytes: usize) -> Result<(), T> {
        let mut state = self.shared.lock();
        if !state.receiver || !state.admits(bytes, self.shared.bytes_max) {
            state.refused = true;
            return Err(item);
        }
        self.shared.put(state, item, bytes);
        Ok(())
    }

    /// Puts an item in whatever the bound says: for one that a `has_room` came before. False when the receiver is gone.
    pub fn force_push(&self, item: T, bytes: usize) -> bool {
        let state = self.shared.lock();
        let open = state.receiver;
        if open {
            self.shared.put(state, item, bytes);
        }
        open
    }

    /// Whether something may be put in; if not, `room` is called when it may.
    pub fn has_room(&self) -> bool {
        let mut state = self.shared.lock();
        let room = state.receiver && (state.items.is_empty() || state.bytes < self.shared.bytes_max);
        state.refused |= !room;
        room
    }

    /// Whether the receiver is gone.
    pub fn is_closed(&self) -> bool {
        !self.shared.lock().receiver
    }

    /// Sleeps for `time`, less if the receiver goes away: true if it has.
    pub fn sleep(&self, time: Duration) -> bool {
        let state = self.shared.lock();
        let waited = self.shared.not_full.wait_timeout_while(state, time, |state| state.receiver);
        !waited.unwrap_or_else(PoisonError::into_inner).0.receiver
    }

    /// How many items wait, and their bytes.
    pub fn level(&self) -> (usize, usize) {
        let state = self.shared.lock();
        (state.items.len(), state.bytes)
    }
}

impl<T> Receiver<T> {
    /// The oldest item, without waiting.
    pub fn try_pop(&self) -> Popped<T> {
        let state = self.shared.lock();
        let closed = state.senders == 0;
        match self.shared.take(state) {
            Some(item) => Popped::Item(item),
            None if closed => Popped::Closed,
            None => Popped::Empty,
        }
    }

    /// The oldest item, waiting for one; `None` when the last sender is gone.
    pub fn pop(&self) -> Option<T> {
        let mut state = self.shared.lock();
        while state.items.is_empty() && state.senders > 0 {
            state.popping += 1;
            state = self.shared.not_empty.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.popping -= 1;
        }
        self.shared.take(state)
    }

    /// The oldest item, waiting for one up to `time`.
    pub fn pop_within(&self, time: Duration) -> Popped<T> {
        let mut state = self.shared.lock();
        state.popping += 1;
        let waiting = |state: &mut State<T>| state.items.is_empty() && state.senders > 0;
        let waited = self.shared.not_empty.wait_timeout_while(state, time, waiting);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.popping -= 1;
        let closed = state.senders == 0;
        match self.shared.take(state) {
            Some(item) => Popped::Item(item),
            None if closed => Popped::Closed,
            None => Popped::Empty,
        }
    }

    /// How many items wait, and their bytes.
    pub fn level(&self) -> (usize, usize) {
        let state = self.shared.lock();
        (state.items.len(), state.bytes)
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.shared.lock().senders += 1;
        Sender { shared: self.shared.clone() }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.senders -= 1;
        let last = state.senders == 0;
        drop(state);
        if last {
            self.shared.not_empty.notify_all();
            (self.shared.events.filled)();
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.receiver = false;
        // Items may hold a lot, and clones of the sender may live on.
        let items = std::mem::take(&mut state.items);
        state.bytes = 0;
        drop(state);
        drop(items);
        self.shared.not_full.notify_all();
        (self.shared.events.room)();
    }
}

impl<T> std::fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sender")
    }
}

impl<T> std::fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Receiver")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn holds_its_bound_and_one_item() {
        let (sender, receiver) = bounded(10, Events::default());
        assert_eq!(sender.try_push("large", 100), Ok(()));
        assert_eq!(sender.try_push("more", 1), Err("more"));
        assert!(!sender.has_room());
        assert_eq!(receiver.try_pop(), Popped::Item("large"));
        assert_eq!(receiver.try_pop(), Popped::Empty);
        assert_eq!(sender.try_push("a", 6), Ok(()));
        assert_eq!(sender.try_push("b", 6), Err("b"));
        assert_eq!(sender.try_push("c", 4), Ok(()));
        assert_eq!(sender.level(), (2, 10));
    }

    #[test]
    fn tells_when_there_is_something_and_when_there_is_room() {
        let (filled, room) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let count = |counter: &Arc<AtomicUsize>| {
            let counter = counter.clone();
            Box::new(move || {
                counter.fetch_add(1, Ordering::SeqCst);
            }) as Box<dyn Fn() + Send + Sync>
        };
        let (sender, receiver) = bounded(10, Events { filled: count(&filled), room: count(&room) });
        let seen = || (filled.load(Ordering::SeqCst), room.load(Ordering::SeqCst));
        sender.try_push(1, 5).unwrap();
        sender.try_push(2, 5).unwrap();
        assert_eq!(seen(), (1, 0), "only the first came into an empty queue");
        sender.try_push(3, 5).unwrap_err();
        assert_eq!(receiver.try_pop(), Popped::Item(1));
        assert_eq!(receiver.try_pop(), Popped::Item(2));
        assert_eq!(seen(), (1, 1), "room is told once for a refusal");
        drop(sender);
        assert_eq!(seen(), (2, 1), "the end is told");
        assert_eq!(receiver.try_pop(), Popped::Closed);
    }

    #[test]
    fn each_side_notices_when_the_other_is_gone() {
        let (sender, receiver) = bounded(1, Events::default());
        let other = sender.clone();
        let blocked = std::thread::spawn(move || {
            other.push(1, 1).unwrap();
            other.push(2, 1)
        });
        let slept = std::thread::spawn(move || sender.sleep(Duration::from_secs(60)));
        assert_eq!(receiver.pop(), Some(1));
        assert_eq!(receiver.pop(), Some(2));
        assert_eq!(blocked.join().unwrap(), Ok(()));
        drop(receiver);
        assert!(slept.join().unwrap());

        let (sender, receiver) = bounded(1, Events::default());
        let waits = std::thread::spawn(move || receiver.pop());
        drop(sender);
        assert_eq!(waits.join().unwrap(), None::<i32>);
    }

    #[test]
    fn everything_comes_out_in_order_and_the_bound_holds() {
        let (sender, receiver) = bounded(64, Events::default());
        let producer = std::thread::spawn(move || {
            for n in 0..10_000_usize {
                sender.push(n, n % 7).unwrap();
            }
        });
        for n in 0..10_000 {
            assert!(receiver.level().1 <= 64);
            assert_eq!(receiver.pop(), Some(n));
        }
        assert_eq!(receiver.pop(), None);
        producer.join().unwrap();
    }
}
