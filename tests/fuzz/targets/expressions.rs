//! Fuzz target: any text as an expression, a condition and an aggregate, planned against columns of every type, and
//! evaluated where it can be.
//!
//! A panic that the engine catches on purpose, in a kernel of a library, is a row's error and no finding: libFuzzer's panic
//! hook, which ends the process, stands behind that of `quiet_panics` and is not reached while a panic is being caught.

#![no_main]

#[path = "../../../engine/expr/src/tests/samples.rs"]
mod samples;
#[path = "../../../engine/expr/src/tests/survive.rs"]
mod survive;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| survive::survive(text));
