//! What the commands take. A mistake here is a usage error: exit 2.

use crate::commands;
use chrono::{DateTime, SecondsFormat};
use clap::{Args, Parser, Subcommand, ValueEnum};
use engine_base::SystemClock;
use engine_base::diagnostic::render::Format;
use engine_base::units::parse_duration;
use engine_spec::LoadOptions;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

/// A streaming dataflow engine for AI: one YAML file is one pipeline.
#[derive(Debug, Parser)]
#[command(name = "engine", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// One variant a command.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a pipeline until its input ends or it is told to stop
    ///
    /// Exit codes: 0 (done, or stopped by a signal with everything acknowledged), 1 (problems, or a fault), 2 (usage),
    /// 70 (a fault of the engine).
    Run(commands::run::RunArgs),
    /// Check pipelines without running them, and print their plans
    ///
    /// Everything that can be known without running: names, types, shapes, units, secrets, models against their weights.
    /// No network, no side effect. All problems are reported at once.
    ///
    /// Exit codes: 0 (no problem), 1 (problems), 2 (usage).
    DryRun(DryRun),
    /// Run the tests in pipeline files, on a virtual clock
    ///
    /// Exit codes: 0 (all passed), 1 (problems, or a test failed), 2 (usage).
    Test(commands::test::TestArgs),
    /// Draw the dataflow of a pipeline
    Graph(Graph),
    /// Print the JSON Schema of the pipeline language, for editors
    Schema,
    /// Compare a pipeline with the state of its last run
    ///
    /// Says for each step with state whether it goes on with it: keep, migrate, new or reject.
    ///
    /// Exit codes: 0 (it can go on), 1 (problems, or `engine run` would refuse), 2 (usage).
    Plan(PlanArgs),
    /// Stop the engine that runs on a state directory, and keep its state by name
    ///
    /// It is stopped as by a signal: what was read is finished and delivered, and a checkpoint holds all of it.
    ///
    /// Exit codes: 0 (it has ended, and there is the savepoint that was asked for), 1 (it has not, or there is none), 2 (usage).
    Stop(commands::stop::StopArgs),
    /// What a state directory holds: checkpoints, savepoints, the journal, and whether all are sound
    State(State),
    /// What a queue of dead letters holds; puts letters back into their pipeline, or drops them
    ///
    /// It works on the file that a sink of type `dead_letters` names, while an engine runs too.
    ///
    /// Exit codes: 0 (done), 1 (no such queue or letter, or some could not be taken), 2 (usage).
    DeadLetters(DeadLetters),
    /// Explain an error code in full
    Explain(Explain),
}

/// How a pipeline file is read: the same for all commands.
#[derive(Args, Debug)]
pub(crate) struct PipelineArgs {
    /// Take the keys of this profile of the file
    #[arg(long, value_name = "NAME")]
    pub(crate) profile: Option<String>,
    /// Set a key of the file: a path of keys with dots, and YAML text
    #[arg(long, value_name = "PATH=VALUE", value_parser = assignment)]
    pub(crate) set: Vec<(String, String)>,
    /// Give a parameter of the file a value
    #[arg(long, value_name = "NAME=VALUE", value_parser = assignment)]
    pub(crate) param: Vec<(String, String)>,
}

impl PipelineArgs {
    /// For `engine_spec::load`. Only a run can't do without a secret or a variable.
    pub(crate) fn options(&self, secrets_required: bool) -> LoadOptions {
        LoadOptions {
            profile: self.profile.clone(),
            set: self.set.clone(),
            params: self.param.clone(),
            secrets_required,
        }
    }
}

/// `engine dry-run`.
#[derive(Args, Debug)]
pub(crate) struct DryRun {
    /// Pipeline files
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// How problems are written: `human` to stderr with the plan on stdout, the others to stdout
    #[arg(long, value_enum, default_value_t = ReportFormat::Human)]
    pub(crate) format: ReportFormat,
    #[command(flatten)]
    pub(crate) pipeline: PipelineArgs,
}

/// How problems are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReportFormat {
    /// For people: the line, a caret, the remedy
    Human,
    /// One JSON document
    Json,
    /// SARIF 2.1.0, for code scanners and editors
    Sarif,
    /// Annotations of GitHub workflows
    Github,
}

impl ReportFormat {
    /// The renderer's name for it; people get colours on a terminal.
    pub(crate) fn format(self) -> Format {
        match self {
            ReportFormat::Human => human(),
            ReportFormat::Json => Format::Json,
            ReportFormat::Sarif => Format::Sarif,
            ReportFormat::Github => Format::Github,
        }
    }
}

/// For people on stderr: with colours where it is a terminal and `NO_COLOR` is not set.
pub(crate) fn human() -> Format {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    Format::Human { color: !no_color && std::io::stderr().is_terminal() }
}

/// `engine graph`.
#[derive(Args, Debug)]
pub(crate) struct Graph {
    /// The pipeline file
    pub(crate) file: PathBuf,
    /// How it is drawn
    #[arg(long, value_enum, default_value_t = Drawing::Text)]
    pub(crate) format: Drawing,
    #[command(flatten)]
    pub(crate) pipeline: PipelineArgs,
}

/// How a dataflow is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Drawing {
    /// A tree for a terminal
    Text,
    /// A flowchart for Mermaid
    Mermaid,
}

/// `engine plan`.
#[derive(Args, Debug)]
pub(crate) struct PlanArgs {
    /// The pipeline file
    pub(crate) file: PathBuf,
    /// The state directory of the pipeline
    #[arg(long, value_name = "DIR")]
    pub(crate) state: PathBuf,
    #[command(flatten)]
    pub(crate) pipeline: PipelineArgs,
}

/// `engine state`.
#[derive(Args, Debug)]
pub(crate) struct State {
    #[command(subcommand)]
    pub(crate) command: StateCommand,
}

/// What is done with a state directory.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum StateCommand {
    /// The checkpoints and savepoints that are kept, and the journal behind them; an engine may run on it meanwhile
    List {
        /// The state directory
        dir: PathBuf,
    },
    /// What a checkpoint holds: places of the input, what steps keep, batches of sinks; an engine may run on it meanwhile
    Inspect {
        /// The state directory
        dir: PathBuf,
        /// The number of the checkpoint; the newest unless said
        checkpoint: Option<u64>,
    },
    /// Reads all checkpoints and the journal, and compares them with their checksums; no engine may run on it
    ///
    /// Exit codes: 0 (as written), 1 (something is damaged), 2 (usage).
    Verify {
        /// The state directory
        dir: PathBuf,
    },
    /// Goes back to a savepoint: the next run begins where that stands; no engine may run on it
    ///
    /// What came after it is let go, in the state. What systems were given they keep, so sinks that deliver exactly once are
    /// told to go on with `engine run --reset-sink`. Later savepoints must be released before.
    Restore {
        /// The state directory
        dir: PathBuf,
        /// The name of the savepoint
        #[arg(value_parser = commands::stop::savepoint_name)]
        savepoint: String,
    },
    /// Lets a savepoint go; no engine may run on it
    Release {
        /// The state directory
        dir: PathBuf,
        /// The name of the savepoint
        #[arg(value_parser = commands::stop::savepoint_name)]
        savepoint: String,
    },
}

/// `engine dead-letters`.
#[derive(Args, Debug)]
pub(crate) struct DeadLetters {
    #[command(subcommand)]
    pub(crate) command: LettersCommand,
}

/// What is done with a queue of dead letters.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum LettersCommand {
    /// The letters that wait, and those that are being replayed, the oldest first
    List {
        /// The file of the queue
        file: PathBuf,
        #[command(flatten)]
        filter: LetterFilter,
        /// How many are shown at most
        #[arg(long, value_name = "COUNT", default_value_t = 100)]
        limit: u32,
        /// One JSON document
        #[arg(long)]
        json: bool,
    },
    /// A letter with its payload
    Show {
        /// The file of the queue
        file: PathBuf,
        /// The letter's number
        id: i64,
    },
    /// Hands letters to the source of type `dead_letters` that reads the queue, now or when it runs next
    Replay {
        /// The file of the queue
        file: PathBuf,
        #[command(flatten)]
        chosen: Chosen,
    },
    /// Removes letters that wait
    Drop {
        /// The file of the queue
        file: PathBuf,
        #[command(flatten)]
        chosen: Chosen,
    },
}

/// Which letters are meant.
#[derive(Args, Debug)]
pub(crate) struct LetterFilter {
    /// Those that failed in this step
    #[arg(long, value_name = "NAME")]
    pub(crate) step: Option<String>,
    /// Those that failed for this reason: the word in the column `code`
    #[arg(long, value_name = "CODE")]
    pub(crate) code: Option<String>,
    /// Those that were written since: a time such as `2026-01-31T10:00:00Z`, or how long ago, such as `1h`
    #[arg(long, value_name = "TIME", value_parser = since)]
    pub(crate) since: Option<String>,
}

/// Letters by their numbers, or by what they have in common.
#[derive(Args, Debug)]
#[group(id = "which", required = true, multiple = true, args = ["ids", "all", "step", "code", "since"])]
pub(crate) struct Chosen {
    /// The letters' numbers
    #[arg(value_name = "ID", conflicts_with_all = ["all", "step", "code", "since"])]
    pub(crate) ids: Vec<i64>,
    /// All of them
    #[arg(long, conflicts_with_all = ["step", "code", "since"])]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) filter: LetterFilter,
}

/// `engine explain`.
#[derive(Args, Debug)]
pub(crate) struct Explain {
    /// A code such as E0301
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub(crate) code: Option<String>,
    /// Every code, as a page of the documentation
    #[arg(long)]
    pub(crate) all: bool,
}

/// A span of time, from zero on.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let ns = parse_duration(text).map_err(|error| format!("{}: {}", error.message, error.help))?;
    u64::try_from(ns).map(Duration::from_nanos).map_err(|_| "a time from zero is due".to_owned())
}

/// A time, or how long ago, as RFC 3339 in UTC with milliseconds.
fn since(text: &str) -> Result<String, String> {
    let time = match DateTime::parse_from_rfc3339(text) {
        Ok(time) => time.to_utc(),
        Err(_) => {
            let ns = parse_duration(text)
                .map_err(|_| "write a time such as `2026-01-31T10:00:00Z`, or how long ago, such as `1h`".to_owned())?;
            let at_ns = SystemClock::shared().now_ns().saturating_sub(ns);
            DateTime::from_timestamp_nanos(at_ns)
        }
    };
    Ok(time.to_rfc3339_opts(SecondsFormat::Millis, true))
}

/// `left=right`, cut at the first `=`.
fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.to_owned())),
        _ => Err("write it as name=value".to_owned()),
    }
}
