//! The monitor's settings: given as text in three places, resolved and validated once.
//!
//! ```text
//!   flag  --max-peers 5000          ─┐ strongest
//!   env   SYSTOLE_MAX_PEERS=5000     ├──▶ one text per key, with its origin ──▶ Settings
//!   file  max_peers = 5000           │                                          or the first
//!   default                         ─┘ weakest                                  ConfigError
//! ```
//!
//! All three speak of the same [`KEYS`], one table from which the flags, the help and the check for
//! unknown keys are made, so they cannot drift apart. In the file a key is written as the flag with
//! `_` (`max_peers`); the flag's own spelling (`max-peers`) is taken too. Whoever holds a
//! [`Settings`] need not check anything again.
//!
//! Beside the flat keys the file has sections, for groups and expectations (`sections.rs`).
//!
//! Deliberately absent: a complaint about unknown `SYSTOLE_*` variables. Kubernetes sets some of
//! its own (`SYSTOLE_PORT`, `SYSTOLE_SERVICE_HOST`) for a service of that name.

mod keys;
pub mod keys_file;
mod layers;
mod sections;
mod timing;
pub mod value;

pub use keys::{KEYS, Key, SWITCH};
pub use layers::{Layer, closest};
pub use sections::{ExpectSettings, GroupSettings, Kind, SECTIONS};
pub use timing::{LONGEST, policy_of};

use crate::engine::Policy;
use crate::engine::admission::NewcomerLimits;
use crate::engine::brake::BrakeSettings;
use crate::io::TransportChoice;
use crate::io::xdp::{XdpMode, XdpSettings};
use crate::reactor::IdleStrategy;
use crate::trace::recorder::RecordSettings;
use crate::wire::Auth;
use sections::Look;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use timing::policy;

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Where state is kept over a restart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StateChoice {
    /// In memory, under a name of this user and address; nowhere when the port is the system's choice.
    Auto,
    /// Nowhere: it ends with the process.
    None,
    /// In this directory.
    At(PathBuf),
}

/// Everything `systole serve` needs to know, validated.
#[derive(Clone, PartialEq, Debug)]
pub struct Settings {
    /// The file that they come from, in part.
    pub config: Option<PathBuf>,
    /// UDP addresses to listen on; at least one.
    pub udp: Vec<SocketAddr>,
    /// True when nobody asked for `udp`: an address family that the machine lacks is then no error.
    pub udp_is_default: bool,
    /// Address of the HTTP API.
    pub http: SocketAddr,
    /// How deadlines are computed and how long the dead are remembered.
    pub policy: Policy,
    /// When the peers that fall silent are held as suspect because there are too many of them.
    pub brake: BrakeSettings,
    /// What holds for groups, in the order of the file: the first whose name matches.
    pub groups: Vec<GroupSettings>,
    /// Who ought to be there.
    pub expect: Vec<ExpectSettings>,
    /// Groups that the metrics tell apart, 0 to 10,000.
    pub metrics_groups: usize,
    /// Most peers over all shards, 1 to 2^27.
    pub max_peers: u32,
    /// Whether senders have to prove who they are.
    pub auth: Auth,
    /// The file with their keys; there when `auth` is not off.
    pub keys: Option<PathBuf>,
    /// How many newcomers there may be.
    pub newcomers: NewcomerLimits,
    /// Number of reactors, 1 to 256; `None` is one per core but one.
    pub reactors: Option<usize>,
    /// Receive path.
    pub transport: TransportChoice,
    /// Which interfaces to receive from with AF_XDP, and how.
    pub xdp: XdpSettings,
    /// How reactors wait.
    pub idle: IdleStrategy,
    /// Receive buffer asked of the kernel for each socket, bytes, 4 KiB to 1 GiB.
    pub receive_buffer_bytes: usize,
    /// Transitions kept for subscribers that resume, 1 to 2^24.
    pub events: usize,
    /// Where to record arrivals, if anywhere.
    pub record: Option<RecordSettings>,
    /// The monitor's id; `None` draws one at random.
    pub monitor_id: Option<u64>,
    /// Where state is kept over a restart.
    pub state_dir: StateChoice,
    /// Whether to take over from a monitor that runs.
    pub takeover: bool,
    /// How log lines look.
    pub log_format: LogFormat,
    /// A level (`info`) or a filter as `tracing_subscriber::EnvFilter` takes it; known to parse.
    pub log_level: String,
}

/// Why the settings do not hold. The message is a whole one: what, where, what is allowed.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error(
        "cannot read the configuration {path}: {cause}; correct --config (or SYSTOLE_CONFIG), or \
         leave it out to run with the defaults", path = path.display()
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{path} is not valid TOML: line {line}: {problem}", path = path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The first line is 1.
        line: usize,
        /// What is wrong there.
        problem: String,
    },
    /// The file has a key that does not exist.
    #[error(
        "unknown key `{key}` in {path}{hint} `systole serve --help` lists every key",
        path = path.display(),
        hint = match home {
            Some(section) => format!("; it belongs under a line [[{section}]]."),
            None => hint(*suggestion),
        }
    )]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key as written.
        key: String,
        /// The kind of section that has such a key, if one has.
        home: Option<&'static str>,
        /// The nearest key that exists, if one is near.
        suggestion: Option<&'static str>,
    },
    /// A section of the file has a key that does not exist.
    #[error(
        "unknown key `{key}` in {section}{hint} known are {known}",
        hint = match general {
            true => "; it holds for the whole monitor, so put it above the first [[…]] line;".into(),
            false => hint(*suggestion),
        }
    )]
    UnknownSectionKey {
        /// The section, as people call it.
        section: String,
        /// The key as written.
        key: String,
        /// Whether the file's flat part has such a key.
        general: bool,
        /// The nearest key that exists there, if one is near.
        suggestion: Option<&'static str>,
        /// All keys that do.
        known: String,
    },
    /// The file has a section of a kind that does not exist.
    #[error(
        "unknown section {written} in {path}{hint} known are {known}",
        path = path.display(),
        hint = suggestion.map_or(";".into(), |s| format!(", did you mean [[{s}]]?"))
    )]
    UnknownSection {
        /// The file.
        path: PathBuf,
        /// The section's line as written.
        written: String,
        /// The nearest kind that exists, if one is near.
        suggestion: Option<&'static str>,
        /// All kinds that do.
        known: String,
    },
    /// What should be sections is something else.
    #[error("`{name}` in {path} is no list of sections; begin each with a line [[{name}]], 4,096 at \
             most", path = path.display())]
    NoSections {
        /// The file.
        path: PathBuf,
        /// The kind of section.
        name: &'static str,
    },
    /// A section as a whole is wrong.
    #[error("{section} {problem}")]
    Section {
        /// The section, as people call it.
        section: String,
        /// What is wrong with it, and what to do.
        problem: &'static str,
    },
    /// A value that is not one, or is out of range.
    #[error("{origin}: `{value}` {problem}; give {allowed}")]
    Value {
        /// Where it was given: `--interval`, `SYSTOLE_INTERVAL` or the key and the file.
        origin: String,
        /// The value as given.
        value: String,
        /// What is wrong with it.
        problem: String,
        /// What is right.
        allowed: &'static str,
    },
    /// A value that is right, and has no effect.
    #[error("{origin}: `{value}` plays no part {why}")]
    Unused {
        /// Where it was given.
        origin: String,
        /// The value as given.
        value: String,
        /// Why not, and what to do.
        why: String,
    },
}

/// The nearest key that exists, as the file writes it.
fn hint(suggestion: Option<&str>) -> String {
    suggestion.map_or(";".into(), |near| format!(", did you mean `{}`?", near.replace('-', "_")))
}

impl Settings {
    /// Resolves the flags, the environment, the file that either of them names, and the defaults; `copy`
    /// is read in the place of that file.
    ///
    /// # Errors
    /// The first thing found wrong.
    pub fn load(
        flags: Layer,
        env: impl Fn(&str) -> Option<String>,
        copy: Option<&Path>,
    ) -> Result<Settings, ConfigError> {
        let mut layer = flags;
        layer.fill_from(Layer::from_env(env));
        if let Some(path) = layer.text("config") {
            layer.fill_from(Layer::from_file(copy.unwrap_or(path.as_ref()))?);
        }
        Self::resolve(&layer)
    }

    fn resolve(layer: &Layer) -> Result<Settings, ConfigError> {
        let udp = layer.given("udp");
        let http = layer.given("http");
        let receive_buffer = layer.given("receive-buffer");
        let (auth, keys) = auth(layer)?;
        let xdp = xdp(layer)?;
        let (policy, groups) = (policy(&Look::at(layer))?, sections::groups(layer)?);
        timing::all_used(layer, &policy, &groups)?;
        Ok(Settings {
            config: layer.text("config").map(PathBuf::from),
            auth,
            keys,
            newcomers: newcomers(layer)?,
            udp: udp.each(value::address)?,
            udp_is_default: udp.is_default(),
            http: http.one(value::address)?,
            policy,
            brake: brake(&Look::at(layer))?,
            groups,
            expect: sections::expect(layer)?,
            metrics_groups: layer.given("metrics-groups").one(|t| value::integer(t, 0, 10_000))?
                as usize,
            max_peers: layer.given("max-peers").one(|t| value::count(t, 1, 1 << 27))? as u32,
            reactors: layer.given("reactors").one(|text| match text {
                "auto" => Ok(None),
                _ => value::integer(text, 1, 256).map(|n| Some(n as usize)),
            })?,
            transport: transport(layer, &xdp)?,
            xdp,
            idle: layer.given("idle").one(|text| {
                let all = [IdleStrategy::Hybrid, IdleStrategy::Spin, IdleStrategy::Sleep];
                value::choice(text, &all.map(|idle| (idle.as_str(), idle)))
            })?,
            receive_buffer_bytes: receive_buffer.one(|t| value::size(t, 4 << 10, 1 << 30))?
                as usize,
            events: layer.given("events").one(|t| value::integer(t, 1, 1 << 24))? as usize,
            record: record(layer)?,
            monitor_id: layer.given("monitor-id").one(value::monitor_id)?,
            state_dir: layer.given("state-dir").one(|text| match text {
                "auto" => Ok(StateChoice::Auto),
                "none" => Ok(StateChoice::None),
                "" => Err("is empty".to_owned()),
                path => Ok(StateChoice::At(path.into())),
            })?,
            takeover: layer
                .given("takeover")
                .one(|text| value::choice(text, &[("no", false), ("yes", true)]))?,
            log_format: layer.given("log-format").one(|text| {
                value::choice(text, &[("text", LogFormat::Text), ("json", LogFormat::Json)])
            })?,
            log_level: layer.given("log-level").one(value::log_filter)?,
        })
    }
}

fn auth(layer: &Layer) -> Result<(Auth, Option<PathBuf>), ConfigError> {
    let keys = layer.text("keys").filter(|text| !text.is_empty()).map(PathBuf::from);
    let given = layer.given("auth");
    let silent = given.is_default();
    let auth = given.one(|text| {
        let auths = [Auth::Off, Auth::Optional, Auth::Required];
        let auth = value::choice(text, &auths.map(|auth| (auth.as_str(), auth)))?;
        match (auth, &keys) {
            (Auth::Optional | Auth::Required, None) => Err("needs keys".into()),
            // Who names keys and no rule would believe to be protected.
            (_, Some(_)) if silent => Err("leaves --keys unused".into()),
            _ => Ok(auth),
        }
    })?;
    Ok((auth, keys))
}

fn transport(layer: &Layer, xdp: &XdpSettings) -> Result<TransportChoice, ConfigError> {
    use TransportChoice::{Auto, Poll, Uring, Xdp};
    let interfaces = !xdp.interfaces.is_empty();
    layer.given("transport").one(|text| {
        let choice =
            value::choice(text, &[Auto, Uring, Poll, Xdp].map(|kind| (kind.as_str(), kind)))?;
        match choice {
            Xdp if !interfaces => Err("needs an --interface".into()),
            Uring | Poll if interfaces => Err("leaves --interface unused".into()),
            _ => Ok(choice),
        }
    })
}

fn xdp(layer: &Layer) -> Result<XdpSettings, ConfigError> {
    let switch =
        |name| layer.given(name).one(|text| value::choice(text, &[("no", false), ("yes", true)]));
    let interfaces = layer.given("interface").each(|text| match text {
        "" => Ok(None),
        text => text.parse().map(Some),
    })?;
    let interfaces = interfaces.into_iter().flatten().collect();
    let mode = layer.given("xdp-mode").one(|text| {
        let modes = [XdpMode::ZeroCopy, XdpMode::Native, XdpMode::Generic];
        let modes = modes.map(|mode| (mode.as_str(), Some(mode)));
        value::choice(text, &[&[("auto", None)], &modes[..]].concat())
    })?;
    let frames = layer.given("xdp-frames").one(|text| match value::integer(text, 64, 65_536)? {
        frames if !frames.is_power_of_two() => Err("is no power of two".into()),
        frames => Ok(frames as u32),
    })?;
    let (busy_poll, checksum) = (switch("xdp-busy-poll")?, switch("xdp-checksum")?);
    Ok(XdpSettings { interfaces, mode, frames, busy_poll, checksum })
}

fn record(layer: &Layer) -> Result<Option<RecordSettings>, ConfigError> {
    let file_bytes = layer.given("record-size").one(|t| value::size(t, 64 << 10, 1 << 40))?;
    let files = layer.given("record-files").one(|t| value::integer(t, 1, 1_000))? as u32;
    let path = layer.text("record").filter(|text| !text.is_empty());
    Ok(path.map(|path| RecordSettings { path: path.into(), file_bytes, files }))
}

fn newcomers(layer: &Layer) -> Result<NewcomerLimits, ConfigError> {
    let rate = |name| layer.given(name).one(|t| value::rate(t, 1, 1_000_000));
    let fresh = layer.given("newcomers-fresh").one(|text| match text {
        "off" => Ok(None),
        _ => value::duration(text, Duration::from_secs(1), Duration::from_secs(86_400)).map(Some),
    })?;
    Ok(NewcomerLimits {
        per_source: rate("newcomers-per-source")?.map(|rate| rate as u32),
        per_key: rate("newcomers-per-key")?.map(|rate| rate as u32),
        fresh_ns: fresh.map(|fresh| fresh.as_nanos() as u64),
    })
}

fn brake(layer: &Look<'_>) -> Result<BrakeSettings, ConfigError> {
    const DAY: Duration = Duration::from_secs(86_400);
    let share = layer.given("mass-silence").one(|text| match text {
        "off" => Ok(None),
        _ => value::share(text, 0.01, 1.0).map(Some),
    })?;
    let least = layer.given("mass-silence-least").one(|t| value::integer(t, 2, u32::MAX.into()))?;
    let hold =
        layer.given("mass-silence-hold").one(|t| value::duration(t, Duration::ZERO, 30 * DAY))?;
    Ok(match share {
        None => BrakeSettings::OFF,
        Some(share) => BrakeSettings {
            share: share as f32,
            least: least as u32,
            hold_ns: hold.as_nanos() as u64,
        },
    })
}

#[cfg(test)]
mod tests;
