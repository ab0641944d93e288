//! The end of an environment, whatever came before it.

use std::pin::pin;

use forge_api::{EnvironmentError, ForgeAPI, LeftOut, LeftOutReason, OutputStream, Signal};
#[cfg(target_os = "linux")]
use forge_api::{Executor, SessionId, SessionOrigin, SessionStore, StoredSummary};

use crate::arguments::ApplyWhen;
use crate::choice::Choice;
#[cfg(target_os = "linux")]
use crate::commits;
#[cfg(target_os = "linux")]
use crate::exit::Conclusion;
use crate::failure::{self, Failure};
#[cfg(target_os = "linux")]
use crate::pending::Pending;
use crate::settings::Settings;
use crate::signals::{Arrival, Signals};
use crate::stdin;
use crate::terminal::{Paint, is_terminal};

/// What is done about changes at the end of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// They wait.
    Wait,
    /// The user is asked.
    Ask,
    /// What is clean and safe is applied.
    Apply,
}

impl End {
    /// The same for a single command, after which nobody is asked who has not said so.
    pub(crate) fn of_command(settings: &Settings, is_interrupted: bool) -> Self {
        match settings.task.apply {
            None => Self::Wait,
            Some(_) => Self::of(settings, is_interrupted),
        }
    }

    /// What was said, or what is usual. Who has interrupted a run is not asked anything.
    pub(crate) fn of(settings: &Settings, is_interrupted: bool) -> Self {
        if is_interrupted {
            return Self::Wait;
        }
        let mut streams = [OutputStream::Stdout, OutputStream::Stderr].into_iter();
        let can_ask = stdin::kind() == stdin::Kind::Terminal && streams.all(is_terminal);
        match settings.task.apply {
            Some(ApplyWhen::Never) => Self::Wait,
            Some(ApplyWhen::Auto) => Self::Apply,
            Some(ApplyWhen::Ask) | None if can_ask => Self::Ask,
            Some(ApplyWhen::Ask) | None => Self::Wait,
        }
    }
}

/// Whether something was to be applied and was not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Left {
    #[default]
    Nothing,
    Something,
}

#[cfg(target_os = "linux")]
impl Left {
    pub(crate) fn of(conclusion: &Conclusion) -> Self {
        match conclusion {
            Conclusion::Done => Self::Nothing,
            _ => Self::Something,
        }
    }
}

/// How an end was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Closed {
    pub(crate) left: Left,
    /// The signal that came while it was closed or the user was asked.
    pub(crate) ended_by: Option<Signal>,
}

/// What closing needs to know.
#[derive(Debug)]
pub(crate) struct Closing<'a> {
    pub(crate) choice: &'a Choice,
    /// What becomes of changes.
    pub(crate) end: End,
    /// How much is said of what goes without saying.
    pub(crate) verbose: u8,
    /// What was said of them before.
    #[cfg(target_os = "linux")]
    pub(crate) pending: Pending,
    pub(crate) paint: Paint,
}

/// Closes the environment. What could not be ended is said, and so is what was left on purpose.
#[cfg_attr(
    not(target_os = "linux"),
    expect(unused_mut, unused_variables, reason = "there is nothing to apply")
)]
pub(crate) async fn close(api: &ForgeAPI, closing: Closing<'_>, signals: &mut Signals) -> Closed {
    let Closing { choice, end, verbose, paint, .. } = closing;
    let mut done = Closed::default();
    let left_out = api.executor().left_out().await;
    let history = api.executor().history_note().await;
    let (closed, ended_by) = close_with_signals(api, signals, paint).await;
    done.ended_by = ended_by;
    #[cfg(target_os = "linux")]
    for ended in api.executor().take_ended_microvms() {
        crate::microvms::say(&ended, paint);
    }
    if let Some(said) = said_of(&left_out, verbose) {
        failure::note(&said, paint);
    }
    if let Some(said) = history {
        failure::note(&crate::terminal::clean(&said), paint);
    }
    let ignored = api.executor().ignored_in_microvm();
    if ignored > 0 && !choice.is_kept() && closed.is_ok() {
        let files = if ignored == 1 { "file" } else { "files" };
        let text =
            format!("{ignored} ignored {files} ended with the microVM; --keep-vm keeps them");
        failure::note(&text, paint);
    }
    if choice.is_kept()
        && let Some(id) = api.executor().remote_id()
    {
        failure::note(&said_of_kept(api, &id), paint);
    }
    #[cfg(target_os = "linux")]
    if let Some(used) = api.executor().session()
        && let Some(kept) = used.kept
        && let commits = waiting(&used.id)
        && (kept != StoredSummary::default() || commits.is_some())
    {
        let StoredSummary { changed_files, ignored_files } = kept;
        let has_commits = commits.is_some();
        let held = commits::held(changed_files, ignored_files, commits);
        let ways = match changed_files {
            0 if has_commits => "forge apply brings them over, forge discard drops them".to_owned(),
            0 => format!("forge discard {} drops them", used.id),
            _ => "forge diff shows them, forge apply brings them over, forge discard drops them"
                .to_owned(),
        };
        let origin = match used.origin {
            SessionOrigin::New => "",
            SessionOrigin::Continued => ", which was continued,",
        };
        failure::note(&format!("session {}{origin} holds {held}: {ways}", used.id), paint);
        // About commits alone nobody is asked.
        let is_due = match end {
            End::Wait => false,
            End::Ask => changed_files > 0,
            End::Apply => changed_files > 0 || has_commits,
        };
        if is_due && closed.is_ok() && ended_by.is_none() {
            done = closing.pending.at_the_end(&used.id, end, signals, paint).await;
        }
    }
    if let Err(error) = closed {
        failure::warn(&Failure::from(error).message(), paint);
    }
    done
}

/// What becomes of a microVM that was to be kept.
fn said_of_kept(api: &ForgeAPI, id: &str) -> String {
    #[cfg(target_os = "linux")]
    if let Some(used) = api.executor().session() {
        let session = used.id;
        return if api.executor().is_suspended() {
            format!(
                "the microVM {id} was suspended: the next run with session {session} resumes it, forge session stop \
                 {session} deletes it"
            )
        } else {
            format!(
                "the microVM {id} was left running, since it could not be suspended: forge session stop {session} \
                 deletes it"
            )
        };
    }
    format!("the microVM {id} was left running")
}

/// Closes, and says which signal came meanwhile. The first one changes nothing but that; the second ends the wait for what was
/// changed in a microVM, which then keeps it.
#[cfg_attr(not(target_os = "linux"), expect(unused_variables, reason = "nothing is kept there"))]
async fn close_with_signals(
    api: &ForgeAPI,
    signals: &mut Signals,
    paint: Paint,
) -> (Result<(), EnvironmentError>, Option<Signal>) {
    let mut closing = pin!(api.close());
    let mut ended_by = None;
    loop {
        let arrival = tokio::select! {
            closed = &mut closing => return (closed, ended_by),
            arrival = signals.next() => arrival,
        };
        #[cfg(target_os = "linux")]
        match ended_by {
            Some(_) => api.executor().give_up_changes(),
            None => {
                let waits_for = match api.executor().remote_id() {
                    Some(_) => {
                        "what was changed is being brought back; once more leaves it in the microVM"
                    }
                    None => {
                        "the server is to say which microVM it is making; once more leaves that to the next run"
                    }
                };
                if matches!(api.executor(), Executor::Tensorlake(_)) {
                    failure::note(waits_for, paint);
                }
            }
        }
        ended_by = Some(match arrival {
            Arrival::Interrupt => Signal::INT,
            Arrival::Terminate(signal) => signal,
        });
    }
}

/// What stayed on this machine though somebody may miss it, in words.
fn said_of(left_out: &[LeftOut], verbose: u8) -> Option<String> {
    let missed = |left: &&LeftOut| left.reason != LeftOutReason::Ignored || verbose > 0;
    let mut by_reason = std::collections::BTreeMap::<LeftOutReason, Vec<&LeftOut>>::new();
    for left in left_out.iter().filter(missed) {
        by_reason.entry(left.reason).or_default().push(left);
    }
    let reasons: Vec<String> = by_reason
        .iter()
        .map(|(reason, all)| match &all[..] {
            [one] => format!("{} ({reason})", one.path.display()),
            [first, ..] => {
                format!("{} and {} more ({reason})", first.path.display(), all.len() - 1)
            }
            [] => String::new(),
        })
        .collect();
    (!reasons.is_empty()).then(|| format!("not brought into the microVM: {}", reasons.join(", ")))
}

/// The commits of a session that wait, in words.
#[cfg(target_os = "linux")]
fn waiting(id: &SessionId) -> Option<String> {
    let state = crate::executor::store_directory().ok()?;
    commits::waiting(&SessionStore::new(state), id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ignored_is_said_only_where_more_is_asked_for() {
        let left = |path: &str, reason| LeftOut { path: path.into(), reason };
        let ignored =
            [left("target", LeftOutReason::Ignored), left("x.log", LeftOutReason::Ignored)];
        assert_eq!(said_of(&ignored, 0), None);
        let expected = "not brought into the microVM: target and 1 more (ignored)";
        assert_eq!(said_of(&ignored, 1).as_deref(), Some(expected));
        let secret = [left(".env", LeftOutReason::Secret)];
        assert!(said_of(&secret, 0).is_some());
    }
}
