//! `torture`: the test that kills the engine, as long as one likes.

use super::test;
use std::path::Path;
use xtask::Result;

/// `--seed S` (1), `--kills N` (300), `--services`: with those of the test's own, which are killed too.
pub(crate) fn run(repository: &Path, arguments: &[String]) -> Result<()> {
    let (mut seed, mut kills, mut services) = (1u64, 300u64, false);
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut number = || -> Result<u64> {
            let text = rest.next().ok_or_else(|| format!("{argument} wants a number"))?;
            text.parse().map_err(|_| format!("{argument} wants a number, not {text}").into())
        };
        match argument.as_str() {
            "--seed" => seed = number()?,
            "--kills" => kills = number()?,
            "--services" => services = true,
            other => return Err(format!("torture knows no option {other}").into()),
        }
    }
    println!("torture: seed {seed}, {kills} kills");
    let mut environment = vec![("TORTURE_SEED", seed.to_string()), ("TORTURE_KILLS", kills.to_string())];
    if services {
        environment.push(("TORTURE_SERVICES", "restart".to_owned()));
    }
    let filter = ["killed_at_random_moments_it_delivers_exactly_once".to_owned()];
    test::run_with(repository, &filter, &environment)
}
