//! Aggregates as mergeable states of a few words: what the nodes of a rolling tree and the slices of a window hold.
//!
//! Every merge is `earlier ⊕ later` and an empty state is neutral to the bit, so that a result depends only on the rows and
//! the shape of the tree. Nothing is ever subtracted: an infinity leaves with its row.

/// A kind of state, where its words stand in a node, and how a row's own state follows from what is kept of the row.
///
/// ```text
/// row    mask, a bit for each state: the row counts there │ the values of the arguments, each once
/// node   the words of each state
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CallState {
    pub(crate) kind: StateKind,
    /// Its first word in a node.
    pub(crate) at: usize,
    /// Its number, and so its bit.
    pub(crate) index: usize,
    /// Its argument's place in a row; a count of rows has none.
    pub(crate) value: Option<usize>,
}

impl CallState {
    /// How many words of a row are the mask.
    pub(crate) fn mask_words(states: usize) -> usize {
        states.div_ceil(64)
    }

    /// Notes that a row counts in this state.
    pub(crate) fn set(&self, row: &mut [u64]) {
        row[self.index / 64] |= 1 << (self.index % 64);
    }

    /// Its words in a node.
    pub(crate) fn words(&self) -> std::ops::Range<usize> {
        self.at..self.at + self.kind.words()
    }

    /// Writes the state of one row into a node's words.
    #[inline]
    pub(crate) fn load(&self, row: &[u64], node: &mut [u64]) {
        let words = &mut node[self.words()];
        words.fill(0);
        if row[self.index / 64] & (1 << (self.index % 64)) == 0 {
            return;
        }
        words[0] = 1;
        match (self.kind, self.value) {
            (StateKind::SumInt, Some(at)) => self.kind.put_int(words, row[at] as i64),
            (_, Some(at)) if words.len() > 1 => words[1] = row[at],
            _ => {}
        }
    }
}

/// The states that merge in a few words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StateKind {
    /// Rows, or values that are not null: `n`.
    Count,
    /// A sum of integers that can't overflow on its way: `n, low, high` of an `i128`.
    SumInt,
    /// A sum of floats, for `sum` and `avg`: `n, sum`.
    SumFloat,
    /// Count, mean and sum of squared differences, merged by Chan, Golub and LeVeque (1983): `n, mean, m2`.
    Moments,
    /// The least integer: `n, value`.
    MinInt,
    /// The greatest integer: `n, value`.
    MaxInt,
    /// The least float in IEEE total order, as Arrow compares: `n, value`.
    MinFloat,
    /// The greatest float in IEEE total order: `n, value`.
    MaxFloat,
}

fn float(word: u64) -> f64 {
    f64::from_bits(word)
}

fn wide(low: u64, high: u64) -> i128 {
    (u128::from(low) | u128::from(high) << 64) as i128
}

impl StateKind {
    /// Whether its argument is a float.
    pub(crate) fn of_floats(self) -> bool {
        matches!(self, StateKind::SumFloat | StateKind::Moments | StateKind::MinFloat | StateKind::MaxFloat)
    }

    /// How many words it takes.
    pub(crate) fn words(self) -> usize {
        match self {
            StateKind::Count => 1,
            StateKind::SumInt | StateKind::Moments => 3,
            _ => 2,
        }
    }

    /// Writes the state of one integer.
    pub(crate) fn put_int(self, words: &mut [u64], value: i64) {
        words[0] = 1;
        match self {
            StateKind::SumInt => {
                words[1] = i128::from(value) as u64;
                words[2] = (i128::from(value) >> 64) as u64;
            }
            StateKind::MinInt | StateKind::MaxInt => words[1] = value as u64,
            _ => {}
        }
    }

    /// `a = a ⊕ b`, where all rows of `a` came before those of `b`.
    #[inline]
    pub(crate) fn merge(self, a: &mut [u64], b: &[u64]) {
        if b[0] == 0 {
            return;
        }
        if a[0] == 0 {
            a.copy_from_slice(b);
            return;
        }
        match self {
            StateKind::Count => {}
            StateKind::SumInt => {
                let sum = wide(a[1], a[2]).wrapping_add(wide(b[1], b[2])) as u128;
                a[1] = sum as u64;
                a[2] = (sum >> 64) as u64;
            }
            StateKind::SumFloat => a[1] = (float(a[1]) + float(b[1])).to_bits(),
            StateKind::Moments => {
                let (na, nb) = (a[0] as f64, b[0] as f64);
                let n = na + nb;
                let delta = float(b[1]) - float(a[1]);
                a[1] = (float(a[1]) + delta * (nb / n)).to_bits();
                a[2] = (float(a[2]) + float(b[2]) + delta * delta * (na * nb / n)).to_bits();
            }
            StateKind::MinInt => a[1] = (a[1] as i64).min(b[1] as i64) as u64,
            StateKind::MaxInt => a[1] = (a[1] as i64).max(b[1] as i64) as u64,
            StateKind::MinFloat => {
                if float(b[1]).total_cmp(&float(a[1])).is_lt() {
                    a[1] = b[1];
                }
            }
            StateKind::MaxFloat => {
                if float(b[1]).total_cmp(&float(a[1])).is_gt() {
                    a[1] = b[1];
                }
            }
        }
        a[0] += b[0];
    }

    /// Whether rows can be taken back from it exactly.
    pub(crate) fn can_subtract(self) -> bool {
        matches!(self, StateKind::Count | StateKind::SumInt)
    }

    /// `a = a ⊖ b`, where [`StateKind::can_subtract`].
    pub(crate) fn unmerge(self, a: &mut [u64], b: &[u64]) {
        if self == StateKind::SumInt {
            let sum = wide(a[1], a[2]).wrapping_sub(wide(b[1], b[2])) as u128;
            a[1] = sum as u64;
            a[2] = (sum >> 64) as u64;
        }
        a[0] = a[0].wrapping_sub(b[0]);
    }

    /// The number of rows or values behind a state.
    pub(crate) fn count(words: &[u64]) -> u64 {
        words[0]
    }

    /// The integer that a state stands for; `Err` where a sum does not fit.
    pub(crate) fn int(self, words: &[u64]) -> Result<i64, std::num::TryFromIntError> {
        match self {
            StateKind::SumInt => i64::try_from(wide(words[1], words[2])),
            _ => Ok(words[1] as i64),
        }
    }

    /// The float in the second word: a sum, a least or greatest value, a mean.
    pub(crate) fn float(words: &[u64]) -> f64 {
        float(words[1])
    }

    /// The sum of squared differences of moments: not a number where a value is infinite, since infinity less infinity is none.
    pub(crate) fn squares(words: &[u64]) -> f64 {
        if float(words[1]).is_finite() { float(words[2]) } else { f64::NAN }
    }
}
