//! The end of an environment, whatever came before it.

use forge_api::ForgeAPI;

use crate::choice::Choice;
use crate::failure::{self, Failure};
use crate::terminal::Paint;

/// Closes the environment. What could not be ended is said, and so is what was left on purpose.
pub(crate) async fn close(api: &ForgeAPI, choice: &Choice, paint: Paint) {
    let closed = api.close().await;
    if choice.is_kept()
        && let Some(id) = api.executor().remote_id()
    {
        failure::note(&format!("the microVM {id} was left running"), paint);
    }
    if let Err(error) = closed {
        failure::warn(&Failure::from(error).message(), paint);
    }
}
