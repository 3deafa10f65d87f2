//! Wrong usage in one line, as every other error, for all binaries.

use super::Failure;
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// What clap makes of a command line that is none. Help and the version are printed, and the process
/// ends.
pub fn wrong(error: &clap::Error, command: &str) -> Failure {
    match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => error.exit(),
        _ => {
            let mut problem = in_one_line(&error.to_string());
            if let Some(tip) = tip(error, command) {
                problem =
                    format!("{}; tip: {tip}", problem.split("; tip: ").next().unwrap_or(&problem));
            }
            Failure::usage(format!("{problem}; `{command} --help` says more"))
        }
    }
}

/// What clap cannot know: words that others have for what we have, and what was left out.
fn tip(error: &clap::Error, command: &str) -> Option<&'static str> {
    let word = |kind| match error.get(kind) {
        Some(ContextValue::String(word)) => Some(word.as_str()),
        _ => None,
    };
    match error.kind() {
        ErrorKind::InvalidSubcommand => match word(ContextKind::InvalidSubcommand)? {
            "events" | "log" | "logs" | "tail" => Some("`systole watch` shows what happens"),
            "peers" | "list" | "ls" | "show" => Some("`systole status` shows peers"),
            _ => None,
        },
        ErrorKind::UnknownArgument if command == "systole beat" => {
            let is_word = !word(ContextKind::InvalidArg)?.starts_with('-');
            is_word.then_some("a command to run goes behind `--`")
        }
        _ => None,
    }
}

/// What clap says is wrong, without its usage: that names options as if they were required because the
/// environment gives them.
fn in_one_line(text: &str) -> String {
    let text = text.split("\n\nUsage: ").next().unwrap_or_default();
    let text = text.split("\n\nFor more information").next().unwrap_or_default();
    let mut one = String::new();
    let mut paragraph = false;
    // A negative number was meant for the option before it, and not for an argument.
    let number = |line: &str| {
        let rest = line.strip_prefix("tip: to pass '-");
        rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    let lines = text.trim_start_matches("error: ").lines().map(str::trim);
    for line in lines.filter(|line| !number(line)) {
        if line.is_empty() {
            paragraph = true;
            continue;
        }
        one.push_str(match () {
            () if one.is_empty() => "",
            () if paragraph => "; ",
            () if one.ends_with(':') || line.starts_with('[') => " ",
            () => ", ",
        });
        one.push_str(line);
        paragraph = false;
    }
    one
}
