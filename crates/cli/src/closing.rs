//! The end of an environment, whatever came before it.

use forge_api::ForgeAPI;
#[cfg(target_os = "linux")]
use forge_api::{SessionOrigin, StoredSummary};

use crate::choice::Choice;
use crate::failure::{self, Failure};
#[cfg(target_os = "linux")]
use crate::sessions::counted;
use crate::terminal::Paint;

/// Closes the environment. What could not be ended is said, and so is what was left on purpose.
pub(crate) async fn close(api: &ForgeAPI, choice: &Choice, paint: Paint) {
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
    }
    if let Err(error) = closed {
        failure::warn(&Failure::from(error).message(), paint);
    }
}
