//! `systole serve`: the flags, made from the table of keys, and the settings that come of them.

use super::Failure;
use super::{check, foresee, resume, setting, terminal};
use crate::config::{KEYS, Key, Layer, SECTIONS, Settings};
use clap::{Arg, ArgAction, ArgMatches, Command};

const EXAMPLES: &str = "\
Examples:
  systole serve
  systole serve --interval 500ms --missed 4 --http 0.0.0.0:4680
  systole serve --udp 10.0.0.1:4600 --udp '[fd00::1]:4600' --max-peers 50000
  SYSTOLE_IDLE=sleep systole serve --config /etc/systole.toml
  systole serve --config /etc/systole.toml --check        what it would do; starts nothing
  systole serve --config /etc/systole.toml --takeover     an upgrade: replaces the one that runs
";

const LAYERS: &str = "\
A flag wins over its environment variable (SYSTOLE_MAX_PEERS for --max-peers), that over the same \
key in the TOML file (max_peers = 50000), that over the default.";

const OUTPUT: &str = "\
On stdout comes one line, when the monitor is ready: ready udp=ADDR[,ADDR] http=ADDR. Logs go to \
stderr. SIGINT and SIGTERM end it with exit code 0; wrong settings, a taken port and the like with 2.";

/// What the file may have beside the flat keys, made from the table of sections.
fn sections() -> String {
    let one = |kind: &crate::config::Kind| {
        let keys: Vec<String> = kind.keys().collect();
        format!(
            "  [[{}]]  {}\n    like     {}\n    keys     {}",
            kind.name,
            kind.help,
            kind.example,
            keys.join(", ")
        )
    };
    let all: Vec<String> = SECTIONS.iter().map(one).collect();
    format!(
        "The file may also have sections, any number of each, below all flat keys \
         (docs/guards.md describes them):\n{}",
        all.join("\n")
    )
}

/// What was given as flags.
#[derive(Clone, Debug)]
pub struct ServeArgs {
    layer: Layer,
    /// Only to say what the monitor would do. A flag alone: no file should keep it from starting.
    check: bool,
}

const CHECK: &str = "check";

impl clap::Args for ServeArgs {
    fn augment_args(command: Command) -> Command {
        let after = format!("{LAYERS}\n\n{}\n\n{OUTPUT}", sections());
        let command = command.before_long_help(EXAMPLES).after_long_help(after);
        let check = Arg::new(CHECK).long(CHECK).action(ArgAction::SetTrue).help(
            "say what the monitor would do with these settings, or what is wrong with them (exit \
             code 2); starts nothing",
        );
        let flag = |key: &'static Key| {
            setting::flag(key, key.default, &format!(" [env: {}]", key.variable()))
        };
        command.arg(check).args(KEYS.iter().map(flag))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for ServeArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let layer = setting::given(KEYS, matches);
        Ok(ServeArgs { layer, check: matches.get_flag(CHECK) })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = <Self as clap::FromArgMatches>::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Resolves the settings and runs the monitor with them, or says what it would do.
///
/// # Errors
/// Wrong settings (exit code 2), or what kept the monitor from starting or running.
pub fn serve(args: ServeArgs) -> Result<u8, Failure> {
    let copy = resume::config();
    let settings = Settings::load(args.layer, |name| std::env::var(name).ok(), copy.as_deref())?;
    if args.check {
        let text = check::check(&settings)?;
        foresee::everything(&settings)?;
        terminal::print(&text)?;
        return Ok(0);
    }
    super::run::run(settings).map(|()| 0).map_err(|error| match error.downcast::<Failure>() {
        Ok(failure) => failure,
        Err(error) => Failure::failed(format!("{error:#}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args, FromArgMatches};

    fn parse(line: &str) -> Settings {
        let command = ServeArgs::augment_args(Command::new("serve"));
        let matches = command.get_matches_from(line.split(' '));
        let args = ServeArgs::from_arg_matches(&matches).unwrap();
        Settings::load(args.layer, |_| None, None).unwrap()
    }

    #[test]
    fn flags_reach_the_settings() {
        let settings = parse("serve --udp 127.0.0.1:1 --udp [::1]:2,127.0.0.1:3 --max-peers 7");
        assert_eq!((settings.udp.len(), settings.max_peers), (3, 7));
        assert_eq!(parse("serve --missed 2 --missed 4").policy.missed, 4.0, "the last one counts");
    }

    #[test]
    fn the_help_names_every_section_with_its_keys() {
        let help = sections();
        for kind in &SECTIONS {
            assert!(help.contains(&format!("[[{}]]", kind.name)), "{help}");
            assert!(kind.keys().all(|key| help.contains(&key)), "{help}");
        }
    }

    #[test]
    fn the_command_is_well_formed() {
        ServeArgs::augment_args(Command::new("serve")).debug_assert();
    }
}
