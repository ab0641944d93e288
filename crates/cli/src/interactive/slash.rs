//! Lines that are for forge and not for the model.

use thiserror::Error;

/// What `/help` says.
pub(super) const HELP: &str = "\
/help   says this
/diff   shows what was changed and waits
/apply  brings it to the project, after asking
/undo   takes the last apply back
/new    forgets the conversation and begins a new one
/quit   ends forge (as does Ctrl-D)
Alt-Enter begins a new line.
Ctrl-C ends what the model is doing and keeps the conversation.";

const NAMES: &[(&str, Slash)] = &[
    ("/help", Slash::Help),
    #[cfg(target_os = "linux")]
    ("/diff", Slash::Diff),
    #[cfg(target_os = "linux")]
    ("/apply", Slash::Apply),
    #[cfg(target_os = "linux")]
    ("/undo", Slash::Undo),
    ("/new", Slash::New),
    ("/quit", Slash::Quit),
];

/// A line for forge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slash {
    Help,
    #[cfg(target_os = "linux")]
    Diff,
    #[cfg(target_os = "linux")]
    Apply,
    #[cfg(target_os = "linux")]
    Undo,
    New,
    Quit,
}

/// A line that looks as if it were for forge.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("there is no {name}{}; /help says what there is", match nearest {
    Some(nearest) => format!("; did you mean {nearest}?"),
    None => String::new(),
})]
pub(super) struct UnknownSlash {
    name: String,
    nearest: Option<&'static str>,
}

/// Reads a line; `None` where it is for the model. A path is: `/etc/hosts is wrong`.
pub(super) fn parse(line: &str) -> Option<Result<Slash, UnknownSlash>> {
    let word = line.split_whitespace().next()?;
    if !word.starts_with('/') || word[1..].contains('/') {
        return None;
    }
    if let Some((_, slash)) = NAMES.iter().find(|(name, _)| *name == word) {
        return Some(Ok(*slash));
    }
    let nearest = nearest(word, NAMES.iter().map(|(name, _)| *name));
    Some(Err(UnknownSlash { name: word.to_owned(), nearest }))
}

/// The name that was most likely meant, if one is near enough.
pub(crate) fn nearest<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names
        .map(|name| (strsim::jaro_winkler(word, name), name))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn paths_and_text_are_for_the_model() {
        assert_eq!(parse("/etc/hosts is wrong"), None);
        assert_eq!(parse("please /quit"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn an_unknown_one_is_told_with_the_nearest() {
        let actual = parse("/qiut").map(|result| result.map_err(|error| error.to_string()));
        let expected = "there is no /qiut; did you mean /quit?; /help says what there is";
        assert_eq!(actual, Some(Err(expected.to_owned())));
        let actual = parse("/frobnicate").map(|result| result.map_err(|error| error.nearest));
        assert_eq!(actual, Some(Err(None)));
    }
}
