//! What of the system is shown: the directories that programs, libraries and settings live in,
//! read-only, less what is secret in them.
//!
//! What is secret is told by its path, and where the caller is root also by its mode: what the system
//! shows to nobody but root is nothing that a command needs.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::toolchains::holds_login;

/// Shown where they are there. A link, as `/bin` mostly is one, is made again as a link. The two in
/// `/var` are where `/opt` and `/usr/local` lead to on systems whose `/usr` is an image.
const SHOWN: [&str; 16] = [
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
    "/var/opt",
    "/var/usrlocal",
];

/// Those of the above that are shown only for the sake of a link to them.
const SHOWN_BY_LINK: [(&str, &str); 2] = [("/var/opt", "/opt"), ("/var/usrlocal", "/usr/local")];

/// Hidden where they are there: what root or a service keeps for itself, and sockets of services that
/// would do for a command what it may not do itself (nothing but absence keeps a socket from being
/// connected to).
const HIDDEN: &[&str] = &[
    "/etc/apt/auth.conf",
    "/etc/apt/auth.conf.d",
    "/etc/bind/rndc.key",
    "/etc/boto.cfg",
    "/etc/ceph",
    "/etc/chef",
    "/etc/cifs-credentials",
    "/etc/cloud",
    "/etc/cloudflared",
    "/etc/cni/net.d",
    "/etc/containers/auth.json",
    "/etc/corosync/authkey",
    "/etc/credstore",
    "/etc/credstore.encrypted",
    "/etc/crypttab",
    "/etc/cups/printers.conf",
    "/etc/cups/ssl",
    "/etc/datadog-agent",
    "/etc/davfs2/secrets",
    "/etc/dbconfig-common",
    "/etc/docker/certs.d",
    "/etc/docker/key.json",
    "/etc/dovecot/private",
    "/etc/dropbear",
    "/etc/exim4/passwd.client",
    "/etc/gitlab",
    "/etc/gitlab-runner",
    "/etc/grafana",
    "/etc/gshadow",
    "/etc/gshadow-",
    "/etc/hostapd",
    "/etc/ipsec.d/private",
    "/etc/ipsec.secrets",
    "/etc/iscsi",
    "/etc/krb5.keytab",
    "/etc/kubernetes",
    "/etc/ldap.secret",
    "/etc/letsencrypt",
    "/etc/libnss-ldap.secret",
    "/etc/msmtprc",
    "/etc/munge",
    "/etc/mysql/debian.cnf",
    "/etc/netplan",
    "/etc/network/interfaces",
    "/etc/NetworkManager/system-connections",
    "/etc/nslcd.conf",
    "/etc/nut/upsd.users",
    "/etc/openvpn",
    "/etc/pacemaker/authkey",
    "/etc/pam_ldap.secret",
    "/etc/passwd-s3fs",
    "/etc/pki/consumer",
    "/etc/pki/entitlement",
    "/etc/pki/tls/private",
    "/etc/postfix/sasl",
    "/etc/postfix/sasl_passwd",
    "/etc/postfix/sasl_passwd.db",
    "/etc/ppp/chap-secrets",
    "/etc/ppp/pap-secrets",
    "/etc/puppetlabs/puppet/ssl",
    "/etc/pve/priv",
    "/etc/raddb",
    "/etc/rancher",
    "/etc/rclone.conf",
    "/etc/rndc.key",
    "/etc/s3cfg",
    "/etc/salt/pki",
    "/etc/samba/private",
    "/etc/security/opasswd",
    "/etc/shadow",
    "/etc/shadow-",
    "/etc/ssl/private",
    "/etc/sssd",
    "/etc/subversion/servers",
    "/etc/sudoers",
    "/etc/sudoers.d",
    "/etc/swanctl/private",
    "/etc/tinc",
    "/etc/traefik/acme.json",
    "/etc/vault.d",
    "/etc/wireguard",
    "/etc/wpa_supplicant",
    "/etc/yum/rhn",
    "/etc/zypp/credentials.d",
    // A command could have its programs built, or fetched, outside of the sandbox.
    "/nix/var/nix/daemon-socket",
    // Where services that were built by hand keep sockets (Watchman runs programs for whoever asks).
    "/usr/local/var",
];

/// Hidden where a login is in them.
const MAYBE_HIDDEN: [&str; 7] = [
    "/etc/fstab",
    "/etc/npmrc",
    "/etc/pip.conf",
    "/etc/wgetrc",
    "/usr/etc/npmrc",
    "/usr/lib/node_modules/npm/npmrc",
    "/usr/local/etc/npmrc",
];

/// Where settings are that only root may read.
const SETTINGS: [&str; 2] = ["/etc", "/usr/local/etc"];

/// So deep and so many of them are looked at.
const MAX_DEPTH: usize = 8;
const MAX_ENTRIES: usize = 20_000;

/// What of the system is shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SystemView {
    /// Directories, shown read-only.
    pub(crate) trees: Vec<PathBuf>,
    /// Links that are made: path, target.
    pub(crate) links: Vec<(PathBuf, PathBuf)>,
}

/// Looks for the directories.
pub(crate) fn view() -> SystemView {
    let mut view = SystemView::default();
    for path in SHOWN.map(Path::new).into_iter().filter(|path| is_wanted(path)) {
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
    // Most are not there, which is said at once where every part would be asked for.
    view
}

/// What is hidden in the directories that are shown.
pub(crate) fn masks() -> Vec<PathBuf> {
    let real = |path: &&str| {
        let path = Path::new(path);
        fs::symlink_metadata(path).ok().and_then(|_| path.canonicalize().ok())
    };
    let mut masks: Vec<PathBuf> = HIDDEN.iter().filter_map(real).collect();
    masks.extend(host_keys());
    let maybe = MAYBE_HIDDEN.iter().filter_map(real);
    masks.extend(maybe.filter(|path| holds_login(path)));
    masks.extend(service_data(Path::new("/home/linuxbrew/.linuxbrew")));
    if rustix::process::geteuid().is_root() {
        masks.extend(SETTINGS.iter().flat_map(|path| closed_to_others(Path::new(path))));
    }
    masks.sort();
    masks.dedup();
    without_nested(masks)
}

/// Whether a path is shown or made as a link by the system's view, where it is there.
pub(crate) fn shows(path: &Path) -> bool {
    SHOWN.iter().any(|shown| path == Path::new(shown))
}

/// What services of Homebrew keep: data, logs, sockets; all but what `brew` itself notes there.
pub(crate) fn service_data(prefix: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(prefix.join("var")) else { return Vec::new() };
    let entries = entries.flatten().take(MAX_ENTRIES);
    let kept = entries.filter(|entry| entry.file_name() != "homebrew");
    let kept = kept.filter(|entry| entry.file_type().is_ok_and(|kind| !kind.is_symlink()));
    kept.map(|entry| entry.path()).collect()
}

fn is_wanted(path: &Path) -> bool {
    let link = SHOWN_BY_LINK.iter().find(|(shown, _)| path == Path::new(shown));
    link.is_none_or(|(_, link)| Path::new(link).canonicalize().is_ok_and(|real| real == path))
}

/// The keys that this machine proves itself with.
fn host_keys() -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir("/etc/ssh") else { return Vec::new() };
    let is_key = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("ssh_host_") && name.ends_with("_key")
    };
    let paths = entries.flatten().map(|entry| entry.path()).filter(is_key);
    paths.filter_map(|path| path.canonicalize().ok()).collect()
}

/// What a directory holds that only its owner or a group may read. Links are not followed.
fn closed_to_others(directory: &Path) -> Vec<PathBuf> {
    let mut closed = Vec::new();
    let mut pending = vec![(directory.to_path_buf(), 0)];
    let mut seen = 0;
    while let Some((directory, depth)) = pending.pop() {
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for entry in entries.flatten() {
            seen += 1;
            if seen > MAX_ENTRIES {
                return closed;
            }
            // Told by the directory; most of what is in `/etc` are links.
            if entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
                continue;
            }
            let Ok(metadata) = entry.metadata() else { continue };
            let needed = if metadata.is_dir() { 0o001 } else { 0o004 };
            if metadata.mode() & needed == 0 {
                closed.push(entry.path());
            } else if metadata.is_dir() && depth < MAX_DEPTH {
                pending.push((entry.path(), depth + 1));
            }
        }
    }
    closed
}

/// Sorted paths, less those in another.
fn without_nested(paths: Vec<PathBuf>) -> Vec<PathBuf> {
    let mut kept: Vec<PathBuf> = Vec::with_capacity(paths.len());
    for path in paths {
        if !kept.last().is_some_and(|last| path.starts_with(last)) {
            kept.push(path);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use pretty_assertions::assert_eq;

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
    fn what_is_hidden_is_there_once_and_has_no_link_in_its_path() {
        let masks = masks();
        let real: Vec<PathBuf> = masks.iter().flat_map(|path| path.canonicalize()).collect();
        assert_eq!(masks, real);
        for (number, mask) in masks.iter().enumerate() {
            let others = masks.iter().enumerate().filter(|(other, _)| *other != number);
            assert!(!others.map(|(_, other)| other).any(|other| mask.starts_with(other)));
        }
    }

    #[test]
    fn the_users_of_this_machine_keep_their_passwords() {
        assert_eq!(
            masks().contains(&PathBuf::from("/etc/shadow")),
            Path::new("/etc/shadow").exists()
        );
    }

    #[test]
    fn what_others_may_not_read_is_found_and_links_are_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for (path, mode) in
            [("a/open", 0o644), ("a/closed", 0o640), ("b/in", 0o644), ("c", 0o600), ("d/x", 0o600)]
        {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::write(root.join(path), "x").unwrap();
            fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::set_permissions(root.join("a"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(root.join("b"), fs::Permissions::from_mode(0o750)).unwrap();
        fs::set_permissions(root.join("d"), fs::Permissions::from_mode(0o755)).unwrap();
        symlink(root.join("a"), root.join("d/link")).unwrap();
        let mut actual = closed_to_others(root);
        actual.sort();
        assert_eq!(actual, ["a/closed", "b", "c", "d/x"].map(|path| root.join(path)));
    }

    #[test]
    fn data_of_services_is_found_and_what_brew_notes_is_left() {
        let directory = tempfile::tempdir().unwrap();
        for path in ["var/homebrew/linked", "var/mysql", "bin"] {
            fs::create_dir_all(directory.path().join(path)).unwrap();
        }
        assert_eq!(service_data(directory.path()), [directory.path().join("var/mysql")]);
    }
}
