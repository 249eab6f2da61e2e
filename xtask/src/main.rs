//! The repository's tasks: set-up, tests, checks, generated files, services and benchmarks.
//!
//! `cargo xtask COMMAND`; one file a command. It builds in seconds, so that it can do the rest of the set-up itself.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool talks to a person")]

mod commands;

use std::env;
use std::process::ExitCode;
use std::str::FromStr;
use xtask::services::detached::{self, Service};
use xtask::{Result, layout};

const HELP: &str = "\
cargo xtask COMMAND

  setup                     check and install what builds and tests need
  demo [ARGUMENT...]        build the engine and run pipelines/fraud.yaml on embedded defaults
  test [FILTER...]          set up, start services, run every test; `-p PACKAGE` narrows it,
                            `--no-services` leaves Kafka and PostgreSQL out, what follows `--` goes to the tests
  ci                        format, rules, lints, tests, generated files, as .ci/run does
  tidy                      the rules of the repository alone
  codegen [--check]         write the generated files, or fail if they are not up to date
  services start|stop|status [kafka|kafka-secure|postgres|prometheus] [--target HOST:PORT]
  services topic NAME [PARTITIONS]
                            create a topic on the broker that was started
  bench [NAME...]           compare with hand-written programs, measure latency and cost; `--list`,
                            `--json`, `--runs N`, `--rows N`, `--seconds N`, `--rate N`,
                            `--queries q5,q7`, `--dist` (the engine as it is shipped), `--engine PATH`
  fuzz [TARGET...]          fuzz what takes texts and bytes from outside, ten minutes each; `--minutes N`,
                            `--input FILE` (one target on one input)
  torture [--seed S] [--kills N] [--services]
                            kill a pipeline with all sorts of state and four sinks again and again, and compare what comes
                            out with plain loops; with --services the broker and the database are killed too
  nab [--data DIR]          anomalies in two series of a benchmark that is not part of the repository; NAB_DATA says
                            where it is too, and without it nothing is done
  help                      this text

The build folder and downloads are in the user's cache; CARGO_TARGET_DIR moves the build folder.
";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match dispatch(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(arguments: &[String]) -> Result<()> {
    let (command, rest) = match arguments.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("help", arguments),
    };
    let repository = layout::repository()?;
    env::set_current_dir(&repository)?;
    match command {
        "setup" => commands::setup::run(&repository),
        "demo" => commands::demo::run(rest),
        "test" => commands::test::run(&repository, rest),
        "ci" => commands::ci::run(&repository),
        "tidy" => commands::tidy::run(&repository),
        "codegen" => commands::codegen::run(&repository, rest),
        "services" => services(rest),
        "bench" => commands::bench::run(&repository, rest),
        "fuzz" => commands::fuzz::run(&repository, rest),
        "torture" => commands::torture::run(&repository, rest),
        "nab" => commands::nab::run(&repository, rest),
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            Ok(())
        }
        _ => Err(format!("no command is called {command}\n\n{HELP}").into()),
    }
}

fn services(arguments: &[String]) -> Result<()> {
    let (arguments, target) = match arguments.iter().position(|argument| argument == "--target") {
        Some(at) => (&arguments[..at], arguments.get(at + 1).ok_or("--target wants HOST:PORT")?.as_str()),
        None => (arguments, "127.0.0.1:9100"),
    };
    let (verb, names) = arguments.split_first().ok_or("services wants start, stop, status or topic")?;
    if verb == "topic" {
        let name = names.first().ok_or("services topic wants a name")?;
        let partitions = names.get(1).map_or(Ok(1), |count| count.parse())?;
        return detached::create_topic(name, partitions);
    }
    let named: Vec<Service> = names.iter().map(|name| Service::from_str(name)).collect::<Result<_>>()?;
    match verb.as_str() {
        "start" => {
            for service in if named.is_empty() { vec![Service::Kafka] } else { named } {
                print!("{}", detached::start(service, target)?.environment);
            }
        }
        "stop" => {
            for service in if named.is_empty() { Service::ALL.to_vec() } else { named } {
                let ran = detached::stop(service)?;
                println!("{}: {}", service.name(), if ran { "stopped" } else { "did not run" });
            }
        }
        "status" => {
            for service in if named.is_empty() { Service::ALL.to_vec() } else { named } {
                match detached::status(service) {
                    Some(running) => {
                        println!("{}: runs, process {}", service.name(), running.pid);
                        print!("{}", running.environment);
                    }
                    None => println!("{}: does not run", service.name()),
                }
            }
        }
        _ => return Err(format!("services wants start, stop, status or topic, not {verb}").into()),
    }
    Ok(())
}
