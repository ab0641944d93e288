//! What a test can make go wrong.

use std::sync::{Mutex, MutexGuard, PoisonError};

use forge_domain::{EnvironmentError, EnvironmentKind};
use tokio::sync::watch;

/// The levers of a [`FakeEnvironment`](crate::FakeEnvironment). All are off at first.
#[derive(Debug, Default)]
pub struct Levers {
    state: Mutex<State>,
    stalled: watch::Sender<bool>,
    lost: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    fail_next: Option<String>,
    drop_output_after: Option<u64>,
    recreated: Option<String>,
}

impl Levers {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every call, and every running command, stands still until [`Levers::release`].
    pub fn stall(&self) {
        self.stalled.send_replace(true);
    }

    /// Ends a stall.
    pub fn release(&self) {
        self.stalled.send_replace(false);
    }

    /// The next call fails: the environment cannot be had, for this reason.
    pub fn fail_next(&self, reason: impl Into<String>) {
        self.state().fail_next = Some(reason.into());
    }

    /// From now on every call fails with a lost contact, and running commands end with it.
    pub fn lose_contact(&self) {
        self.lost.send_replace(true);
    }

    /// The contact is there again.
    pub fn restore_contact(&self) {
        self.lost.send_replace(false);
    }

    /// The next command loses contact once it has printed so many bytes.
    pub fn drop_output_after(&self, bytes: u64) {
        self.state().drop_output_after = Some(bytes);
    }

    /// The next command comes with the notice that the environment had to be made anew.
    pub fn recreate_next(&self, reason: impl Into<String>) {
        self.state().recreated = Some(reason.into());
    }

    pub(super) fn take_drop_output_after(&self) -> Option<u64> {
        self.state().drop_output_after.take()
    }

    pub(super) fn take_recreated(&self) -> Option<String> {
        self.state().recreated.take()
    }

    /// Waits while stalled; then fails, if a lever says so.
    pub(super) async fn pass(&self, operation: &str) -> Result<(), EnvironmentError> {
        self.not_stalled().await;
        if let Some(reason) = self.state().fail_next.take() {
            return Err(EnvironmentError::Unavailable {
                environment: EnvironmentKind::Fake,
                reason,
                source: None,
            });
        }
        if *self.lost.borrow() {
            return Err(EnvironmentError::ContactLost {
                environment: EnvironmentKind::Fake,
                operation: operation.to_owned(),
                source: None,
            });
        }
        Ok(())
    }

    pub(super) async fn not_stalled(&self) {
        // The sender lives as long as we do, so the wait ends only by the state.
        drop(self.stalled.subscribe().wait_for(|stalled| !*stalled).await);
    }

    pub(super) async fn contact_lost(&self) {
        drop(self.lost.subscribe().wait_for(|lost| *lost).await);
    }
}
