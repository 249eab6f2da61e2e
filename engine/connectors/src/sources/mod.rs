//! Sources: one file a kind.

pub mod bytes;
pub mod file;
pub mod generate;
pub mod stdin;

#[cfg(test)]
mod tests;
