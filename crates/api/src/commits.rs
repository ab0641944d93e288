//! Commits of a session, brought to a repository of the host: listed and bundled by git in the environment, looked at
//! and named by git on the host.
//!
//! Of the environment only the command port is used, so that this serves every environment that has one.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use forge_app::review::{LISTING_SCRIPT, Listing, ListingError, bundle_revisions};
use forge_domain::{
    BroughtRefs, CommandError, CommandExit, CommandIo, CommandRequest, Commands, CommitTarget,
    CommitsError, ControlRequests, Ending, EnvironmentVariable, Fidelity, GitObjectId,
    OutputLimits, OutputSink, OutputStream, Program, RefRefusal, RepositoryRefs, SessionId,
    SessionRef, SinkClosed, Stdin, VariableName,
};
#[cfg(target_os = "linux")]
use forge_infra_sandbox::KeptCommits;
use thiserror::Error;

/// A bundle is no larger.
const MAX_BUNDLE_BYTES: u64 = 2 * 1024 * 1024 * 1024;

/// A list of refs is no longer.
const MAX_LISTING_BYTES: usize = 4 * 1024 * 1024;

/// So long git may take in the session.
const TIME_LIMIT: Duration = Duration::from_secs(5 * 60);

/// What git says where nothing of what was asked for is new.
const EMPTY_BUNDLE: &str = "Refusing to create empty bundle";

/// What became of a session's commits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BroughtCommits {
    /// The commit that is checked out in the session; `None` where there is none.
    pub head: Option<GitObjectId>,
    /// The refs that are on the host now and were not before, or named something else.
    pub brought: Vec<SessionRef>,
    /// The names of the session that were left, and why.
    pub left: Vec<(String, RefRefusal)>,
    /// All refs of the session that the host has: these, those of before, and those that are its own.
    pub settled: Vec<SessionRef>,
}

/// Why commits were not brought to the host. No ref of the host was changed.
#[derive(Debug, Error)]
pub enum BringError {
    /// git could not be run in the environment.
    #[error("git cannot be run in the session")]
    Command(#[from] CommandError),
    /// git failed in the environment.
    #[error("git failed in the session: {reason}")]
    Inside {
        /// What it said; not to be trusted.
        reason: String,
    },
    /// git took too long in the environment.
    #[error("git took longer than five minutes in the session")]
    TimedOut,
    /// What it said cannot be used.
    #[error(transparent)]
    Listing(#[from] ListingError),
    /// The bundle would be too large.
    #[error("the session's commits take more than {} GiB", max_bytes >> 30)]
    TooLarge {
        /// The limit.
        max_bytes: u64,
    },
    /// The repository of the host refused.
    #[error(transparent)]
    Target(#[from] CommitsError),
    /// The bundle could not be written down.
    #[error("writing {} failed", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

/// Brings the commits of a session to the host, as refs beneath `refs/forge/<session>/`: those of branches, tags, notes,
/// the newest entry of the stash, and of `HEAD`. What the host names already is not brought again; a ref that was
/// brought before and has moved is replaced. The environment is the session's, and is not closed.
/// [`settled`](BroughtCommits::settled) is what [`SessionStore::note_brought`](crate::SessionStore::note_brought) is to be told
/// afterwards, so that it waits no more.
///
/// Bounded: five minutes for each of two commands in the environment and of a dozen on the host.
///
/// # Errors
/// [`BringError`]; no ref was changed.
///
/// # Cancel safety
/// A dropped future may leave a file in the state directory, which the next call for this session removes; refs are
/// changed all at once or not.
pub async fn bring_commits<E: Commands + ?Sized>(
    environment: &E,
    workspace: &Path,
    repository: Arc<dyn CommitTarget + Send + Sync>,
    session: &SessionId,
    state_directory: &Path,
) -> Result<BroughtCommits, BringError> {
    let inside = Inside { environment, workspace, max_bundle_bytes: MAX_BUNDLE_BYTES };
    bring(&inside, repository, session, state_directory).await
}

/// The same of commits that a session made in a microVM and that are kept since.
///
/// # Errors
/// As [`bring_commits`].
///
/// # Cancel safety
/// As [`bring_commits`].
#[cfg(target_os = "linux")]
pub async fn bring_kept_commits(
    kept: KeptCommits,
    repository: Arc<dyn CommitTarget + Send + Sync>,
    session: &SessionId,
    state_directory: &Path,
) -> Result<BroughtCommits, BringError> {
    bring(&Aside(Mutex::new(kept)), repository, session, state_directory).await
}

/// Where commits come from.
#[async_trait]
trait Made: Send + Sync {
    async fn listing(&self) -> Result<Listing, BringError>;

    /// Writes a bundle of these refs to a file, without what the host has.
    async fn bundle(
        &self,
        refs: &[SessionRef],
        host: &RepositoryRefs,
        path: &Path,
    ) -> Result<(), BringError>;
}

#[async_trait]
impl<E: Commands + ?Sized> Made for Inside<'_, E> {
    async fn listing(&self) -> Result<Listing, BringError> {
        self.list().await
    }

    async fn bundle(
        &self,
        refs: &[SessionRef],
        host: &RepositoryRefs,
        path: &Path,
    ) -> Result<(), BringError> {
        self.bundle(&bundle_revisions(refs, host), path).await
    }
}

/// What is kept on this machine.
#[cfg(target_os = "linux")]
struct Aside(Mutex<KeptCommits>);

#[cfg(target_os = "linux")]
#[async_trait]
impl Made for Aside {
    async fn listing(&self) -> Result<Listing, BringError> {
        Ok(Listing::of_refs(self.0.lock().unwrap_or_else(PoisonError::into_inner).refs.clone()))
    }

    async fn bundle(
        &self,
        _refs: &[SessionRef],
        _host: &RepositoryRefs,
        path: &Path,
    ) -> Result<(), BringError> {
        let bundle = self.0.lock().unwrap_or_else(PoisonError::into_inner).bundle.take();
        // Something is new, by what was kept.
        let (mut bundle, _) = bundle.ok_or(ListingError::Unreadable)?;
        let path = path.to_path_buf();
        let copied = tokio::task::spawn_blocking(move || {
            let file = File::options().write(true).create_new(true).open(&path);
            let copied = file.and_then(|mut file| io::copy(&mut bundle, &mut file));
            copied.map(drop).map_err(|source| BringError::Io { path, source })
        });
        match copied.await {
            Ok(copied) => copied,
            Err(error) => {
                Err(BringError::Io { path: PathBuf::new(), source: io::Error::other(error) })
            }
        }
    }
}

async fn bring(
    made: &dyn Made,
    repository: Arc<dyn CommitTarget + Send + Sync>,
    session: &SessionId,
    state_directory: &Path,
) -> Result<BroughtCommits, BringError> {
    let listing = made.listing().await?;
    let host = {
        let repository = Arc::clone(&repository);
        blocking(move || repository.refs()).await?
    };
    let wanted = listing.wanted(session, &host)?;
    let mut result = BroughtCommits { head: listing.head.clone(), ..BroughtCommits::default() };
    result.left = listing.refused.clone();
    result.settled = listing.refs.clone();
    if wanted.is_empty() {
        return Ok(result);
    }
    let holds = {
        let (repository, wanted) = (Arc::clone(&repository), wanted.clone());
        let ids = move || wanted.into_iter().map(|one| one.id).collect::<Vec<_>>();
        blocking(move || repository.holds(&ids())).await?
    };
    let new: Vec<SessionRef> =
        wanted.iter().zip(holds).filter(|(_, is)| !is).map(|(one, _)| one.clone()).collect();
    let place = PrivateDirectory::make(state_directory, session)?;
    let mut bundle = None;
    if !new.is_empty() {
        let path = place.path.join("bundle");
        made.bundle(&new, &host, &path).await?;
        bundle = Some(path);
    }
    let brought: BroughtRefs = {
        let session = session.clone();
        blocking(move || repository.bring(&session, &wanted, &place.path, bundle.as_deref()))
            .await?
    };
    let is_left = |one: &SessionRef| brought.left.iter().any(|(name, _)| *name == one.name);
    result.settled.retain(|one| !is_left(one));
    result.left.extend(brought.left.iter().map(|(name, why)| (name.in_session(), *why)));
    result.brought = brought.brought;
    Ok(result)
}

/// Runs what blocks on a thread for that.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CommitsError> + Send + 'static,
) -> Result<T, BringError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result?),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(error) => Err(BringError::Io { path: PathBuf::new(), source: io::Error::other(error) }),
    }
}

/// The environment, as git is run in it.
struct Inside<'a, E: ?Sized> {
    environment: &'a E,
    workspace: &'a Path,
    max_bundle_bytes: u64,
}

impl<E: Commands + ?Sized> Inside<'_, E> {
    async fn list(&self) -> Result<Listing, BringError> {
        let limits = OutputLimits::head_and_tail(MAX_LISTING_BYTES);
        let request = self.request(Program::shell(LISTING_SCRIPT)).output_limits(limits);
        let exit = self.environment.run(request, CommandIo::detached()).await?;
        succeeded(&exit)?;
        if exit.output.omitted_bytes() > 0 {
            return Err(ListingError::Unreadable.into());
        }
        Ok(Listing::parse(&exit.output.of(OutputStream::Stdout))?)
    }

    /// Writes a bundle of these revisions to a file.
    async fn bundle(&self, revisions: &str, path: &Path) -> Result<(), BringError> {
        let failed = |source| BringError::Io { path: path.to_path_buf(), source };
        let file = File::options().write(true).create_new(true).open(path).map_err(failed)?;
        let taken =
            Arc::new(Mutex::new(Taken { file, room_bytes: self.max_bundle_bytes, trouble: None }));
        let program = Program::argv(
            "git",
            ["bundle", "create", "--quiet", "-", "--ignore-missing", "--stdin"],
        );
        let revisions = Bytes::copy_from_slice(revisions.as_bytes());
        let io = CommandIo {
            stdin: Stdin::Stream(Box::pin(futures_util::stream::iter([Ok(revisions)]))),
            sink: Box::new(ToFile(Arc::clone(&taken))),
            control: ControlRequests::none(),
        };
        let exit = self.environment.run(self.request(program), io).await?;
        match taken.lock().unwrap_or_else(PoisonError::into_inner).trouble.take() {
            Some(Trouble::TooLarge) => {
                return Err(BringError::TooLarge { max_bytes: self.max_bundle_bytes });
            }
            Some(Trouble::Io(source)) => return Err(failed(source)),
            None => {}
        }
        match succeeded(&exit) {
            Err(BringError::Inside { reason }) if reason.contains(EMPTY_BUNDLE) => {
                // Something is new, by what it said before.
                Err(ListingError::Unreadable.into())
            }
            other => other,
        }
    }

    /// git's configuration in the session is the session's. It does no harm here, but could be in the way.
    fn request(&self, program: Program) -> CommandRequest {
        let settings = forge_infra_git::SETTINGS.iter().enumerate();
        let mut variables = vec![
            ("GIT_CONFIG_COUNT".to_owned(), forge_infra_git::SETTINGS.len().to_string()),
            ("GIT_NO_REPLACE_OBJECTS".to_owned(), "1".to_owned()),
            ("GIT_OPTIONAL_LOCKS".to_owned(), "0".to_owned()),
            ("GIT_TERMINAL_PROMPT".to_owned(), "0".to_owned()),
            ("LC_ALL".to_owned(), "C".to_owned()),
        ];
        for (number, (key, value)) in settings {
            variables.push((format!("GIT_CONFIG_KEY_{number}"), (*key).to_owned()));
            variables.push((format!("GIT_CONFIG_VALUE_{number}"), (*value).to_owned()));
        }
        let variable = |(name, value): (String, String)| {
            EnvironmentVariable::new(VariableName::parse(name).ok()?, value).ok()
        };
        CommandRequest::new(program)
            .working_directory(self.workspace)
            .environment(variables.into_iter().filter_map(variable).collect::<Vec<_>>())
            .time_limit(TIME_LIMIT)
            .fidelity(Fidelity::Exact)
            .output_limits(OutputLimits::head_and_tail(16 * 1024))
    }
}

fn succeeded(exit: &CommandExit) -> Result<(), BringError> {
    match &exit.ending {
        Ending::Exited(0) => Ok(()),
        Ending::TimedOut { .. } => Err(BringError::TimedOut),
        Ending::Exited(127) => Err(BringError::Inside { reason: "it is not there".to_owned() }),
        ending => {
            let said = exit.output.of(OutputStream::Stderr);
            let said = String::from_utf8_lossy(&said);
            let line = said.lines().map(str::trim).rfind(|line| !line.is_empty());
            let reason = line.map_or_else(|| format!("{ending:?}"), str::to_owned);
            Err(BringError::Inside { reason })
        }
    }
}

/// A bundle as it comes.
struct Taken {
    file: File,
    room_bytes: u64,
    trouble: Option<Trouble>,
}

enum Trouble {
    TooLarge,
    Io(io::Error),
}

/// Takes stdout, as far as there is room.
struct ToFile(Arc<Mutex<Taken>>);

#[async_trait]
impl OutputSink for ToFile {
    async fn write(&mut self, stream: OutputStream, bytes: Bytes) -> Result<(), SinkClosed> {
        if stream == OutputStream::Stderr {
            return Ok(());
        }
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match taken.room_bytes.checked_sub(bytes.len() as u64) {
            Some(room) => taken.room_bytes = room,
            None => {
                taken.trouble = Some(Trouble::TooLarge);
                return Err(SinkClosed);
            }
        }
        taken.file.write_all(&bytes).map_err(|error| {
            taken.trouble = Some(Trouble::Io(error));
            SinkClosed
        })
    }
}

/// A directory in the state directory that only we can look into; gone at the end.
struct PrivateDirectory {
    path: PathBuf,
}

impl PrivateDirectory {
    fn make(state_directory: &Path, session: &SessionId) -> Result<Self, BringError> {
        let path = state_directory.join("commits").join(session.as_str());
        let made = match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => fs::DirBuilder::new().recursive(true).mode(0o700).create(&path),
        };
        match made {
            Ok(()) => Ok(Self { path }),
            Err(source) => Err(BringError::Io { path, source }),
        }
    }
}

impl Drop for PrivateDirectory {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next call.
        drop(fs::remove_dir_all(&self.path));
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::process::Command;

    use forge_infra_git::HostRepository;
    use pretty_assertions::assert_eq;
    use tempfile::TempDir;

    use super::*;

    /// A session that says what it was made to say: a listing, and then something for a bundle.
    struct Hostile {
        listing: Vec<u8>,
        bundle: Vec<u8>,
        ending: Ending,
    }

    #[async_trait]
    impl Commands for Hostile {
        async fn run(
            &self,
            request: CommandRequest,
            mut io: CommandIo,
        ) -> Result<CommandExit, CommandError> {
            let bytes = match request.program {
                Program::Shell(_) => &self.listing,
                Program::Argv { .. } => &self.bundle,
            };
            let mut output = forge_domain::OutputBuffer::new(request.output_limits);
            for part in bytes.chunks(1024) {
                output.push(OutputStream::Stdout, part);
                let bytes = Bytes::copy_from_slice(part);
                if io.sink.write(OutputStream::Stdout, bytes).await.is_err() {
                    break;
                }
            }
            Ok(CommandExit {
                ending: self.ending.clone(),
                output: output.finish(None),
                elapsed: Duration::ZERO,
                stopped_by: None,
                notices: Vec::new(),
            })
        }
    }

    fn repository() -> (TempDir, Arc<HostRepository>) {
        let directory = tempfile::tempdir().unwrap();
        #[expect(clippy::disallowed_methods, reason = "a test makes a repository")]
        let made = Command::new("git").args(["init", "-q"]).current_dir(directory.path()).status();
        assert!(made.unwrap().success());
        let path = directory.path().canonicalize().unwrap();
        let repository =
            HostRepository::open(&path, OsStr::new("/usr/local/bin:/usr/bin:/bin")).unwrap();
        (directory, Arc::new(repository))
    }

    async fn bring(hostile: &Hostile) -> Result<BroughtCommits, BringError> {
        let (directory, repository) = repository();
        let session = SessionId::parse("s").unwrap();
        let state = directory.path().join("state");
        let result = bring_commits(
            hostile,
            directory.path(),
            Arc::clone(&repository) as Arc<dyn CommitTarget + Send + Sync>,
            &session,
            &state,
        )
        .await;
        // Whatever happened, nothing was named and nothing is left.
        assert_eq!(repository.refs().unwrap(), forge_domain::RepositoryRefs::default());
        let left = fs::read_dir(state.join("commits")).map_or(0, Iterator::count);
        assert_eq!(left, 0);
        result
    }

    fn listing() -> Vec<u8> {
        let id = "a".repeat(40);
        format!("HEAD {id}\n{id} refs/heads/main\n").into_bytes()
    }

    #[tokio::test]
    async fn a_session_that_lies_brings_nothing() {
        let hostile = |listing: &[u8], bundle: &[u8], code| Hostile {
            listing: listing.to_vec(),
            bundle: bundle.to_vec(),
            ending: Ending::Exited(code),
        };
        let long = vec![b'x'; 9 * 1024 * 1024];
        for text in [&b""[..], b"HEAD\n", b"HEAD zz\n", b"\xff\xfe", &long] {
            let error = bring(&hostile(text, b"", 0)).await.unwrap_err();
            assert!(matches!(error, BringError::Listing(ListingError::Unreadable)), "{error:?}");
        }
        for bundle in [&b""[..], b"PACK", b"# v2 git bundle\n\nPACK"] {
            let error = bring(&hostile(&listing(), bundle, 0)).await.unwrap_err();
            let is_refused = matches!(error, BringError::Target(CommitsError::Refused { .. }));
            assert!(is_refused, "{error:?}");
        }
        let error = bring(&hostile(&listing(), b"", 127)).await.unwrap_err();
        assert_eq!(error.to_string(), "git failed in the session: it is not there");
    }

    #[tokio::test]
    async fn a_session_that_takes_too_long_brings_nothing() {
        let ending = Ending::TimedOut { limit: TIME_LIMIT };
        let slow = Hostile { listing: listing(), bundle: Vec::new(), ending };
        assert!(matches!(bring(&slow).await, Err(BringError::TimedOut)));
    }

    #[tokio::test]
    async fn a_bundle_that_is_too_large_is_cut_off() {
        let directory = tempfile::tempdir().unwrap();
        let endless = Hostile {
            listing: Vec::new(),
            bundle: vec![0; 100_000],
            ending: Ending::Signalled(forge_domain::Signal::PIPE),
        };
        let inside =
            Inside { environment: &endless, workspace: directory.path(), max_bundle_bytes: 50_000 };
        let path = directory.path().join("bundle");
        let error = inside.bundle("", &path).await.unwrap_err();
        assert!(matches!(error, BringError::TooLarge { max_bytes: 50_000 }), "{error:?}");
        assert!(fs::metadata(&path).unwrap().len() <= 50_000);
    }
}
