//! `tidy`: the rules of the repository that no compiler checks.
//!
//! A rule is a function in [`RULES`] from the repository to what breaks it; each finding says what to do instead. The
//! lists of what is allowed are constants, so that an exception is a reviewed line.

use super::cargo;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;
use xtask::Result;

type Rule = fn(&Repository) -> Vec<String>;

const RULES: [Rule; 11] = [
    small_files,
    no_unfinished_code,
    modules_say_what_they_do,
    no_machine_paths,
    no_built_in_paths,
    clean_lines,
    committed_lock_file,
    borders_between_crates,
    dependencies_say_their_licence,
    pipelines_have_their_data,
    links_lead_somewhere,
];

const FILE_BYTES_MAX: usize = 1 << 20;

/// Files that may be larger, each with its reason beside it.
const LARGE_FILES: [&str; 1] = ["pipelines/data/transactions.jsonl"]; // the input of the README's first command

/// What each of our packages may import of the others. The order of the architecture: who stands further down knows
/// those above, never the other way; operators, connectors and models don't know each other.
const MAY_IMPORT: [(&str, &[&str]); 14] = [
    ("engine-base", &[]),
    ("engine-observe", &["engine-base", "xtask"]),
    ("engine-spec", &["engine-base"]),
    ("engine-expr", &["engine-base"]),
    ("engine-state", &["engine-base"]),
    ("engine-dataflow", &["engine-base", "engine-observe", "engine-state"]),
    ("engine-plan", &["engine-base", "engine-spec", "engine-expr"]),
    (
        "engine-operators",
        &[
            "engine-base",
            "engine-observe",
            "engine-spec",
            "engine-expr",
            "engine-state",
            "engine-dataflow",
            "engine-plan",
        ],
    ),
    (
        "engine-connectors",
        &[
            "engine-base",
            "engine-observe",
            "engine-spec",
            "engine-expr",
            "engine-state",
            "engine-dataflow",
            "engine-plan",
        ],
    ),
    (
        "engine-models",
        &["engine-base", "engine-observe", "engine-spec", "engine-expr", "engine-dataflow", "engine-plan"],
    ),
    ("engine", &["engine-*"]),
    ("engine-tests", &["engine*", "xtask"]),
    ("xtask", &[]),
    ("handwritten", &[]),
];

/// Libraries that only some packages import, so that one place knows them; the tests may always.
const ONLY_IMPORTED_BY: [(&str, &[&str]); 5] = [
    ("datafusion*", &["engine-expr"]),
    ("timely", &["engine-dataflow", "engine"]),
    ("candle-*", &["engine-models"]),
    ("rdkafka", &["engine-connectors", "handwritten"]),
    ("serde_yaml", &["engine-spec"]),
];

/// Licences that a dependency may have, as SPDX names them.
const LICENCES: [&str; 8] =
    ["Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "ISC", "Zlib", "Unlicense"];

/// Checks every rule.
pub(crate) fn run(root: &Path) -> Result<()> {
    let repository = Repository::read(root)?;
    let findings: Vec<String> = RULES.iter().flat_map(|rule| rule(&repository)).collect();
    for finding in &findings {
        println!("{finding}");
    }
    match findings.len() {
        0 => {
            println!("tidy: {} files, {} rules", repository.files.len(), RULES.len());
            Ok(())
        }
        count => Err(format!("{count} breaches of the repository's rules").into()),
    }
}

/// What the rules look at: the files that are, or would be, committed, and Cargo's view of the packages.
#[derive(Default)]
struct Repository {
    files: Vec<RepositoryFile>,
    /// (package, dependency) of each manifest of the workspace, development dependencies too.
    imports: Vec<(String, String)>,
    lock_file_is_tracked: bool,
}

struct RepositoryFile {
    path: String,
    bytes: Vec<u8>,
}

impl RepositoryFile {
    fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.bytes).ok()
    }

    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// The numbered lines of a text file; none of a binary one.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text().unwrap_or_default().split('\n').enumerate().map(|(index, line)| (index + 1, line))
    }
}

impl Repository {
    fn read(root: &Path) -> Result<Repository> {
        let listed = |arguments: &[&str]| -> Result<Vec<String>> {
            let output = Command::new("git").current_dir(root).args(["ls-files", "-z"]).args(arguments).output()?;
            if !output.status.success() {
                return Err(format!("git ls-files: {}", String::from_utf8_lossy(&output.stderr)).into());
            }
            let names = String::from_utf8_lossy(&output.stdout).into_owned();
            Ok(names.split('\0').filter(|name| !name.is_empty()).map(str::to_owned).collect())
        };
        let mut files = Vec::new();
        for path in listed(&["--cached", "--others", "--exclude-standard"])? {
            // A file that is removed but not yet committed is listed and can't be read.
            if let Ok(bytes) = fs::read(root.join(&path)) {
                files.push(RepositoryFile { path, bytes });
            }
        }
        let output =
            cargo(&["metadata", "--no-deps", "--offline", "--format-version", "1"]).current_dir(root).output()?;
        if !output.status.success() {
            return Err(format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        let metadata: Value = serde_json::from_slice(&output.stdout)?;
        let lock_file_is_tracked = !listed(&["Cargo.lock"])?.is_empty();
        Ok(Repository { files, imports: imports(&metadata), lock_file_is_tracked })
    }

    fn file(&self, path: &str) -> Option<&RepositoryFile> {
        self.files.iter().find(|file| file.path == path)
    }
}

fn imports(metadata: &Value) -> Vec<(String, String)> {
    let array = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let name = |value: &Value| value["name"].as_str().unwrap_or_default().to_owned();
    let packages = array(&metadata["packages"]);
    let pairs = packages.iter().flat_map(|package| {
        array(&package["dependencies"]).into_iter().map(move |dependency| (name(package), name(&dependency)))
    });
    pairs.collect()
}

fn small_files(repository: &Repository) -> Vec<String> {
    let large = repository
        .files
        .iter()
        .filter(|file| file.bytes.len() > FILE_BYTES_MAX && !LARGE_FILES.contains(&file.path.as_str()));
    large
        .map(|file| {
            format!(
                "{}: {} KiB; generate it, or list it in LARGE_FILES with a reason",
                file.path,
                file.bytes.len() >> 10
            )
        })
        .collect()
}

fn no_unfinished_code(repository: &Repository) -> Vec<String> {
    // Written in halves, so that this file keeps the rule.
    let words = [
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("dbg", "!("),
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
    ];
    let found = |(file, number, line): (&RepositoryFile, usize, &str)| {
        let word = words.iter().find(|word| line.contains(**word))?;
        Some(format!("{}:{number}: `{word}`: finish it, or make it a diagnostic that says so", file.path))
    };
    let rust = repository.files.iter().filter(|file| file.is_rust());
    rust.flat_map(|file| file.lines().map(move |(number, line)| (file, number, line))).filter_map(found).collect()
}

fn modules_say_what_they_do(repository: &Repository) -> Vec<String> {
    let rust = repository.files.iter().filter(|file| file.is_rust());
    rust.filter(|file| !file.bytes.starts_with(b"//!"))
        .map(|file| format!("{}:1: open with `//!`: what the module does, and what it leaves to others", file.path))
        .collect()
}

fn no_machine_paths(repository: &Repository) -> Vec<String> {
    let folders = [concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/wo", "rk/"), concat!("/Us", "ers/")];
    // Inside a longer path, such as one below a variable or `docs`, the same word is no absolute path.
    let is_absolute = |before: &str| {
        !before.ends_with(|last: char| {
            last.is_alphanumeric() || matches!(last, '_' | '-' | '.' | '~' | '}' | ')' | '>' | '*')
        })
    };
    let mut findings = Vec::new();
    for file in &repository.files {
        for (number, line) in file.lines() {
            for folder in folders {
                if line.match_indices(folder).any(|(at, _)| is_absolute(&line[..at])) {
                    findings.push(format!("{}:{number}: `{folder}` is a path of one machine", file.path));
                }
            }
        }
    }
    if let Some(lock) = repository.file("Cargo.lock") {
        let official = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
        let other = lock.lines().filter(|(_, line)| line.starts_with("source = ") && *line != official);
        findings.extend(other.map(|(number, line)| format!("Cargo.lock:{number}: not the official registry: {line}")));
    }
    findings
}

/// A build folder may be shared by clones, so a test asks where its package is now, and what was built in is the way out.
fn no_built_in_paths(repository: &Repository) -> Vec<String> {
    let built_in = concat!("env!(\"CARGO_MANIFEST", "_DIR\")");
    let mut findings = Vec::new();
    for file in repository.files.iter().filter(|file| file.path.ends_with(".rs")) {
        for (number, line) in file.lines() {
            if line.contains(built_in) && !line.contains("var_os(") {
                findings.push(format!("{}:{number}: ask `std::env::var_os` before `{built_in}`", file.path));
            }
        }
    }
    findings
}

fn clean_lines(repository: &Repository) -> Vec<String> {
    // Data, and cases that are broken on purpose, are kept as they are.
    let is_ours = |file: &&RepositoryFile| {
        let checked = [".rs", ".toml", ".md", ".yaml", ".yml", ".sh", ".py", ".xml", "/run"];
        checked.iter().any(|ending| file.path.ends_with(ending)) && !file.path.contains("/cases/")
    };
    let mut findings = Vec::new();
    for file in repository.files.iter().filter(is_ours) {
        for (number, line) in file.lines() {
            if line.ends_with([' ', '\t', '\r']) {
                findings.push(format!("{}:{number}: white space at the end of the line", file.path));
            }
        }
        if !file.bytes.is_empty() && !file.bytes.ends_with(b"\n") {
            findings.push(format!("{}: no line end at its end", file.path));
        }
    }
    findings
}

fn committed_lock_file(repository: &Repository) -> Vec<String> {
    if repository.lock_file_is_tracked {
        Vec::new()
    } else {
        vec!["Cargo.lock: commit it, so that builds repeat".into()]
    }
}

/// Whether `name` is `pattern`, or begins with it where it ends in a star.
fn matches(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == name, |prefix| name.starts_with(prefix))
}

fn borders_between_crates(repository: &Repository) -> Vec<String> {
    let ours = |name: &str| MAY_IMPORT.iter().any(|(package, _)| *package == name);
    let mut findings = Vec::new();
    for (package, dependency) in &repository.imports {
        let Some((_, may)) = MAY_IMPORT.iter().find(|(name, _)| name == package) else {
            findings.push(format!("package {package}: give it a line in MAY_IMPORT of the rules"));
            continue;
        };
        if ours(dependency) && !may.iter().any(|pattern| matches(pattern, dependency)) {
            findings.push(format!("package {package} imports {dependency}, which the architecture's borders forbid"));
        }
        let owner = ONLY_IMPORTED_BY.iter().find(|(pattern, _)| matches(pattern, dependency));
        if let Some((_, packages)) = owner
            && package != "engine-tests"
            && !packages.contains(&package.as_str())
        {
            findings.push(format!("package {package} imports {dependency}, which is for {} only", packages.join(", ")));
        }
    }
    findings.sort();
    findings.dedup();
    findings
}

fn dependencies_say_their_licence(repository: &Repository) -> Vec<String> {
    let Some(manifest) = repository.file("Cargo.toml") else { return vec!["Cargo.toml is missing".into()] };
    let names_licence =
        |comment: &str| comment.split(['(', ')', '/', ' ', ';', ',']).any(|word| LICENCES.contains(&word));
    let mut findings = Vec::new();
    let mut inside = false;
    let mut group = ""; // the comment above a group of lines counts for all of them
    for (number, line) in manifest.lines() {
        if line.starts_with('[') {
            inside = line == "[workspace.dependencies]";
        } else if line.is_empty() {
            group = "";
        } else if line.starts_with('#') {
            group = line;
        } else if inside && line.contains('=') && !line.contains("path = ") {
            let comment = line.rsplit_once('#').map_or("", |(_, comment)| comment);
            if !names_licence(comment) && !names_licence(group) {
                findings.push(format!("Cargo.toml:{number}: end the line with its reason and licence: # ... (MIT)"));
            }
        }
    }
    findings
}

fn pipelines_have_their_data(repository: &Repository) -> Vec<String> {
    let is_pipeline = |file: &&RepositoryFile| {
        let name = file.path.strip_prefix("pipelines/").unwrap_or_default();
        name.ends_with(".yaml") && !name.contains('/')
    };
    let mut findings = Vec::new();
    for file in repository.files.iter().filter(is_pipeline) {
        let mut section = "";
        for (number, line) in file.lines() {
            if !line.starts_with([' ', '#']) {
                section = line.trim_end();
            }
            let key = if section == "sources:" { "path:" } else { continue };
            let Some((_, value)) = line.split_once(key) else { continue };
            let value = value.split(['#', ',', '}']).next().unwrap_or_default().trim().trim_matches(['"', '\'']);
            if value.is_empty() || value.contains(['*', '$', '?', '[']) || value.starts_with('/') {
                continue;
            }
            let path = resolve("pipelines", value);
            if repository.file(&path).is_none() {
                findings.push(format!("{}:{number}: {path} does not exist: an example runs as it is", file.path));
            }
        }
    }
    findings
}

fn links_lead_somewhere(repository: &Repository) -> Vec<String> {
    let mut findings = Vec::new();
    for file in repository.files.iter().filter(|file| file.path.ends_with(".md")) {
        let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let mut in_code = false;
        for (number, line) in file.lines() {
            in_code ^= line.trim_start().starts_with("```");
            if in_code {
                continue;
            }
            for (at, _) in line.match_indices("](") {
                let link = line[at + 2..].split([')', '#', ' ']).next().unwrap_or_default();
                if link.is_empty() || link.contains("://") || link.starts_with("mailto:") || link.contains('`') {
                    continue;
                }
                let path = resolve(folder, link);
                let path = path.trim_end_matches('/');
                let exists = |other: &RepositoryFile| {
                    other.path.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                };
                if !path.is_empty() && !repository.files.iter().any(exists) {
                    findings.push(format!("{}:{number}: the link to {link} leads nowhere", file.path));
                }
            }
        }
    }
    findings
}

/// `path` as seen from `folder`, without `.` and `..`.
fn resolve(folder: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in folder.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository(files: &[(&str, &str)]) -> Repository {
        let file = |(path, text): &(&str, &str)| RepositoryFile { path: (*path).into(), bytes: (*text).into() };
        Repository { files: files.iter().map(file).collect(), ..Repository::default() }
    }

    /// Each finding of `rule` must begin with the text given for it.
    #[track_caller]
    fn check(rule: Rule, files: &[(&str, &str)], expected: &[&str]) {
        check_repository(rule, &repository(files), expected);
    }

    #[track_caller]
    fn check_repository(rule: Rule, repository: &Repository, expected: &[&str]) {
        let found = rule(repository);
        let fits =
            found.len() == expected.len() && found.iter().zip(expected).all(|(one, start)| one.starts_with(start));
        assert!(fits, "found {found:#?}, expected {expected:#?}");
    }

    #[test]
    fn text_rules() {
        let large = "x".repeat(FILE_BYTES_MAX + 1);
        check(small_files, &[("a.bin", &large), ("b", "x")], &["a.bin: 1024 KiB"]);
        let unfinished = format!("//! x\nfn f() {{\n    {}!()\n}}\n", "todo");
        check(no_unfinished_code, &[("a.rs", &unfinished), ("b.md", &unfinished)], &["a.rs:3:"]);
        check(modules_say_what_they_do, &[("a.rs", "//! x\n"), ("b.rs", "use a;\n")], &["b.rs:1:"]);
        check(clean_lines, &[("a.rs", "x \ny"), ("b.bin", "x "), ("c.md", "ok\n")], &["a.rs:1:", "a.rs: no line end"]);
    }

    #[test]
    fn machine_paths() {
        let home = concat!("/ho", "me/");
        let text = |before: &str| format!("{before}{home}x\n");
        for before in ["", "path: ", "\"", "file://", "("] {
            check(no_machine_paths, &[("a.md", &text(before))], &["a.md:1:"]);
        }
        for before in ["docs", "${X}", "a.", "~"] {
            check(no_machine_paths, &[("a.md", &text(before))], &[]);
        }
        let lock = "source = \"registry+https://github.com/rust-lang/crates.io-index\"\nsource = \"git+https://x\"\n";
        check(no_machine_paths, &[("Cargo.lock", lock)], &["Cargo.lock:2:"]);
    }

    #[test]
    fn borders() {
        let imports = |pairs: &[(&str, &str)]| Repository {
            imports: pairs.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect(),
            ..Repository::default()
        };
        let allowed = [
            ("engine-plan", "engine-spec"),
            ("engine", "engine-operators"),
            ("engine-expr", "datafusion-expr"),
            ("engine-tests", "xtask"),
            ("engine-dataflow", "timely"),
        ];
        check_repository(borders_between_crates, &imports(&allowed), &[]);
        for forbidden in [
            ("engine-expr", "engine-spec"),
            ("engine-dataflow", "engine-plan"),
            ("engine-operators", "engine-connectors"),
            ("engine-base", "engine-spec"),
            ("engine-plan", "datafusion-common"),
            ("engine-operators", "timely"),
            ("engine-base", "engine"),
        ] {
            let expected = format!("package {} imports {}", forbidden.0, forbidden.1);
            check_repository(borders_between_crates, &imports(&[forbidden]), &[&expected]);
        }
        check_repository(borders_between_crates, &imports(&[("new", "serde")]), &["package new:"]);
    }

    #[test]
    fn licences() {
        let manifest = "[workspace.dependencies]\nours = { path = \"x\" }\na = \"1\" # why (MIT)\nb = \"1\"\n\n\
                        # A group (Apache-2.0).\nc = \"1\"\nd = { version = \"1\" }\n\ne = \"1\" # why\n[lints]\nf = 1\n";
        check(dependencies_say_their_licence, &[("Cargo.toml", manifest)], &["Cargo.toml:4:", "Cargo.toml:10:"]);
    }

    #[test]
    fn data_of_pipelines() {
        let pipeline = "sources:\n  a: { type: file, path: data/a.jsonl }\n  b:\n    path: data/b.jsonl # gone\n  c:\n    \
                        path: \"data/*.csv\"\nsinks:\n  d: { path: out.jsonl }\n";
        let files = [("pipelines/x.yaml", pipeline), ("pipelines/data/a.jsonl", "{}")];
        check(pipelines_have_their_data, &files, &["pipelines/x.yaml:4: pipelines/data/b.jsonl"]);
    }

    #[test]
    fn links() {
        let text =
            "[a](b.md) [c](../README.md#x) [d](gone.md) [e](https://example.com) [f](#here)\n```\n[g](no)\n```\n";
        let files = [("docs/a.md", text), ("docs/b.md", ""), ("README.md", "[docs](docs/)\n")];
        check(links_lead_somewhere, &files, &["docs/a.md:1: the link to gone.md"]);
    }
}
