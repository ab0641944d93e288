//! The session's init: lays out what commands see, then starts a keeper for each.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::net::SocketType;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use super::confine::{Confinement, Scope, Writable, landlock_abi};
use super::descendants;
use super::freezer::Freezer;
use super::keeper;
use super::kernel::{self, Blocking, Fork, Waited};
use super::launcher::{answer, failure};
use super::proc_masks::{self, ProcMasks};
use super::{mounts, root};
use crate::channel;
use crate::layers::Layers;
use crate::spec::{
    NetworkSpec, ProcessesSpec, SessionAnswer, SessionFacts, SessionRequest, SessionSpec,
    SetupFailure, SetupStage, encode_outcome,
};

/// The first kernel where `pid_max` is each pid namespace's own; before, it is the machine's.
const PID_MAX_PER_NAMESPACE: (u32, u32) = (6, 14);

/// How many of them a session may hold; a host allows a user 128.
const MAX_INOTIFY_INSTANCES: &str = "64";

/// What a keeper needs of its session.
pub(super) struct Session {
    pub(super) layers: Layers,
    pub(super) processes: ProcessesSpec,
    pub(super) confinement: Confinement,
    pub(super) proc_masks: ProcMasks,
    /// The overlays whose lower layers the host's people work on.
    overlays: Vec<PathBuf>,
}

/// The namespaces that a session is made of.
pub(super) fn namespaces(spec: &SessionSpec) -> i32 {
    if !spec.layers.namespaces {
        return 0;
    }
    let network = match spec.network {
        NetworkSpec::None => libc::CLONE_NEWNET,
        NetworkSpec::Full => 0,
    };
    network
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP
}

/// Sets the session up, answers, and serves until the socket's other end is gone.
pub(super) fn run(
    socket: &OwnedFd,
    spec: &SessionSpec,
    facts: SessionFacts,
    memory_events: Option<PathBuf>,
) -> ! {
    match set_up(spec, facts) {
        Ok((session, facts, descriptors)) => {
            let shown: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
            answer(socket, &SessionAnswer::Ready { facts, memory_events }, &shown);
            drop(shown);
            drop(descriptors);
            serve(socket, &session)
        }
        Err(failure) => {
            answer(socket, &SessionAnswer::Failed(failure), &[]);
            kernel::exit_now(1)
        }
    }
}

type Standing = (Session, SessionFacts, Vec<OwnedFd>);

fn set_up(spec: &SessionSpec, mut facts: SessionFacts) -> Result<Standing, SetupFailure> {
    let layers = spec.layers;
    if layers.limits {
        // Where memory runs out, the kernel ends a command rather than anything of the user's. What this
        // process has is inherited; once nobody may look into it, it is root alone who may write that.
        drop(fs::write("/proc/self/oom_score_adj", "1000"));
    }
    // No process of the session may look into this one, whoever runs it.
    if layers.namespaces {
        let _unchecked = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
    let _unchecked = rustix::process::setsid();
    rustix::process::umask(Mode::from_raw_mode(0o022));
    if layers.namespaces {
        // Both are conveniences: a host that refuses them is no less isolated.
        let _unchecked = rustix::system::sethostname(b"forge");
        if spec.network == NetworkSpec::None {
            let up = kernel::loopback_up();
            up.map_err(|error| {
                failure(SetupStage::Namespaces, "bringing up the loopback", &error)
            })?;
        }
    }
    let (descriptors, writable) = if layers.mounts {
        let entered =
            root::enter(&spec.view).map_err(|(stage, step, error)| failure(stage, step, &error))?;
        let mut descriptors = vec![entered.workspace, entered.scratch, entered.upper];
        descriptors.extend(entered.kept);
        (descriptors, entered.writable)
    } else {
        host_view(spec).map_err(|error| failure(SetupStage::Mounts, "opening the host", &error))?
    };
    if layers.namespaces {
        facts.processes_bounded |= layers.limits && bound_processes(spec.limits.processes);
        // Whoever can make no namespace cannot gain capabilities in one.
        drop(fs::write("/proc/sys/user/max_user_namespaces", "0"));
        if layers.limits {
            // Counted for the user over all namespaces: one that used them all up would leave none to
            // the user's own editor.
            drop(fs::write("/proc/sys/user/max_inotify_instances", MAX_INOTIFY_INSTANCES));
        }
    }
    // Each command's own `/proc` is masked; this one is covered by it.
    let proc_masks = if layers.mounts { ProcMasks::find() } else { ProcMasks::default() };
    facts.landlock_abi = if layers.landlock { landlock_abi() } else { 0 };
    let is_shared = spec.processes == ProcessesSpec::Shared && layers.namespaces;
    if is_shared && layers.mounts {
        // Every command sees this one; what had to be written to it is written.
        proc_masks::fresh_proc(&proc_masks)
            .map_err(|error| failure(SetupStage::Proc, "closing /proc", &error))?;
    }
    let scope = if is_shared { Scope::Session } else { Scope::Command };
    let confinement =
        Confinement::prepare(layers, scope, spec.limits, facts.memory_bounded, &writable).map_err(
            |(part, error)| {
                let stage =
                    if part == "landlock" { SetupStage::Landlock } else { SetupStage::Seccomp };
                failure(stage, part, &error)
            },
        )?;
    let processes = if is_shared { ProcessesSpec::Shared } else { ProcessesSpec::Separate };
    let overlays = if layers.mounts { root::overlays(&spec.view) } else { Vec::new() };
    let session = Session { layers, processes, confinement, proc_masks, overlays };
    Ok((session, facts, descriptors))
}

/// The host's own file system, for a session whose mounts are switched off.
fn host_view(spec: &SessionSpec) -> io::Result<(Vec<OwnedFd>, Writable)> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let path = root::workspace_of(&spec.view);
    let workspace = open(path, flags, Mode::empty())?;
    let scratch = open("/tmp", flags, Mode::empty())?;
    let upper = workspace.try_clone()?;
    let directories = vec![path.to_path_buf()];
    let files = ["/dev/null", "/dev/zero", "/dev/full", "/dev/tty"];
    let files = files.into_iter().map(PathBuf::from).filter(|path| path.exists()).collect();
    Ok((vec![workspace, scratch, upper], Writable { directories, files }))
}

/// Bounds the processes of this pid namespace and those in it, where the kernel keeps that number for
/// each namespace. Elsewhere the same write would change the machine, so it is not made.
fn bound_processes(limit: u64) -> bool {
    if kernel_version() < Some(PID_MAX_PER_NAMESPACE) {
        return false;
    }
    // The kernel takes no fewer than this.
    fs::write("/proc/sys/kernel/pid_max", limit.max(301).to_string()).is_ok()
}

/// Major and minor number of the running kernel.
pub(crate) fn kernel_version() -> Option<(u32, u32)> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn serve(socket: &OwnedFd, session: &Session) -> ! {
    let Ok(signals) = kernel::child_signals() else { kernel::exit_now(1) };
    let signals = kernel::own(signals);
    let mut commands =
        Commands { session, socket, keepers: BTreeSet::new(), spare: None, started: 0 };
    let mut freezer = Freezer::default();
    // Commands that came while everything stood still.
    let mut waiting: Vec<Vec<OwnedFd>> = Vec::new();
    commands.make_spare();
    loop {
        let mut wanted = [PollFd::new(socket, PollFlags::IN), PollFd::new(&signals, PollFlags::IN)];
        let polled = poll(&mut wanted, None);
        let (asked, ended) = (wanted[0].revents(), wanted[1].revents());
        if polled.is_err() {
            continue;
        }
        if !ended.is_empty() {
            kernel::drain_signals(signals.as_raw_fd());
            commands.reap();
        }
        if !asked.is_empty() {
            match channel::receive(socket) {
                Ok(Some((request, descriptors))) => {
                    let done = match SessionRequest::decode(&request) {
                        Some(SessionRequest::Run) if freezer.is_frozen() => {
                            waiting.push(descriptors);
                            continue;
                        }
                        Some(SessionRequest::Run) => {
                            commands.start(descriptors);
                            continue;
                        }
                        Some(SessionRequest::Refresh) => {
                            session.overlays.iter().try_for_each(|path| mounts::refresh(path))
                        }
                        Some(SessionRequest::Freeze) => freezer.freeze(),
                        Some(SessionRequest::Thaw) => freezer.thaw(),
                        None => Err(io::ErrorKind::Unsupported.into()),
                    };
                    // A host that is gone needs no answer.
                    drop(channel::send(socket, &encode_outcome(&done), &[]));
                    if !freezer.is_frozen() {
                        waiting.drain(..).for_each(|descriptors| commands.start(descriptors));
                    }
                }
                // The host is gone, and everything here goes with it.
                Ok(None) | Err(_) => kernel::exit_now(0),
            }
        }
    }
}

/// The keepers of commands, and one that waits for the next: most of what is made for a command does not
/// depend on it, and is made while the one before runs.
struct Commands<'a> {
    session: &'a Session,
    socket: &'a OwnedFd,
    /// All of them that live.
    keepers: BTreeSet<i32>,
    /// What the waiting keeper is told its command by.
    spare: Option<OwnedFd>,
    started: u64,
}

impl Commands<'_> {
    /// Starts a command. What it is connected to says itself what went wrong.
    fn start(&mut self, descriptors: Vec<OwnedFd>) {
        let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        let spare = self.spare.take();
        // One that was killed, for want of memory say, takes nothing.
        let taken = spare.is_some_and(|spare| channel::send(&spare, b"run", &borrowed).is_ok());
        drop(borrowed);
        if taken {
            // Before the next keeper is made, which would hold them.
            drop(descriptors);
        } else if let Ok(connections) = keeper::Connections::of(descriptors) {
            match kernel::fork(self.namespaces()) {
                Ok(Fork::Child) => {
                    kernel::close_socket(self.socket.as_fd());
                    let prepared = keeper::prepare(self.session);
                    keeper::run(self.session, connections, prepared)
                }
                Ok(Fork::Parent(pid)) => drop(self.keepers.insert(pid)),
                Err(error) => connections.refuse(&error),
            }
        }
        self.started += 1;
        // A session with one command, as most are, is not to pay for a second.
        if self.started > 1 {
            self.make_spare();
        }
    }

    /// Makes a keeper that waits. Where that cannot be had, the next command gets one when it comes.
    fn make_spare(&mut self) {
        let Ok((ours, theirs)) = channel::pair(SocketType::SEQPACKET) else { return };
        match kernel::fork(self.namespaces()) {
            Ok(Fork::Child) => {
                kernel::close_socket(self.socket.as_fd());
                drop(ours);
                keeper::wait(self.session, &theirs)
            }
            Ok(Fork::Parent(pid)) => {
                self.keepers.insert(pid);
                self.spare = Some(ours);
            }
            Err(_) => {}
        }
    }

    /// Takes note of what has ended. Where processes are shared, one command may have killed another's
    /// keeper: what that one adopted comes here, and is ended, with what comes from it in its turn.
    fn reap(&mut self) {
        let mut adopted = false;
        while let Waited::Ended(pid, status) = kernel::wait(Blocking::No) {
            adopted |= !self.keepers.remove(&pid) || libc::WIFSIGNALED(status);
        }
        if adopted && self.session.processes == ProcessesSpec::Shared {
            let own = std::process::id().cast_signed();
            for child in descendants::children_of(own) {
                if !self.keepers.contains(&child) {
                    kernel::kill(child, libc::SIGKILL);
                }
            }
        }
    }

    fn namespaces(&self) -> i32 {
        match self.session.processes {
            ProcessesSpec::Separate if self.session.layers.namespaces => {
                libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC
            }
            ProcessesSpec::Separate | ProcessesSpec::Shared => 0,
        }
    }
}
