//! The text that runs a command in the guest.
//!
//! Two ways. **Lines**: the text becomes the command itself (`exec`), so that the server knows its exact
//! status, and its output comes as the server sends it, in lines. **Exact**: the text stays as the parent
//! of the command and sends its output as numbered pieces of base64, since a transport of lines loses
//! missing newlines and carriage returns, and the open daemon ends programs that print what is no UTF-8.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Duration;

use forge_domain::Signal;

use super::words::{word, words};

/// How the output travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// As the server's lines.
    Lines,
    /// As numbered pieces of base64.
    Exact,
}

/// What the command reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    /// `/dev/null`.
    Nothing,
    /// What is posted to the process, in numbered pieces.
    Pieces,
}

/// Everything that the text depends on.
#[derive(Debug)]
pub(crate) struct CommandText<'a> {
    /// Names this command and nothing else: it marks the text's own lines and the environment of the
    /// command's processes.
    pub(crate) token: &'a str,
    /// Made where it is missing.
    pub(crate) workspace: &'a Path,
    /// The environment's own working directory; made where it is missing.
    pub(crate) home: &'a Path,
    /// Where the command runs.
    pub(crate) directory: &'a Path,
    /// Where the text keeps its own files; made where it is missing.
    pub(crate) scratch: &'a Path,
    /// Without this file nothing is done in the workspace: it is not whole.
    pub(crate) mark: Option<&'a Path>,
    /// `NAME=value`.
    pub(crate) variables: &'a [OsString],
    /// Program and arguments.
    pub(crate) argv: &'a [OsString],
    pub(crate) delivery: Delivery,
    pub(crate) input: Input,
    /// The text waits for a line on stdin before it begins.
    pub(crate) held: bool,
    /// After so long the text kills the command by itself, whatever becomes of the client.
    pub(crate) own_bound: Option<Duration>,
}

/// The name of the variable that marks a command's processes. With [`Delivery::Lines`] the request sets
/// it, so that the text carries it from its beginning.
pub(crate) const MARK: &str = "FORGE_COMMAND_ID";

/// Finds what carries the mark, and kills it, until a look finds nothing. A zombie's environment is empty.
/// What `grep` cannot read makes its status no answer; busybox's reads no further than the first NUL.
const SWEEP: &str = r#"marked() {
  if grep --version >/dev/null 2>&1; then
    grep -lsF -e "FORGE_COMMAND_ID=$t" /proc/[0-9]*/environ
  else
    for p in /proc/[0-9]*/environ; do
      ! tr '\0' '\n' 2>/dev/null <"$p" | grep -qxF "FORGE_COMMAND_ID=$t" || echo "$p"
    done 2>/dev/null
  fi
}
sweep() {
  i=0
  while [ $i -lt 50 ]; do
    i=$((i + 1)) q=$(marked)
    [ -n "$q" ] || break
    for p in $q; do p=${p#/proc/}; kill -s KILL "${p%/environ}" 2>/dev/null; done
  done
}
"#;

/// Looks whether a program can be run, in the path that the command will have, and says so where it
/// cannot, as the shells' codes 126 and 127 would.
const LOOK_UP: &str = r#"look_up() {
  case $1 in
  */*) [ -e "$1" ] || { say missing; return 1; }
    { [ -f "$1" ] && [ -x "$1" ]; } || { say denied; return 1; } ;;
  *) x=missing o=$IFS IFS=:; set -f
    for q in $e; do
      [ -f "${q:-.}/$1" ] && { x=denied; [ -x "${q:-.}/$1" ] && { x=; break; }; }
    done
    IFS=$o; set +f
    [ -z "$x" ] || { say "$x"; return 1; } ;;
  esac
}
"#;

/// The text becomes the command, in a group of its own: the server's, where it made one.
const LINES: &str = r#"look_up "$1" || exit 0
shift
read -r g </proc/$$/stat; g=${g##*) }; g=${g#* * }; g=${g%% *}
[ "$g" != "$$" ] || s=
say start $$
exec $s "$@" </dev/null
"#;

/// The parent of the command: encoders, the command in a session of its own, the end of what it left.
const EXACT: &str = r#"k=$k/$t
mkdir -p -- "$k" && mkfifo -- "$k/0" "$k/1" "$k/2" || { say scratch; exit 0; }
encode() {
  trap '' HUP INT QUIT TERM
  j=0
  while d=$(dd bs=49152 count=1 2>/dev/null | base64 -w 0) && [ -n "$d" ]; do
    { $1; printf '%s %s\n' $j "$d"; } 8>>"$k/lock"
    j=$((j + 1))
  done
}
encode "$l" <"$k/1" &
a=$!
encode : <"$k/2" >&2 &
b=$!
(
  exec 9>&1 >"$k/1" 2>"$k/2" <"$in"
  look_up "$1" >&9 || exit 0
  shift
  export FORGE_COMMAND_ID="$t"
  exec $s /bin/sh -c 'printf "%s start %s\n" "$0" $$ >&9; exec 9>&-; exec "$@"' "$t" "$@"
)
c=$?
while [ -e "$k/stop" ] && [ -n "$(marked)" ]; do sleep 0.05; done
sweep
{ sleep 5; kill -s KILL $a $b; } </dev/null >/dev/null 2>&1 &
z=$!
wait $a $b
kill $z $w $f 2>/dev/null
rm -rf -- "$k"
printf '%s end\n' "$t" >&2
say end $c
"#;

/// Takes what is posted, piece by piece, and says what the command has taken. A `dd` of whole blocks reads no
/// further than its piece; busybox's `head` does. A piece that comes twice
/// counts once.
const FEED: &str = r#"feed() {
  exec 4>"$k/0"
  h=0
  while read -r i n; do
    [ -n "$n" ] || continue
    if [ "$i" -le "$h" ]; then dd bs="$n" count=1 iflag=fullblock >/dev/null 2>&1; continue; fi
    h=$i
    [ "$n" -gt 0 ] || break
    if dd bs="$n" count=1 iflag=fullblock 2>/dev/null >&4; then r=taken; else r=closed; fi
    { flock 8; say $r $i; } 8>>"$k/lock"
    [ $r = taken ] || break
  done
}
"#;

/// The parent of a command on a terminal. It outlives what keys and the hang-up send to both, to say how the
/// command ended, as shells say it, and to end what it left. What it has to say of its own about that is of no
/// interest.
const TERMINAL: &str = r#"look_up "$1" || exit 0
shift
trap : HUP INT QUIT TERM USR1 USR2
say start $$
exec 9>&2 2>/dev/null
(
  export FORGE_COMMAND_ID="$t"
  exec "$@" 2>&9 9>&-
)
c=$?
sweep
exit $c
"#;

/// The text and its arguments.
pub(crate) fn command_text(command: &CommandText<'_>) -> (String, Vec<String>) {
    let (mut text, arguments) = preamble(command);
    match command.delivery {
        Delivery::Lines => text.push_str(LINES),
        Delivery::Exact => {
            text.push_str(SWEEP);
            text.push_str(&exact(command));
        }
    }
    (text, arguments)
}

/// The text of a command on a terminal, and its arguments. It says that it begins, or why not, on the
/// terminal; from then on that is the command's.
pub(crate) fn terminal_text(command: &CommandText<'_>) -> (String, Vec<String>) {
    let (mut text, arguments) = preamble(command);
    text.push_str(SWEEP);
    text.push_str(TERMINAL);
    (text, arguments)
}

/// Everything up to the look for the program.
fn preamble(command: &CommandText<'_>) -> (String, Vec<String>) {
    let mut text = String::new();
    if command.held {
        text.push_str("read -r g || exit 0\n");
    }
    let all = arguments(command);
    let plain: Option<Vec<String>> =
        all.iter().map(|value| value.to_str().map(str::to_owned)).collect();
    let arguments = plain.unwrap_or_else(|| {
        text.push_str(&format!("set -- {}\n", words(all.iter().map(OsString::as_os_str))));
        Vec::new()
    });
    let path = command.variables.iter().rev().find_map(|variable| {
        variable.as_bytes().strip_prefix(b"PATH=").map(|path| word(OsStr::from_bytes(path)))
    });
    text.push_str(&format!(
        "t={} k={} in=/dev/null w= f= l=: e={}\n\
         say() {{ printf '%s %s\\n' \"$t\" \"$*\"; }}\n\
         s=; ! command -v setsid >/dev/null || s='setsid --'\n",
        command.token,
        word(command.scratch.as_os_str()),
        path.as_deref().unwrap_or("$PATH"),
    ));
    text.push_str(&check_mark(command.mark));
    text.push_str(&enter(command.workspace, command.home, command.scratch, command.directory));
    text.push_str(LOOK_UP);
    (text, arguments)
}

/// The program to look up, and then everything to execute. `env` sets the variables: a shell's own
/// `export` takes no name that is not its own, and would overwrite those of the text.
fn arguments(command: &CommandText<'_>) -> Vec<OsString> {
    let program = command.argv.first().cloned().unwrap_or_default();
    let mut arguments = vec![program.clone()];
    // The shells disagree about what `exec` makes of a leading dash.
    if !command.variables.is_empty() || program.as_bytes().starts_with(b"-") {
        arguments.extend(["env", "--"].map(OsString::from));
        arguments.extend(command.variables.iter().cloned());
        if program.as_bytes().contains(&b'=') {
            // `env` would take the program for one more variable.
            arguments.extend(["sh", "-c", "exec \"$0\" \"$@\""].map(OsString::from));
        }
    }
    arguments.extend(command.argv.iter().cloned());
    arguments
}

fn exact(command: &CommandText<'_>) -> String {
    let mut text = EXACT.to_owned();
    let mut extras = String::new();
    if let Some(bound) = command.own_bound {
        // Its own child is ended with it, so that no sleeper stays behind.
        extras.push_str(&format!(
            "{{ trap 'kill $y; exit' TERM; sleep {} & y=$!; wait $y; sweep; }} </dev/null \
             >/dev/null 2>&1 &\nw=$!\n",
            bound.as_secs() + 1
        ));
    }
    if command.input == Input::Pieces {
        extras.push_str(FEED);
        extras.push_str("in=$k/0 l='flock 8'\nexec 3<&0\nfeed <&3 &\nf=$!\nexec 3<&-\n");
    }
    // After the fifos are there and before anything uses them.
    let at = text.find("encode() {").unwrap_or(text.len());
    text.insert_str(at, &extras);
    text
}

/// Makes the directories where they are missing and goes to one; says what stands in the way.
pub(crate) fn enter(workspace: &Path, home: &Path, scratch: &Path, directory: &Path) -> String {
    let [workspace, home, scratch, directory] =
        [workspace, home, scratch, directory].map(|path| word(path.as_os_str()));
    format!(
        "{{ [ -d {workspace} ] && [ -d {home} ] && [ -d {scratch} ]; }} \
         || mkdir -p -- {workspace} {home} {scratch} 2>/dev/null \
         || {{ say workspace $(id -u):$(id -g); exit 0; }}\n\
         cd -- {directory} 2>/dev/null || {{\n\
         if [ -d {directory} ]; then say directory denied\n\
         elif [ -e {directory} ]; then say directory file\n\
         else say directory missing; fi\nexit 0; }}\n"
    )
}

/// Says that the workspace has to be made where a file is missing.
pub(crate) fn check_mark(mark: Option<&Path>) -> String {
    mark.map_or_else(String::new, |mark| {
        let mark = word(mark.as_os_str());
        format!("[ -e {mark} ] || {{ say workspace $(id -u):$(id -g); exit 0; }}\n")
    })
}

/// What a signal is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// It is passed on.
    Pass,
    /// The command is to end: its children get the grace too.
    Stop,
    /// Nothing of it may live.
    Kill,
}

/// The text that signals a command: its group, where it still carries the mark, and with
/// [`Purpose::Kill`] everything that carries it. `dash` takes the group's number only after `-s`.
pub(crate) fn signal_text(
    token: &str,
    scratch: &Path,
    leader: Option<u64>,
    signal: i32,
    purpose: Purpose,
) -> String {
    let directory = scratch.join(token);
    let directory = word(directory.as_os_str());
    let mut text = format!("t={token}\n{SWEEP}");
    if purpose == Purpose::Stop {
        text.push_str(&format!("[ ! -d {directory} ] || : >{directory}/stop\n"));
    }
    if let Some(leader) = leader {
        text.push_str(&format!(
            "if tr '\\0' '\\n' </proc/{leader}/environ 2>/dev/null | grep -qxF \"{MARK}=$t\"; then \
             kill -s {signal} -- -{leader} 2>/dev/null; \
             else for p in $(marked); do p=${{p#/proc/}}; \
             kill -s {signal} \"${{p%/environ}}\" 2>/dev/null; done; fi\n"
        ));
    }
    if purpose == Purpose::Kill {
        text.push_str("sweep\n");
    }
    text
}

/// The text that signals everything that carries a command's mark.
pub(crate) fn signal_marked_text(token: &str, signal: i32) -> String {
    let mut text = format!("t={token}\n{SWEEP}");
    text.push_str(&format!(
        "for p in $(marked); do p=${{p#/proc/}}; kill -s {signal} \"${{p%/environ}}\" 2>/dev/null; done\n"
    ));
    if signal == Signal::KILL.number() {
        text.push_str("sweep\n");
    }
    text
}

/// A program for the guest's shell.
pub(crate) fn shell_argv(text: &OsStr) -> Vec<OsString> {
    vec!["/bin/sh".into(), "-c".into(), text.to_owned()]
}
