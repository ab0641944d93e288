//! The tools by name, and a call made ready: its arguments read, its access known.

use forge_domain::{ToolCall, ToolSchema};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::arguments;
use super::edit::EditArguments;
use super::list::ListArguments;
use super::process::{ProcessOutputArguments, ProcessStopArguments};
use super::read::ReadArguments;
use super::remove::RemoveArguments;
use super::search::SearchArguments;
use super::shell::ShellArguments;
use super::write::WriteArguments;
use crate::plain;

/// A tool that the model may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tool {
    Shell,
    ProcessOutput,
    ProcessStop,
    Read,
    Write,
    Edit,
    Remove,
    List,
    Search,
}

impl Tool {
    const ALL: [Self; 9] = [
        Self::Shell,
        Self::ProcessOutput,
        Self::ProcessStop,
        Self::Read,
        Self::Write,
        Self::Edit,
        Self::Remove,
        Self::List,
        Self::Search,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Shell => "shell",
            Self::ProcessOutput => "process_output",
            Self::ProcessStop => "process_stop",
            Self::Read => "read",
            Self::Write => "write",
            Self::Edit => "edit",
            Self::Remove => "remove",
            Self::List => "list",
            Self::Search => "search",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tool| tool.name() == name)
    }

    fn description(self) -> &'static str {
        match self {
            Self::Shell => {
                "Runs a command in the environment's shell and answers with its output (stdout and \
                 stderr as they came) and how it ended. Each command starts anew in the working \
                 directory: `cd` and variables do not last from one call to the next. It reads \
                 nothing from its standard input, so use options that do not ask. Processes that \
                 it leaves behind are ended with it: to start a server or a watcher, set \
                 `background`. Of long output you get the beginning and the end, and the path of a \
                 file with the whole. Colours are removed."
            }
            Self::ProcessOutput => {
                "Says what a background command has printed since you last asked, and whether it \
                 still runs."
            }
            Self::ProcessStop => "Ends a background command and everything it started.",
            Self::Read => {
                "Reads a text file, with the number of each line in front of it (the number and \
                 the tab after it are not part of the file). Of a long file you get the first \
                 part, and are told where to go on."
            }
            Self::Write => {
                "Writes a whole file, and replaces it if it is there. Missing directories are \
                 made. To change a part of a file, use `edit`."
            }
            Self::Edit => {
                "Replaces an exact piece of text in a file by another. The piece has to stand \
                 there exactly as given, white space included, and only once, unless `all` is set."
            }
            Self::Remove => "Removes a file, a symbolic link, or a directory.",
            Self::List => "Lists a directory, hidden entries included, with sizes.",
            Self::Search => {
                "Searches the files of the workspace: for lines that match a regular expression, \
                 for files by name, or both. What the project's ignore rules exclude is left out \
                 unless `include_ignored` is set."
            }
        }
    }

    fn schema(self) -> Value {
        match self {
            Self::Shell => arguments::schema::<ShellArguments>(),
            Self::ProcessOutput => arguments::schema::<ProcessOutputArguments>(),
            Self::ProcessStop => arguments::schema::<ProcessStopArguments>(),
            Self::Read => arguments::schema::<ReadArguments>(),
            Self::Write => arguments::schema::<WriteArguments>(),
            Self::Edit => arguments::schema::<EditArguments>(),
            Self::Remove => arguments::schema::<RemoveArguments>(),
            Self::List => arguments::schema::<ListArguments>(),
            Self::Search => arguments::schema::<SearchArguments>(),
        }
    }

    fn action(self, arguments: &str) -> Result<Action, String> {
        fn parse<T: DeserializeOwned + JsonSchema>(
            tool: Tool,
            arguments: &str,
            action: impl FnOnce(T) -> Action,
        ) -> Result<Action, String> {
            arguments::parse(tool.name(), arguments).map(action)
        }
        match self {
            Self::Shell => parse(self, arguments, |a| Action::Change(Change::Shell(a))),
            Self::ProcessOutput => parse(self, arguments, |a| Action::Read(Read::ProcessOutput(a))),
            Self::ProcessStop => parse(self, arguments, |a| Action::Change(Change::ProcessStop(a))),
            Self::Read => parse(self, arguments, |a| Action::Read(Read::File(a))),
            Self::Write => parse(self, arguments, |a| Action::Change(Change::Write(a))),
            Self::Edit => parse(self, arguments, |a| Action::Change(Change::Edit(a))),
            Self::Remove => parse(self, arguments, |a| Action::Change(Change::Remove(a))),
            Self::List => parse(self, arguments, |a| Action::Read(Read::List(a))),
            Self::Search => parse(self, arguments, |a| Action::Read(Read::Search(a))),
        }
    }
}

/// All tools as the model is told of them.
pub(crate) fn schemas() -> Vec<ToolSchema> {
    let schema = |tool: Tool| ToolSchema {
        name: tool.name().to_owned(),
        description: tool.description().to_owned(),
        parameters: tool.schema(),
    };
    Tool::ALL.into_iter().map(schema).collect()
}

/// What a call asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Changes nothing. Neighbouring calls of this kind are carried out together.
    Read(Read),
    /// Can change something, and is carried out alone.
    Change(Change),
}

/// A call that changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Read {
    File(ReadArguments),
    List(ListArguments),
    Search(SearchArguments),
    ProcessOutput(ProcessOutputArguments),
}

/// A call that can change something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    Shell(ShellArguments),
    ProcessStop(ProcessStopArguments),
    Write(WriteArguments),
    Edit(EditArguments),
    Remove(RemoveArguments),
}

impl Action {
    /// Reads a call.
    ///
    /// # Errors
    /// A text for the model: the tool does not exist, or its arguments do not fit.
    pub(crate) fn of(call: &ToolCall) -> Result<Self, String> {
        match Tool::named(&call.name) {
            Some(tool) => tool.action(&call.arguments),
            None => Err(unknown(&call.name)),
        }
    }
}

impl Read {
    /// What is about to be done, whole, on one line.
    pub(crate) fn summary(&self) -> String {
        plain::whole_on_one_line(&match self {
            Self::File(arguments) => arguments.summary(),
            Self::List(arguments) => arguments.path.clone().unwrap_or_else(|| ".".to_owned()),
            Self::Search(arguments) => arguments.summary(),
            Self::ProcessOutput(arguments) => arguments.id.clone(),
        })
    }
}

impl Change {
    /// What is about to be done, whole, on one line.
    pub(crate) fn summary(&self) -> String {
        plain::whole_on_one_line(match self {
            Self::Shell(arguments) => &arguments.command,
            Self::ProcessStop(arguments) => &arguments.id,
            Self::Write(arguments) => &arguments.path,
            Self::Edit(arguments) => &arguments.path,
            Self::Remove(arguments) => &arguments.path,
        })
    }

    /// What the model says that it is for.
    pub(crate) fn purpose(&self) -> Option<String> {
        match self {
            Self::Shell(arguments) => arguments
                .description
                .as_deref()
                .map(plain::one_line)
                .filter(|purpose| !purpose.is_empty()),
            Self::ProcessStop(_) | Self::Write(_) | Self::Edit(_) | Self::Remove(_) => None,
        }
    }
}

fn unknown(name: &str) -> String {
    let names = Tool::ALL.map(Tool::name);
    let shown = plain::one_line(name);
    let guess = nearest(&name.to_ascii_lowercase(), &names)
        .map(|near| format!(" Did you mean `{near}`?"))
        .unwrap_or_default();
    format!(
        "There is no tool `{shown}`, and nothing was done.{guess} The tools are: {}.",
        names.join(", ")
    )
}

/// Other names under which models know these tools.
const ALIASES: [(&str, &str); 16] = [
    ("bash", "shell"),
    ("sh", "shell"),
    ("exec", "shell"),
    ("run", "shell"),
    ("run_command", "shell"),
    ("execute", "shell"),
    ("terminal", "shell"),
    ("cat", "read"),
    ("open", "read"),
    ("create", "write"),
    ("patch", "edit"),
    ("str_replace", "edit"),
    ("delete", "remove"),
    ("ls", "list"),
    ("grep", "search"),
    ("glob", "search"),
];

fn nearest(name: &str, names: &[&'static str]) -> Option<&'static str> {
    if let Some((_, tool)) = ALIASES.iter().find(|(alias, _)| *alias == name) {
        return Some(tool);
    }
    if let Some(part) = names.iter().find(|tool| name.split(['_', '-', '.']).any(|w| w == **tool)) {
        return Some(part);
    }
    names
        .iter()
        .map(|tool| (super::nearest::distance(name, tool), *tool))
        .min()
        .filter(|(distance, tool)| *distance <= tool.len() / 3 + 1)
        .map(|(_, tool)| tool)
}
