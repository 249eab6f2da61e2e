//! What a row gives never depends on the rows beside it: random expressions over random batches, cut at random places.
