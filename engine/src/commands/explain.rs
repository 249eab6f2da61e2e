//! `engine explain CODE`: what stands in the registry of codes.

use super::{Exit, print};
use crate::cli::Explain;
use engine_base::codes::{self, CodeInfo};
use engine_base::suggest;
use std::fmt::Write as _;
use std::io::Write as _;

/// One code for a person, or all of them as a page.
pub(crate) fn run(arguments: &Explain) -> Exit {
    let Some(code) = &arguments.code else {
        print(&page());
        return Exit::Success;
    };
    if let Some(info) = find(code) {
        print(&format!("{}: {}\n\n{}\n", info.code, info.title, info.explanation.trim_end()));
        return Exit::Success;
    }
    let mut message = format!("there is no code `{code}`\n");
    if let Some(near) = suggest::nearest(code, codes::all().map(|info| info.code.0)) {
        let _ = writeln!(message, "did you mean `{near}`?");
    }
    let _ = std::io::stderr().write_all(message.as_bytes());
    Exit::Usage
}

/// The code with this text; `301` and `e301` will do.
fn find(text: &str) -> Option<&'static CodeInfo> {
    let digits = text.strip_prefix(['e', 'E']).unwrap_or(text);
    codes::find(text).or_else(|| codes::find(&format!("E{digits:0>4}")))
}

/// All codes as Markdown.
fn page() -> String {
    let mut page = String::from(
        "# Error codes\n\n\
         <!-- Written by `cargo xtask codegen` from `engine explain --all`: change the code, not this file. -->\n\n\
         Every problem that the engine reports has a code that never changes its meaning. `engine explain CODE` prints what\n\
         stands here.\n",
    );
    let subjects = [
        ("E01", "The file: YAML, keys, values, units"),
        ("E02", "Expressions"),
        ("E03", "The plan: names, edges, types, guarantees"),
        ("E04", "Sources, sinks and connections"),
        ("E05", "Models"),
        ("E06", "The tests of a pipeline"),
    ];
    for (prefix, subject) in subjects {
        let _ = write!(page, "\n## {subject}\n");
        for info in codes::all().filter(|info| info.code.0.starts_with(prefix)) {
            let _ = write!(page, "\n### {}: {}\n\n{}\n", info.code, info.title, info.explanation.trim_end());
        }
    }
    page
}
