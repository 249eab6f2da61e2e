//! Fuzz target: any bytes as a pipeline file, through loading and decoding, with every diagnostic rendered.

#![no_main]

#[path = "../../../engine/spec/tests/survive/mod.rs"]
mod survive;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| survive::survive(bytes));
