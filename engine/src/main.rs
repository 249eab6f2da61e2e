//! The command line of the engine. What a command does is in [`commands`], what it takes in [`cli`].

mod cli;
mod commands;
mod files;
mod load;
mod process;
mod runtime;
mod testing;

use clap::Parser;
use std::process::ExitCode;

/// Large temporaries (tensors, batches) come back without page faults.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match cli::Cli::parse().command {
        cli::Command::DryRun(arguments) => commands::dry_run::run(&arguments),
        cli::Command::Graph(arguments) => commands::graph::run(&arguments),
        cli::Command::Schema => commands::schema::run(),
        cli::Command::Test(arguments) => commands::test::run(&arguments),
        cli::Command::Plan(arguments) => commands::plan::run(&arguments),
        cli::Command::Stop(arguments) => commands::stop::run(&arguments),
        cli::Command::State(arguments) => commands::state::run(&arguments),
        cli::Command::DeadLetters(arguments) => commands::dead_letters::run(&arguments),
        cli::Command::Explain(arguments) => commands::explain::run(&arguments),
        cli::Command::Run(arguments) => return commands::run::run(arguments),
    }
    .into()
}
