//! Joins of hot keys, and what they put out when only some of it is read.
