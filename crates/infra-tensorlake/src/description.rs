//! What the environment says of itself: what is known without the guest, and what the guest says when it is first used.

use std::sync::{MutexGuard, PoisonError};

use forge_domain::{
    Capabilities, ChangeTracking, Description, EnvironmentError, EnvironmentKind, LeftOut,
    LeftOutReason, Limit, Network, Persistence,
};

use crate::environment::Inner;
use crate::failure::unavailable;
use crate::scripts::{Entered, Script};

/// So many secrets are named to the model; of more, the number.
const NAMED_SECRETS: usize = 10;
/// What this adapter asks of a guest. `sh`, `kill` and `read` come with the shell.
const NEEDED: &str =
    "base64 chmod dd env find grep head mkdir mkfifo mktemp mv readlink rm sleep stat tail xargs";
/// What is worth telling a model, which would try it out otherwise.
const WORTH_TELLING: &str = "git bash python3 pip node npm cargo rustc go java gcc make cmake curl wget rg jq sqlite3 docker sudo";

/// Ends the text where something is missing.
const ASK: &str = r#"missing=
echo "system $(uname -srm)"
echo "user $(id -un 2>/dev/null)"
for x in $1; do command -v "$x" >/dev/null || { echo "lacks $x"; missing=1; }; done
for x in $2; do ! command -v "$x" >/dev/null || echo "has $x"; done
[ -z "$missing" ] || exit
"#;

/// What the guest says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    system: String,
    user: Option<String>,
    tools: Vec<String>,
}

impl Facts {
    fn parse(lines: &[String]) -> Result<Self, String> {
        let of = |key: &str| -> Vec<String> {
            let values = lines.iter().filter_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
            values.filter(|value| !value.is_empty()).map(str::to_owned).collect()
        };
        let lacks = of("lacks");
        if !lacks.is_empty() {
            return Err(format!("its image lacks {}", lacks.join(", ")));
        }
        let system = of("system").pop().ok_or("its system has no name")?;
        Ok(Self { system, user: of("user").pop(), tools: of("has") })
    }
}

impl Inner {
    /// What is known by now; the guest is not asked.
    pub(crate) fn description(&self) -> Description {
        let facts = self.facts.get();
        let config = &self.config;
        let mut limits = vec![
            Limit::MilliCpus((config.resources.cpus * 1000.0).round().max(0.0) as u64),
            Limit::MemoryBytes(config.resources.memory_mb * 1024 * 1024),
            Limit::Lifetime(config.lifetime),
        ];
        if let Some(disk_mb) = config.resources.disk_mb {
            limits.push(Limit::DiskBytes(disk_mb * 1024 * 1024));
        }
        let mut remarks = vec!["This is a virtual machine of its own.".to_owned()];
        if self.host != self.workspace.root {
            remarks.push(format!(
                "What the user calls {:?} is {:?} here.",
                self.host.display().to_string(),
                self.workspace.root.display().to_string()
            ));
        }
        match config.source {
            Some(_) => remarks.extend(self.remarks_on_the_project()),
            None => remarks.push(
                "The project's files are not in it: its directory was made empty.".to_owned(),
            ),
        }
        match facts {
            Some(Facts { tools, .. }) if tools.is_empty() => {}
            Some(Facts { tools, .. }) => {
                remarks.push(format!("Of the usual tools there are {}.", tools.join(", ")));
            }
            None => remarks.push("Which tools it has, you see when you use it.".to_owned()),
        }
        Description {
            kind: EnvironmentKind::Tensorlake,
            operating_system: facts
                .map_or_else(|| "Linux".to_owned(), |facts| facts.system.clone()),
            shell: "/bin/sh".into(),
            user: facts.and_then(|facts| facts.user.clone()),
            workspace: self.workspace.root.clone(),
            working_directory: self.workspace.working_directory.clone(),
            scratch: self.scratch.clone(),
            persistence: Persistence::Environment,
            network: if config.internet { Network::Full } else { Network::None },
            limits,
            remarks,
            capabilities: Capabilities {
                change_tracking: ChangeTracking::Untracked,
                streams_exact_bytes: false,
                finds_detached_children: true,
            },
        }
    }

    fn remarks_on_the_project(&self) -> Vec<String> {
        let git = match self.config.history {
            Some(_) => {
                "git has the user's branches and tags, where the project is a repository; commits \
                 reach the user's as refs when they are applied."
            }
            None => "git's own directory is not either.",
        };
        let mut remarks = vec![format!(
            "The project's files are copies: what the user's ignore rules leave out is not among \
             them; {git}"
        )];
        let Some(secrets) = self.secrets().clone() else {
            remarks.push(
                "Files of the project that hold secrets (.env, private keys and the like) stay on \
                 the user's machine. The user can bring one along with --include PATH."
                    .to_owned(),
            );
            return remarks;
        };
        if !secrets.is_empty() {
            let named = secrets.iter().take(NAMED_SECRETS).cloned().collect::<Vec<_>>().join(", ");
            let more = match secrets.len().saturating_sub(NAMED_SECRETS) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            remarks.push(format!(
                "These files of the project hold secrets and stayed on the user's machine: \
                 {named}{more}. The user can bring one along with --include PATH."
            ));
        }
        remarks
    }

    fn secrets(&self) -> MutexGuard<'_, Option<Vec<String>>> {
        // What is in it is replaced as a whole.
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes which secrets stayed behind.
    pub(crate) fn note_secrets(&self, left_out: &[LeftOut]) {
        let secrets = left_out.iter().filter(|left| left.reason == LeftOutReason::Secret);
        let named = secrets.map(|left| format!("{:?}", left.path.display().to_string()));
        *self.secrets() = Some(named.collect());
    }

    /// Makes the sandbox, brings the project in, and asks the guest what it is: each where that was not done yet. A guest
    /// that no project goes into is not asked.
    pub(crate) async fn first_use(&self) -> Result<(), EnvironmentError> {
        let ready = self.ready().await?;
        if self.config.source.is_none() {
            return Ok(());
        }
        if self.facts.get().is_some() && self.has_project(&ready).await {
            return Ok(());
        }
        let operation = "a look at the sandbox";
        let script = |text| Script::new(text, []);
        let output = match self.entered_once(operation, &ask(), script).await? {
            Entered::Yes(output) => output,
            // It was asked on the way.
            Entered::Made if self.facts.get().is_some() => return Ok(()),
            Entered::Made => self.entered(operation, &ask(), script).await?,
        };
        self.note_facts(&output.lines)
    }

    /// Notes what the guest said to [`ask`].
    pub(crate) fn note_facts(&self, lines: &[String]) -> Result<(), EnvironmentError> {
        let facts = Facts::parse(lines)
            .map_err(|reason| unavailable(format!("the sandbox cannot be used: {reason}")))?;
        // Another sandbox of the same environment is made like the first.
        let _first = self.facts.set(facts);
        Ok(())
    }
}

/// The text that asks the guest what it is, and ends where it lacks what is needed.
pub(crate) fn ask() -> String {
    format!("set -- '{NEEDED}' '{WORTH_TELLING}'\n{ASK}")
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    fn parse(text: &str) -> Result<Facts, String> {
        Facts::parse(&text.lines().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn what_the_guest_says_is_understood() {
        let expected = Facts {
            system: "Linux 6.1 x86_64".to_owned(),
            user: Some("tl-user".to_owned()),
            tools: vec!["git".to_owned(), "node".to_owned()],
        };
        let actual = parse("system Linux 6.1 x86_64\nuser tl-user\nhas git\nhas node\n");
        assert_eq!(actual, Ok(expected));
        assert_eq!(parse("system x\nuser \n").map(|facts| facts.user), Ok(None));
    }

    #[test]
    fn a_guest_without_what_is_needed_is_refused_by_name() {
        let actual = parse("system x\nlacks dd\nlacks base64\n");
        assert_eq!(actual, Err("its image lacks dd, base64".to_owned()));
    }
}
