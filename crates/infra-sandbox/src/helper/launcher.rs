//! The helper's first process: it stays outside, and is the last to go.

use std::fs;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::process::{Signal, set_parent_process_death_signal};

use super::cgroup::{self, Cgroups};
use super::init;
use super::kernel::{self, Blocking, Fork, Waited};
use crate::channel;
use crate::spec::{SessionAnswer, SessionFacts, SessionSpec, SetupFailure, SetupStage};

/// How often the groups of a session that has ended are tried to be removed, and how long is waited in
/// between: the kernel takes a moment to notice that nobody is in them.
const REMOVALS: u32 = 50;
const REMOVAL_INTERVAL: std::time::Duration = std::time::Duration::from_millis(10);

/// Runs the helper on the socket of a session and never returns. The first message on it is the
/// [`SessionSpec`]; what goes wrong is answered there.
pub(crate) fn run(stdin: BorrowedFd<'_>) -> ! {
    let Ok(socket) = take_socket(stdin) else { kernel::exit_now(1) };
    let code = match session(&socket) {
        Ok(()) => 0,
        Err(failure) => {
            answer(&socket, &SessionAnswer::Failed(failure), &[]);
            1
        }
    };
    kernel::exit_now(code)
}

/// Takes the socket from stdin, where it would look open to whoever holds stdin, and closes everything
/// else that was inherited.
fn take_socket(stdin: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    kernel::close_from(3)?;
    let socket = stdin.try_clone_to_owned()?;
    let nothing = fs::File::open("/dev/null")?;
    kernel::duplicate(nothing.as_fd(), 0)?;
    Ok(socket)
}

/// Answers the host, which may be gone.
pub(super) fn answer(socket: &OwnedFd, answer: &SessionAnswer, descriptors: &[BorrowedFd<'_>]) {
    let bytes = serde_json::to_vec(answer).unwrap_or_default();
    drop(channel::send(socket, &bytes, descriptors));
}

pub(super) fn failure(
    stage: SetupStage,
    step: impl Into<String>,
    error: &io::Error,
) -> SetupFailure {
    SetupFailure { step: step.into(), stage, errno: error.raw_os_error().unwrap_or(0) }
}

fn session(socket: &OwnedFd) -> Result<(), SetupFailure> {
    let helper = |step: &str, error: &io::Error| failure(SetupStage::Helper, step, error);
    // Nothing of the session outlives this process, so this process is who holds its lock.
    let (spec, lock) =
        receive_spec(socket).map_err(|error| helper("reading what to set up", &error))?;
    // What the host program was told about signals is nothing to this process.
    kernel::reset_signals();
    let (go_reader, go_writer) = io::pipe().map_err(|error| helper("making a pipe", &error))?;

    let namespaces = init::namespaces(&spec);
    let pid = match kernel::fork(namespaces) {
        Err(error) => return Err(failure(SetupStage::Namespaces, "making the namespaces", &error)),
        Ok(Fork::Child) => {
            drop(go_writer);
            drop(lock);
            enter(go_reader, socket, &spec);
        }
        Ok(Fork::Parent(pid)) => pid,
    };
    drop(go_reader);
    if namespaces & libc::CLONE_NEWUSER != 0
        && let Err(error) = map_ids(pid)
    {
        kernel::kill(pid, libc::SIGKILL);
        kernel::wait(Blocking::Yes);
        return Err(failure(SetupStage::IdMaps, "mapping users and groups", &error));
    }
    let cgroups = Cgroups::make(pid, &spec);
    let facts = SessionFacts {
        memory_bounded: cgroups.memory_bounded(),
        cpus_bounded: cgroups.cpus_bounded(),
        processes_bounded: cgroups.processes_bounded(),
        landlock_abi: 0,
    };
    let mut go_writer = go_writer;
    let go = serde_json::to_vec(&(facts, cgroups.memory_events(), cgroups.to_join()))
        .unwrap_or_default();
    let sent = go_writer.write_all(&go);
    drop(go_writer);
    if sent.is_err() {
        kernel::kill(pid, libc::SIGKILL);
    }
    // From here on the socket is the init's: its end must be seen when that process ends.
    kernel::close_socket(socket.as_fd());
    while !matches!(kernel::wait(Blocking::Yes), Waited::Ended(ended, _) if ended == pid) {}
    drop(lock);
    for _ in 0..REMOVALS {
        if cgroups.remove() {
            break;
        }
        std::thread::sleep(REMOVAL_INTERVAL);
    }
    kernel::exit_now(0)
}

/// The child's part: waits for the maps, then becomes the session's init.
fn enter(mut go: io::PipeReader, socket: &OwnedFd, spec: &SessionSpec) -> ! {
    // With the launcher ends the session, should it be killed.
    let _unchecked = set_parent_process_death_signal(Some(Signal::KILL));
    let mut message = Vec::new();
    let read = go.read_to_end(&mut message);
    drop(go);
    let parsed = read.ok().and_then(|_| serde_json::from_slice(&message).ok());
    // The launcher is gone, or has said why it gave up.
    let parsed: Option<(SessionFacts, _, Vec<std::path::PathBuf>)> = parsed;
    let Some((facts, memory_events, groups)) = parsed else { kernel::exit_now(1) };
    // The host's groups are in reach only before the root is laid out.
    if let Err(error) = cgroup::join(&groups) {
        let failed = failure(SetupStage::Helper, "joining the session's cgroups", &error);
        answer(socket, &SessionAnswer::Failed(failed), &[]);
        kernel::exit_now(1);
    }
    init::run(socket, spec, facts, memory_events)
}

/// What to set up, and the session's lock.
fn receive_spec(socket: &OwnedFd) -> io::Result<(SessionSpec, OwnedFd)> {
    let (_, descriptors) = channel::receive(socket)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let [memory, lock] =
        <[OwnedFd; 2]>::try_from(descriptors).map_err(|_| io::ErrorKind::InvalidData)?;
    let mut bytes = Vec::new();
    let mut file = fs::File::from(memory);
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok((serde_json::from_slice(&bytes).map_err(io::Error::other)?, lock))
}

/// Maps ids into the new namespace, each to itself: all that this process has where it is root, else
/// its own (user_namespaces(7)).
fn map_ids(pid: i32) -> io::Result<()> {
    let write = |file: &str, text: &str| fs::write(format!("/proc/{pid}/{file}"), text);
    write("setgroups", "deny")?;
    for (map, own) in [
        ("uid_map", rustix::process::geteuid().as_raw()),
        ("gid_map", rustix::process::getegid().as_raw()),
    ] {
        let own_line = format!("{own} {own} 1\n");
        let all = if own == 0 || map == "gid_map" && rustix::process::geteuid().is_root() {
            all_ids(map)
        } else {
            None
        };
        match all {
            Some(all) if write(map, &all).is_ok() => {}
            // A root without the capability to map others, as in some containers, maps itself.
            _ => write(map, &own_line)?,
        }
    }
    Ok(())
}

/// Every id that this namespace has, mapped to itself.
fn all_ids(map: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/self/{map}")).ok()?;
    let lines = text.lines().map(|line| {
        let mut numbers = line.split_whitespace();
        let (inside, _, count) = (numbers.next()?, numbers.next()?, numbers.next()?);
        Some(format!("{inside} {inside} {count}\n"))
    });
    lines.collect()
}
