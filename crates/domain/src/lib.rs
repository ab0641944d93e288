//! The contracts of Forge: ports, ids, values and errors.
//!
//! This crate owns what every other crate agrees on. It starts no runtime, does no I/O and knows no
//! wire format: a port is a trait with its promises in words, and the conformance suite
//! (`forge-conformance`) turns each promise into a named test for each adapter.
//!
//! The unit that an adapter implements is [`ExecutionEnvironment`]: commands, background commands,
//! terminals, files, search, description, changes and life as **one** thing, so that what one tool
//! writes, the next one sees. The other ports are [`LanguageModel`], [`Approver`] and [`Host`], which is for
//! what has to happen on the user's machine and must never go through an environment.

mod approval;
mod background;
mod changes;
mod command;
mod control;
mod description;
mod environment;
mod files;
mod host;
mod ids;
mod model;
mod output;
mod record;
mod returned;
mod review;
mod search;
mod secrets;
mod source;
mod terminal;
mod variables;

pub use approval::{Approval, ApprovalRequest, Approver, Risk};
pub use background::{
    BackgroundCommands, BackgroundError, BackgroundStatus, BackgroundSummary, OutputOffset,
};
pub use changes::{Change, ChangeKind, ChangeSet, Changes, ChangesError, TakenIn};
pub use command::{
    CommandError, CommandExit, CommandIo, CommandRequest, Commands, DEFAULT_TERMINATION_GRACE,
    Ending, Fidelity, Notice, Program, Resource, Signal, Stdin, StopMethod,
};
pub use control::{CommandController, ControlRequest, ControlRequests};
pub use description::{
    Capabilities, ChangeTracking, Describe, Description, EnvironmentKind, Limit, Network,
    Persistence,
};
pub use environment::{BoxedError, EnvironmentError, ExecutionEnvironment, Lifecycle};
pub use files::{
    ByteRange, DirectoryEntry, Existing, FileContents, FileError, FileKind, FileStat, Files,
    Removal, WriteOptions,
};
pub use host::{Host, HostError, Instructions, WorkspaceLocation};
pub use ids::{BackgroundId, IdError, ModelId, ModelIdError, SessionId, ToolCallId};
pub use model::{
    LanguageModel, Message, ModelError, ModelEvent, ModelRequest, ModelStream, StopReason,
    ToolCall, ToolResult, ToolSchema, Usage,
};
pub use output::{
    Chunk, DiscardOutput, OutputBuffer, OutputLimits, OutputLog, OutputSink, OutputStream,
    RetainedOutput, SinkClosed, Spill, SpillFile,
};
pub use record::{KeptSandbox, SandboxRecord};
pub use returned::{NotReturned, ReturnKeeper, Returned, ReturnedOrigin, StaysThere};
pub use review::{
    Applied, AppliedId, AppliedPath, ApplyContents, ApplyError, ApplyTarget, Base, BranchName,
    BroughtRefs, CommitTarget, CommitsError, Content, Digest, Entry, GitObjectId, PathRefusal,
    Placed, RefRefusal, RepositoryRefs, ReviewedPath, SessionRef, SessionRefName, Step, Undo,
    Unnoted, session_refs,
};
pub use search::{
    CaseSensitivity, IgnoreRules, Search, SearchError, SearchMatch, SearchOutcome, SearchQuery,
};
pub use secrets::{Secrecy, SecretSigns, holds_login, is_secret_directory, secrecy};
pub use source::{
    History, HistoryError, HistorySource, LeftOut, LeftOutReason, SessionCommits, SourceEntry,
    SourceError, SourceListing, SourcePath, SourceStamp, WorkspaceSource,
};
pub use terminal::{
    DEFAULT_TERMINAL_KIND, TerminalController, TerminalInput, TerminalIo, TerminalRequest,
    TerminalRequests, TerminalSize, Terminals,
};
pub use variables::{
    EnvironmentVariable, KEY_VARIABLES, VariableError, VariableName, VariableValue,
};
