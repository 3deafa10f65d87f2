//! The options that say how deadlines are found, for `serve` and the commands that try settings on a
//! trace.

use super::Failure;
use crate::config::{KEYS, Key, Layer, SWITCH, policy_of};
use crate::engine::Policy;
use clap::{Arg, ArgAction, ArgMatches, Command};

/// How deadlines are found: the monitor's own options, taken and refused as it does.
#[derive(Clone, Debug)]
pub struct SettingArgs {
    layer: Layer,
}

/// The names of those options.
const NAMES: [&str; 10] = [
    "detector",
    "missed",
    "timeout",
    "threshold",
    "margin",
    "deviations",
    "grace",
    "suspect-at",
    "floor",
    "ceiling",
];

fn keys() -> impl Iterator<Item = &'static Key> {
    NAMES.iter().filter_map(|name| KEYS.iter().find(|key| key.name == *name))
}

impl SettingArgs {
    /// The policy that these options make.
    ///
    /// # Errors
    /// The monitor would refuse them.
    pub fn policy(&self) -> Result<Policy, Failure> {
        Ok(policy_of(&self.layer)?)
    }
}

impl clap::Args for SettingArgs {
    fn augment_args(command: Command) -> Command {
        let default = |key: &Key| if key.name == "grace" { "0s" } else { key.default };
        command.args(keys().map(|key| flag(key, default(key), "")))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for SettingArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(SettingArgs { layer: given(keys(), matches) })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = <Self as clap::FromArgMatches>::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The flag of a key; `note` ends its long help.
pub fn flag(key: &'static Key, default: &str, note: &str) -> Arg {
    let default = match default {
        "" => String::new(),
        text => format!(" [default: {text}]"),
    };
    let arg = Arg::new(key.name);
    let arg = match key.value {
        SWITCH => arg.num_args(0..=1).require_equals(true).default_missing_value("yes"),
        _ => arg,
    };
    arg.long(key.name)
        .value_name(key.value)
        .action(ArgAction::Append)
        // A value like `-3` is ours to refuse, with the range.
        .allow_hyphen_values(true)
        .help(format!("{}{default}", key.help))
        .long_help(format!("{}{default}\nGive {}.{note}", key.help, key.allowed))
}

/// What was given for these keys by such flags.
pub fn given(keys: impl IntoIterator<Item = &'static Key>, matches: &ArgMatches) -> Layer {
    Layer::from_flags(keys.into_iter().filter_map(|key| {
        let texts = matches.get_many::<String>(key.name)?;
        Some((key, texts.cloned().collect()))
    }))
}
