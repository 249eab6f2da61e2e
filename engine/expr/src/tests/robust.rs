//! Bad text never panics and never hangs.
