//! Which git is started on the host, and with what switched off.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What is set for every git that forge starts itself, above every file of configuration. A repository's own
/// `.git/config` may name programs, and so may one that a session has written.
///
/// Hooks that are configured by name (`hook.<name>.command`, git 2.54) are in no list: they are looked up and switched off
/// one by one.
pub const SETTINGS: &[(&str, &str)] = &[
    // What git runs by itself.
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("fetch.writeCommitGraph", "false"),
    // What it runs to show, ask, edit, sign and compare.
    ("core.pager", "cat"),
    ("core.editor", "false"),
    ("core.askPass", "false"),
    ("credential.helper", ""),
    ("gpg.program", "false"),
    ("gpg.ssh.program", "false"),
    ("gpg.x509.program", "false"),
    ("log.showSignature", "false"),
    ("diff.external", "false"),
    // What it runs to reach other repositories. Only a bundle's own file is let through, where it is fetched from.
    ("protocol.allow", "never"),
    ("core.sshCommand", "false"),
    ("core.gitProxy", "false"),
    ("core.alternateRefsCommand", "false"),
    ("fetch.recurseSubmodules", "false"),
    ("submodule.recurse", "false"),
    // A repository of somebody else's, as in a container that runs as root. git refuses it for the programs that its
    // configuration may name.
    ("safe.directory", "*"),
    // What comes in is checked, and what is the user's to read back is not written.
    ("transfer.fsckObjects", "true"),
    ("fetch.fsckObjects", "true"),
    ("core.logAllRefUpdates", "false"),
    ("core.attributesFile", "/dev/null"),
    // A file beyond this is never held in memory as a whole.
    ("core.bigFileThreshold", "32m"),
];

/// The same, as far as it is said by variables. git looks at the switch of a variable before the configuration's.
const VARIABLES: &[(&str, &str)] = &[
    ("GIT_CONFIG_NOSYSTEM", "1"),
    ("GIT_ATTR_NOSYSTEM", "1"),
    ("GIT_TERMINAL_PROMPT", "0"),
    ("GIT_ASKPASS", "false"),
    ("SSH_ASKPASS", "false"),
    ("GIT_SSH_COMMAND", "false"),
    ("GIT_PAGER", "cat"),
    ("GIT_EDITOR", "false"),
    // Nothing is refreshed in passing.
    ("GIT_OPTIONAL_LOCKS", "0"),
    // In a partial clone, what is missing stays missing.
    ("GIT_NO_LAZY_FETCH", "1"),
    // Objects are what they are, whatever `refs/replace/` says.
    ("GIT_NO_REPLACE_OBJECTS", "1"),
    // No protocol, whatever the configuration allows.
    ("GIT_ALLOW_PROTOCOL", ""),
    // Messages are looked at.
    ("LC_ALL", "C"),
];

/// The user's git.
#[derive(Debug, Clone)]
pub struct GitProgram {
    file: PathBuf,
    /// Where git itself looks for programs.
    search_path: OsString,
}

impl GitProgram {
    /// Looks git up in a search path as `PATH` has it; `None` where there is none. Directories that are not absolute and
    /// those in a workspace are passed over: what lies there may come from anybody.
    #[must_use]
    pub fn find(search_path: &OsStr, workspace: Option<&Path>) -> Option<Self> {
        let is_in_it = |directory: &PathBuf| {
            let real = directory.canonicalize();
            workspace.is_some_and(|workspace| real.is_ok_and(|real| real.starts_with(workspace)))
        };
        let is_trusted = |directory: &PathBuf| directory.is_absolute() && !is_in_it(directory);
        let directories: Vec<PathBuf> =
            std::env::split_paths(search_path).filter(is_trusted).collect();
        let is_program = |file: &PathBuf| {
            file.metadata()
                .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
        };
        let file = directories.iter().map(|directory| directory.join("git")).find(is_program)?;
        Some(Self { file, search_path: std::env::join_paths(directories).ok()? })
    }

    /// git, of the user's configuration only what the repository itself holds, and of that nothing that runs programs.
    pub(crate) fn command(&self, directory: &Path, more: &[(OsString, OsString)]) -> Command {
        let mut command = self.bare(directory, more);
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("HOME", "/");
        if let Some(above) = directory.parent() {
            // A repository around the workspace is not the workspace's.
            command.env("GIT_CEILING_DIRECTORIES", above);
        }
        command
    }

    /// git with the user's own configuration, for asking what is in it.
    pub(crate) fn with_users_configuration(&self, home: &Path, configuration: &Path) -> Command {
        let mut command = self.bare(Path::new("/"), &[]);
        command.env("HOME", home).env("XDG_CONFIG_HOME", configuration);
        command
    }

    fn bare(&self, directory: &Path, more: &[(OsString, OsString)]) -> Command {
        #[expect(clippy::disallowed_methods, reason = "this is the one place")]
        let mut command = Command::new(&self.file);
        command
            // Whoever called forge may have variables that lead git elsewhere: GIT_DIR, GIT_EXEC_PATH, GIT_TRACE.
            .env_clear()
            .env("PATH", &self.search_path)
            .envs(VARIABLES.iter().copied())
            .current_dir(directory)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let ours = SETTINGS.iter().map(|(key, value)| (OsStr::new(*key), OsStr::new(*value)));
        let settings = ours.chain(more.iter().map(|(key, value)| (&**key, &**value)));
        let mut count = 0_usize;
        for (key, value) in settings {
            command.env(format!("GIT_CONFIG_KEY_{count}"), key);
            command.env(format!("GIT_CONFIG_VALUE_{count}"), value);
            count += 1;
        }
        command.env("GIT_CONFIG_COUNT", count.to_string());
        command
    }
}
