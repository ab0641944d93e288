//! Which files a search leaves out: the project's ignore rules and the query's globs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use forge_domain::SearchError;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use ignore::overrides::{Override, OverrideBuilder};

/// The rules of every directory, and the globs.
#[derive(Debug)]
pub(crate) struct Rules {
    /// `.ignore` goes before `.gitignore`, whatever their depth, and both before `.git/info/exclude`.
    ignore: BTreeMap<PathBuf, Gitignore>,
    gitignore: BTreeMap<PathBuf, Gitignore>,
    exclude: Option<Gitignore>,
    globs: Override,
    root: PathBuf,
}

impl Rules {
    /// Rules for a search beneath a directory.
    ///
    /// # Errors
    /// A glob cannot be read.
    pub(crate) fn new(root: &Path, globs: &[String]) -> Result<Self, SearchError> {
        let unreadable = |glob: &str, error: &ignore::Error| SearchError::Glob {
            glob: glob.to_owned(),
            reason: error.to_string(),
        };
        let mut builder = OverrideBuilder::new(root);
        for glob in globs {
            builder.add(glob).map_err(|error| unreadable(glob, &error))?;
        }
        let globs = builder.build().map_err(|error| unreadable(&globs.join(" "), &error))?;
        Ok(Self { globs, ..Self::without_globs(root) })
    }

    /// Rules alone.
    pub(crate) fn without_globs(root: &Path) -> Self {
        Self {
            ignore: BTreeMap::new(),
            gitignore: BTreeMap::new(),
            exclude: None,
            globs: Override::empty(),
            root: root.to_path_buf(),
        }
    }

    /// Adds the lines of a file with rules. One that cannot be read is passed over, as git does.
    pub(crate) fn add(&mut self, file: &Path, lines: &[String], workspace: &Path) {
        let parent = file.parent().unwrap_or(file);
        let is_exclude = file.ends_with(".git/info/exclude");
        let mut builder = GitignoreBuilder::new(if is_exclude { workspace } else { parent });
        for line in lines {
            drop(builder.add_line(None, line));
        }
        let Ok(rules) = builder.build() else { return };
        if is_exclude {
            self.exclude = Some(rules);
        } else if file.ends_with(".ignore") {
            self.ignore.insert(parent.to_path_buf(), rules);
        } else {
            self.gitignore.insert(parent.to_path_buf(), rules);
        }
    }

    /// Whether a file beneath the root is searched: neither it nor a directory above it, up to the root, is
    /// left out.
    pub(crate) fn allow(&self, file: &Path) -> bool {
        self.allow_one(file, false)
    }

    /// The same of a directory.
    pub(crate) fn allow_directory(&self, directory: &Path) -> bool {
        self.allow_one(directory, true)
    }

    fn allow_one(&self, file: &Path, is_directory: bool) -> bool {
        // A glob that chooses a path goes before the rules that ignore it, as in ripgrep.
        let is_left_out = |path: &Path, is_directory: bool| {
            let glob = self.globs.matched(path, is_directory);
            glob.is_ignore() || (!glob.is_whitelist() && self.is_ignored(path, is_directory))
        };
        let mut above = file.ancestors().skip(1).take_while(|path| *path != self.root);
        !is_left_out(file, is_directory) && !above.any(|path| is_left_out(path, true))
    }

    fn is_ignored(&self, path: &Path, is_directory: bool) -> bool {
        let layers = [&self.ignore, &self.gitignore];
        let rules = layers.iter().flat_map(|layer| {
            path.ancestors().skip(1).filter_map(|directory| layer.get(directory))
        });
        let decision = rules
            .chain(&self.exclude)
            .map(|rules| rules.matched(path, is_directory))
            .find(|decision| !decision.is_none());
        decision.is_some_and(|decision| decision.is_ignore())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(files: &[(&str, &str)], globs: &[&str]) -> Rules {
        let globs: Vec<String> = globs.iter().map(ToString::to_string).collect();
        let mut rules = Rules::new(Path::new("/w"), &globs).unwrap();
        for (file, text) in files {
            let lines: Vec<String> = text.lines().map(str::to_owned).collect();
            rules.add(Path::new(file), &lines, Path::new("/w"));
        }
        rules
    }

    #[test]
    fn what_lies_below_an_ignored_directory_is_left_out() {
        let rules = rules(&[("/w/.gitignore", "/target/\n*.log\n!keep.log\n")], &[]);
        assert!(!rules.allow(Path::new("/w/target/a/b")));
        assert!(rules.allow(Path::new("/w/src/target/b")));
        assert!(!rules.allow(Path::new("/w/a.log")));
        assert!(rules.allow(Path::new("/w/keep.log")));
    }

    #[test]
    fn deeper_rules_come_on_top_and_ignore_before_gitignore() {
        let files = [
            ("/w/.gitignore", "*.log\n"),
            ("/w/src/.gitignore", "!a.log\n"),
            ("/w/.ignore", "!b.log\nsrc/a.log\n"),
        ];
        let rules = rules(&files, &[]);
        assert!(!rules.allow(Path::new("/w/src/a.log")));
        assert!(rules.allow(Path::new("/w/b.log")));
    }

    #[test]
    fn globs_choose_and_exclude() {
        let rules = rules(&[("/w/.git/info/exclude", "secret.rs\n")], &["*.rs", "!x/"]);
        assert!(rules.allow(Path::new("/w/a/b.rs")));
        assert!(!rules.allow(Path::new("/w/a/b.toml")));
        assert!(!rules.allow(Path::new("/w/x/b.rs")));
    }
}
