//! Files, variables and secrets of the machine that the command runs on: the only place where a plan's reading is real.

use engine_spec::Files;
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// The largest file that is read while a pipeline is planned: weights are among them.
const FILE_BYTES_MAX: u64 = 4 << 30;
/// The largest text: pipelines, schemas, cards. Beyond what the language takes, so that it can say by how much.
const TEXT_BYTES_MAX: u64 = 64 << 20;
/// Where container platforms mount secrets, one file each.
const SECRETS_FOLDER: &str = "/run/secrets";

/// The file system and environment of this process.
///
/// A secret `db-password` is looked for in the variable `ENGINE_SECRET_DB_PASSWORD`, then in the file
/// `/run/secrets/db-password`, of which a last line end is left out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RealFiles;

impl Files for RealFiles {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        // Opening a pipe waits for a writer, which may never come; one that the shell opened (`<(...)`) has its own.
        if fs::metadata(path)?.file_type().is_fifo() && !is_open_already(path) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a pipe (FIFO), and a file is due"));
        }
        let file = fs::File::open(path)?;
        let data = file.metadata()?;
        if data.is_dir() {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a folder"));
        }
        // What has no end (a device) must not be read for ever.
        let is_text = !data.is_file() || path.extension().is_none_or(|extension| extension != "safetensors");
        let most = if is_text { TEXT_BYTES_MAX } else { FILE_BYTES_MAX };
        let mut bytes = Vec::with_capacity(usize::try_from(data.len().min(most)).unwrap_or(0));
        file.take(most + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > most {
            let message = format!("it is larger than {} MiB", most >> 20);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        Ok(bytes)
    }

    fn check_readable(&self, path: &Path) -> io::Result<()> {
        let kind = fs::metadata(path)?.file_type();
        if kind.is_dir() {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a folder"));
        }
        // Opening a pipe waits, and takes from it.
        if kind.is_fifo() { Ok(()) } else { fs::File::open(path).map(drop) }
    }

    fn canonical(&self, path: &Path) -> PathBuf {
        fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
    }

    fn env(&self, name: &str) -> Option<String> {
        env::var(name).ok()
    }

    fn secret(&self, name: &str) -> Option<String> {
        let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        if !plain || name.starts_with('.') {
            return None;
        }
        env::var(secret_variable(name)).ok().or_else(|| {
            let mut text = fs::read_to_string(Path::new(SECRETS_FOLDER).join(name)).ok()?;
            if text.ends_with('\n') {
                text.pop();
                if text.ends_with('\r') {
                    text.pop();
                }
            }
            Some(text)
        })
    }

    fn secret_help(&self, name: &str) -> String {
        format!("set the variable `{}`, or write the file `{SECRETS_FOLDER}/{name}`", secret_variable(name))
    }

    fn glob(&self, pattern: &Path) -> io::Result<Vec<PathBuf>> {
        let invalid = |message: String| io::Error::new(io::ErrorKind::InvalidInput, message);
        let text = pattern.to_str().ok_or_else(|| invalid("the pattern is not UTF-8".into()))?;
        let found = glob::glob(text).map_err(|error| invalid(error.to_string()))?;
        // In the order of names, as `glob` gives them.
        found.map(|path| path.map_err(Into::into)).collect()
    }
}

/// Whether a path names a file that this process was given open.
fn is_open_already(path: &Path) -> bool {
    ["/dev/fd", "/dev/stdin", "/proc/self/fd"].iter().any(|given| path.starts_with(given))
}

/// The variable of a secret: upper case, with `_` for whatever is neither letter nor digit.
fn secret_variable(name: &str) -> String {
    let upper = name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' });
    format!("ENGINE_SECRET_{}", upper.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_has_one_variable_and_never_a_path() {
        assert_eq!(secret_variable("db-password"), "ENGINE_SECRET_DB_PASSWORD");
        assert_eq!(RealFiles.secret("../../etc/hostname"), None);
        assert_eq!(RealFiles.secret(""), None);
    }
}
