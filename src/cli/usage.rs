//! Wrong usage in one line, as every other error, for all binaries.

use super::Failure;
use clap::error::ErrorKind;

/// What clap makes of a command line that is none. Help and the version are printed, and the process
/// ends.
pub fn wrong(error: &clap::Error, command: &str) -> Failure {
    match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => error.exit(),
        _ => {
            let problem = in_one_line(&error.to_string());
            Failure::usage(format!("{problem}; `{command} --help` says more"))
        }
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
