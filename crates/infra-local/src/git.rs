//! The user's name for commits, as git knows it.

use std::path::Path;
use std::process::{Command, Stdio};

/// `user.name` and `user.email` with their values, from the user's own configuration, includes followed;
/// those that are not set are left out. The project's configuration is not asked: it comes with the
/// project. Starts `git` where one of the user's files is there, and blocks until it ends.
#[must_use]
pub fn git_identity(home: &Path, configuration: &Path) -> Vec<(String, String)> {
    let files = [home.join(".gitconfig"), configuration.join("git/config")];
    // Starting git takes longer than starting a sandbox.
    if !files.iter().any(|file| file.exists()) {
        return Vec::new();
    }
    let output = Command::new("git")
        .args(["config", "--global", "--includes", "-z", "--get-regexp", r"^user\.(name|email)$"])
        .current_dir("/")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    let Ok(output) = output else { return Vec::new() };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let pairs = text.split('\0').filter_map(|entry| entry.split_once('\n'));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}
