//! What the helper is told: a whole session, and one command of it.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use forge_domain::TerminalSize;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::layers::Layers;

/// A path of any bytes, on its way to the helper.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RawPath(pub(crate) PathBuf);

impl RawPath {
    pub(crate) fn as_path(&self) -> &Path {
        &self.0
    }
}

impl<P: Into<PathBuf>> From<P> for RawPath {
    fn from(path: P) -> Self {
        Self(path.into())
    }
}

impl Serialize for RawPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.as_os_str().as_bytes().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for RawPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = Vec::<u8>::deserialize(deserializer)?;
        Ok(Self(OsString::from_vec(bytes).into()))
    }
}

/// A whole session.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SessionSpec {
    pub(crate) view: View,
    pub(crate) network: NetworkSpec,
    pub(crate) limits: LimitsSpec,
    pub(crate) processes: ProcessesSpec,
    /// Not part of the message in a build that cannot switch anything off.
    #[cfg_attr(not(feature = "switchable-layers"), serde(skip))]
    pub(crate) layers: Layers,
}

/// What the session sees.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct View {
    pub(crate) root: Root,
    /// What of the host is there.
    pub(crate) shown: Vec<Shown>,
    /// Symlinks that are made: path, target.
    pub(crate) links: Vec<(RawPath, RawPath)>,
    /// Paths inside that are hidden, once everything is in place.
    pub(crate) masks: Vec<RawPath>,
    /// The home directory inside.
    pub(crate) home: RawPath,
    /// How large each of `/tmp`, `/dev/shm` and the home directory may become, where they are in memory.
    pub(crate) scratch_bytes: u64,
}

/// How the root is laid out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Root {
    /// What is shown and nothing else; of it, only the workspace keeps what is written.
    Listed {
        /// On the host and inside.
        workspace: RawPath,
        /// Where its changes go.
        upper: Upper,
    },
    /// Every path can be written, and nothing of the host is. The workspace is the root.
    Whole {
        /// A directory of the host's with a directory `root` in it, for what is written beside that
        /// which is shown.
        upper: RawPath,
    },
}

/// Something of the host that is shown: a directory with all beneath it, or a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shown {
    /// On the host and inside.
    pub(crate) path: RawPath,
    pub(crate) access: Access,
}

/// How something is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Access {
    /// As it is, and not to be written.
    ReadOnly,
    /// Not to be written, and with pipes, sockets and locks of its own: a directory.
    Apart,
    /// As it is.
    ReadWrite,
    /// What is written goes elsewhere: a directory.
    Layered(Upper),
}

/// Where changes go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Upper {
    /// To these directories of the host.
    Directories { upper: RawPath, work: RawPath },
    /// To memory.
    Memory { max_bytes: u64, keeping: Keeping },
}

/// What becomes of a layer in memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Keeping {
    /// It is gone with the session.
    ThrowAway,
    /// The host's side keeps it, and gets its descriptor for that: for state directories whose file
    /// system cannot hold a layer.
    Kept {
        /// The archive with what it held before.
        before: Option<RawPath>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum NetworkSpec {
    /// A loopback of its own.
    None,
    /// The host's.
    Full,
}

/// Which processes commands see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ProcessesSpec {
    /// Each command its own.
    Separate,
    /// All those of the session.
    Shared,
}

/// Limits, in the units of getrlimit(2); `None` is no limit of ours.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct LimitsSpec {
    pub(crate) processes: u64,
    pub(crate) open_files: u64,
    pub(crate) file_bytes: Option<u64>,
    /// Of everything together, where a cgroup can be had.
    pub(crate) memory_bytes: Option<u64>,
    /// Thousandths of a processor, where a cgroup can be had.
    pub(crate) milli_cpus: Option<u64>,
}

/// What the helper says once a session stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SessionFacts {
    /// The Landlock version that is enforced; 0 for none.
    pub(crate) landlock_abi: u32,
    /// Whether a cgroup bounds the memory of everything together.
    pub(crate) memory_bounded: bool,
    /// Whether a cgroup bounds processors.
    pub(crate) cpus_bounded: bool,
    /// Whether the number of processes is bounded for the session as a whole.
    pub(crate) processes_bounded: bool,
}

/// Why a session does not stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SetupFailure {
    /// What was being done, for a person.
    pub(crate) step: String,
    /// What the probe's table calls it.
    pub(crate) stage: SetupStage,
    /// The operating system's number, or 0.
    pub(crate) errno: i32,
}

/// The parts of the setting up, as the probe tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum SetupStage {
    /// The message itself, a pipe, memory: what fails nowhere else.
    Helper,
    /// Making the namespaces.
    Namespaces,
    /// Writing the user and group maps.
    IdMaps,
    /// Anything with mounts other than what follows.
    Mounts,
    /// Mounting a fresh `/proc`.
    Proc,
    /// Mounting the overlay of the workspace.
    Overlay,
    /// Landlock.
    Landlock,
    /// The filter of system calls.
    Seccomp,
}

/// What the helper answers to a [`SessionSpec`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum SessionAnswer {
    /// It stands; the descriptors are the workspace, the scratch directory, the upper layer, and the
    /// [kept](Keeping::Kept) layers of what is shown, in that order.
    Ready {
        facts: SessionFacts,
        /// The file whose line `oom_kill` counts ends for want of memory.
        memory_events: Option<PathBuf>,
    },
    /// It does not.
    Failed(SetupFailure),
}

/// What the host asks of a session's init, a message each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionRequest {
    /// To start a command, whose connections come with the message. What becomes of it is told on these.
    Run,
    /// To show what the host's files are now, where the kernel remembers what they were.
    Refresh,
    /// To stop every process of the session.
    Freeze,
    /// To let those go on that were stopped by that.
    Thaw,
}

impl SessionRequest {
    const ALL: [Self; 4] = [Self::Run, Self::Refresh, Self::Freeze, Self::Thaw];

    pub(crate) fn encode(self) -> &'static [u8] {
        match self {
            Self::Run => b"run",
            Self::Refresh => b"refresh",
            Self::Freeze => b"freeze",
            Self::Thaw => b"thaw",
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|request| request.encode() == bytes)
    }
}

/// What the init answers to every [`SessionRequest`] but `Run`: done, or the operating system's number.
pub(crate) fn encode_outcome(outcome: &io::Result<()>) -> [u8; 4] {
    let errno = match outcome {
        Ok(()) => 0,
        Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
    };
    errno.to_ne_bytes()
}

/// Reads what [`encode_outcome`] made.
pub(crate) fn decode_outcome(bytes: &[u8]) -> io::Result<()> {
    match <[u8; 4]>::try_from(bytes).map(i32::from_ne_bytes) {
        Ok(0) => Ok(()),
        Ok(errno) => Err(io::Error::from_raw_os_error(errno)),
        Err(_) => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// One command, as the helper executes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CommandSpec {
    pub(crate) directory: OsString,
    pub(crate) arguments: Vec<OsString>,
    /// `NAME=VALUE` each.
    pub(crate) environment: Vec<OsString>,
    /// The size of its terminal, where it is to have one.
    pub(crate) terminal: Option<TerminalSize>,
}

impl CommandSpec {
    /// Counts and lengths, then bytes; made and read by the same program.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // A terminal has a column at the least, so that zero says that there is none.
        let size = self.terminal.map_or([0, 0], |size| [size.columns(), size.rows()]);
        bytes.extend(size.map(u16::to_ne_bytes).concat());
        put(&mut bytes, &self.directory);
        for list in [&self.arguments, &self.environment] {
            bytes.extend((list.len() as u64).to_ne_bytes());
            for text in list {
                put(&mut bytes, text);
            }
        }
        bytes
    }

    /// Reads what [`CommandSpec::encode`] made.
    pub(crate) fn decode(mut bytes: &[u8]) -> io::Result<Self> {
        let (size, rest) = bytes.split_first_chunk::<4>().ok_or(io::ErrorKind::UnexpectedEof)?;
        bytes = rest;
        let [columns, rows] = [[size[0], size[1]], [size[2], size[3]]].map(u16::from_ne_bytes);
        let terminal = (columns > 0).then(|| TerminalSize::new(columns, rows));
        let directory = take(&mut bytes)?;
        let mut list = || {
            let count = take_number(&mut bytes)?;
            (0..count).map(|_| take(&mut bytes)).collect::<io::Result<Vec<_>>>()
        };
        Ok(Self { directory, arguments: list()?, environment: list()?, terminal })
    }
}

fn put(bytes: &mut Vec<u8>, text: &OsStr) {
    bytes.extend((text.len() as u64).to_ne_bytes());
    bytes.extend(text.as_bytes());
}

fn take(bytes: &mut &[u8]) -> io::Result<OsString> {
    let length = usize::try_from(take_number(bytes)?).map_err(io::Error::other)?;
    let text = bytes.get(..length).ok_or(io::ErrorKind::UnexpectedEof)?;
    *bytes = &bytes[length..];
    Ok(OsString::from_vec(text.to_vec()))
}

fn take_number(bytes: &mut &[u8]) -> io::Result<u64> {
    let (number, rest) = bytes.split_first_chunk::<8>().ok_or(io::ErrorKind::UnexpectedEof)?;
    *bytes = rest;
    Ok(u64::from_ne_bytes(*number))
}

/// What the host asks of a running command, over the command's own socket. The end of the connection
/// ends the command at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CommandRequest {
    /// Send this signal to the command's group.
    Signal(i32),
    /// Send this signal to all its processes and wait for them to end.
    Terminate(i32),
    /// Kill all of them.
    Kill,
}

/// What the command's keeper says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CommandEvent {
    /// The program is being executed, by this process of the pid namespace that it sees. With it comes the host's end
    /// of the terminal, where it has one.
    Started { pid: i32 },
    /// It was not executed.
    Refused { stage: LaunchStage, errno: i32 },
    /// It has ended with this raw status (wait(2)), and nothing of it is left.
    Ended { status: i32 },
}

/// Where the launch of a command stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LaunchStage {
    /// Processes, mounts, confinement: the sandbox's own part.
    Sandbox,
    /// Entering the working directory.
    Directory,
    /// There is no such program.
    NotFound,
    /// Executing the program.
    Execute,
}

/// The length of a request and of an event on the wire.
pub(crate) const REQUEST_BYTES: usize = 8;
pub(crate) const EVENT_BYTES: usize = 12;

impl CommandRequest {
    pub(crate) fn encode(self) -> [u8; REQUEST_BYTES] {
        let (tag, value) = match self {
            Self::Signal(signal) => (1, signal),
            Self::Terminate(signal) => (2, signal),
            Self::Kill => (3, 0),
        };
        join([tag, value])
    }

    pub(crate) fn decode(bytes: [u8; REQUEST_BYTES]) -> Option<Self> {
        match split::<2, _>(bytes) {
            [1, signal] => Some(Self::Signal(signal)),
            [2, signal] => Some(Self::Terminate(signal)),
            [3, _] => Some(Self::Kill),
            _ => None,
        }
    }
}

impl CommandEvent {
    pub(crate) fn encode(self) -> [u8; EVENT_BYTES] {
        join(match self {
            Self::Started { pid } => [1, pid, 0],
            Self::Refused { stage, errno } => [2, stage.number(), errno],
            Self::Ended { status } => [3, status, 0],
        })
    }

    pub(crate) fn decode(bytes: [u8; EVENT_BYTES]) -> Option<Self> {
        match split::<3, _>(bytes) {
            [1, pid, _] => Some(Self::Started { pid }),
            [2, stage, errno] => Some(Self::Refused { stage: LaunchStage::of(stage)?, errno }),
            [3, status, _] => Some(Self::Ended { status }),
            _ => None,
        }
    }
}

impl LaunchStage {
    pub(crate) fn number(self) -> i32 {
        match self {
            Self::Sandbox => 0,
            Self::Directory => 1,
            Self::NotFound => 2,
            Self::Execute => 3,
        }
    }

    pub(crate) fn of(number: i32) -> Option<Self> {
        [Self::Sandbox, Self::Directory, Self::NotFound, Self::Execute]
            .into_iter()
            .find(|stage| stage.number() == number)
    }
}

fn join<const N: usize, const BYTES: usize>(numbers: [i32; N]) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    for (place, number) in bytes.chunks_exact_mut(4).zip(numbers) {
        place.copy_from_slice(&number.to_ne_bytes());
    }
    bytes
}

fn split<const N: usize, const BYTES: usize>(bytes: [u8; BYTES]) -> [i32; N] {
    let mut numbers = [0; N];
    for (number, place) in numbers.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *number = i32::from_ne_bytes(*place);
    }
    numbers
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn a_command_comes_back_from_its_bytes() {
        let expected = CommandSpec {
            directory: "/a b".into(),
            arguments: vec!["sh".into(), "".into(), OsString::from_vec(vec![0xff, b'\n'])],
            environment: vec!["A=1".into()],
            terminal: Some(TerminalSize::new(80, 24)),
        };
        let without = CommandSpec { terminal: None, ..expected.clone() };
        assert_eq!(CommandSpec::decode(&without.encode()).unwrap(), without);
        assert_eq!(CommandSpec::decode(&expected.encode()).unwrap(), expected);
        let cut = expected.encode();
        assert!(CommandSpec::decode(&cut[..cut.len() - 1]).is_err());
    }

    #[test]
    fn requests_and_events_come_back_from_their_bytes() {
        for request in SessionRequest::ALL {
            assert_eq!(SessionRequest::decode(request.encode()), Some(request));
        }
        assert_eq!(SessionRequest::decode(b"other"), None);
        assert!(decode_outcome(&encode_outcome(&Ok(()))).is_ok());
        let refused = Err(io::Error::from_raw_os_error(libc::EPERM));
        let errno = decode_outcome(&encode_outcome(&refused)).unwrap_err().raw_os_error();
        assert_eq!(errno, Some(libc::EPERM));
        let requests =
            [CommandRequest::Signal(15), CommandRequest::Terminate(1), CommandRequest::Kill];
        for request in requests {
            assert_eq!(CommandRequest::decode(request.encode()), Some(request));
        }
        let refused = CommandEvent::Refused { stage: LaunchStage::Execute, errno: 8 };
        for event in
            [CommandEvent::Started { pid: 7 }, refused, CommandEvent::Ended { status: 256 }]
        {
            assert_eq!(CommandEvent::decode(event.encode()), Some(event));
        }
        assert_eq!(CommandEvent::decode([9; EVENT_BYTES]), None);
    }
}
