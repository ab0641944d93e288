//! A repository of ours in which what came out of a session is looked at, beside the user's. It has nothing of the
//! user's configuration, sees the user's objects, and is thrown away.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use forge_domain::{CommitsError, GitObjectId, RepositoryRefs, SessionRef};

use crate::repository::HostRepository;
use crate::run::{Ended, Input, Output, run};

/// Where incoming refs are in it.
const INCOMING: &str = "refs/incoming/";

/// The repository, removed when this is dropped.
pub(crate) struct Quarantine<'a> {
    host: &'a HostRepository,
    directory: PathBuf,
    /// All that the host's refs name.
    known: Vec<GitObjectId>,
}

impl Drop for Quarantine<'_> {
    fn drop(&mut self) {
        // It lies in a directory whose owner removes it with all that is in it.
        drop(fs::remove_dir_all(&self.directory));
    }
}

impl<'a> Quarantine<'a> {
    /// Makes it, in a private directory of ours.
    pub(crate) fn new(
        host: &'a HostRepository,
        refs: &RepositoryRefs,
        directory: PathBuf,
    ) -> Result<Self, CommitsError> {
        let mut known: Vec<GitObjectId> =
            refs.refs.iter().map(|(_, id)| id).chain(&refs.head).cloned().collect();
        known.sort();
        known.dedup();
        let quarantine = Self { host, directory, known };
        match fs::remove_dir_all(&quarantine.directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(quarantine.failed("removing")(error));
            }
            _ => {}
        }
        let (format, path) = (format!("--object-format={}", host.format), &quarantine.directory);
        let mut command = host.git.command(Path::new("/"), &[]);
        command.args(["init", "--quiet", "--bare", "--template=", &format]).arg(path);
        run(command, "init", Input::Nothing, Output::Kept)?.success("init")?;
        quarantine.connect().map_err(quarantine.failed("writing to"))?;
        Ok(quarantine)
    }

    /// Shows it the user's objects, and from where on they are whole.
    fn connect(&self) -> io::Result<()> {
        let objects = self.host.objects.as_os_str().as_encoded_bytes();
        // A line each; one that begins with a quote would be read as quoted (gitrepository-layout(5)).
        if objects.contains(&b'\n') || objects.starts_with(b"\"") {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path holds a line break"));
        }
        fs::create_dir_all(self.directory.join("objects/info"))?;
        fs::write(self.directory.join("objects/info/alternates"), [objects, b"\n"].concat())?;
        let mut packed = String::new();
        for (number, id) in self.known.iter().enumerate() {
            packed.push_str(&format!("{id} refs/host/{number}\n"));
        }
        fs::write(self.directory.join("packed-refs"), packed)?;
        match fs::copy(&self.host.shallow, self.directory.join("shallow")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn failed(&self, operation: &'static str) -> impl FnOnce(io::Error) -> CommitsError {
        let path = self.directory.clone();
        move |source| CommitsError::Io { operation, path, source }
    }

    fn run(
        &self,
        name: &'static str,
        arguments: &[&OsStr],
        protocol: &str,
        input: Input,
        output: Output,
    ) -> Result<Ended, CommitsError> {
        let mut command = self.host.git.command(&self.directory, &[]);
        command.env("GIT_DIR", &self.directory).env("GIT_ALLOW_PROTOCOL", protocol);
        // A small pack may hold what unfolds into any size; larger files are streamed.
        command.env("GIT_ALLOC_LIMIT", "512m");
        command.arg("--no-pager").arg(name).args(arguments);
        run(command, name, input, output)
    }

    fn ask(
        &self,
        name: &'static str,
        arguments: &[&str],
        input: Input,
    ) -> Result<Ended, CommitsError> {
        let arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
        self.run(name, &arguments, "", input, Output::Kept)
    }

    /// Takes these refs out of a bundle, whose names for others are not looked at: git verifies it, reads its pack, checks
    /// its objects and that nothing is missing that they lead to.
    pub(crate) fn fetch(&self, bundle: &Path, refs: &[SessionRef]) -> Result<(), CommitsError> {
        let verify = ["verify", "--quiet"].map(OsStr::new);
        let arguments = [&verify[..], &[bundle.as_os_str()]].concat();
        self.run("bundle", &arguments, "", Input::Nothing, Output::Kept)?.accepted()?;
        let options = [
            "--quiet",
            "--no-tags",
            "--no-write-fetch-head",
            "--no-auto-maintenance",
            "--no-recurse-submodules",
            "--atomic",
            "--no-progress",
            "--stdin",
        ]
        .map(OsStr::new);
        let arguments = [&options[..], &[bundle.as_os_str()]].concat();
        let mut specs = String::new();
        for one in refs {
            specs.push_str(&format!("+{}:{INCOMING}{}\n", one.name.in_session(), one.name));
        }
        let input = Input::Bytes(specs.into_bytes());
        self.run("fetch", &arguments, "file", input, Output::Kept)?.accepted()?;
        Ok(())
    }

    /// Takes refs to what the host holds already.
    pub(crate) fn point(&self, refs: &[SessionRef]) -> Result<(), CommitsError> {
        let mut lines = String::new();
        for one in refs {
            lines.push_str(&format!("create {INCOMING}{} {}\n", one.name, one.id));
        }
        self.ask("update-ref", &["--stdin"], Input::Bytes(lines.into_bytes()))?.accepted()?;
        Ok(())
    }

    /// Which of these name what was said, and that is a commit or the tag of one.
    pub(crate) fn commits(&self, refs: &[SessionRef]) -> Result<Vec<bool>, CommitsError> {
        let format = "--format=%(objectname) %(objecttype) %(*objecttype) %(refname)";
        let listed = self.ask("for-each-ref", &[format, INCOMING], Input::Nothing)?.accepted()?;
        let listed = String::from_utf8_lossy(&listed).into_owned();
        let find = |one: &SessionRef| {
            let name = format!("{INCOMING}{}", one.name);
            listed.lines().find_map(|line| {
                let words: Vec<&str> = line.split(' ').collect();
                let [id, kind, peeled, found] = words[..] else { return None };
                (found == name).then_some((id, kind, peeled))
            })
        };
        let is_commit = |one: &SessionRef| match find(one) {
            Some((id, ..)) if id != one.id.as_str() => Err(CommitsError::Refused {
                reason: format!("{} names another commit than was said", one.name),
            }),
            Some((_, "commit", _) | (_, "tag", "commit" | "tag")) => Ok(true),
            Some(_) => Ok(false),
            None => Err(CommitsError::Refused { reason: format!("{} is missing", one.name) }),
        };
        refs.iter().map(is_commit).collect()
    }

    /// A pack with all objects that the host does not have, written by git and checked once more; `None` where there are none.
    pub(crate) fn pack(&self, refs: &[SessionRef]) -> Result<Option<File>, CommitsError> {
        let mut lines = String::new();
        for one in refs {
            lines.push_str(&format!("{}\n", one.id));
        }
        for id in &self.known {
            lines.push_str(&format!("^{id}\n"));
        }
        let lines = lines.into_bytes();
        // Of refs to what was there, nothing came through the fetch that would have missed what is missing.
        let walk = ["--objects", "--quiet", "--stdin"];
        self.ask("rev-list", &walk, Input::Bytes(lines.clone()))?.accepted()?;
        let path = self.directory.join("new.pack");
        let open = File::options().read(true).write(true).create_new(true).open(&path);
        let mut pack = open.map_err(self.failed("writing to"))?;
        let copy = pack.try_clone().map_err(self.failed("writing to"))?;
        let arguments = ["--revs", "--stdout", "--quiet", "--delta-base-offset"].map(OsStr::new);
        let input = Input::Bytes(lines);
        self.run("pack-objects", &arguments, "", input, Output::File(copy))?.accepted()?;
        let mut header = [0; 12];
        pack.rewind()
            .and_then(|()| pack.read_exact(&mut header))
            .and_then(|()| pack.rewind())
            .map_err(self.failed("reading"))?;
        // `PACK`, the version, the count (gitformat-pack(5)).
        if header[8..] == [0; 4] {
            return Ok(None);
        }
        // Not every git checks the objects of a bundle that it fetches from.
        let index = self.directory.join("new.idx");
        let arguments =
            [OsStr::new("--fsck-objects"), OsStr::new("-o"), index.as_os_str(), path.as_os_str()];
        let said =
            self.run("index-pack", &arguments, "", Input::Nothing, Output::Kept)?.accepted()?;
        // More than the pack's name are blobs that are used as .gitmodules and that nobody has.
        if said.iter().filter(|byte| **byte == b'\n').count() > 1 {
            let reason = "a .gitmodules is missing".to_owned();
            return Err(CommitsError::Refused { reason });
        }
        Ok(Some(pack))
    }
}
