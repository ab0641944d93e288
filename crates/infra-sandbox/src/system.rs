//! What of the system is shown: the directories that programs, libraries and settings live in,
//! read-only, less what is secret in them.

use std::fs;
use std::path::{Path, PathBuf};

use crate::secrets::file_holds_login;

/// Shown where they are there. A link, as `/bin` mostly is one, is made again as a link.
const SHOWN: [&str; 14] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/etc",
    "/opt",
    "/nix",
    "/gnu",
    "/snap",
    "/run/current-system",
    "/home/linuxbrew/.linuxbrew",
];

/// Hidden where they are there: what root or a service keeps for itself. An ordinary user can read few
/// of them anyway; root could read all.
const HIDDEN: [&str; 29] = [
    "/etc/shadow",
    "/etc/shadow-",
    "/etc/gshadow",
    "/etc/gshadow-",
    "/etc/sudoers",
    "/etc/sudoers.d",
    "/etc/security/opasswd",
    "/etc/ssl/private",
    "/etc/krb5.keytab",
    "/etc/wireguard",
    "/etc/openvpn",
    "/etc/ipsec.secrets",
    "/etc/ipsec.d/private",
    "/etc/NetworkManager/system-connections",
    "/etc/netplan",
    "/etc/ppp/chap-secrets",
    "/etc/ppp/pap-secrets",
    "/etc/wpa_supplicant",
    "/etc/docker/key.json",
    "/etc/kubernetes",
    "/etc/rancher",
    "/etc/cni/net.d",
    "/etc/letsencrypt",
    "/etc/mysql/debian.cnf",
    "/etc/crypttab",
    "/etc/cloud",
    "/etc/boto.cfg",
    "/etc/munge",
    "/etc/samba/private",
];

/// Hidden where a login is in them.
const MAYBE_HIDDEN: [&str; 5] =
    ["/etc/pip.conf", "/etc/npmrc", "/usr/etc/npmrc", "/usr/local/etc/npmrc", "/etc/fstab"];

/// What of the system is shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SystemView {
    /// Directories, shown read-only.
    pub(crate) trees: Vec<PathBuf>,
    /// Links that are made: path, target.
    pub(crate) links: Vec<(PathBuf, PathBuf)>,
    /// What is hidden in the directories.
    pub(crate) masks: Vec<PathBuf>,
}

/// Looks at the host.
pub(crate) fn view() -> SystemView {
    let mut view = SystemView::default();
    for path in SHOWN.map(Path::new) {
        match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_symlink() => {
                if let Ok(target) = fs::read_link(path) {
                    view.links.push((path.to_path_buf(), target));
                }
            }
            Ok(metadata) if metadata.is_dir() => view.trees.push(path.to_path_buf()),
            Ok(_) | Err(_) => {}
        }
    }
    let there = |path: &&str| fs::symlink_metadata(path).is_ok_and(|found| !found.is_symlink());
    view.masks.extend(HIDDEN.into_iter().filter(there).map(PathBuf::from));
    view.masks.extend(host_keys());
    let login = |path: &&str| file_holds_login(Path::new(path));
    view.masks.extend(MAYBE_HIDDEN.into_iter().filter(there).filter(login).map(PathBuf::from));
    view
}

/// The keys that this machine proves itself with.
fn host_keys() -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir("/etc/ssh") else { return Vec::new() };
    let is_key = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("ssh_host_") && name.ends_with("_key")
    };
    entries.flatten().map(|entry| entry.path()).filter(is_key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_shown_and_homes_are_not() {
        let view = view();
        assert!(view.trees.contains(&PathBuf::from("/usr")));
        let all = view.trees.iter().chain(view.links.iter().map(|(path, _)| path));
        assert!(all.clone().any(|path| path == Path::new("/bin")));
        assert!(!all.clone().any(|path| path == Path::new("/home") || path == Path::new("/root")));
        assert!(all.clone().all(|path| path.is_absolute()));
    }

    #[test]
    fn the_users_of_this_machine_keep_their_passwords() {
        if Path::new("/etc/shadow").exists() {
            assert!(view().masks.contains(&PathBuf::from("/etc/shadow")));
        }
    }
}
