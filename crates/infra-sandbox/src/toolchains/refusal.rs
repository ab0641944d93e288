//! What is never shown, whatever names it.

use std::path::{Path, PathBuf};

use super::known::{
    HOMES, NEVER_ANYWHERE, NEVER_AT_HOME, NEVER_OF_SYSTEM, WIDE_AT_HOME, WIDE_AT_ROOT,
};

/// Whether a directory may be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Allowed,
    /// It holds much that is nobody's toolchain; what is in it may be allowed.
    TooWide,
    /// Neither it nor anything in it.
    Never,
}

/// How a directory in the root itself is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Evidence {
    /// Nothing but its path speaks for it.
    Path,
    /// It looks like a toolchain from within: then it may even be `/go`.
    Contents,
}

/// Knows what is private.
#[derive(Debug)]
pub(super) struct Refusals {
    /// Also those of other users that can be told by their paths, see `HOMES`.
    homes: Vec<PathBuf>,
    /// What no tree may hold.
    kept_out: Vec<PathBuf>,
}

impl Refusals {
    /// `home` may be a path through links.
    pub(super) fn new(home: Option<&Path>, workspace: &Path, state: &Path) -> Self {
        let mut homes = vec![PathBuf::from("/root")];
        homes.extend(home.map(Path::to_path_buf));
        homes.extend(home.and_then(|home| home.canonicalize().ok()));
        let mut kept_out = vec![workspace.to_path_buf(), state.to_path_buf()];
        // The state directory may not be there yet, but what it is in may be a link.
        kept_out.extend(state.ancestors().find_map(|above| {
            Some(above.canonicalize().ok()?.join(state.strip_prefix(above).ok()?))
        }));
        Self { homes, kept_out }
    }

    /// Judges a path without links.
    pub(super) fn judge(&self, path: &Path, evidence: Evidence) -> Verdict {
        let has_never = path.iter().any(|part| NEVER_ANYWHERE.iter().any(|never| part == *never));
        let state_holds = self.kept_out.iter().skip(1).any(|state| path.starts_with(state));
        if has_never || state_holds || self.is_of_system(path) {
            return Verdict::Never;
        }
        let beneath = self.beneath_homes(path);
        if NEVER_AT_HOME.iter().any(|never| beneath.iter().any(|rest| rest.starts_with(never))) {
            return Verdict::Never;
        }
        let private = NEVER_AT_HOME.iter().chain(&WIDE_AT_HOME).map(Path::new);
        if private.into_iter().any(|name| beneath.iter().any(|rest| name.starts_with(rest))) {
            return Verdict::TooWide;
        }
        let holds = |inner: &PathBuf| inner.starts_with(path);
        if self.kept_out.iter().any(holds) || self.homes.iter().any(holds) {
            return Verdict::TooWide;
        }
        match (path.components().count(), evidence) {
            (0 | 1, _) | (2, Evidence::Path) => Verdict::TooWide,
            _ if WIDE_AT_ROOT.iter().any(|wide| path == Path::new(wide)) => Verdict::TooWide,
            _ => Verdict::Allowed,
        }
    }

    /// Whether a path is the system's own. Where `/home` is a link into it (`/var/home`), or a user's home
    /// is there (`/var/lib/jenkins`), homes are the one thing in `/var` that counts.
    fn is_of_system(&self, path: &Path) -> bool {
        let is_home = HOMES.iter().any(|homes| path.starts_with(homes))
            || self.homes.iter().any(|home| path.starts_with(home));
        !is_home && NEVER_OF_SYSTEM.iter().any(|never| path.starts_with(never))
    }

    /// The rest of a path in each home directory that it lies in; empty for the directory itself.
    fn beneath_homes<'a>(&self, path: &'a Path) -> Vec<&'a Path> {
        let own = self.homes.iter().filter_map(|home| path.strip_prefix(home).ok());
        let others = HOMES.iter().filter_map(|homes| {
            let rest = path.strip_prefix(homes).ok()?;
            rest.strip_prefix(rest.iter().next()?).ok()
        });
        own.chain(others).collect()
    }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    fn judged(path: &str, evidence: Evidence) -> Verdict {
        let (home, workspace) = (Path::new("/home/me"), Path::new("/home/me/code/project"));
        let refusals = Refusals::new(Some(home), workspace, Path::new("/home/me/tools/state"));
        refusals.judge(Path::new(path), evidence)
    }

    #[test]
    fn homes_their_ancestors_and_what_holds_more_than_a_toolchain_are_too_wide() {
        for path in [
            "/",
            "/home",
            "/home/me",
            "/home/other",
            "/home/me/.local",
            "/home/me/.local/share",
            "/home/other/.local",
            "/home/me/Documents",
            "/home/me/.cache",
            "/home/me/code",
            "/home/me/code/project",
            "/home/me/tools",
            "/root",
            "/root/.local",
            "/var/home/x",
            "/data",
            "/usr/local",
            "/var/home",
        ] {
            assert_eq!(judged(path, Evidence::Path), Verdict::TooWide, "{path}");
        }
        for path in ["/", "/home", "/home/me", "/root", "/tmp", "/usr", "/var/home", "/mnt"] {
            assert_eq!(judged(path, Evidence::Contents), Verdict::TooWide, "{path}");
        }
    }

    #[test]
    fn what_is_secret_is_never_shown_in_anyones_home() {
        for path in [
            "/home/me/.ssh",
            "/home/me/.ssh/bin",
            "/home/other/.aws/x",
            "/srv/x/.gnupg",
            "/home/me/.config/tool/bin",
            "/home/me/.local/share/keyrings",
            "/proc/1/root",
            "/home/me/.local/state/forge",
            "/var/lib/x/bin",
            "/run/user/1000/x",
            "/root/.kube",
            "/home/me/.mozilla/firefox",
            "/home/me/snap/firefox",
            "/home/me/.cache/mozilla/x",
            "/home/me/tools/state",
            "/home/me/tools/state/sessions",
            "/dev/shm/bin",
        ] {
            assert_eq!(judged(path, Evidence::Contents), Verdict::Never, "{path}");
        }
    }

    #[test]
    fn toolchains_are_allowed() {
        for path in [
            "/home/me/.cargo",
            "/home/me/bin",
            "/home/me/.local/bin",
            "/home/other/.nvm",
            "/var/home/me/.cargo",
            "/srv/tools/bin",
            "/home/me/.cache/uv/environments",
        ] {
            assert_eq!(judged(path, Evidence::Path), Verdict::Allowed, "{path}");
        }
        assert_eq!(judged("/go", Evidence::Contents), Verdict::Allowed);
    }
}
