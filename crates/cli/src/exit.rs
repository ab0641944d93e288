//! Exit codes: documented constants, chosen by one exhaustive match.

use forge_api::{Ending, Signal};

/// The code with which the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ExitCode(u8);

impl ExitCode {
    /// What was asked for was done.
    pub(crate) const DONE: Self = Self(0);
    /// The task failed or was left undone; see stderr.
    pub(crate) const FAILED: Self = Self(1);
    /// The command line, the configuration or a variable asks for what cannot be.
    pub(crate) const WRONG_USAGE: Self = Self(2);
    /// `exec`: the command ran for longer than `--timeout`.
    pub(crate) const TIMED_OUT: Self = Self(124);
    /// Forge or the environment failed; with `exec`, wrong usage too, since 2 could be the command's.
    pub(crate) const FORGE_FAILED: Self = Self(125);
    /// `exec`: the command was found and cannot be executed.
    pub(crate) const NOT_EXECUTABLE: Self = Self(126);
    /// `exec`: there is no such command.
    pub(crate) const NOT_FOUND: Self = Self(127);

    /// 128+n: ended by signal n. 130 is Ctrl-C, 137 also out of memory, 141 that nobody reads the
    /// output any more.
    pub(crate) fn signal(signal: Signal) -> Self {
        Self(u8::try_from(128 + signal.number()).unwrap_or(u8::MAX))
    }

    /// The number for the operating system.
    pub(crate) fn number(self) -> u8 {
        self.0
    }
}

/// How a run of `forge` came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Conclusion {
    /// What was asked for was done.
    Done,
    /// The task was given up or failed.
    NotDone,
    /// `exec`: the command was started, and this is how it ended.
    CommandEnded(Ending),
    /// `exec`: there is no such command.
    CommandNotFound,
    /// `exec`: the command cannot be executed.
    CommandNotExecutable,
    /// What was asked for cannot be.
    WrongUsage,
    /// Forge or the environment failed.
    ForgeFailed,
    /// A signal to forge itself ended the run.
    Ended(Signal),
    /// Nobody reads what forge writes.
    ReaderGone,
}

/// Whose code it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    /// `forge exec`: codes below 124 belong to the command.
    Exec,
    /// Everything else.
    Other,
}

impl Conclusion {
    /// Chooses the exit code.
    pub(crate) fn exit_code(&self, verb: Verb) -> ExitCode {
        match (self, verb) {
            (Self::Done, _) => ExitCode::DONE,
            (Self::NotDone, _) => ExitCode::FAILED,
            (Self::CommandEnded(ending), _) => match ending {
                Ending::Exited(code) => ExitCode(*code),
                Ending::Signalled(signal) => ExitCode::signal(*signal),
                Ending::TimedOut { .. } => ExitCode::TIMED_OUT,
                Ending::Cancelled => ExitCode::signal(Signal::INT),
                Ending::OutOfMemory => ExitCode::signal(Signal::KILL),
                Ending::LimitExceeded(_) | Ending::Unknown | Ending::ContactLost { .. } => {
                    ExitCode::FORGE_FAILED
                }
            },
            (Self::CommandNotFound, _) => ExitCode::NOT_FOUND,
            (Self::CommandNotExecutable, _) => ExitCode::NOT_EXECUTABLE,
            (Self::WrongUsage, Verb::Exec) | (Self::ForgeFailed, _) => ExitCode::FORGE_FAILED,
            (Self::WrongUsage, Verb::Other) => ExitCode::WRONG_USAGE,
            (Self::Ended(signal), _) => ExitCode::signal(*signal),
            (Self::ReaderGone, _) => ExitCode::signal(Signal::PIPE),
        }
    }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn wrong_usage_of_exec_is_not_taken_for_the_commands_own_two() {
        let actual =
            [Verb::Exec, Verb::Other].map(|verb| Conclusion::WrongUsage.exit_code(verb).number());
        assert_eq!(actual, [125, 2]);
    }

    #[test]
    fn endings_of_commands_have_the_codes_of_the_shells() {
        let ended = |ending| Conclusion::CommandEnded(ending).exit_code(Verb::Exec).number();
        let actual = [
            ended(Ending::Exited(2)),
            ended(Ending::Signalled(Signal::TERM)),
            ended(Ending::TimedOut { limit: std::time::Duration::from_secs(1) }),
            ended(Ending::OutOfMemory),
            ended(Ending::Unknown),
            Conclusion::CommandNotFound.exit_code(Verb::Exec).number(),
            Conclusion::CommandNotExecutable.exit_code(Verb::Exec).number(),
            Conclusion::Ended(Signal::HUP).exit_code(Verb::Exec).number(),
            Conclusion::ReaderGone.exit_code(Verb::Other).number(),
        ];
        assert_eq!(actual, [2, 143, 124, 137, 125, 127, 126, 129, 141]);
    }
}
