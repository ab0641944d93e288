//! Which files of a project hold secrets, and are hidden from what runs in the sandbox.
//!
//! By their names where a name says it, by a look inside where the same name is also given to what is
//! no secret. The walk reads directories only; files that have to be looked into are few.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use forge_domain::{Secrecy, holds_login, is_secret_directory, secrecy};
use rustix::fs::{FileType, Mode, OFlags};

use crate::beneath;
use crate::files::{open_file, read_directory};

/// So much of a file is looked at.
const LOOK_BYTES: u64 = 64 * 1024;

/// Directories whose contents are made by tools and are many.
const PASSED_OVER: [&str; 2] = [".git", "node_modules"];

/// What of a project is hidden; paths relative to the workspace, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct HiddenPaths {
    pub(crate) files: Vec<PathBuf>,
    pub(crate) directories: Vec<PathBuf>,
}

/// Finds what is to be hidden, less what is included by name; an included directory shows everything
/// beneath it.
pub(crate) fn find(workspace: BorrowedFd<'_>, include: &[PathBuf]) -> io::Result<HiddenPaths> {
    let mut hidden = HiddenPaths::default();
    let root = Arc::new(workspace.try_clone_to_owned()?);
    let mut pending: Vec<(PathBuf, Arc<OwnedFd>, std::ffi::OsString)> = Vec::new();
    look(&root, Path::new(""), include, &mut hidden, &mut pending)?;
    while let Some((path, parent, name)) = pending.pop() {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let opened = beneath::open(&*parent, &name, flags, Mode::empty());
        // What may not be read by the user, or is gone, hides itself.
        let Ok(directory) = opened else { continue };
        drop(look(&Arc::new(directory), &path, include, &mut hidden, &mut pending));
    }
    hidden.files.sort();
    hidden.directories.sort();
    Ok(hidden)
}

fn look(
    directory: &Arc<OwnedFd>,
    path: &Path,
    include: &[PathBuf],
    hidden: &mut HiddenPaths,
    pending: &mut Vec<(PathBuf, Arc<OwnedFd>, std::ffi::OsString)>,
) -> io::Result<()> {
    for (name, kind) in read_directory(directory)? {
        match kind {
            FileType::Directory if !PASSED_OVER.iter().any(|passed| name == *passed) => {
                let path = path.join(&name);
                if is_secret_directory(&path) && !is_included(&path, include) {
                    hidden.directories.push(path);
                } else {
                    pending.push((path, Arc::clone(directory), name));
                }
            }
            FileType::RegularFile if is_secret(directory, path, &name) => {
                let path = path.join(&name);
                if !is_included(&path, include) {
                    hidden.files.push(path);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn is_included(path: &Path, include: &[PathBuf]) -> bool {
    include.iter().any(|included| path.starts_with(included))
}

fn is_secret(directory: &OwnedFd, parent: &Path, name: &OsStr) -> bool {
    match secrecy(&parent.join(name)) {
        Secrecy::Open => false,
        Secrecy::Secret => true,
        Secrecy::Perhaps(signs) => signs.are_in(&beginning(directory, name)),
    }
}

fn beginning(directory: &OwnedFd, name: &OsStr) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Ok(file) = open_file(directory, name) {
        // What cannot be read cannot be read inside either.
        drop(file.take(LOOK_BYTES).read_to_end(&mut bytes));
    }
    bytes
}

/// Whether a file at a path of the host holds a login, by its contents; for files whose name alone does
/// not say it.
pub(crate) fn file_holds_login(path: &Path) -> bool {
    let Some((parent, name)) = path.parent().zip(path.file_name()) else { return false };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(directory) = rustix::fs::open(parent, flags, Mode::empty()) else { return false };
    let text = beginning(&directory, name);
    let text = String::from_utf8_lossy(&text);
    let assigns = text.lines().filter_map(|line| line.split_once(['=', ':'])).any(|(key, _)| {
        let key = key.trim().trim_matches(['"', '\'']).to_ascii_lowercase();
        ["token", "password", "secret", "_auth"].iter().any(|word| key.ends_with(word))
    });
    assigns || holds_login(&text)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::AsFd;

    use pretty_assertions::assert_eq;

    use super::*;

    fn hidden(files: &[(&str, &str)], include: &[&str]) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        for (path, contents) in files {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, contents).unwrap();
        }
        let root = File::open(directory.path()).unwrap();
        let include: Vec<PathBuf> = include.iter().map(PathBuf::from).collect();
        let hidden = find(root.as_fd(), &include).unwrap();
        let paths = hidden.files.into_iter().chain(hidden.directories);
        paths.map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn what_is_secret_by_its_name_is_hidden() {
        let names = [
            ".env",
            ".env.local",
            ".env.production",
            ".netrc",
            "a/.pgpass",
            "deploy/id_rsa",
            "key.p12",
            "store.jks",
        ];
        let files: Vec<(&str, &str)> = names.iter().map(|name| (*name, "x")).collect();
        let mut expected: Vec<String> = names.iter().map(ToString::to_string).collect();
        expected.sort();
        let mut actual = hidden(&files, &[]);
        actual.sort();
        assert_eq!(actual, expected);
    }

    #[test]
    fn what_only_looks_like_it_is_shown() {
        let names = [
            ".env.example",
            ".env.sample",
            ".env.template",
            ".envrc",
            "environment.ts",
            "env",
            "id_rsa.pub",
            "keys.rs",
            ".npmrc",
            "cert.pem",
            "credentials.json",
            "config.json",
        ];
        let files: Vec<(&str, &str)> =
            names.iter().map(|name| (*name, "BEGIN CERTIFICATE")).collect();
        assert_eq!(hidden(&files, &[]), Vec::<String>::new());
    }

    #[test]
    fn what_a_look_inside_shows_to_be_secret_is_hidden() {
        let files = [
            ("server.pem", "-----BEGIN PRIVATE KEY-----\nabc"),
            ("server.key", "-----BEGIN RSA PRIVATE KEY-----\nabc"),
            (".npmrc", "//registry.example/:_authToken=abc"),
            ("pip.conf", "index-url = https://user:pass@example.org/simple"),
            ("credentials.json", "{\"client_secret\": \"x\"}"),
            ("service-account-x.json", "{\"private_key\": \"x\"}"),
            (".docker/config.json", "{}"),
        ];
        let mut expected: Vec<String> = files.iter().map(|(name, _)| (*name).to_owned()).collect();
        expected.sort();
        assert_eq!(hidden(&files, &[]), expected);
    }

    #[test]
    fn whole_directories_of_secrets_are_hidden() {
        let files = [(".ssh/config", "x"), ("a/.aws/credentials", "x"), (".config/gcloud/x", "x")];
        assert_eq!(hidden(&files, &[]), [".config/gcloud", ".ssh", "a/.aws"]);
    }

    #[test]
    fn what_is_included_is_shown() {
        let files = [(".env", "x"), ("a/.env", "x"), ("a/.ssh/id_rsa", "x"), ("b/.env", "x")];
        assert_eq!(hidden(&files, &[".env", "a"]), ["b/.env"]);
    }

    #[test]
    fn a_link_is_not_followed_and_what_is_made_by_tools_is_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/hostname", directory.path().join(".env")).unwrap();
        fs::create_dir_all(directory.path().join("node_modules/a")).unwrap();
        fs::write(directory.path().join("node_modules/a/.env"), "x").unwrap();
        let root = File::open(directory.path()).unwrap();
        assert_eq!(find(root.as_fd(), &[]).unwrap(), HiddenPaths::default());
    }
}
