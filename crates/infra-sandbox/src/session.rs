//! A session as the host holds it: the helper process and the socket to its init.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use rustix::net::SocketType;
use rustix::process::{Pid, PidfdFlags};
use thiserror::Error;

use crate::channel;
use crate::hook::{HELPER_ARGUMENT, HelperProgram};
use crate::spec::{
    CommandSpec, SessionAnswer, SessionFacts, SessionRequest, SessionSpec, SetupFailure,
    decode_outcome,
};

/// How long the helper may take to set a session up.
const SETUP_LIMIT: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };

/// How long the helper may take to end, once its socket is closed, before it is killed.
const END_LIMIT: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// How long the init may take to answer.
const ANSWER_LIMIT: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// Why a session does not stand.
#[derive(Debug, Error)]
pub(crate) enum StartError {
    /// The embedding program did not say which program is the helper.
    #[error(
        "this program does not become the sandbox's helper: it must call sandbox_hook() first thing in main, or name the forge binary as the helper"
    )]
    NoHelper,
    /// The helper could not be executed.
    #[error("the sandbox's helper could not be started")]
    Spawn(#[source] io::Error),
    /// The helper ended or fell silent before it had answered.
    #[error("the sandbox's helper gave no answer")]
    Silent(#[source] Option<io::Error>),
    /// The helper says what it could not do.
    #[error("{} failed", .0.step)]
    Setup(SetupFailure, #[source] io::Error),
}

/// A session that stands. Dropping it ends every process in it, without waiting.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) facts: SessionFacts,
    pub(crate) memory_events: Option<PathBuf>,
    pub(crate) workspace: OwnedFd,
    pub(crate) scratch: OwnedFd,
    pub(crate) upper: Arc<OwnedFd>,
    /// The layers in memory beside it that are to be kept.
    pub(crate) kept: Vec<OwnedFd>,
    /// Taken by the end.
    held: Mutex<Option<Held>>,
}

#[derive(Debug)]
struct Held {
    socket: OwnedFd,
    helper: Child,
}

/// The host's ends of a command's connections, and what the helper gets of it.
pub(crate) struct CommandDescriptors<'a> {
    pub(crate) control: &'a OwnedFd,
    /// Stdin, stdout, stderr; none for a command on a terminal, which is made inside.
    pub(crate) streams: Option<[&'a OwnedFd; 3]>,
}

/// A helper that was started and waits to be told what to set up. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Helper(Option<Held>);

impl Helper {
    /// Starts it. What it is to set up may be found out meanwhile.
    pub(crate) fn spawn(program: &HelperProgram) -> Result<Self, StartError> {
        let file = program.file().ok_or(StartError::NoHelper)?;
        let (socket, theirs) = channel::pair(SocketType::SEQPACKET).map_err(StartError::Spawn)?;
        let helper = Command::new(file)
            .arg(HELPER_ARGUMENT)
            .env_clear()
            .current_dir("/")
            // A Ctrl-C at the terminal is for the program, which passes it on to commands; the end of the socket ends
            // this.
            .process_group(0)
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(StartError::Spawn)?;
        Ok(Self(Some(Held { socket, helper })))
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        if let Some(Held { socket, mut helper }) = self.0.take() {
            drop(socket);
            end_helper(&mut helper);
        }
    }
}

impl Session {
    /// Waits until the session stands. Blocks for at most 30 seconds. The helper holds the lock as long
    /// as anything of the session lives.
    pub(crate) fn start(
        mut helper: Helper,
        spec: &SessionSpec,
        lock: BorrowedFd<'_>,
    ) -> Result<Self, StartError> {
        let Some(held) = helper.0.as_ref() else { return Err(StartError::Silent(None)) };
        match shake_hands(&held.socket, spec, lock) {
            Ok((facts, memory_events, [workspace, scratch, upper], kept)) => {
                let held = Mutex::new(helper.0.take());
                let upper = Arc::new(upper);
                Ok(Self { facts, memory_events, workspace, scratch, upper, kept, held })
            }
            Err(error) => Err(error),
        }
    }

    /// Starts a command in the session. What becomes of it is told on its control socket.
    pub(crate) fn launch(
        &self,
        command: &CommandSpec,
        descriptors: &CommandDescriptors<'_>,
    ) -> io::Result<()> {
        let memory = memory_file(&command.encode())?;
        let held = self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let held = held.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let CommandDescriptors { control, streams } = descriptors;
        let mut descriptors = vec![control.as_fd(), memory.as_fd()];
        descriptors.extend(streams.iter().flatten().map(|stream| stream.as_fd()));
        channel::send(&held.socket, SessionRequest::Run.encode(), &descriptors)
    }

    /// Asks the init for something other than a command and waits until it is done, for at most ten seconds. An init
    /// that gives no answer is ended, and the session with it.
    pub(crate) fn ask(&self, request: SessionRequest) -> io::Result<()> {
        let mut slot = self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let held = slot.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let answer = || {
            channel::send(&held.socket, request.encode(), &[])?;
            let mut wanted = [PollFd::new(&held.socket, PollFlags::IN)];
            if poll(&mut wanted, Some(&ANSWER_LIMIT))? == 0 {
                return Err(io::ErrorKind::TimedOut.into());
            }
            channel::receive(&held.socket)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
        };
        match answer() {
            Ok((outcome, _)) => decode_outcome(&outcome),
            Err(error) => {
                // What it still answered would be taken for the answer to the next question.
                if let Some(Held { socket, mut helper }) = slot.take() {
                    drop(socket);
                    end_helper(&mut helper);
                }
                Err(error)
            }
        }
    }

    /// Ends every process of the session and waits for that, for at most ten seconds. A second call
    /// does nothing.
    pub(crate) fn end(&self) {
        let held = self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(Held { socket, mut helper }) = held {
            drop(socket);
            end_helper(&mut helper);
        }
    }

    /// How often the kernel has ended a process of this session for want of memory.
    pub(crate) fn memory_kills(&self) -> u64 {
        let Some(file) = &self.memory_events else { return 0 };
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The end of the socket ends the session; the helper is reaped by whoever reaps orphans, or
        // here if it is quick.
        let held = self.held.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(Held { socket, mut helper }) = held {
            drop(socket);
            std::thread::spawn(move || end_helper(&mut helper));
        }
    }
}

type Standing = (SessionFacts, Option<PathBuf>, [OwnedFd; 3], Vec<OwnedFd>);

fn shake_hands(
    socket: &OwnedFd,
    spec: &SessionSpec,
    lock: BorrowedFd<'_>,
) -> Result<Standing, StartError> {
    let silent = |error| StartError::Silent(Some(error));
    let spec = serde_json::to_vec(spec).map_err(|error| silent(io::Error::other(error)))?;
    let memory = memory_file(&spec).map_err(silent)?;
    channel::send(socket, b"session", &[memory.as_fd(), lock]).map_err(silent)?;
    let mut wanted = [PollFd::new(socket, PollFlags::IN)];
    let ready = poll(&mut wanted, Some(&SETUP_LIMIT)).map_err(|error| silent(error.into()))?;
    if ready == 0 {
        return Err(silent(io::ErrorKind::TimedOut.into()));
    }
    let received = channel::receive(socket).map_err(silent)?;
    let (bytes, descriptors) = received.ok_or(StartError::Silent(None))?;
    match serde_json::from_slice(&bytes).map_err(|error| silent(io::Error::other(error)))? {
        SessionAnswer::Ready { facts, memory_events } => {
            let mut descriptors = descriptors;
            let kept = descriptors.split_off(descriptors.len().min(3));
            let descriptors = <[OwnedFd; 3]>::try_from(descriptors)
                .map_err(|_| silent(io::ErrorKind::InvalidData.into()))?;
            Ok((facts, memory_events, descriptors, kept))
        }
        SessionAnswer::Failed(failure) => {
            let source = match failure.errno {
                0 => io::Error::other("no further reason is known"),
                errno => io::Error::from_raw_os_error(errno),
            };
            Err(StartError::Setup(failure, source))
        }
    }
}

/// A file in memory with these contents, for a message that may be long.
fn memory_file(bytes: &[u8]) -> io::Result<OwnedFd> {
    let memory = rustix::fs::memfd_create("forge", MemfdFlags::CLOEXEC)?;
    let mut file = File::from(memory);
    file.write_all(bytes)?;
    Ok(file.into())
}

fn end_helper(helper: &mut Child) {
    // Readable once the process has ended (pidfd_open(2)), so that its end is seen at once.
    let ended = Pid::from_raw(helper.id().cast_signed())
        .and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
    if let Some(ended) = ended {
        let mut wanted = [PollFd::new(&ended, PollFlags::IN)];
        if !matches!(poll(&mut wanted, Some(&END_LIMIT)), Ok(0)) {
            drop(helper.wait());
            return;
        }
    }
    // Its children die with it.
    drop(helper.kill());
    drop(helper.wait());
}
