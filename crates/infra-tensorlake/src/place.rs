//! Where a project stands in the guest.

use std::path::{Path, PathBuf};

use forge_domain::WorkspaceLocation;

/// What a guest has of its own, or lets nobody into but root: nothing of the host's can stand there.
const NOT_THERE: [&str; 13] = [
    "/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/root",
    "/sbin", "/sys", "/usr",
];

/// Where such a path stands instead.
const INSTEAD: &str = "/workspace";

/// Where a path of the host stands in the guest: the same, but for those that no guest has room for. `/root/x` stands at
/// `/workspace/root/x`, always.
#[must_use]
pub fn guest_path(host: &Path) -> PathBuf {
    match host.strip_prefix("/") {
        Ok(rest) if NOT_THERE.iter().any(|taken| host.starts_with(taken)) => {
            Path::new(INSTEAD).join(rest)
        }
        _ => host.to_path_buf(),
    }
}

pub(crate) fn guest_location(host: &WorkspaceLocation) -> WorkspaceLocation {
    WorkspaceLocation {
        root: guest_path(&host.root),
        working_directory: guest_path(&host.working_directory),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_guest_has_no_room_for_stands_elsewhere() {
        let cases = [
            ("/home/ada/x", "/home/ada/x"),
            ("/Users/ada/x", "/Users/ada/x"),
            ("/tmp/x", "/tmp/x"),
            ("/rooted/x", "/rooted/x"),
            ("/var/usr/x", "/var/usr/x"),
            ("/root", "/workspace/root"),
            ("/root/a b", "/workspace/root/a b"),
            ("/usr/src/linux", "/workspace/usr/src/linux"),
            ("/dev/shm/x", "/workspace/dev/shm/x"),
        ];
        for (host, guest) in cases {
            assert_eq!(guest_path(Path::new(host)), Path::new(guest), "{host}");
        }
    }
}
