//! The end of an environment, whatever came before it.

use forge_api::{ForgeAPI, OutputStream, Signal};
#[cfg(target_os = "linux")]
use forge_api::{SessionOrigin, StoredSummary};

use crate::arguments::ApplyWhen;
use crate::choice::Choice;
use crate::failure::{self, Failure};
#[cfg(target_os = "linux")]
use crate::pending::Pending;
#[cfg(target_os = "linux")]
use crate::sessions::counted;
use crate::settings::Settings;
use crate::signals::Signals;
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

/// How an end was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Closed {
    pub(crate) left: Left,
    /// The signal that came while the user was asked.
    pub(crate) ended_by: Option<Signal>,
}

/// What closing needs to know.
#[derive(Debug)]
pub(crate) struct Closing<'a> {
    pub(crate) choice: &'a Choice,
    /// What becomes of changes.
    pub(crate) end: End,
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
    let Closing { choice, end, paint, .. } = closing;
    let mut done = Closed::default();
    let closed = api.close().await;
    if choice.is_kept()
        && let Some(id) = api.executor().remote_id()
    {
        failure::note(&format!("the microVM {id} was left running"), paint);
    }
    #[cfg(target_os = "linux")]
    if let Some(used) = api.executor().session()
        && let Some(kept) = used.kept
        && kept != StoredSummary::default()
    {
        let StoredSummary { changed_files, ignored_files } = kept;
        let held = counted(changed_files, ignored_files);
        let ways = match changed_files {
            0 => format!("forge discard {} drops them", used.id),
            _ => "forge diff shows them, forge apply brings them over, forge discard drops them"
                .to_owned(),
        };
        let origin = match used.origin {
            SessionOrigin::New => "",
            SessionOrigin::Continued => ", which was continued,",
        };
        failure::note(&format!("session {}{origin} holds {held}: {ways}", used.id), paint);
        if changed_files > 0 && closed.is_ok() && end != End::Wait {
            done = closing.pending.at_the_end(&used.id, end, signals, paint).await;
        }
    }
    if let Err(error) = closed {
        failure::warn(&Failure::from(error).message(), paint);
    }
    done
}
