//! What the model is told of a command: its output, cut to size, and how it ended.

use std::time::Duration;

use forge_domain::{
    CommandExit, Description, Ending, Network, Notice, OutputStream, Resource, RetainedOutput,
    SpillFile, StopMethod,
};

use super::lines::whole_characters;
use super::report::Report;
use crate::ToolOutcome;
use crate::plain::{self, byte_size, count, duration};

/// What is known of a command that has ended.
#[derive(Debug)]
pub(crate) struct CommandEnd<'a> {
    pub(crate) exit: &'a CommandExit,
    /// How many newlines its whole output had.
    pub(crate) newlines: u64,
}

/// Makes the result of a command.
pub(crate) fn report(end: &CommandEnd<'_>, description: &Description) -> Report {
    let CommandExit { ending, output, elapsed, stopped_by, notices } = end.exit;
    let body = shown_output(output, end.newlines);
    let mut content = String::new();
    for Notice::EnvironmentRecreated { reason } in notices {
        content.push_str(&format!(
            "[The environment had to be made anew before this command ({reason}). Files and \
             background commands of before are gone.]\n"
        ));
    }
    content.push_str(&body.text);
    content.push_str(&format!(
        "[{}; took {}]",
        ending_text(ending, *stopped_by),
        duration(*elapsed)
    ));
    if let Ending::TimedOut { .. } = ending {
        content.push_str(
            "\n[If it needs longer, name a longer `timeout`; if it never ends, as a server, set \
             `background`.]",
        );
    }
    if !ending.is_success() && description.network == Network::None && misses_network(&body.text) {
        content.push_str(
            "\n[The network is off in this environment, which is probably why: no other host can \
             be reached, and trying again changes nothing. Work with what is there, or tell the \
             user what has to be fetched; the user turns the network on by starting Forge with \
             `--network full`.]",
        );
    }
    let notice = |Notice::EnvironmentRecreated { reason }: &Notice| {
        format!("the environment had to be made anew: {reason}")
    };
    Report {
        outcome: outcome(ending),
        content,
        detail: ending_detail(ending),
        notices: notices.iter().map(notice).collect(),
    }
}

pub(crate) fn outcome(ending: &Ending) -> ToolOutcome {
    match ending {
        Ending::Exited(0) => ToolOutcome::Succeeded,
        Ending::Cancelled => ToolOutcome::Cancelled,
        Ending::Exited(_)
        | Ending::Signalled(_)
        | Ending::TimedOut { .. }
        | Ending::OutOfMemory
        | Ending::LimitExceeded(_)
        | Ending::Unknown
        | Ending::ContactLost { .. } => ToolOutcome::Failed,
    }
}

/// How a command ended, for the model.
pub(crate) fn ending_text(ending: &Ending, stopped_by: Option<StopMethod>) -> String {
    let method = match stopped_by {
        None => "",
        Some(StopMethod::Terminate) => "; it ended on SIGTERM",
        Some(StopMethod::Kill) => "; it did not end on SIGTERM and was killed",
    };
    match ending {
        Ending::Exited(code) => format!("exit code {code}"),
        Ending::Signalled(signal) => {
            format!("ended by {signal}, which Forge did not send")
        }
        Ending::TimedOut { limit } => format!("timed out after {}{method}", duration(*limit)),
        Ending::Cancelled => format!("cancelled{method}"),
        Ending::OutOfMemory => "killed: out of memory".to_owned(),
        Ending::LimitExceeded(Resource::FileSize) => {
            "ended: a file grew beyond the environment's limit".to_owned()
        }
        Ending::LimitExceeded(Resource::Disk) => {
            "ended: the environment's disk space is used up".to_owned()
        }
        Ending::Unknown => {
            "ended, and it is not known how: do not take it for a success; check what it did"
                .to_owned()
        }
        Ending::ContactLost { command, cause } => {
            let command = command.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
            format!(
                "contact lost{command}: {cause}. The command may have ended or may still run; \
                 check before you start it again"
            )
        }
    }
}

/// How a command ended, for the user.
pub(crate) fn ending_detail(ending: &Ending) -> String {
    match ending {
        Ending::Exited(code) => format!("exit code {code}"),
        Ending::Signalled(signal) => signal.to_string(),
        Ending::TimedOut { limit } => format!("timed out after {}", duration(*limit)),
        Ending::Cancelled => "cancelled".to_owned(),
        Ending::OutOfMemory => "out of memory".to_owned(),
        Ending::LimitExceeded(Resource::FileSize) => "file size limit reached".to_owned(),
        Ending::LimitExceeded(Resource::Disk) => "disk space used up".to_owned(),
        Ending::Unknown => "ended, it is not known how".to_owned(),
        Ending::ContactLost { cause, .. } => format!("contact lost: {}", plain::one_line(cause)),
    }
}

/// Output made ready to be shown.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ShownOutput {
    /// Ends with a newline.
    pub(crate) text: String,
}

/// The kept output of a command with what was left out said in its place.
pub(crate) fn shown_output(output: &RetainedOutput, newlines: u64) -> ShownOutput {
    let join = |chunks: &[forge_domain::Chunk]| {
        let bytes = chunks.iter().map(|chunk| &chunk.bytes[..]);
        bytes.collect::<Vec<_>>().concat()
    };
    let (head, tail) = (join(output.head()), join(output.tail()));
    let total = output.total_bytes(OutputStream::Stdout) + output.total_bytes(OutputStream::Stderr);
    if total == 0 {
        return ShownOutput { text: "[no output]\n".to_owned() };
    }
    let mut omitted = output.omitted_bytes();
    if omitted == 0 {
        let whole = [head, tail].concat();
        return ShownOutput { text: joined(&whole, None, total, output.spill.as_ref()) };
    }
    // A cut within a character would show as bytes that the command never wrote.
    let head = &head[..whole_characters(&head)];
    let skip = tail.iter().take(3).take_while(|byte| (0x80..0xc0).contains(*byte)).count();
    let tail = &tail[skip..];
    omitted = omitted.max(total - (head.len() + tail.len()) as u64);
    let lines_in = |bytes: &[u8]| memchr::memchr_iter(b'\n', bytes).count() as u64;
    let lines = newlines.saturating_sub(lines_in(head) + lines_in(tail));
    let gap = Gap { bytes: omitted, lines };
    ShownOutput { text: joined(head, Some((gap, tail)), total, output.spill.as_ref()) }
}

/// What lies between the beginning and the end.
#[derive(Debug, Clone, Copy)]
struct Gap {
    bytes: u64,
    lines: u64,
}

fn joined(
    head: &[u8],
    rest: Option<(Gap, &[u8])>,
    total: u64,
    spill: Option<&SpillFile>,
) -> String {
    let shown = plain::from_terminal(head);
    let after = rest.map(|(gap, tail)| (gap, plain::from_terminal(tail)));
    let unreadable = shown.looks_binary() || after.iter().any(|(_, tail)| tail.looks_binary());
    if unreadable {
        let place = spill.map(|file| format!(" {}", spill_text(file))).unwrap_or_else(|| {
            " To look at it, run the command again with `| xxd | head`, or write it to a file."
                .to_owned()
        });
        return format!("[binary output of {}, not shown.{place}]\n", byte_size(total));
    }
    let mut text = shown.text;
    let mut invalid = shown.invalid_runs;
    if let Some((gap, tail)) = after {
        invalid += tail.invalid_runs;
        // What is cut through is marked, lest half a number be taken for one.
        if !text.ends_with('\n') {
            text.push_str("…\n");
        }
        let place = spill.map(|file| format!(" {}", spill_text(file))).unwrap_or_default();
        text.push_str(&format!(
            "[… {} in {} left out here; the whole output has {}.{place} …]\n",
            count(gap.bytes, "byte"),
            count(gap.lines, "line"),
            count(total, "byte"),
        ));
        text.push('…');
        text.push_str(&tail.text);
    }
    end_line(&mut text);
    if invalid > 0 {
        let places = count(invalid as u64, "place");
        text.push_str(&format!("[not valid UTF-8 in {places}, shown as \u{fffd}]\n"));
    }
    text
}

fn spill_text(file: &SpillFile) -> String {
    let path = plain::file_line(&file.path.to_string_lossy());
    if file.complete {
        format!("The whole is in {path}")
    } else {
        format!("Its first {} are in {path}", byte_size(file.bytes))
    }
}

fn end_line(text: &mut String) {
    if !text.ends_with('\n') {
        text.push('\n');
    }
}

/// What programs say when they reach no other host.
const NETWORK_COMPLAINTS: [&str; 15] = [
    "could not resolve",
    "couldn't resolve",
    "temporary failure in name resolution",
    "temporary failure resolving",
    "name or service not known",
    "nodename nor servname",
    "failed to lookup address",
    "network is unreachable",
    "network unreachable",
    "no route to host",
    "enotfound",
    "eai_again",
    "enetunreach",
    "unable to resolve host",
    "dial tcp: lookup",
];

fn misses_network(output: &str) -> bool {
    let output = output.to_lowercase();
    NETWORK_COMPLAINTS.iter().any(|complaint| output.contains(complaint))
}

/// The result of a command that was cancelled and whose end the environment did not confirm in time.
pub(crate) fn unconfirmed(output: &RetainedOutput, newlines: u64, waited: Duration) -> Report {
    let body = shown_output(output, newlines);
    Report::new(
        ToolOutcome::Cancelled,
        format!(
            "{}[cancelled; the environment did not confirm within {} that it ended]",
            body.text,
            duration(waited)
        ),
        "cancelled, its end is not confirmed",
    )
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use forge_domain::{
        Capabilities, ChangeTracking, EnvironmentKind, OutputBuffer, OutputLimits, Persistence,
        Signal,
    };
    use pretty_assertions::assert_eq;

    use super::*;

    fn description(network: Network) -> Description {
        Description {
            kind: EnvironmentKind::Fake,
            operating_system: "Linux".to_owned(),
            shell: PathBuf::from("/bin/sh"),
            user: None,
            workspace: PathBuf::from("/w"),
            working_directory: PathBuf::from("/w"),
            scratch: PathBuf::from("/tmp/s"),
            persistence: Persistence::Session,
            network,
            limits: Vec::new(),
            remarks: Vec::new(),
            capabilities: Capabilities {
                change_tracking: ChangeTracking::Untracked,
                streams_exact_bytes: true,
                finds_detached_children: true,
            },
        }
    }

    fn output(bytes: &[u8], keep: usize, spill: Option<SpillFile>) -> (RetainedOutput, u64) {
        let mut buffer = OutputBuffer::new(OutputLimits::head_and_tail(keep));
        buffer.push(OutputStream::Stdout, bytes);
        (buffer.finish(spill), bytes.iter().filter(|byte| **byte == b'\n').count() as u64)
    }

    fn told(ending: Ending, bytes: &[u8], network: Network) -> Report {
        let (output, newlines) = output(bytes, 1000, None);
        let exit = CommandExit {
            ending,
            output,
            elapsed: Duration::from_millis(1250),
            stopped_by: None,
            notices: Vec::new(),
        };
        report(&CommandEnd { exit: &exit, newlines }, &description(network))
    }

    #[test]
    fn output_comes_first_and_the_ending_after_it() {
        let actual = told(Ending::Exited(3), b"one\ntwo", Network::Full);
        let expected = Report::failed("one\ntwo\n[exit code 3; took 1.2 s]", "exit code 3");
        assert_eq!(actual, expected);
        let actual = told(Ending::Exited(0), b"", Network::Full);
        let expected = Report::succeeded("[no output]\n[exit code 0; took 1.2 s]", "exit code 0");
        assert_eq!(actual, expected);
    }

    #[test]
    fn every_ending_has_words_of_its_own() {
        let endings = [
            Ending::Exited(0),
            Ending::Exited(127),
            Ending::Signalled(Signal::KILL),
            Ending::TimedOut { limit: Duration::from_secs(90) },
            Ending::Cancelled,
            Ending::OutOfMemory,
            Ending::LimitExceeded(Resource::FileSize),
            Ending::LimitExceeded(Resource::Disk),
            Ending::Unknown,
            Ending::ContactLost { command: Some("pid 7".to_owned()), cause: "reset".to_owned() },
        ];
        let lines = endings.map(|ending| {
            let text = ending_text(&ending, Some(StopMethod::Kill));
            format!("{:?} | {} | {text}", outcome(&ending), ending_detail(&ending))
        });
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn what_was_left_out_is_said_with_the_place_of_the_whole() {
        let bytes: Vec<u8> = (0..100).flat_map(|n| format!("line {n}\n").into_bytes()).collect();
        let spill = SpillFile { path: "/tmp/s/out-1".into(), bytes: 790, complete: true };
        let (output, newlines) = output(&bytes, 20, Some(spill));
        insta::assert_snapshot!(shown_output(&output, newlines).text);
    }

    #[test]
    fn a_cut_within_a_character_is_moved_to_its_edge() {
        let (output, newlines) = output("aé€€€€€b".as_bytes(), 5, None);
        insta::assert_snapshot!(shown_output(&output, newlines).text);
    }

    #[test]
    fn binary_output_is_named_not_shown() {
        let bytes: Vec<u8> =
            (0..5000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let spill = SpillFile { path: "/tmp/s/out-1".into(), bytes: 4000, complete: false };
        let (output, newlines) = output(&bytes, 1000, Some(spill));
        insta::assert_snapshot!(shown_output(&output, newlines).text);
    }

    #[test]
    fn invalid_utf8_is_replaced_and_said() {
        let (output, newlines) = output(b"caf\xe9 ol\xe9\n", 100, None);
        insta::assert_snapshot!(shown_output(&output, newlines).text);
    }

    #[test]
    fn a_failure_for_want_of_a_network_says_that_the_network_is_off() {
        let complaint = b"curl: (6) Could not resolve host: example.org\n";
        let says =
            |ending, network| told(ending, complaint, network).content.contains("network is off");
        assert!(says(Ending::Exited(6), Network::None));
        assert!(!says(Ending::Exited(6), Network::Full));
        assert!(!says(Ending::Exited(0), Network::None));
    }
}
