//! Files, variables and secrets of the machine that the command runs on: the only place where a plan's reading is real.

use engine_spec::Files;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::{env, fs};

/// The largest file that is read while a pipeline is planned: weights are among them.
const FILE_BYTES_MAX: u64 = 4 << 30;
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
        let file = fs::File::open(path)?;
        let data = file.metadata()?;
        if data.is_dir() {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a folder"));
        }
        // What has no end (a device) must not be read for ever.
        let mut bytes = Vec::with_capacity(usize::try_from(data.len().min(FILE_BYTES_MAX)).unwrap_or(0));
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 4 GiB"));
        }
        Ok(bytes)
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

    fn glob(&self, pattern: &Path) -> io::Result<Vec<PathBuf>> {
        let invalid = |message: String| io::Error::new(io::ErrorKind::InvalidInput, message);
        let text = pattern.to_str().ok_or_else(|| invalid("the pattern is not UTF-8".into()))?;
        let found = glob::glob(text).map_err(|error| invalid(error.to_string()))?;
        // In the order of names, as `glob` gives them.
        found.map(|path| path.map_err(Into::into)).collect()
    }
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
