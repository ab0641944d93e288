//! `forge doctor`: what the sandbox can do on this machine, and what is in its way.

use std::io::Write as _;

use forge_api::{
    CheckOutcome, HelperProgram, OutputStream, ProbeReport, apparmor_profile,
    load_apparmor_profile, probe,
};

use crate::arguments::DoctorArguments;
use crate::executor::store_directory;
use crate::exit::Conclusion;
use crate::failure::{self, Failure};
use crate::sessions;
use crate::terminal::{Paint, Role, clean};

/// Looks, and mends where that was asked for and is possible.
///
/// # Errors
/// There is no state directory, or the profile could not be written.
pub(crate) async fn run(arguments: DoctorArguments) -> Result<Conclusion, Failure> {
    let state = store_directory()?;
    let report = probe(&state, &HelperProgram::ThisProgram);
    let paint = Paint::choose(arguments.common.color.unwrap_or_default(), OutputStream::Stdout);
    let text = if arguments.json { json(&report) } else { table(&report, paint) };
    sessions::print(&text)?;
    let works = report.works();
    if arguments.fix {
        return fix(&report, paint);
    }
    if !works {
        let hint = "without the sandbox, --tensorlake runs commands in a microVM, and --local on this \
                    machine without any isolation";
        failure::note(
            hint,
            Paint::choose(arguments.common.color.unwrap_or_default(), OutputStream::Stderr),
        );
    }
    Ok(if works { Conclusion::Done } else { Conclusion::NotDone })
}

fn word(outcome: CheckOutcome) -> (&'static str, Role) {
    match outcome {
        CheckOutcome::Good => ("good", Role::Good),
        CheckOutcome::Limited => ("limited", Role::Warning),
        CheckOutcome::Failed => ("failed", Role::Bad),
        CheckOutcome::NotReached => ("-", Role::Dim),
    }
}

fn table(report: &ProbeReport, paint: Paint) -> Vec<u8> {
    let widest = report.checks.iter().map(|check| check.name.chars().count()).max().unwrap_or(0);
    let mut text = Vec::new();
    for check in &report.checks {
        let (word, role) = word(check.outcome);
        let word = paint.paint(role, &format!("{word:7}"));
        writeln!(text, "{:widest$}  {word}  {}", check.name, clean(&check.detail))
            .unwrap_or_default();
    }
    text
}

fn json(report: &ProbeReport) -> Vec<u8> {
    let checks: Vec<_> = report
        .checks
        .iter()
        .map(|check| {
            let outcome = match check.outcome {
                CheckOutcome::NotReached => "not-reached",
                other => word(other).0,
            };
            serde_json::json!({ "name": check.name, "outcome": outcome, "detail": check.detail })
        })
        .collect();
    let value = serde_json::json!({ "works": report.works(), "checks": checks });
    format!("{value}\n").into_bytes()
}

/// Writes the AppArmor profile, where that is the remedy, after showing it.
fn fix(report: &ProbeReport, paint: Paint) -> Result<Conclusion, Failure> {
    if report.works() {
        failure::note("there is nothing to mend", paint);
        return Ok(Conclusion::Done);
    }
    if !report.wants_apparmor_profile {
        failure::warn("nothing of this can be mended from here; the table says what to do", paint);
        return Ok(Conclusion::NotDone);
    }
    let program = std::env::current_exe()
        .and_then(|path| path.canonicalize())
        .map_err(|source| Failure::System { what: "forge cannot find its own program", source })?;
    let (path, text) = apparmor_profile(&program);
    sessions::print(format!("\n{}:\n\n{text}\n", path.display()).as_bytes())?;
    if !rustix::process::geteuid().is_root() {
        let message = format!("only root can write {}: sudo forge doctor --fix", path.display());
        return Err(Failure::Usage(message));
    }
    if !sessions::asked(&format!("Write {} and load it?", path.display()), paint)? {
        return Ok(Conclusion::NotDone);
    }
    std::fs::write(&path, text)
        .map_err(|source| Failure::System { what: "the profile cannot be written", source })?;
    match load_apparmor_profile(&path) {
        Ok(()) => {
            failure::note("the profile is loaded; forge doctor looks again", paint);
            Ok(Conclusion::Done)
        }
        Err(error) => {
            let message = format!(
                "the profile is written and could not be loaded ({error}): apparmor_parser -r {}",
                path.display()
            );
            failure::warn(&message, paint);
            Ok(Conclusion::NotDone)
        }
    }
}
