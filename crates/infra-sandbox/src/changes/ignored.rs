//! What git's ignore rules leave out, as the session sees them: from the upper layer where it has an
//! ignore file, else from the lower one (gitignore(5)).

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use rustix::fs::FileType;

use super::layer::Directory;
use crate::paths::file_type;

/// More of an ignore file is not read: nobody writes so much, but a command may.
const MAX_IGNORE_FILE_BYTES: u64 = 1 << 20;

/// What becomes of changed files that the rules leave out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IgnoredFiles {
    /// They are counted.
    #[default]
    Counted,
    /// They are listed as any other.
    Listed,
}

/// The rules of a workspace, read as they are needed.
pub(super) struct Ignored<'a> {
    upper: BorrowedFd<'a>,
    lower: BorrowedFd<'a>,
    what: IgnoredFiles,
    /// `.git/info/exclude`, which is the weakest.
    exclude: Gitignore,
    /// By directory; `None` for one without rules.
    rules: HashMap<PathBuf, Option<Gitignore>>,
}

impl<'a> Ignored<'a> {
    pub(super) fn new(upper: BorrowedFd<'a>, lower: BorrowedFd<'a>, what: IgnoredFiles) -> Self {
        let exclude = read(lower, Path::new(".git/info"), "exclude", Path::new(""));
        let exclude = exclude.unwrap_or_else(Gitignore::empty);
        Self { upper, lower, what, exclude, rules: HashMap::new() }
    }

    /// Whether a path is left out by a rule for itself. That of a directory above it is the caller's to
    /// remember: nothing beneath an excluded directory is ever taken in again.
    pub(super) fn leaves_out(&mut self, path: &Path, is_directory: bool) -> bool {
        if self.what == IgnoredFiles::Listed {
            return false;
        }
        for directory in path.ancestors().skip(1) {
            if let Some(rules) = self.rules_of(directory) {
                match rules.matched(path, is_directory) {
                    Match::None => {}
                    Match::Ignore(_) => return true,
                    Match::Whitelist(_) => return false,
                }
            }
        }
        self.exclude.matched(path, is_directory).is_ignore()
    }

    fn rules_of(&mut self, directory: &Path) -> Option<&Gitignore> {
        if !self.rules.contains_key(directory) {
            let rules = self.read_rules(directory);
            self.rules.insert(directory.to_path_buf(), rules);
        }
        self.rules.get(directory)?.as_ref()
    }

    fn read_rules(&self, directory: &Path) -> Option<Gitignore> {
        let name = OsStr::new(".gitignore");
        let upper = Directory::open(self.upper, directory).ok().flatten();
        if let Some(upper) = upper {
            match upper.stat(name) {
                Ok(Some(stat)) if upper.is_whiteout(name, &stat, || upper.may_hold_marks()) => {
                    return None;
                }
                Ok(Some(_)) => return read(self.upper, directory, ".gitignore", directory),
                Ok(None) | Err(_) if upper.is_opaque() => return None,
                Ok(None) | Err(_) => {}
            }
        }
        read(self.lower, directory, ".gitignore", directory)
    }
}

fn read(layer: BorrowedFd<'_>, directory: &Path, name: &str, root: &Path) -> Option<Gitignore> {
    let directory = Directory::open(layer, directory).ok().flatten()?;
    let name = OsStr::new(name);
    let stat = directory.stat(name).ok().flatten()?;
    if file_type(&stat) != FileType::RegularFile {
        return None;
    }
    let mut bytes = Vec::new();
    let file = directory.open_file(name).ok()?;
    file.take(MAX_IGNORE_FILE_BYTES).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let mut builder = GitignoreBuilder::new(root);
    for line in text.strip_prefix('\u{feff}').unwrap_or(&text).lines() {
        // A line that cannot be read is passed over, as git does.
        let _ = builder.add_line(None, line).is_err();
    }
    let rules = builder.build().ok()?;
    (!rules.is_empty()).then_some(rules)
}
