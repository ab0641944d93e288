//! The end of an environment, whatever came before it.

use forge_api::{ForgeAPI, OutputStream};
#[cfg(target_os = "linux")]
use forge_api::{SessionOrigin, SessionStore, StoredSummary};

use crate::arguments::ApplyWhen;
use crate::choice::Choice;
use crate::failure::{self, Failure};
#[cfg(target_os = "linux")]
use crate::sessions::counted;
use crate::settings::Settings;
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
    /// What was said, or what is usual. Who has interrupted a run is not asked anything.
    pub(crate) fn of(settings: &Settings, is_interrupted: bool) -> Self {
        let mut streams = [OutputStream::Stdout, OutputStream::Stderr].into_iter();
        let can_ask = stdin::kind() == stdin::Kind::Terminal && streams.all(is_terminal);
        match (settings.task.apply, is_interrupted) {
            (_, true) | (Some(ApplyWhen::Never), _) => Self::Wait,
            (Some(ApplyWhen::Auto), _) => Self::Apply,
            (Some(ApplyWhen::Ask) | None, _) if can_ask => Self::Ask,
            (Some(ApplyWhen::Ask) | None, _) => Self::Wait,
        }
    }
}

/// Whether something was to be applied and was not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    Nothing,
    Something,
}

/// Closes the environment. What could not be ended is said, and so is what was left on purpose.
pub(crate) async fn close(api: &ForgeAPI, choice: &Choice, end: End, paint: Paint) -> Left {
    #[cfg_attr(not(target_os = "linux"), expect(unused_mut, reason = "there is nothing to apply"))]
    let mut left = Left::Nothing;
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
        let mut held = counted(changed_files, ignored_files);
        if let Ok(state) = crate::executor::store_directory()
            && let Some(commits) = crate::commits::waiting(&SessionStore::new(state), &used.id)
        {
            held = format!("{held} and {commits}");
        }
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
            left = crate::apply::at_the_end(&used.id, end, paint).await;
        }
    }
    if let Err(error) = closed {
        failure::warn(&Failure::from(error).message(), paint);
    }
    left
}
