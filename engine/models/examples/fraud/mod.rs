//! Simulated card transactions: no person, card, merchant or bank behind them is real.
//!
//! Everything follows from the seed, through whole numbers and the four basic operations only, so that a seed gives the
//! same bytes on every machine. Ten days are simulated whatever the number of rows; there is a card for every fifty rows.
//!
//! Each card has an amount that is usual for it, spread widely, and a home country. Most rows are ordinary: some small,
//! some several times the usual, some a few minutes after another. Now and then a card is misused, in one of three ways:
//!
//! - *probing*: three to six amounts below three, then one to three of six to twenty times the usual;
//! - *a spree*: six to twelve amounts of one and a half to four times the usual, seconds apart;
//! - *one grab*: one or two amounts of ten to thirty times the usual, out of nowhere.
//!
//! Every row of such a burst is labelled as fraud, the first probe too, which nothing yet tells from an ordinary one.

#![allow(dead_code)] // each program uses a part

pub(crate) mod features;

use crate::random::{Random, exp};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Milliseconds in a day.
const DAY_MS: i64 = 86_400_000;
/// Days that are simulated.
const DAYS: i64 = 10;
/// Rows to a card, over all days.
const ROWS_PER_CARD: u64 = 50;
/// Ordinary rows to a burst.
const ROWS_PER_BURST: u64 = 1300;
/// How late a row may come, milliseconds; one in a hundred is late.
const LATE_MS: u64 = 3000;

/// How busy each hour of the day is (UTC), in hundredths of the mean.
const BUSY: [u64; 24] =
    [25, 18, 14, 12, 14, 25, 50, 85, 110, 125, 135, 150, 165, 150, 135, 135, 145, 170, 185, 170, 140, 105, 75, 45];

const HOMES: [(&str, &str); 6] =
    [("DE", "EUR"), ("FR", "EUR"), ("ES", "EUR"), ("GB", "GBP"), ("US", "USD"), ("CH", "CHF")];

/// One transaction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Transaction {
    /// When it happened, milliseconds after the first day began.
    pub(crate) at_ms: i64,
    /// The card's number.
    pub(crate) card: u64,
    /// In cents; above zero.
    pub(crate) cents: i64,
    /// The merchant's number.
    pub(crate) merchant: u64,
    /// Where.
    pub(crate) country: &'static str,
    /// In which currency.
    pub(crate) currency: &'static str,
    /// Part of a burst.
    pub(crate) fraud: bool,
}

impl Transaction {
    /// The amount.
    pub(crate) fn amount(&self) -> f64 {
        self.cents as f64 / 100.0
    }

    /// The hour of the day, UTC.
    pub(crate) fn hour(&self) -> i64 {
        self.at_ms % DAY_MS / 3_600_000
    }

    /// `2026-01-03T10:20:30.123Z`
    pub(crate) fn at(&self) -> String {
        let (day, ms) = (self.at_ms / DAY_MS, self.at_ms % DAY_MS);
        let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
        format!("2026-01-{:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", day + 1, ms % 1000)
    }
}

/// What a card is like: from its number and the seed alone.
struct Card {
    number: u64,
    usual: f64,
    home: (&'static str, &'static str),
}

/// The transactions of a seed, in the order in which they arrive.
pub(crate) struct Stream {
    random: Random,
    seed: u64,
    cards: u64,
    left: u64,
    mean_gap_ms: u64,
    clock_ms: i64,
    /// By arrival; the number keeps the order of those that arrive at once.
    coming: BinaryHeap<Reverse<(i64, u64, Transaction)>>,
    made: u64,
}

/// `rows` transactions from `seed`.
pub(crate) fn stream(rows: u64, seed: u64) -> Stream {
    Stream {
        random: Random(seed),
        seed,
        cards: (rows / ROWS_PER_CARD).max(20),
        left: rows,
        // Repeats and bursts come on top, so the rows are used up before the days are over.
        mean_gap_ms: ((DAYS * DAY_MS) as u64 / rows.max(1)).max(1),
        clock_ms: 0,
        coming: BinaryHeap::new(),
        made: 0,
    }
}

impl Stream {
    fn card(&mut self) -> Card {
        let number = self.random.range(0, self.cards);
        let mut own = Random(self.seed ^ number.wrapping_mul(0xd134_2543_de82_ef95));
        own.bits();
        Card { number, usual: exp(3.5 + 0.6 * own.normal()), home: HOMES[own.range(0, HOMES.len() as u64) as usize] }
    }

    fn push(&mut self, card: &Card, at_ms: i64, amount: f64, fraud: bool) {
        let abroad = self.random.chance(if fraud { 0.5 } else { 0.06 });
        let country = if abroad { HOMES[self.random.range(0, HOMES.len() as u64) as usize].0 } else { card.home.0 };
        let late = if self.random.chance(0.01) { self.random.range(0, LATE_MS) as i64 } else { 0 };
        let transaction = Transaction {
            at_ms,
            card: card.number,
            cents: ((amount * 100.0) as i64).max(1),
            merchant: self.random.range(0, 2000),
            country,
            currency: card.home.1,
            fraud,
        };
        self.made += 1;
        self.coming.push(Reverse((at_ms + late, self.made, transaction)));
    }

    fn ordinary(&mut self) {
        let card = self.card();
        let mut at_ms = self.clock_ms;
        let times = if self.random.chance(0.04) { self.random.range(2, 5) } else { 1 };
        for _ in 0..times {
            let amount = match self.random.unit() {
                share if share < 0.08 => self.random.between(0.5, 4.0),
                share if share < 0.095 => card.usual * self.random.between(4.0, 9.0),
                _ => card.usual * exp(0.5 * self.random.normal()),
            };
            self.push(&card, at_ms, amount, false);
            at_ms += self.random.range(15_000, 200_000) as i64;
        }
    }

    fn burst(&mut self) {
        let card = self.card();
        let mut at_ms = self.clock_ms;
        match self.random.range(0, 10) {
            0..5 => {
                for _ in 0..self.random.range(3, 7) {
                    let amount = self.random.between(0.5, 3.0);
                    self.push(&card, at_ms, amount, true);
                    at_ms += self.random.range(5_000, 40_000) as i64;
                }
                for _ in 0..self.random.range(1, 4) {
                    let amount = card.usual * self.random.between(6.0, 20.0);
                    self.push(&card, at_ms, amount, true);
                    at_ms += self.random.range(10_000, 60_000) as i64;
                }
            }
            5..8 => {
                for _ in 0..self.random.range(6, 13) {
                    let amount = card.usual * self.random.between(1.5, 4.0);
                    self.push(&card, at_ms, amount, true);
                    at_ms += self.random.range(4_000, 20_000) as i64;
                }
            }
            _ => {
                for _ in 0..self.random.range(1, 3) {
                    let amount = card.usual * self.random.between(10.0, 30.0);
                    self.push(&card, at_ms, amount, true);
                    at_ms += self.random.range(20_000, 90_000) as i64;
                }
            }
        }
    }

    /// Moves the clock to the next ordinary row and makes what starts there.
    fn advance(&mut self) {
        let busy = BUSY[(self.clock_ms % DAY_MS / 3_600_000) as usize];
        let gap = self.random.range(0, 2 * self.mean_gap_ms * 100 / busy + 1);
        self.clock_ms = (self.clock_ms + gap as i64).min(DAYS * DAY_MS);
        if self.random.range(0, ROWS_PER_BURST) == 0 {
            self.burst();
        }
        self.ordinary();
    }
}

impl Iterator for Stream {
    type Item = Transaction;

    fn next(&mut self) -> Option<Transaction> {
        self.left = self.left.checked_sub(1)?;
        // Nothing that is still to be made arrives before the clock.
        while self.coming.peek().is_none_or(|Reverse((arrives, _, _))| *arrives >= self.clock_ms) {
            self.advance();
        }
        self.coming.pop().map(|Reverse((_, _, transaction))| transaction)
    }
}
