//! What this machine allows: a whole session is set up and run in, and taken apart again.

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use crate::config::SessionMedium;
use crate::diagnosis::{Cause, Machine};
use crate::hook::HelperProgram;
use crate::layers::Layers;
use crate::session::{Helper, Session, StartError};
use crate::spec::{
    Access, Keeping, LimitsSpec, NetworkSpec, ProcessesSpec, RawPath, Root, SessionFacts,
    SessionSpec, SetupStage, Shown, Upper, View,
};
use crate::system;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckOutcome {
    /// It is as it should be.
    Good,
    /// The sandbox works without it, and holds less.
    Limited,
    /// The sandbox cannot work.
    Failed,
    /// It could not be looked at, since something before it failed.
    NotReached,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What: `user namespaces`.
    pub name: &'static str,
    /// How it came out.
    pub outcome: CheckOutcome,
    /// What was found, or what to do, for a person.
    pub detail: String,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeReport {
    /// In the order in which a session needs them.
    pub checks: Vec<Check>,
    /// Whether an AppArmor profile for the program is the remedy.
    pub wants_apparmor_profile: bool,
}

impl ProbeReport {
    /// Whether the sandbox works here.
    #[must_use]
    pub fn works(&self) -> bool {
        self.checks
            .iter()
            .all(|check| matches!(check.outcome, CheckOutcome::Good | CheckOutcome::Limited))
    }
}

/// The parts of the chain, in order, and what each is called.
const CHAIN: [(SetupStage, &str); 7] = [
    (SetupStage::Namespaces, "user namespaces"),
    (SetupStage::IdMaps, "user and group maps"),
    (SetupStage::Mounts, "mounts in a namespace"),
    (SetupStage::Overlay, "overlay on the state directory"),
    (SetupStage::Proc, "a fresh /proc"),
    (SetupStage::Landlock, "Landlock"),
    (SetupStage::Seccomp, "seccomp"),
];

/// Sets a session up under the state directory, as a real one would be, and says what came of it.
/// Blocks; bounded by the limits of a session's start.
#[must_use]
pub fn probe(state_directory: &Path, helper: &HelperProgram) -> ProbeReport {
    let machine = Machine::read();
    let mut checks = vec![kernel(&machine)];
    let mut started = try_session(state_directory, helper, SessionMedium::Disk);
    let mut medium = SessionMedium::Disk;
    if let Err(Trouble::Start(StartError::Setup(failure, source))) = &started
        && Cause::of(failure.stage, source, &machine) == Cause::FileSystem
    {
        let in_memory = try_session(state_directory, helper, SessionMedium::Memory);
        if in_memory.is_ok() {
            (started, medium) = (in_memory, SessionMedium::Memory);
        }
    }
    let mut wants_apparmor_profile = false;
    match started {
        Ok(facts) => {
            for (stage, name) in CHAIN {
                let (outcome, detail) = found(stage, facts, medium);
                checks.push(Check { name, outcome, detail });
            }
            checks.extend(limits(facts));
        }
        Err(Trouble::State(detail)) => {
            checks.push(Check { name: "state directory", outcome: CheckOutcome::Failed, detail });
        }
        Err(Trouble::Start(StartError::Setup(failure, source))) => {
            let cause = Cause::of(failure.stage, &source, &machine);
            wants_apparmor_profile = cause == Cause::AppArmor;
            let mut reached = true;
            for (stage, name) in CHAIN {
                let (outcome, detail) = if stage == failure.stage {
                    reached = false;
                    let detail = format!("{}: {source}; {}", failure.step, cause.remedy());
                    (CheckOutcome::Failed, detail)
                } else if reached {
                    (CheckOutcome::Good, "works".to_owned())
                } else {
                    (CheckOutcome::NotReached, "not reached".to_owned())
                };
                checks.push(Check { name, outcome, detail });
            }
            if reached {
                let detail = format!("{}: {source}", failure.step);
                checks.push(Check { name: "helper", outcome: CheckOutcome::Failed, detail });
            }
        }
        Err(Trouble::Start(error)) => {
            let mut detail = error.to_string();
            if let Some(source) = std::error::Error::source(&error) {
                detail.push_str(&format!(": {source}"));
            }
            checks.push(Check { name: "helper", outcome: CheckOutcome::Failed, detail });
        }
    }
    ProbeReport { checks, wants_apparmor_profile }
}

fn kernel(machine: &Machine) -> Check {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let old = machine.kernel.is_some_and(|kernel| kernel < crate::diagnosis::OLDEST_KERNEL);
    let outcome = if old { CheckOutcome::Failed } else { CheckOutcome::Good };
    let detail = if old {
        format!("Linux {release}; {}", Cause::OldKernel.remedy())
    } else {
        format!("Linux {release}")
    };
    Check { name: "kernel", outcome, detail }
}

fn found(stage: SetupStage, facts: SessionFacts, medium: SessionMedium) -> (CheckOutcome, String) {
    match (stage, facts.landlock_abi) {
        (SetupStage::Overlay, _) if medium == SessionMedium::Memory => (
            CheckOutcome::Limited,
            "its file system cannot hold what a session writes: that is in memory, and on the disk \
             after each turn and at the end; FORGE_STATE_DIR names a directory on another one"
                .to_owned(),
        ),
        (SetupStage::Landlock, 0) => (
            CheckOutcome::Limited,
            "not in this kernel or switched off; namespaces and seccomp hold without it".to_owned(),
        ),
        (SetupStage::Landlock, abi @ 1..6) => (
            CheckOutcome::Limited,
            format!("version {abi}; signals and abstract sockets are held by namespaces alone"),
        ),
        (SetupStage::Landlock, abi) => (CheckOutcome::Good, format!("version {abi}")),
        _ => (CheckOutcome::Good, "works".to_owned()),
    }
}

fn limits(facts: SessionFacts) -> Vec<Check> {
    let check = |name, holds, good: &str, limited: &str| {
        let (outcome, detail) =
            if holds { (CheckOutcome::Good, good) } else { (CheckOutcome::Limited, limited) };
        Check { name, outcome, detail: detail.to_owned() }
    };
    vec![
        check(
            "limit on processes",
            facts.processes_bounded,
            "for the session as a whole",
            "for each user only (RLIMIT_NPROC): no cgroup is delegated, and this kernel is older than \
             6.14",
        ),
        check(
            "limit on memory",
            facts.memory_bounded,
            "for the session as a whole (cgroup)",
            "for each process only (RLIMIT_DATA): no cgroup with the memory controller is delegated",
        ),
    ]
}

/// Why no session was started.
enum Trouble {
    State(String),
    Start(StartError),
}

/// Directories that are removed again whatever comes.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // `work/work` belongs to us and may not be read.
        if let (Some(parent), Some(name)) = (self.0.parent(), self.0.file_name()) {
            drop(crate::store::remove_directory(parent, name));
        }
    }
}

fn try_session(
    state: &Path,
    program: &HelperProgram,
    medium: SessionMedium,
) -> Result<SessionFacts, Trouble> {
    let make = |path: &Path| {
        fs::create_dir_all(path)
            .map_err(|error| Trouble::State(format!("{} cannot be made: {error}", path.display())))
    };
    let directory = Temporary(state.join(format!(".probe-{}", std::process::id())));
    let names = ["workspace", "upper", "work"].map(|name| directory.0.join(name));
    for path in &names {
        make(path)?;
    }
    let [workspace, upper, work] = names.map(RawPath::from);
    let upper = match medium {
        SessionMedium::Disk => Upper::Directories { upper, work },
        SessionMedium::Memory => {
            let keeping = Keeping::Kept { before: None };
            Upper::Memory { max_bytes: 16 * 1024 * 1024, keeping }
        }
    };
    let system = system::view();
    let show = |path: PathBuf| Shown { path: path.into(), access: Access::ReadOnly };
    let spec = SessionSpec {
        view: View {
            root: Root::Listed { workspace, upper },
            shown: system.trees.into_iter().map(show).collect(),
            links: system.links.into_iter().map(|(path, to)| (path.into(), to.into())).collect(),
            masks: system::masks().into_iter().map(RawPath::from).collect(),
            home: crate::plan::HOME.into(),
            scratch_bytes: 16 * 1024 * 1024,
        },
        network: NetworkSpec::None,
        limits: LimitsSpec {
            processes: 512,
            open_files: 1024,
            file_bytes: None,
            memory_bytes: Some(1024 * 1024 * 1024),
            milli_cpus: None,
        },
        processes: ProcessesSpec::Separate,
        layers: Layers::ALL,
    };
    let lock = fs::File::open(&directory.0).map_err(|error| {
        Trouble::State(format!("{} cannot be opened: {error}", directory.0.display()))
    })?;
    let session = Helper::spawn(program)
        .and_then(|helper| Session::start(helper, &spec, lock.as_fd()))
        .map_err(Trouble::Start)?;
    let facts = session.facts;
    session.end();
    Ok(facts)
}

/// The text of an AppArmor profile that lets the program at this path use user namespaces and confines
/// it in no other way (apparmor.d(5)), and where it belongs.
#[must_use]
pub fn apparmor_profile(program: &Path) -> (PathBuf, String) {
    let text = format!(
        "# Lets forge make the user namespaces that its sandbox consists of.\n\
         abi <abi/4.0>,\n\
         include <tunables/global>\n\n\
         profile forge {:?} flags=(unconfined) {{\n  userns,\n\n  include if exists <local/forge>\n}}\n",
        program.display().to_string()
    );
    (PathBuf::from("/etc/apparmor.d/forge"), text)
}

/// Loads a profile into the kernel (apparmor_parser(8)).
///
/// # Errors
/// The parser is not there, or does not take it.
pub fn load_apparmor_profile(profile: &Path) -> std::io::Result<()> {
    let status = std::process::Command::new("apparmor_parser").arg("-r").arg(profile).status()?;
    if status.success() {
        Ok(())
    } else {
        Err(std::io::Error::other(format!("apparmor_parser ended with {status}")))
    }
}
