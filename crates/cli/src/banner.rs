//! What is said of the environment before it is used.

use forge_api::{Describe, EnvironmentError, ForgeAPI, Lifecycle, Limit, guest_path, limit_text};
#[cfg(target_os = "linux")]
use forge_api::{SessionMedium, SessionOrigin};

use crate::choice::Choice;

/// Names and values, in order. A name may be empty: then the value belongs to what is before it.
///
/// # Errors
/// The environment is one on this machine, and cannot be made.
pub(crate) async fn environment(
    api: &ForgeAPI,
    choice: &Choice,
) -> Result<Vec<(&'static str, String)>, EnvironmentError> {
    let mut lines = vec![("environment", choice.banner())];
    if let Choice::Tensorlake(_) = choice {
        let host = &api.workspace().root;
        let guest = guest_path(host);
        if guest != *host {
            lines.push(("project", format!("the project is at {} there", guest.display())));
        }
    }
    if !matches!(choice, Choice::Sandbox(_)) {
        return Ok(lines);
    }
    api.executor().prepare().await?;
    let limits = limits(&api.executor().describe().await?.limits);
    lines.push(("limits", limits));
    #[cfg(target_os = "linux")]
    if let Some(used) = api.executor().session() {
        let origin = match used.origin {
            SessionOrigin::New => "new",
            SessionOrigin::Continued => "continued; --fresh begins a new one",
        };
        lines.push(("session", format!("{}, {origin}", used.id)));
        if used.medium == SessionMedium::Memory {
            let warning = "what it writes is in memory, and on the disk after each turn and at the \
                           end: a kill loses what came after";
            lines.push(("", warning.to_owned()));
        }
    }
    Ok(lines)
}

/// The same in one line.
///
/// # Errors
/// As [`environment`].
pub(crate) async fn line(api: &ForgeAPI, choice: &Choice) -> Result<String, EnvironmentError> {
    let said = environment(api, choice).await?.into_iter().map(|(_, said)| said);
    Ok(format!("forge · {}", said.collect::<Vec<_>>().join(" · ")))
}

/// The limits that hold, and that one does not where that is worth knowing.
fn limits(limits: &[Limit]) -> String {
    // Nobody has asked for these, and hardly anybody comes near them.
    let told = |limit: &&Limit| !matches!(limit, Limit::FileBytes(_) | Limit::OpenFiles(_));
    let mut shown: Vec<String> = limits.iter().filter(told).map(limit_text).collect();
    if !limits.iter().any(|limit| matches!(limit, Limit::MemoryBytes(_))) {
        shown.push("none on the memory of all processes together".to_owned());
    }
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn limits_are_named_as_they_hold() {
        let gib = 1024 * 1024 * 1024;
        let bounded = [
            Limit::Processes(2048),
            Limit::MemoryBytes(20 * gib),
            Limit::MilliCpus(1500),
            Limit::FileBytes(gib),
            Limit::DiskBytes(32 * gib),
        ];
        let expected = "2048 processes at the same time, 20.0 GiB of memory in all, 1.5 processors, \
                        32.0 GiB of disk space";
        assert_eq!(limits(&bounded), expected);
        let expected = "4.0 GiB of memory for one process, none on the memory of all processes \
                        together";
        assert_eq!(limits(&[Limit::ProcessMemoryBytes(4 * gib)]), expected);
    }
}
