//! Attempts to get out of the sandbox. Each has to be held with all layers, and has to succeed in its
//! control, where layers are switched off; the host judges, by a canary.

#![expect(clippy::unwrap_used, reason = "a stage that cannot be set fails its test")]

mod attempt;
mod devices;
mod ends;
mod files;
mod gaps;
mod host;
mod ipc;
mod limits;
mod matrix;
mod namespaces;
mod network;
mod objects;
mod processes;
mod run;
mod stage;
mod trial;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::OnceLock;

use attempt::{Attempt, Column, Rights};
use libtest_mimic::{Arguments, Failed, Trial as Test};

/// Every attempt, by theme.
fn attempts() -> Vec<Attempt> {
    let themes = [
        files::attempts(),
        processes::attempts(),
        namespaces::attempts(),
        devices::attempts(),
        network::attempts(),
        ipc::attempts(),
        limits::attempts(),
    ];
    themes.into_iter().flatten().collect()
}

/// What this process has of its own before it starts any thread, and what comes to its children.
struct Own {
    secret: String,
    session_key: bool,
    hostname: bool,
}

static OWN: OnceLock<Own> = OnceLock::new();

impl Own {
    fn make() -> Self {
        let secret = format!("forge-own-secret-{}", std::process::id());
        host::set_variable("FORGE_ESCAPE_SECRET", &secret);
        let session_key = host::make_session_key(KEY_NAME, &secret);
        let root = rustix::process::geteuid().is_root();
        Self { secret, session_key, hostname: root && host::separate_hostname() }
    }
}

const KEY_NAME: &str = "forge-escape-canary";

/// In this process's environment and in its session keyring.
fn own_secret() -> String {
    OWN.get().unwrap().secret.clone()
}

fn key_name() -> &'static str {
    KEY_NAME
}

fn has_session_key() -> bool {
    OWN.get().unwrap().session_key
}

fn has_own_hostname() -> bool {
    OWN.get().unwrap().hostname
}

fn main() -> ExitCode {
    forge_infra_sandbox::sandbox_hook();
    OWN.get_or_init(Own::make);
    let arguments = Arguments::from_args();
    let program = std::env::var_os("FORGE_ESCAPE_ATTEMPT");
    stage::set_program(
        program.map_or_else(|| env!("CARGO_BIN_EXE_forge-escape-attempt").into(), PathBuf::from),
    );
    stage::set_base(base());
    let mut tests = Vec::new();
    for column in Column::ALL {
        for attempt in attempts() {
            if matches!(column, Column::AllLayers | Column::Control)
                || attempt.second_locks.contains(&column)
            {
                tests.push(test(attempt, column));
            }
        }
    }
    for gap in gaps::gaps() {
        tests.push(test(gap, Column::Gap));
    }
    tests.extend(ends::tests());
    tests.push(Test::test("matrix", || matrix::print(&attempts()).map_err(Failed::from)));
    libtest_mimic::run(&arguments, tests).exit_code()
}

/// Where stages are made, unless told: where this is built, or among temporary files.
fn base() -> PathBuf {
    let built = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let writable = rustix::fs::access(&built, rustix::fs::Access::WRITE_OK).is_ok();
    let otherwise = if writable { built } else { std::env::temp_dir() };
    std::env::var_os("FORGE_ESCAPE_BASE").map_or(otherwise, PathBuf::from)
}

/// One attempt in one column; ignored where it cannot be made.
fn test(attempt: Attempt, column: Column) -> Test {
    let hindrance = attempt.hindrance();
    let name = match attempt.rights {
        Rights::Anyone => format!("{}::{}", column.name(), attempt.name),
        Rights::Root => format!("{}::as_root::{}", column.name(), attempt.name),
        Rights::User => format!("{}::as_user::{}", column.name(), attempt.name),
    };
    let work = move || check(&attempt, column);
    Test::test(name, work).with_ignored_flag(hindrance.is_some())
}

fn check(attempt: &Attempt, column: Column) -> Result<(), Failed> {
    let finding = run::run(attempt, column)?;
    let account = &finding.account;
    match column {
        Column::Gap if finding.seen => Ok(()),
        Column::Gap => {
            Err(format!("this gap is closed: say so in the documents; {account}").into())
        }
        Column::Control if finding.seen => Ok(()),
        Column::Control => Err(format!("the control was not seen to succeed; {account}").into()),
        _ if finding.is_open(attempt) => Err(format!("it got out; {account}").into()),
        _ => Ok(()),
    }
}
