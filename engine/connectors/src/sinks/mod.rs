//! Sinks: one file a kind.

pub mod blackhole;
pub mod bytes;
pub mod file;
pub mod stdout;

#[cfg(test)]
mod tests;
