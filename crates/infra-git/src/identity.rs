//! The user's name for commits, as git knows it.

use std::ffi::OsStr;
use std::path::Path;

use crate::program::GitProgram;
use crate::run::{Input, Output, run};

/// `user.name` and `user.email` with their values, from the user's own configuration, includes followed;
/// those that are not set are left out. The project's configuration is not asked: it comes with the
/// project. Starts the git of this search path where one of the user's files is there, and blocks until it ends.
#[must_use]
pub fn git_identity(
    home: &Path,
    configuration: &Path,
    search_path: &OsStr,
) -> Vec<(String, String)> {
    let files = [home.join(".gitconfig"), configuration.join("git/config")];
    // Starting git takes longer than starting a sandbox.
    if !files.iter().any(|file| file.exists()) {
        return Vec::new();
    }
    if let Some(plain) = files.iter().map(|file| plain_identity(file)).collect::<Option<Vec<_>>>() {
        // The second of them is read first and the first one wins (git-config(1), FILES).
        let mut settings: Vec<(String, String)> = Vec::new();
        for (key, value) in plain.into_iter().flatten() {
            if !settings.iter().any(|(known, _)| *known == key) {
                settings.push((key, value));
            }
        }
        return settings;
    }
    let Some(git) = GitProgram::find(search_path, None) else {
        return Vec::new();
    };
    let mut command = git.with_users_configuration(home, configuration);
    command.args(["config", "--global", "--includes", "-z"]);
    command.args(["--get-regexp", r"^user\.(name|email)$"]);
    let Ok(output) = run(command, "config", Input::Nothing, Output::Kept) else {
        return Vec::new();
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let pairs = text.split('\0').filter_map(|entry| entry.split_once('\n'));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// The settings of a file that holds nothing but plain lines: no includes, quotes, escapes or comments
/// after values. `None` where only git itself can say what it means; a file that is not there is empty.
fn plain_identity(file: &Path) -> Option<Vec<(String, String)>> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Some(Vec::new()),
        Err(_) => return None,
    };
    let mut section = String::new();
    let mut settings: Vec<(String, String)> = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[') {
            name.to_ascii_lowercase().trim_end_matches(']').clone_into(&mut section);
            if section.starts_with("include") || section.contains(']') {
                return None;
            }
        } else if section == "user" {
            let (key, value) = line.split_once('=')?;
            let (key, value) = (key.trim().to_ascii_lowercase(), value.trim());
            if value.contains(['"', '\\', '#', ';']) {
                return None;
            }
            if key == "name" || key == "email" {
                let key = format!("user.{key}");
                // Within one file the last one counts.
                settings.retain(|(known, _)| *known != key);
                settings.push((key, value.to_owned()));
            }
        }
    }
    Some(settings)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use pretty_assertions::assert_eq;

    use super::*;

    fn path() -> &'static OsStr {
        OsStr::new("/usr/local/bin:/usr/bin:/bin")
    }

    fn identity(config: &str) -> Vec<(String, String)> {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join(".gitconfig"), config).unwrap();
        let mut settings = git_identity(home.path(), &home.path().join(".config"), path());
        settings.sort();
        settings
    }

    fn ada() -> Vec<(String, String)> {
        [("user.email", "ada@example.org"), ("user.name", "Ada L")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .to_vec()
    }

    #[test]
    fn a_plain_file_is_read_as_git_reads_it() {
        let plain =
            "# mine\n[core]\n\teditor = vi\n[user]\n\tname = Ada L\n\temail = ada@example.org\n";
        assert_eq!(identity(plain), ada());
        assert_eq!(identity("[core]\n\tname = x\n"), []);
    }

    #[test]
    fn what_is_not_plain_is_asked_of_git() {
        let quoted = "[user]\n\tname = \"Ada L\" ; me\n\temail = ada@example.org\n";
        assert_eq!(identity(quoted), ada());
        assert!(plain_identity(Path::new("/missing/file")).is_some());
    }

    #[test]
    fn nobody_is_asked_where_there_is_no_file() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(git_identity(home.path(), home.path(), path()), []);
    }
}
