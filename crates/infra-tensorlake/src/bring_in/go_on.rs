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

/// Takes what tells of the project out of the scratch directory `B` of the process before, which stays as it is: until it is
/// written down that `K` has it, that one is looked into.
const TAKE_OVER: &str = r#"for name in begun refs; do
  [ ! -e "$B/$name" ] || cp -- "$B/$name" "$K/$name" || exit
done
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
        // Until it follows the host, what it has is older than what the session has.
        let record = GuestState::write(&known, &self.scratch, Some(&paths));
        self.record.fill(&self.owned_name(), record).await?;
        *self.bring_back.known() = Some(known);
        let taken_in = self.follow(guest, source, &mut paths, &listing, Precedence::Host).await?;
        info!(paths = taken_in.updated_paths, "The sandbox follows the host.");
        self.set_mark(guest).await?;
        self.note_secrets(&listing.left_out);
        let (sandbox, left_out) = (Some(guest.ready.id.clone()), listing.left_out);
        Ok(Sent { sandbox, paths, left_out, history: None })
    }
}
