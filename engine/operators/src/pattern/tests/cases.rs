//! What is wrong with a pattern, and what comes of those of the handbook.
