//! Going on with a sandbox that was kept: it has the project as it was then, and follows the host.

use std::sync::Arc;

use forge_domain::{EnvironmentError, WorkspaceSource};
use tracing::info;

use super::run::{OPERATION, Sent, listed};
use super::take_in::Precedence;
use crate::bring_back::GuestState;
use crate::environment::Inner;
use crate::failure::unavailable;
use crate::guest::word;
use crate::scripts::{Guest, Script};

/// Takes over the scratch directory `K` of the process before, which was `B`. A second time it finds that done.
const TAKE_OVER: &str = r#"[ ! -e "$B/begun" ] || { rm -rf -- "$K" && mv -- "$B" "$K"; } || exit
rm -f -- "$K/project"
[ -e "$K/begun" ] && echo ok
"#;

impl Inner {
    /// Has the workspace of a sandbox that was kept follow the host: all that was changed in it is there.
    pub(super) async fn go_on(
        &self,
        guest: &Guest,
        source: &Arc<dyn WorkspaceSource>,
        state: &GuestState,
    ) -> Result<Sent, EnvironmentError> {
        let Some((known, mut paths)) = state.whole() else {
            return Err(unavailable("it is not known what the sandbox has".to_owned()));
        };
        let listing = listed(source, |source| source.begin()).await?;
        let [before, scratch] = [&state.scratch, &guest.scratch].map(|path| word(path.as_os_str()));
        let text = format!("B={before} K={scratch}\n{TAKE_OVER}");
        let taken = guest.script(&Script::new(text, [])).await;
        let taken = taken.map_err(|error| error.in_environment(OPERATION))?;
        if taken.lines.first().map(String::as_str) != Some("ok") {
            return Err(self.refused(guest, &taken.complaint));
        }
        *self.bring_back.known() = Some(known);
        self.record_state().await?;
        let taken_in = self.follow(guest, source, &mut paths, &listing, Precedence::Host).await?;
        info!(paths = taken_in.updated_paths, "The sandbox follows the host.");
        self.set_mark(guest).await?;
        self.note_secrets(&listing.left_out);
        let (sandbox, left_out) = (Some(guest.ready.id.clone()), listing.left_out);
        Ok(Sent { sandbox, paths, left_out, history: None })
    }
}
