//! What holds logins and keys in a toolchain.

use std::fs;
use std::path::{Path, PathBuf};

use super::known::NEVER_ANYWHERE;
use super::logins::holds_login;

/// Hidden whatever is in them: files and directories.
const ALWAYS: [&str; 9] = [
    ".env",
    ".git-credentials",
    ".pgpass",
    ".pypirc",
    "credentials",
    "credentials.json",
    "credentials.toml",
    // Ethereum's keys in `.foundry`, and the private keys that `.dotnet` makes certificates with.
    "keystores",
    "corefx",
];

/// Hidden where a look inside shows a login. `*` is every directory there.
const MAYBE: [&str; 16] = [
    ".condarc",
    ".git/config",
    ".npmrc",
    ".yarnrc.yml",
    "auth.json",
    "config",
    "config.toml",
    "etc/npmrc",
    "etc/pip.conf",
    "pip.conf",
    "envs/*/.condarc",
    "envs/*/pip.conf",
    "tools/image/node/*/etc/npmrc",
    "versions/*/etc/npmrc",
    "versions/*/pip.conf",
    "versions/node/*/etc/npmrc",
];

/// Paths of a tree that are hidden; those that are links, by where they lead.
pub(super) fn masks(tree: &Path) -> Vec<PathBuf> {
    let always = ALWAYS.iter().chain(&NEVER_ANYWHERE).filter_map(|name| real(&tree.join(name)));
    let maybe = MAYBE.iter().flat_map(|pattern| expand(tree, pattern));
    let maybe = maybe.filter_map(|path| real(&path)).filter(|path| holds_login(path));
    let mut masks: Vec<PathBuf> = always.chain(maybe).chain(legacy_sources(tree)).collect();
    if tree.ends_with(".linuxbrew") {
        masks.extend(crate::system::service_data(tree));
    }
    masks
}

/// What a path with a `*` in it stands for.
pub(super) fn expand(tree: &Path, pattern: &str) -> Vec<PathBuf> {
    let Some((before, after)) = pattern.split_once("/*") else { return vec![tree.join(pattern)] };
    let Ok(entries) = fs::read_dir(tree.join(before)) else { return Vec::new() };
    let after = after.trim_start_matches('/');
    entries.flatten().take(256).map(|entry| entry.path().join(after)).collect()
}

fn real(path: &Path) -> Option<PathBuf> {
    fs::symlink_metadata(path).ok()?;
    path.canonicalize().ok()
}

/// What projects there are in a `GOPATH` is not for others to see. Go's own installation has `src` too,
/// and needs it.
fn legacy_sources(tree: &Path) -> Option<PathBuf> {
    let is_workspace_of_go = tree.join("pkg/mod").is_dir() && !tree.join("VERSION").exists();
    is_workspace_of_go.then(|| real(&tree.join("src"))).flatten()
}
