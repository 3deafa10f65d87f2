//! `systole forget`: peers that will not come back, removed before their time.

use super::client::{Client, MonitorArgs};
use super::{Failure, terminal, words};
use crate::api::Removal;

const EXAMPLES: &str = "\
Examples:
  systole forget web-1                       it was taken out of service
  systole forget web-1 web-2 web-3
  systole status --state down --limit 0 --json | jq -r '.peers[].name' | xargs systole forget
";

const AFTER: &str = "\
Everything known of a peer is dropped: what it has learnt, its key, its place; the log keeps its transitions. A transition to `forgotten` \
follows. Who was behind it (its children) has no parent then: those that are unreachable are called down. \
One that beats again is a newcomer; to keep its alarms quiet use `systole silence`. Exit \
codes: 0 done; 3 a peer is unknown (those before it are removed), or no monitor answers.";

/// What was given as flags.
#[derive(clap::Args, Debug)]
#[command(before_long_help = EXAMPLES, after_long_help = AFTER)]
pub struct ForgetArgs {
    /// Names of peers; an id where no peer has that name.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Print JSON, one object a line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    monitor: MonitorArgs,
}

/// Asks the monitor to forget, one after the other.
///
/// # Errors
/// A peer is unknown or no monitor answers (exit code 3), or its reactor is busy (1).
pub fn forget(args: ForgetArgs) -> Result<u8, Failure> {
    terminal::exit_130_on_interrupt();
    let client = Client::new(&args.monitor.http)?;
    for name in &args.names {
        let removal = client.forget(name)?;
        match args.json {
            true => terminal::print(&terminal::json_line(&removal)?)?,
            false => terminal::print(&said(&removal))?,
        }
        warning(&removal).iter().for_each(|text| terminal::say(text));
    }
    Ok(0)
}

fn said(removal: &Removal) -> String {
    format!("{} is forgotten; if it beats again it is a newcomer", removal.name)
}

/// What becomes of those behind it.
fn warning(removal: &Removal) -> Option<String> {
    let children = (removal.children > 0).then(|| words::plural(removal.children, "peer"))?;
    let unreachable = match removal.unreachable {
        0 => String::new(),
        n => format!("; {} of them unreachable, to be called down unless heard", words::count(n)),
    };
    let was = if removal.children == 1 { "was" } else { "were" };
    Some(format!(
        "systole: {children} {was} behind {}, and lost a parent{unreachable}",
        removal.name
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_forgets_a_parent_is_told_of_its_children() {
        let warning = |children, unreachable| {
            let name = "rack-1".into();
            warning(&Removal { name, children, unreachable, ..Removal::default() })
        };
        assert_eq!(warning(0, 0), None);
        assert_eq!(
            warning(1, 0).as_deref(),
            Some("systole: 1 peer was behind rack-1, and lost a parent")
        );
        assert_eq!(
            warning(30, 28).as_deref(),
            Some(
                "systole: 30 peers were behind rack-1, and lost a parent; 28 of them unreachable, to \
                 be called down unless heard"
            )
        );
    }
}
