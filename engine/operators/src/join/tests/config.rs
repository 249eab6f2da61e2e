//! What is said of a `join` that is wrong, and which columns come out of one that is right.
