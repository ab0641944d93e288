//! The keeper of one command: the first process of the command's own pid namespace, or, where the session
//! shares one, the process that adopts what the command leaves behind.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Access, access};

use super::descendants;
use super::init::Session;
use super::kernel::{self, Blocking, Fork, Waited};
use super::proc_masks;
use super::terminal;
use crate::channel;
use crate::spec::{
    CommandEvent, CommandRequest, CommandSpec, LaunchStage, ProcessesSpec, REQUEST_BYTES,
};

/// Where a program without a slash is looked for when the command has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// A program file that somebody still has open for writing cannot be executed yet. It is tried again
/// this often, at this interval.
const BUSY_ATTEMPTS: u32 = 20;
const BUSY_INTERVAL: std::time::Duration = std::time::Duration::from_millis(10);

/// How long killed processes are given to be gone before they are looked for again.
const SWEEP_INTERVAL: std::time::Duration = std::time::Duration::from_micros(200);

/// What a command is connected to.
pub(super) struct Connections {
    control: File,
    command: File,
    /// None for a command on a terminal, which is made here.
    streams: Option<[OwnedFd; 3]>,
}

impl Connections {
    /// Takes the descriptors in the order in which the host sends them: control socket, command,
    /// and stdin, stdout, stderr where it is on no terminal.
    pub(super) fn of(mut descriptors: Vec<OwnedFd>) -> Result<Self, Vec<OwnedFd>> {
        let streams = match descriptors.len() {
            2 => None,
            _ => Some(<[OwnedFd; 3]>::try_from(descriptors.split_off(2.min(descriptors.len())))?),
        };
        let [control, command] = <[OwnedFd; 2]>::try_from(descriptors)?;
        Ok(Self { control: File::from(control), command: File::from(command), streams })
    }

    /// Says that no process could be made.
    pub(super) fn refuse(mut self, error: &io::Error) {
        tell(&mut self.control, refused(LaunchStage::Sandbox, error));
    }
}

fn refused(stage: LaunchStage, error: &io::Error) -> CommandEvent {
    CommandEvent::Refused { stage, errno: error.raw_os_error().unwrap_or(libc::EIO) }
}

fn tell(control: &mut File, event: CommandEvent) {
    // The host may be gone, which ends the command soon enough.
    drop(control.write_all(&event.encode()));
}

/// Makes ready what does not depend on the command: a `/proc` of this pid namespace, or the adoption of
/// orphans.
pub(super) fn prepare(session: &Session) -> io::Result<()> {
    if session.processes == ProcessesSpec::Shared {
        return Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?);
    }
    if session.layers.mounts { proc_masks::fresh_proc(&session.proc_masks) } else { Ok(()) }
}

/// Makes ready, waits for a command, and runs it. Ends where none will come.
pub(super) fn wait(session: &Session, socket: &OwnedFd) -> ! {
    let prepared = prepare(session);
    if let Ok(Some((_, descriptors))) = channel::receive(socket)
        && let Ok(connections) = Connections::of(descriptors)
    {
        kernel::close_socket(socket.as_fd());
        run(session, connections, prepared);
    }
    kernel::exit_now(0)
}

/// Runs the command to its end, says how it ended, and ends with everything that it has left.
pub(super) fn run(session: &Session, connections: Connections, prepared: io::Result<()>) -> ! {
    let Connections { mut control, command, streams } = connections;
    let launched = prepared
        .map_err(|error| (LaunchStage::Sandbox, error))
        .and_then(|()| launch(session, command, streams));
    let Running { leader, signals, terminal } = match launched {
        Ok(running) => running,
        Err((stage, error)) => {
            tell(&mut control, refused(stage, &error));
            kernel::exit_now(0)
        }
    };
    let started = CommandEvent::Started { pid: leader };
    match terminal {
        Some(terminal) => {
            let message = started.encode();
            drop(channel::send(&control, &message, &[terminal.as_fd()]));
        }
        None => tell(&mut control, started),
    }
    let status = keep(session, &mut control, &signals, leader);
    // Nothing of the command is left when its end is told.
    end_all(session, leader);
    if let Some(status) = status {
        tell(&mut control, CommandEvent::Ended { status });
    }
    kernel::exit_now(0)
}

type Refusal = (LaunchStage, io::Error);

/// A command that is being executed.
struct Running {
    leader: i32,
    /// Readable when a child has ended.
    signals: OwnedFd,
    /// The host's end of its terminal, where it has one.
    terminal: Option<OwnedFd>,
}

fn launch(
    session: &Session,
    command: File,
    streams: Option<[OwnedFd; 3]>,
) -> Result<Running, Refusal> {
    let sandbox = |error| (LaunchStage::Sandbox, error);
    let spec = read_command(command).map_err(sandbox)?;
    let (streams, terminal) = match (streams, spec.terminal) {
        (Some(streams), None) => (streams, None),
        (None, Some(size)) => {
            let (host, streams) = terminal::open(size).map_err(sandbox)?;
            (streams, Some(host))
        }
        (Some(_), Some(_)) | (None, None) => {
            return Err(sandbox(io::ErrorKind::InvalidInput.into()));
        }
    };
    let signals = kernel::own(kernel::child_signals().map_err(sandbox)?);
    let (mut failure, failure_writer) = io::pipe().map_err(sandbox)?;
    let leader = match kernel::fork(0).map_err(sandbox)? {
        Fork::Child => {
            drop(failure);
            let (stage, error) = execute(session, &spec, &streams);
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            let mut writer = failure_writer;
            drop(writer.write_all(&refused_bytes(stage, errno)));
            kernel::exit_now(127)
        }
        Fork::Parent(pid) => pid,
    };
    // Held open by nobody but the child, which closes it by executing the program.
    drop(failure_writer);
    drop(streams);
    let mut bytes = Vec::new();
    failure.read_to_end(&mut bytes).map_err(sandbox)?;
    match <[u8; 8]>::try_from(bytes) {
        Ok(bytes) => {
            let (stage, errno) = refused_of(bytes);
            Err((stage, io::Error::from_raw_os_error(errno)))
        }
        Err(_) => Ok(Running { leader, signals, terminal }),
    }
}

fn refused_bytes(stage: LaunchStage, errno: i32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&stage.number().to_ne_bytes());
    bytes[4..].copy_from_slice(&errno.to_ne_bytes());
    bytes
}

fn refused_of(bytes: [u8; 8]) -> (LaunchStage, i32) {
    let (parts, _) = bytes.as_chunks::<4>();
    let number = |at: usize| parts.get(at).map_or(0, |part| i32::from_ne_bytes(*part));
    (LaunchStage::of(number(0)).unwrap_or(LaunchStage::Sandbox), number(1))
}

fn read_command(mut command: File) -> io::Result<CommandSpec> {
    let mut bytes = Vec::new();
    io::Seek::rewind(&mut command)?;
    command.read_to_end(&mut bytes)?;
    CommandSpec::decode(&bytes)
}

/// The command's first process, up to the execution. Returns only the reason why there was none.
fn execute(session: &Session, spec: &CommandSpec, streams: &[OwnedFd; 3]) -> Refusal {
    let sandbox = |error| (LaunchStage::Sandbox, error);
    let _unchecked = rustix::process::setsid();
    kernel::reset_signals();
    if session.processes == ProcessesSpec::Shared {
        // Another command could kill the keeper, which must not leave the command behind.
        let with_keeper = Some(rustix::process::Signal::KILL);
        let _unchecked = rustix::process::set_parent_process_death_signal(with_keeper);
    }
    for (number, stream) in (0..).zip(streams) {
        if let Err(error) = kernel::duplicate(stream.as_fd(), number) {
            return sandbox(error);
        }
    }
    if spec.terminal.is_some()
        && let Err(error) = rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())
    {
        return sandbox(error.into());
    }
    let closed = kernel::close_from_at_exec(3);
    if let Err(error) = closed.and_then(|()| session.confinement.apply()) {
        return sandbox(error);
    }
    if let Err(error) = std::env::set_current_dir(&spec.directory) {
        return (LaunchStage::Directory, error);
    }
    let strings = |list: &[std::ffi::OsString]| {
        list.iter().map(|text| CString::new(text.as_bytes())).collect::<Result<Vec<_>, _>>()
    };
    let (Ok(arguments), Ok(environment)) = (strings(&spec.arguments), strings(&spec.environment))
    else {
        return (LaunchStage::Execute, io::ErrorKind::InvalidInput.into());
    };
    let program = match find(spec) {
        Ok(program) => program,
        Err(refusal) => return refusal,
    };
    let mut attempt = 1;
    loop {
        let error = kernel::execute(&program, &arguments, &environment);
        if error.kind() == io::ErrorKind::ExecutableFileBusy && attempt < BUSY_ATTEMPTS {
            attempt += 1;
            std::thread::sleep(BUSY_INTERVAL);
            continue;
        }
        let missing = error.kind() == io::ErrorKind::NotFound
            && !Path::new(OsStr::from_bytes(program.as_bytes())).exists();
        let stage = if missing { LaunchStage::NotFound } else { LaunchStage::Execute };
        return (stage, error);
    }
}

/// The file to execute, as execvp(3) finds it in the command's own `PATH`.
fn find(spec: &CommandSpec) -> Result<CString, Refusal> {
    let missing = || (LaunchStage::NotFound, io::ErrorKind::NotFound.into());
    let name = spec.arguments.first().ok_or_else(missing)?;
    let as_c = |path: &OsStr| CString::new(path.as_bytes()).map_err(|_| missing());
    if name.as_bytes().contains(&b'/') {
        return as_c(name);
    }
    let path =
        spec.environment.iter().rev().find_map(|entry| entry.as_bytes().strip_prefix(b"PATH="));
    let path = path.map_or(OsStr::new(DEFAULT_PATH), OsStr::from_bytes);
    let mut refusal = None;
    for directory in std::env::split_paths(path) {
        let candidate = directory.join(name);
        if !candidate.is_file() {
            continue;
        }
        match access(&candidate, Access::EXEC_OK) {
            Ok(()) => return as_c(candidate.as_os_str()),
            Err(error) => refusal = Some((LaunchStage::Execute, error.into())),
        }
    }
    Err(refusal.unwrap_or_else(missing))
}

/// Waits for the command's end, or for being told to end it. `None` where nobody is left to be told.
fn keep(session: &Session, control: &mut File, signals: &OwnedFd, leader: i32) -> Option<i32> {
    let mut status = None;
    let mut terminating = false;
    loop {
        loop {
            match kernel::wait(Blocking::No) {
                Waited::Ended(pid, ended) if pid == leader => status = Some(ended),
                Waited::Ended(..) => {}
                Waited::Running => break,
                Waited::NoChildren => return status,
            }
        }
        // Told to end, all of them have their grace; else the command ends with its leader.
        if status.is_some() && !terminating {
            return status;
        }
        let mut wanted = [PollFd::new(control, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        let _unchecked = poll(&mut wanted, None);
        let (asked, ended) = (wanted[0].revents(), wanted[1].revents());
        if !ended.is_empty() {
            kernel::drain_signals(signals.as_raw_fd());
        }
        if !asked.is_empty() {
            let mut bytes = [0; REQUEST_BYTES];
            let read = control.read_exact(&mut bytes);
            match read.ok().and_then(|()| CommandRequest::decode(bytes)) {
                Some(CommandRequest::Signal(signal)) => kernel::kill(-leader, signal),
                Some(CommandRequest::Terminate(signal)) => {
                    terminating = true;
                    to_all(session, leader, signal);
                    // A stopped process takes no signal before it goes on.
                    to_all(session, leader, libc::SIGCONT);
                }
                Some(CommandRequest::Kill) => {
                    to_all(session, leader, libc::SIGKILL);
                    while status.is_none() {
                        match kernel::wait(Blocking::Yes) {
                            Waited::Ended(pid, ended) if pid == leader => status = Some(ended),
                            Waited::Ended(..) => {}
                            Waited::Running | Waited::NoChildren => break,
                        }
                    }
                    return status;
                }
                None => return None,
            }
        }
    }
}

/// Signals every process of the command. Where no namespaces are made, that is its group.
fn to_all(session: &Session, leader: i32, signal: i32) {
    match session.processes {
        ProcessesSpec::Shared => {
            for process in descendants::of(std::process::id().cast_signed()) {
                kernel::kill(process, signal);
            }
        }
        ProcessesSpec::Separate if session.layers.namespaces => kernel::kill(-1, signal),
        ProcessesSpec::Separate => kernel::kill(-leader, signal),
    }
}

/// Kills what is left and waits until it is gone.
fn end_all(session: &Session, leader: i32) {
    if session.processes == ProcessesSpec::Shared {
        return end_descendants();
    }
    to_all(session, leader, libc::SIGKILL);
    while matches!(kernel::wait(Blocking::Yes), Waited::Ended(..)) {}
}

/// The same where what is left has to be looked for: a look can miss what is being forked meanwhile, so it
/// is repeated. Orphans become children of this process, so that there is an end of it.
fn end_descendants() {
    loop {
        loop {
            match kernel::wait(Blocking::No) {
                Waited::Ended(..) => {}
                Waited::Running => break,
                Waited::NoChildren => return,
            }
        }
        let left = descendants::of(std::process::id().cast_signed());
        // Nothing can fork between the looks that has been stopped.
        for signal in [libc::SIGSTOP, libc::SIGKILL] {
            for process in &left {
                kernel::kill(*process, signal);
            }
        }
        if left.is_empty() {
            std::thread::yield_now();
        } else {
            std::thread::sleep(SWEEP_INTERVAL);
        }
    }
}
