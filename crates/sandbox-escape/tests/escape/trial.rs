//! One attempt, set up: what is executed, and how the host finds out whether it got out.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use forge_infra_sandbox::{AddedAccess, AddedDirectory, SandboxConfig};

use crate::stage::Stage;

/// Looks from the host. `true` once the attempt has got out. Called while the attempt runs and once
/// after its end.
pub(crate) type Judge = Box<dyn FnMut(&Scene) -> bool>;

type Configure = Box<dyn FnOnce(SandboxConfig) -> SandboxConfig>;

/// See the module.
pub(crate) struct Trial {
    /// The attempt's name, its token, its arguments.
    pub(crate) words: Vec<String>,
    pub(crate) judge: Option<Judge>,
    configure: Vec<Configure>,
    pub(crate) time_limit: Duration,
    pub(crate) streams: Streams,
}

/// What the attempt's stdin, stdout and stderr are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Streams {
    Pipes,
    /// A terminal of its own.
    Terminal,
}

impl Trial {
    pub(crate) fn new(words: Vec<String>) -> Self {
        Self {
            words,
            judge: None,
            configure: Vec::new(),
            time_limit: Duration::from_secs(40),
            streams: Streams::Pipes,
        }
    }

    /// On a terminal of its own; what that shows is the output.
    pub(crate) fn on_own_terminal(self) -> Self {
        Self { streams: Streams::Terminal, ..self }
    }

    pub(crate) fn judged(mut self, judge: impl FnMut(&Scene) -> bool + 'static) -> Self {
        self.judge = Some(Box::new(judge));
        self
    }

    pub(crate) fn configured(
        mut self,
        change: impl FnOnce(SandboxConfig) -> SandboxConfig + 'static,
    ) -> Self {
        self.configure.push(Box::new(change));
        self
    }

    /// With the shared directory in view, to be read.
    pub(crate) fn with_shared(self, stage: &Stage) -> Self {
        let added = AddedDirectory { source: stage.shared(), access: AddedAccess::ReadOnly };
        self.configured(|config| config.added(vec![added]))
    }

    pub(crate) fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
        self
    }

    pub(crate) fn configure(&mut self, config: SandboxConfig) -> SandboxConfig {
        self.configure.drain(..).fold(config, |config, change| change(config))
    }
}

/// What the host sees of an attempt.
pub(crate) struct Scene {
    /// Its processes, by the host's ids.
    pub(crate) pids: Vec<u32>,
    /// What it has printed; nothing before its end.
    pub(crate) output: String,
    /// The sandbox's state directory.
    pub(crate) state: PathBuf,
}

impl Scene {
    pub(crate) fn of(token: &str, state: &Path, output: String) -> Self {
        Self { pids: marked(token), output, state: state.to_path_buf() }
    }

    /// A file or link of each process's directory in `/proc`.
    pub(crate) fn told(&self, file: &str) -> Vec<String> {
        let read = |pid| fs::read_to_string(format!("/proc/{pid}/{file}")).ok();
        self.pids.iter().filter_map(read).collect()
    }

    pub(crate) fn links(&self, file: &str) -> Vec<PathBuf> {
        let read = |pid| fs::read_link(format!("/proc/{pid}/{file}")).ok();
        self.pids.iter().filter_map(read).collect()
    }

    /// What every process has open: the path to look at it by, and where that leads.
    pub(crate) fn descriptors(&self) -> Vec<(PathBuf, PathBuf)> {
        let mut found = Vec::new();
        for pid in &self.pids {
            let directory = fs::read_dir(format!("/proc/{pid}/fd"));
            for entry in directory.into_iter().flatten().flatten() {
                if let Ok(link) = fs::read_link(entry.path()) {
                    found.push((entry.path(), link));
                }
            }
        }
        found
    }

    /// The files of a name in the sandbox's state directory: what was written into the upper layer.
    pub(crate) fn in_state(&self, name: &str) -> Vec<PathBuf> {
        let (mut waiting, mut found) = (vec![self.state.clone()], Vec::new());
        while let Some(directory) = waiting.pop() {
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    waiting.push(entry.path());
                }
                if entry.file_name().to_str() == Some(name) {
                    found.push(entry.path());
                }
            }
        }
        found
    }
}

/// The host's ids of the processes with a token in their command line.
pub(crate) fn marked(token: &str) -> Vec<u32> {
    let pids = fs::read_dir("/proc").unwrap().flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.windows(token.len()).any(|part| part == token.as_bytes())
        })
        .collect()
}

/// The text has come out.
pub(crate) fn says(text: &str) -> impl FnMut(&Scene) -> bool + use<> {
    let text = text.to_owned();
    move |scene| scene.output.contains(&text)
}

/// A file of the host holds the text.
pub(crate) fn file_holds(path: &str, text: &str) -> impl FnMut(&Scene) -> bool + use<> {
    let (path, text) = (path.to_owned(), text.to_owned());
    move |_| fs::read_to_string(&path).is_ok_and(|contents| contents.contains(&text))
}

/// A process has something open whose name contains this.
pub(crate) fn has_open(name: &'static str) -> impl FnMut(&Scene) -> bool {
    move |scene| scene.descriptors().iter().any(|(_, link)| link.to_string_lossy().contains(name))
}

/// Two processes of the attempt, of which one came from the other, differ in a link.
pub(crate) fn differ_in(file: &'static str) -> impl FnMut(&Scene) -> bool {
    move |scene| {
        let links = scene.links(file);
        links.iter().any(|link| *link != links[0])
    }
}

/// A mount table of the attempt has a mount at a place of this name.
pub(crate) fn mounted_at(name: &str) -> impl FnMut(&Scene) -> bool + use<> {
    let end = format!("/{name}");
    move |scene| {
        let tables = scene.told("mountinfo").into_iter();
        let mut lines =
            tables.flat_map(|table| table.lines().map(str::to_owned).collect::<Vec<_>>());
        lines.any(|line| line.split(' ').nth(4).is_some_and(|point| point.ends_with(&end)))
    }
}
