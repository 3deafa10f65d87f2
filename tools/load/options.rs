//! The command line: raw flags, validated once into [`Options`].

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Parser;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;
use systole::config::{keys_file, value};
use systole::wire::Key;

const EXAMPLES: &str = "\
Examples:
  systole-load --senders 50000 --interval 1s --kill 500
      50,000 peers on a monitor on this machine, 500 of them killed: are all found, nobody else?

  systole-load --senders 50000 --interval 200ms --kill 500 --json load.json
      250,000 heartbeats a second, the figures into a file.

  systole-load --senders 50000 --kill 50000 --kill-together
      The whole fleet silenced at one instant, every deadline in the same moment.

  systole-load --senders 10000 --loss 1% --reorder 1% --duplicate 1% --flap 100 --restart 100
      A bad network and restless senders; whoever is not silent for too long must not be blamed.

  systole-load --to 10.0.0.7:4600 --http 10.0.0.7:4680 --senders 20000
      Against another machine (its clock must agree with ours, see detection time below).
";

const AFTER: &str = "\
The truth and the monitor disagree, and the exit code is 1, when a killed or flapping peer is not
reported down on the event stream by its deadline plus --slack, when a peer is called down that was
being sent for, when a killed peer comes back to life, or when the event stream has holes so that
nothing can be proved. Silences that the generator caused by being late itself are counted apart and
held against nobody.

Detection time is the monitor's transition minus the sending of the last heartbeat; it needs both
clocks to agree, as they do on one machine. Lateness is what the monitor gives as its evidence:
transition minus deadline.

Exit codes: 0 truth and monitor agree; 1 they do not, or the figures cannot be written; 2 usage; 3 no
monitor; 130 interrupted.";

/// Loads a Systole monitor with simulated senders, kills some, and proves what it made of them.
///
/// The schedule is open loop: every heartbeat has an intended send time that follows from the seed
/// alone, and lateness of the generator itself is measured and reported, not hidden.
#[derive(Parser, Debug)]
#[command(name = "systole-load", version, before_long_help = EXAMPLES, after_long_help = AFTER)]
#[command(max_term_width = 100, args_override_self = true)]
pub struct Flags {
    /// Where the heartbeats go: the monitor's UDP address
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:4600")]
    to: String,
    /// The monitor's HTTP address: events, settings and counters are read there
    #[arg(long, value_name = "URL|HOST:PORT", env = "SYSTOLE_HTTP")]
    #[arg(default_value = "127.0.0.1:4680")]
    http: String,
    /// Number of simulated peers
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    senders: u32,
    /// Between two heartbeats of a peer
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration)]
    interval: Duration,
    /// Peers that are killed: they never beat again, and say no BYE
    #[arg(long, value_name = "K", default_value_t = 0)]
    kill: u32,
    /// When they are killed, counted from the end of the ramp [default: half the duration]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    kill_at: Option<Duration>,
    /// Each of them sends a last heartbeat at that instant, so that all deadlines fall together
    #[arg(long)]
    kill_together: bool,
    /// How long the load lasts, counted from the end of the ramp; the deadlines of the killed are
    /// awaited on top
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    duration: Duration,
    /// The first HELLOs are spread over this long
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration)]
    ramp: Duration,
    /// Each heartbeat moves by up to this share of the interval either way
    #[arg(long, value_name = "SHARE", default_value = "10%", value_parser = share)]
    jitter: f64,
    /// Share of the heartbeats that is lost
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = share)]
    loss: f64,
    /// Share of the heartbeats that is sent after its successor
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = share)]
    reorder: f64,
    /// Share of the heartbeats that is sent a second time, up to two intervals later, even after
    /// its sender's death
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = share)]
    duplicate: f64,
    /// Peers that are started anew once, at an instant of their own; nobody may notice a silence
    #[arg(long, value_name = "K", default_value_t = 0)]
    restart: u32,
    /// Peers that fall silent once, at an instant of their own, and come back
    #[arg(long, value_name = "K", default_value_t = 0)]
    flap: u32,
    /// How long those are silent [default: the timeout and an interval, at least 250ms]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    flap_for: Option<Duration>,
    /// How long after its deadline a death may become visible on the event stream
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration)]
    slack: Duration,
    /// The monitor is killed and started again during the run and goes on from its state: its stream is
    /// waited for, and a death may be told an interval early, for the last heartbeats before it may
    /// have been sent to nobody
    #[arg(long)]
    across_restarts: bool,
    /// Threads that send, pinned from the last core downwards
    #[arg(long, value_name = "N", default_value_t = 1)]
    threads: usize,
    /// Sockets of each thread, each with a source port of its own
    #[arg(long, value_name = "N", default_value_t = 16)]
    sources: usize,
    /// Bind every socket to an address of its own in 127.0.0.0/8
    #[arg(long)]
    spread_addresses: bool,
    /// Hand heartbeats to the kernel in bunches that it cuts up (UDP_SEGMENT): half the generator's
    /// processor time or less, but a bunch as a whole goes to the reactor of its first heartbeat
    #[arg(long)]
    gso: bool,
    /// Every peer says HELLO (name and group) that often, and first of all
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    hello: Duration,
    /// The peers are called PREFIX-00000, PREFIX-00001, …
    #[arg(long, value_name = "TEXT", default_value = "load")]
    prefix: String,
    /// Group of the peers
    #[arg(long, value_name = "TEXT", default_value = "load")]
    group: String,
    /// Tag every heartbeat with the key in this file, as `systole keygen` makes it
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Which key of that file, when it has several
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    #[arg(requires = "key")]
    key_id: Option<u8>,
    /// Beside the load, as an attacker would, so many heartbeats of peers that do not exist, evenly
    /// over the load, untagged, from an address of their own
    #[arg(long, value_name = "N", default_value_t = 0)]
    flood: u32,
    /// Seed of everything random; the same seed makes the same schedule [default: drawn]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Write the figures as JSON; `-` is stdout, and the table goes to stderr then
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a histogram as HdrHistogram's percentile table, in nanoseconds
    #[arg(long, value_name = "FILE")]
    hgrm: Option<PathBuf>,
    /// Which one
    #[arg(long, value_enum, value_name = "NAME", default_value = "lateness")]
    hgrm_of: HgrmOf,
}

/// Histogram that `--hgrm` writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum HgrmOf {
    /// Monitor's transition minus deadline, as the monitor says.
    Lateness,
    /// Monitor's transition minus the last heartbeat's send.
    Detection,
    /// Seen on the event stream minus deadline.
    Visible,
    /// The generator's own lateness: sent minus intended.
    Send,
}

/// What the run is made of, checked.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where heartbeats go.
    pub to: SocketAddr,
    /// Base URL without a trailing slash.
    pub http: String,
    /// Peers.
    pub senders: u32,
    /// Interval.
    pub interval: Duration,
    /// Peers to kill.
    pub kill: u32,
    /// When, from the end of the ramp.
    pub kill_at: Duration,
    /// With a last word at that instant.
    pub kill_together: bool,
    /// From the end of the ramp.
    pub duration: Duration,
    /// Spread of the first HELLOs.
    pub ramp: Duration,
    /// Share of the interval.
    pub jitter: f64,
    /// Share of the heartbeats.
    pub loss: f64,
    /// Share of the heartbeats.
    pub reorder: f64,
    /// Share of the heartbeats.
    pub duplicate: f64,
    /// Peers to restart.
    pub restart: u32,
    /// Peers to flap.
    pub flap: u32,
    /// For how long; `None` leaves it to the monitor's timeout.
    pub flap_for: Option<Duration>,
    /// From deadline to visible.
    pub slack: Duration,
    /// Whether the monitor is killed and started again.
    pub across_restarts: bool,
    /// Sender threads.
    pub threads: usize,
    /// Sockets a thread.
    pub sources: usize,
    /// Distinct 127/8 sources.
    pub spread_addresses: bool,
    /// Bunches that the kernel cuts up.
    pub gso: bool,
    /// Every how many heartbeats one is a HELLO.
    pub hello_every: u32,
    /// Start of the names.
    pub prefix: String,
    /// Group of the peers.
    pub group: String,
    /// What heartbeats are tagged with.
    pub key: Option<Key>,
    /// The file that it is from.
    pub key_file: Option<PathBuf>,
    /// Heartbeats of made-up peers.
    pub flood: u32,
    /// Seed of everything random.
    pub seed: u64,
    /// Where JSON goes.
    pub json: Option<PathBuf>,
    /// Where the percentile table goes.
    pub hgrm: Option<PathBuf>,
    /// Of what.
    pub hgrm_of: HgrmOf,
}

/// The name by which `--json` means stdout.
pub const STDOUT: &str = "-";

impl Options {
    /// Files that are read.
    pub fn inputs(&self) -> Vec<&Path> {
        self.key_file.as_deref().into_iter().collect()
    }

    /// Files that are written in the end, with the options that name them.
    pub fn outputs(&self) -> Vec<(&'static str, &Path)> {
        let json = self.json.as_deref().filter(|path| *path != Path::new(STDOUT));
        let all = [("--json", json), ("--hgrm", self.hgrm.as_deref())];
        all.into_iter().filter_map(|(option, path)| Some((option, path?))).collect()
    }
}

impl Flags {
    /// Checks everything that can be checked without the monitor. The error is one message that
    /// names the option, its value and what to do.
    pub fn validate(self) -> Result<Options> {
        let Flags { senders, interval, kill, restart, flap, threads, sources, .. } = self;
        ensure!(
            (1..=10_000_000).contains(&senders),
            "--senders {senders}: must be between 1 and 10,000,000"
        );
        ensure!(
            (Duration::from_millis(1)..=Duration::from_secs(90 * 86_400)).contains(&interval),
            "--interval {interval:?}: must be between 1ms and 90d"
        );
        let drawn = u64::from(kill) + u64::from(restart) + u64::from(flap);
        ensure!(
            drawn <= u64::from(senders),
            "--kill {kill}, --flap {flap} and --restart {restart} draw {drawn} peers, but there \
             are {senders}: raise --senders or draw fewer"
        );
        ensure!(
            self.jitter <= 0.45,
            "--jitter {}: must be at most 45%, so that heartbeats keep their order",
            self.jitter
        );
        ensure!(
            !self.duration.is_zero(),
            "--duration 0s: proves nothing; give some time, like 30s"
        );
        // An option that would be left unused says that something else was meant.
        for (option, given, needs, needed) in [
            ("--kill-together", self.kill_together, "--kill", kill),
            ("--kill-at", self.kill_at.is_some(), "--kill", kill),
            ("--flap-for", self.flap_for.is_some(), "--flap", flap),
        ] {
            ensure!(!given || needed > 0, "{option}: nobody is to do so; add {needs} K");
        }
        let kill_at = self.kill_at.unwrap_or(self.duration / 2);
        ensure!(
            kill_at <= self.duration,
            "--kill-at {kill_at:?}: lies behind the end of the load; raise --duration {:?}",
            self.duration
        );
        ensure!((1..=256).contains(&threads), "--threads {threads}: must be between 1 and 256");
        ensure!((1..=4_096).contains(&sources), "--sources {sources}: must be between 1 and 4,096");
        for (option, value, longest) in
            [("--prefix", &self.prefix, 200), ("--group", &self.group, 64)]
        {
            ensure!(
                value.len() <= longest && !value.chars().any(char::is_control),
                "{option} {value:?}: at most {longest} bytes and no control characters"
            );
        }
        let to = resolve(&self.to)?;
        if self.spread_addresses && !matches!(to, SocketAddr::V4(v4) if v4.ip().is_loopback()) {
            bail!("--spread-addresses: needs --to in 127.0.0.0/8, and {to} is not; leave it out");
        }
        let key = match &self.key {
            Some(path) => {
                let found = keys_file::sender_key(path, self.key_id).context("--key")?;
                if let Some(groups) = found.groups.filter(|groups| !groups.contains(&self.group)) {
                    let (id, groups) = (found.key.id(), groups.join(", "));
                    bail!(
                        "--key: key {id} speaks for {groups} only, not for --group {:?}",
                        self.group
                    );
                }
                Some(found.key)
            }
            None => None,
        };
        // More than 2^32 heartbeats between two HELLOs is never, and never is a fine answer.
        let beats = (self.hello.as_secs_f64() / interval.as_secs_f64()).clamp(1.0, 4e9);
        Ok(Options {
            to,
            http: base_url(&self.http),
            senders,
            interval,
            kill,
            kill_at,
            kill_together: self.kill_together,
            duration: self.duration,
            ramp: self.ramp,
            jitter: self.jitter,
            loss: self.loss,
            reorder: self.reorder,
            duplicate: self.duplicate,
            restart,
            flap,
            flap_for: self.flap_for,
            slack: self.slack,
            across_restarts: self.across_restarts,
            threads: threads.min(senders as usize),
            sources,
            spread_addresses: self.spread_addresses,
            gso: self.gso,
            hello_every: beats as u32,
            prefix: self.prefix,
            group: self.group,
            key,
            key_file: self.key,
            flood: self.flood,
            seed: self.seed.unwrap_or_else(drawn_seed),
            json: self.json,
            hgrm: self.hgrm,
            hgrm_of: self.hgrm_of,
        })
    }
}

fn resolve(to: &str) -> Result<SocketAddr> {
    let hint = "give HOST:PORT, like 127.0.0.1:4600 or [::1]:4600";
    let mut found = to.to_socket_addrs().with_context(|| format!("--to {to:?}: {hint}"))?;
    found.next().with_context(|| format!("--to {to:?}: resolves to no address; {hint}"))
}

fn base_url(http: &str) -> String {
    let scheme = if http.contains("://") { "" } else { "http://" };
    format!("{scheme}{}", http.trim_end_matches('/'))
}

/// A seed from the operating system, small enough to be typed again.
fn drawn_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0u8) >> 32
}

fn duration(text: &str) -> Result<Duration> {
    humantime::parse_duration(text)
        .with_context(|| "give a number and a unit, like 200ms, 1s or 1m30s")
}

fn share(text: &str) -> Result<f64> {
    value::share(text.trim(), 0.0, 1.0)
        .map_err(|problem| anyhow!("{problem}; give a share from 0 to 1, like 0.01 or 1%"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(line: &str) -> Result<Options> {
        let words = std::iter::once("systole-load").chain(line.split_whitespace());
        Flags::try_parse_from(words)?.validate()
    }

    #[test]
    fn defaults_stand() {
        let options = options("--senders 50000 --interval 1s --kill 500").unwrap();
        assert_eq!(options.to, "127.0.0.1:4600".parse().unwrap());
        assert_eq!(options.http, "http://127.0.0.1:4680");
        assert_eq!((options.hello_every, options.kill_at), (30, Duration::from_secs(15)));
    }

    #[test]
    fn shares_are_read_as_people_write_them() {
        for (text, want) in [("1%", 0.01), ("0.5", 0.5), ("0", 0.0), ("100%", 1.0), ("10 %", 0.1)] {
            assert_eq!(share(text).unwrap(), want, "{text}");
        }
        for text in ["", "%", "-1%", "1.5", "101%", "NaN", "a"] {
            assert!(share(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_bad_option_is_named_with_its_value() {
        for (line, named) in [
            ("--senders 0", "--senders 0"),
            ("--interval 0s", "--interval 0ns"),
            ("--interval 91d", "--interval"),
            ("--senders 5 --kill 6", "--kill 6"),
            ("--senders 5 --kill 3 --flap 3", "--flap 3"),
            ("--jitter 50%", "--jitter 0.5"),
            ("--kill 1 --duration 5s --kill-at 6s", "--kill-at 6s"),
            ("--duration 0s", "--duration 0s: proves nothing"),
            ("--kill-together", "--kill-together: nobody is to do so; add --kill K"),
            ("--kill 0 --kill-at 1s", "--kill-at: nobody is to do so; add --kill K"),
            ("--flap-for 1s", "--flap-for: nobody is to do so; add --flap K"),
            ("--threads 0", "--threads 0"),
            ("--sources 9999", "--sources 9999"),
            ("--to nowhere", "--to \"nowhere\""),
            ("--to [::1]:4600 --spread-addresses", "--spread-addresses"),
            ("--loss 2", "--loss"),
            ("--ramp soon", "--ramp"),
        ] {
            let error = format!("{:#}", options(line).expect_err(line));
            assert!(error.contains(named), "{line}: {error}");
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        <Flags as clap::CommandFactory>::command().debug_assert();
    }
}
