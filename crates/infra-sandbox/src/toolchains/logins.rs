//! Whether a file of settings holds a login: for files whose name alone does not say it.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use crate::secrets::file_holds_login;

/// So much of a file is looked at.
const LOOK_BYTES: u64 = 64 * 1024;

/// How the names of settings end that hold what nobody else may know.
const SECRET: [&str; 9] = [
    "_auth",
    "access_key",
    "api_key",
    "apikey",
    "passphrase",
    "passwd",
    "password",
    "secret",
    "token",
];

/// Whether a regular file holds a login. What cannot be read by us cannot be read inside either.
pub(crate) fn holds_login(path: &Path) -> bool {
    let is_file = fs::metadata(path).is_ok_and(|found| found.is_file());
    is_file && (file_holds_login(path) || text_holds_login(path, &beginning(path)))
}

fn beginning(path: &Path) -> String {
    let mut bytes = Vec::new();
    if let Ok(file) = File::open(path) {
        drop(file.take(LOOK_BYTES).read_to_end(&mut bytes));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn text_holds_login(path: &Path, text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    // What is commented out may still be valid, so comments count.
    text.lines().map(str::trim).any(|line| {
        assigns_secret(line)
            || holds_authority(line)
            // Conda's channels may have a token for a part of their address.
            || (path.ends_with(".condarc") && line.contains("://") && line.contains("/t/"))
            || (path.ends_with("fstab") && has_secret_option(line))
    })
}

/// npm puts the registry before the setting: `//registry.example/:_authToken=…`.
fn assigns_secret(line: &str) -> bool {
    let mut parts: Vec<&str> = line.split(['=', ':']).collect();
    parts.pop();
    parts.iter().any(|key| {
        let key = key.trim().trim_start_matches(['#', ';', ' ']).trim_matches(['"', '\'']);
        SECRET.iter().any(|secret| key.ends_with(secret))
    })
}

/// An address with a user, or with a token in a user's place. `git` is everybody's.
fn holds_authority(line: &str) -> bool {
    line.split("://").skip(1).any(|rest| {
        let authority = rest.split(['/', ' ', '\t', '"', '\'']).next().unwrap_or_default();
        authority.rsplit_once('@').is_some_and(|(login, _)| login != "git")
    })
}

/// The options of a mount give a password, or say where it is (fstab(5), mount.cifs(8)).
fn has_secret_option(line: &str) -> bool {
    let mut options = line.split([',', ' ', '\t']);
    options.any(|option| {
        ["password=", "pass=", "credentials=", "cred="].iter().any(|key| option.starts_with(key))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(name: &str, text: &str) -> bool {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        holds_login(&path)
    }

    #[test]
    fn logins_are_told_in_the_ways_that_tools_write_them() {
        for (name, text) in [
            (".npmrc", "fund=false\n//registry.example/:_authToken=npm_x\n"),
            (".npmrc", "_auth = dTpw\n"),
            (".npmrc", "//registry.example/:_password=\"x\"\n"),
            (".yarnrc.yml", "npmAuthToken: x\n"),
            ("pip.conf", "[global]\nindex-url = https://u:p@pypi.example/simple\n"),
            ("pip.conf", "[global]\nindex-url = https://token@pypi.example/simple\n"),
            ("config.toml", "[registries.own]\ntoken = \"x\"\n"),
            (".condarc", "channels:\n  - https://conda.example/t/abc/main\n"),
            ("config.toml", "[registry]\n# token = \"x\"\n"),
            ("fstab", "//s/x /mnt cifs username=me,password=x 0 0\n"),
            ("fstab", "//s/x /mnt cifs credentials=/etc/x,ro\n"),
        ] {
            assert!(holds(name, text), "{name}: {text}");
        }
    }

    #[test]
    fn settings_without_a_login_are_not_hidden() {
        for (name, text) in [
            (".npmrc", "registry=https://registry.example/\nalways-auth=true\n"),
            ("pip.conf", "[global]\nindex-url = https://pypi.example/simple\n"),
            ("config.toml", "[net]\nretry = 2\n[build]\njobs = 4\n"),
            ("config", "[remote \"origin\"]\nurl = ssh://git@host.example/x.git\n"),
            (".condarc", "channels:\n  - https://conda.example/main\n"),
            ("fstab", "UUID=1 / ext4 rw,errors=remount-ro 0 1\n"),
        ] {
            assert!(!holds(name, text), "{name}: {text}");
        }
    }
}
