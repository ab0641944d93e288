//! What stays behind by the project's own rules: gitignore(5), and `.forgeignore` files in the same language, which go
//! before.

use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::beneath;
use crate::tracked::{git_directory, shared_directory};

/// More of a file with rules is not read.
const MAX_RULES_BYTES: u64 = 1 << 20;

/// What the rules say of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It goes along.
    Taken,
    /// Git's rules leave it out, which do not count for what git tracks.
    LeftByGit,
    /// `.forgeignore` leaves it out.
    LeftByForge,
}

/// The rules from the root down to one directory.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rules {
    /// The deepest last; of each directory, `.forgeignore` and `.gitignore`.
    levels: Vec<[Option<Gitignore>; 2]>,
    exclude: Option<Gitignore>,
}

impl Rules {
    /// The rules for what is in the root.
    pub(crate) fn at_the_root(root: &OwnedFd) -> Self {
        let shared = git_directory(root).map(shared_directory);
        let info = shared.and_then(|shared| beneath::directory(&shared, Path::new("info")).ok());
        let exclude = info.and_then(|info| read(&info, "exclude", Path::new("")));
        Self { levels: vec![of_directory(root, Path::new(""))], exclude }
    }

    /// The rules for what is in a directory, from those that hold for itself.
    pub(crate) fn within(&self, directory: &OwnedFd, path: &Path) -> Self {
        let mut rules = self.clone();
        rules.levels.push(of_directory(directory, path));
        rules
    }

    /// What becomes of a path in the directory.
    pub(crate) fn verdict(&self, path: &Path, is_directory: bool) -> Verdict {
        let deepest_first =
            |kind: usize| self.levels.iter().rev().filter_map(move |level| level[kind].as_ref());
        let forge = deepest_first(0).map(|rules| (rules, Verdict::LeftByForge));
        let git = deepest_first(1).chain(&self.exclude).map(|rules| (rules, Verdict::LeftByGit));
        for (rules, left) in forge.chain(git) {
            match rules.matched(path, is_directory) {
                Match::None => {}
                Match::Ignore(_) => return left,
                Match::Whitelist(_) => return Verdict::Taken,
            }
        }
        Verdict::Taken
    }
}

fn of_directory(directory: &OwnedFd, path: &Path) -> [Option<Gitignore>; 2] {
    [".forgeignore", ".gitignore"].map(|name| read(directory, name, path))
}

fn read(directory: &OwnedFd, name: &str, path: &Path) -> Option<Gitignore> {
    let file = beneath::file(directory, OsStr::new(name)).ok()?;
    let mut bytes = Vec::new();
    file.take(MAX_RULES_BYTES).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let mut builder = GitignoreBuilder::new(PathBuf::from(path));
    for line in text.strip_prefix('\u{feff}').unwrap_or(&text).lines() {
        // A line that cannot be read is passed over, as git does.
        drop(builder.add_line(None, line));
    }
    let rules = builder.build().ok()?;
    (!rules.is_empty()).then_some(rules)
}
