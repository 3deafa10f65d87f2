//! `systole beat`: the agent.
//!
//! ```text
//!  resolver ─┐
//!  check    ─┼─ notices ─▶ one loop: beat when due, else wait ─▶ send ─▶ monitors
//!  child    ─┤             for a notice or the next beat
//!  signals  ─┘
//! ```
//!
//! With a fallback the monitors are relays; while none of them lives, beats go to the fallback.
//!
//! One loop decides; everything that can block has a thread of its own and sends it notices. No
//! runtime: it should cost nothing to have on every machine.

mod check;
mod child;
pub mod liveness;
mod process;
pub mod schedule;
pub mod send;

use super::{Failure, terminal, words};
use crate::clock;
use crate::config::keys_file::{self, FileKey};
use crate::config::value;
use crate::wire::{
    Heartbeat, Key, Kind, MAX_GROUP, MAX_KEY, MAX_LABELS, MAX_NAME, MAX_VALUE, OwnedProfile,
    PeerId, Profile, Reject, Status, encode_beat, encode_hello,
};
use check::{Checker, Verdict};
use child::{Child, Farewell};
use schedule::{Form, Numbers, Schedule};
use send::{Address, Answer, Datagrams, Targets};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  systole beat --to 10.0.0.1:4600 --name web-1
  systole beat --to monitor-a --to monitor-b --group web --label rack=r7 --interval 500ms
  systole beat --to 10.0.0.1 --name db-1 --check 'pg_isready -q'
  systole beat --to 10.0.0.1 --name db-2 --key /etc/systole/key
  systole beat --to 10.0.0.1 --name nightly-backup -- ./backup.sh /srv
  systole beat --to relay-r7 --fallback monitor --name web-7
";

const AFTER: &str = "\
The first beat (a HELLO with name, group and labels) goes out at once; BYE follows on SIGTERM (exit \
code 0) and Ctrl-C (130), so that no alarm is raised. A monitor that is absent is no error: the \
agent goes on beating.

With --fallback those of --to are relays (`systole relay`), and are asked every 5 s or so whether they \
live. When none does (three questions unanswered, or nobody listens there any more) beats go to the \
fallback until one answers again; each change is said.

With --check the exit code of the command is the status: 0 ok, 1 warn, 2 and above critical, as is a \
run longer than --check-timeout. It is run at each beat unless the last run still goes on; when the \
status changes, a beat goes out at once.

With -- CMD the agent beats as long as the command lives and exits with its code (128 + the signal \
that ended it). SIGTERM and SIGINT are passed on to it. When it ends with 0, or after such a signal, \
BYE is sent. When it fails, a last beat says critical and no BYE is sent, so that the alarm follows.";

/// Longest wait for a look-up before the last beat.
const LONGEST_FAREWELL: Duration = Duration::from_secs(5);

/// What was given as flags.
#[derive(clap::Args, Debug)]
#[command(before_long_help = EXAMPLES, after_long_help = AFTER)]
pub struct BeatArgs {
    /// A monitor; several may be given, and each gets every beat. Port 4600 may be left out.
    #[arg(long, value_name = "HOST:PORT", required = true, env = "SYSTOLE_TO")]
    #[arg(value_delimiter = ',', value_parser = Address::parse)]
    to: Vec<Address>,
    /// A monitor to beat to while no relay of --to lives; may be repeated.
    #[arg(long, value_name = "HOST:PORT", env = "SYSTOLE_FALLBACK")]
    #[arg(value_delimiter = ',', value_parser = Address::parse)]
    fallback: Vec<Address>,
    /// What people call this sender; the host's name when not given.
    #[arg(long, env = "SYSTOLE_NAME")]
    name: Option<String>,
    /// What it belongs to.
    #[arg(long, default_value = "", hide_default_value = true, env = "SYSTOLE_GROUP")]
    group: String,
    /// More about it; may be repeated, up to 16 times.
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_label)]
    label: Vec<(String, String)>,
    /// How often to beat, 1ms to 90d.
    #[arg(long, value_name = "DURATION", default_value = "1s", env = "SYSTOLE_INTERVAL")]
    #[arg(value_parser = parse_interval)]
    interval: Duration,
    /// Share of the interval by which each one is at most shorter, at random, 0 to 0.5.
    #[arg(long, value_name = "SHARE", default_value = "0.1", value_parser = parse_jitter)]
    jitter: f64,
    /// Status to begin with (and to stay at without --check).
    #[arg(long, default_value = "ok", value_parser = parse_status)]
    #[arg(value_name = "ok|warn|critical|maintenance")]
    status: Status,
    /// Shell command whose exit code is the status: 0 ok, 1 warn, 2 and above critical.
    #[arg(long, value_name = "CMD")]
    check: Option<String>,
    /// Longest run of the check, 10ms to 1h; then it is ended and counts as critical.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_timeout)]
    check_timeout: Duration,
    /// File with the key to tag beats with, as `systole keygen` makes it; not open to everybody.
    #[arg(long, value_name = "FILE", env = "SYSTOLE_KEY")]
    key: Option<PathBuf>,
    /// Which key of that file, when it has several.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    #[arg(requires = "key")]
    key_id: Option<u8>,
    /// Command to run and to beat for as long as it lives.
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

/// Whose name it is.
#[derive(Clone, Copy, Debug)]
pub enum Which {
    /// One of `--to`.
    To,
    /// One of `--fallback`.
    Fallback,
}

/// What the threads tell the loop.
pub enum Notice {
    /// What the name of a target (by its place) means now.
    Resolved(Which, usize, Answer),
    /// A check's result.
    Checked(Verdict),
    /// The child has ended.
    ChildEnded(ExitStatus),
    /// SIGTERM or SIGINT.
    Signal(i32),
}

/// Beats until told to stop, or until the child has ended.
///
/// # Errors
/// A name, group or label that breaks the rules (exit code 2), or a command that cannot be run.
pub fn beat(args: BeatArgs) -> Result<u8, Failure> {
    if args.command.is_empty() && std::env::args_os().next_back().is_some_and(|last| last == "--") {
        return Err(Failure::usage(
            "there is no command behind `--`; give one, or leave `--` out to beat for this machine",
        ));
    }
    let name = match &args.name {
        Some(name) => name.clone(),
        None => host_name()?,
    };
    let profile = profile(&name, &args.group, &args.label)?;
    let key = args.key.as_deref().map(|path| key(path, args.key_id, &args.group)).transpose()?;
    let key = key.map(|key| key.key);
    let refused =
        |error: std::io::Error| Failure::failed(format!("the system refuses a thread: {error}"));
    let (notices, received) = channel();
    watch_signals(notices.clone())?;
    let targets = |addresses: &[Address], which| {
        let notices = notices.clone();
        let resolved =
            move |index, answer| notices.send(Notice::Resolved(which, index, answer)).is_ok();
        Targets::new(addresses, resolved).map_err(refused)
    };
    let (mut to, mut fallback) = (targets(&args.to, Which::To)?, None);
    if !args.fallback.is_empty() {
        to = to.asked(key.clone());
        let said = args.fallback.iter().map(Address::to_string).collect::<Vec<_>>().join(", ");
        fallback = Some(Fallback {
            targets: targets(&args.fallback, Which::Fallback)?,
            name: said,
            active: false,
        });
    }
    let checker = match args.check {
        Some(command) => {
            Some(Checker::new(command, args.check_timeout, notices.clone()).map_err(refused)?)
        }
        None => None,
    };
    let child = match args.command.as_slice() {
        // The output of a child is its own: no word of ours unless something is wrong.
        [_, ..] => Some(Child::start(&args.command, notices)?),
        [] => {
            let monitors: Vec<String> = args.to.iter().map(Address::to_string).collect();
            let every = words::exact(args.interval.as_nanos() as u64);
            say(&format!("{name} beats every {every} to {}", monitors.join(", ")));
            None
        }
    };
    let interval_us = args.interval.as_nanos().div_ceil(1_000) as u64;
    let agent = Agent {
        numbers: Numbers::new(PeerId::of(&name), interval_us, clock::wall_ns()),
        profile,
        status: args.status,
        targets: to,
        fallback,
        key,
        due: Vec::new(),
        hello: Vec::new(),
    };
    let now_ns = clock::monotonic_ns();
    let schedule = Schedule::new(interval_us * 1_000, args.jitter, random(), now_ns);
    Ok(run(agent, schedule, checker, child, &received))
}

/// The loop. Returns the exit code.
fn run(
    mut agent: Agent,
    mut schedule: Schedule,
    mut checker: Option<Checker>,
    mut child: Option<Child>,
    received: &Receiver<Notice>,
) -> u8 {
    loop {
        if let Some(form) = schedule.take(clock::monotonic_ns()) {
            agent.beat(form);
            if let Some(checker) = &mut checker {
                checker.start();
            }
        }
        let wait_ns = schedule.next_ns().saturating_sub(clock::monotonic_ns());
        let notice = match received.recv_timeout(Duration::from_nanos(wait_ns)) {
            Ok(notice) => notice,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => {
                unreachable!("the thread that watches for signals lives as long as we do")
            }
        };
        match notice {
            Notice::Resolved(which, index, answer) => agent.resolved(which, index, answer),
            Notice::Checked(verdict) => {
                agent.take(&verdict);
                if let Some(checker) = &mut checker {
                    checker.taken();
                }
            }
            Notice::Signal(signal) => match &mut child {
                Some(child) => child.stop(signal),
                None => {
                    agent.bye();
                    return if signal == SIGINT { 130 } else { 0 };
                }
            },
            Notice::ChildEnded(status) => {
                let child = child.as_ref().expect("only a child that was started can end");
                let (farewell, code) = child.farewell(status);
                agent.wait_for_names(received);
                match farewell {
                    Farewell::Bye => agent.bye(),
                    Farewell::Alarm => {
                        agent.status = Status::Critical;
                        agent.beat(Form::Beat);
                    }
                }
                return code;
            }
        }
    }
}

/// Who beats, and to whom.
struct Agent {
    numbers: Numbers,
    profile: OwnedProfile,
    status: Status,
    targets: Targets,
    /// Where to beat to while none of the targets lives.
    fallback: Option<Fallback>,
    /// What they are tagged with.
    key: Option<Key>,
    /// Kept to be used again: a beat allocates nothing.
    due: Vec<u8>,
    hello: Vec<u8>,
}

/// The monitors that are beaten to directly while no relay lives.
struct Fallback {
    targets: Targets,
    /// What to call them.
    name: String,
    active: bool,
}

impl Agent {
    fn beat(&mut self, form: Form) {
        self.targets.ask(clock::monotonic_ns(), random);
        let heartbeat = self.numbers.next(Kind::Beat, self.status, clock::wall_ns());
        self.hello.clear();
        encode_hello(&heartbeat, &self.profile.profile(), &mut self.hello);
        self.tag(&heartbeat);
        let due: &[u8] = match form {
            Form::Beat => &self.due,
            Form::Hello => &self.hello,
        };
        self.targets.send(Datagrams { due, hello: &self.hello }, |text| say(&text));
        if self.fall_back() {
            // Whoever is a relay's child is one until it beats directly, which a HELLO does not say.
            self.beat(Form::Beat);
        }
    }

    /// Sends to the fallback what has just been encoded, if no relay lives. True when beats are to
    /// go another way than before: another one is due, to say so.
    fn fall_back(&mut self) -> bool {
        let Some(fallback) = &mut self.fallback else { return false };
        let active = self.targets.all_dead();
        let changed = std::mem::replace(&mut fallback.active, active) != active;
        if changed && active {
            let why = self.targets.complaint();
            say(&format!("no relay lives ({why}); beats go to {} until one does", fallback.name));
            fallback.targets.greet();
        } else if changed {
            say("a relay answers again; beats go there");
            self.targets.greet();
        }
        if active {
            let datagrams = Datagrams { due: &self.due, hello: &self.hello };
            fallback.targets.send(datagrams, |text| say(&text));
        }
        changed
    }

    /// Takes in what a target's name means now; it is beaten to at once if that is news.
    fn resolved(&mut self, which: Which, index: usize, answer: Answer) {
        let targets = match (which, &mut self.fallback) {
            (Which::Fallback, Some(fallback)) => &mut fallback.targets,
            _ => &mut self.targets,
        };
        if targets.resolved(index, answer, |text| say(&text)) {
            self.beat(Form::Beat);
        }
    }

    fn bye(&mut self) {
        let heartbeat = self.numbers.next(Kind::Bye, self.status, clock::wall_ns());
        self.hello.clear();
        self.tag(&heartbeat);
        let datagrams = Datagrams { due: &self.due, hello: &[] };
        self.targets.send(datagrams, |text| say(&text));
        if let Some(fallback) = self.fallback.as_mut().filter(|_| self.targets.all_dead()) {
            fallback.targets.send(datagrams, |text| say(&text));
        }
    }

    /// Encodes the heartbeat's short form, and tags it and the HELLO, if there is one.
    fn tag(&mut self, heartbeat: &Heartbeat) {
        self.due.clear();
        self.due.extend_from_slice(&encode_beat(heartbeat));
        if let Some(key) = &self.key {
            key.seal(&mut self.due, 0);
            if !self.hello.is_empty() {
                key.seal(&mut self.hello, 0);
            }
        }
    }

    /// Gives the first look-up of the monitors' names a moment: a job that failed at once must not
    /// have ended before anybody could be told.
    fn wait_for_names(&mut self, received: &Receiver<Notice>) {
        let end_ns = clock::monotonic_ns() + LONGEST_FAREWELL.as_nanos() as u64;
        while self.targets.unresolved() {
            let left_ns = end_ns.saturating_sub(clock::monotonic_ns());
            match received.recv_timeout(Duration::from_nanos(left_ns)) {
                Ok(Notice::Resolved(which, index, answer)) => self.resolved(which, index, answer),
                // Told to stop meanwhile, or out of patience.
                Ok(Notice::Signal(_)) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }

    /// Takes a check's result; a change of the status is sent at once.
    fn take(&mut self, verdict: &Verdict) {
        if verdict.status != self.status {
            let (from, to) = (self.status.as_str(), verdict.status.as_str());
            say(&format!("check: {from} → {to} ({})", verdict.why));
            self.status = verdict.status;
            self.beat(Form::Beat);
        }
    }
}

/// Has SIGTERM and SIGINT arrive as notices.
fn watch_signals(notices: Sender<Notice>) -> Result<(), Failure> {
    let watch = || {
        let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT])?;
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            for signal in signals.forever() {
                if notices.send(Notice::Signal(signal)).is_err() {
                    return;
                }
            }
        })
    };
    let watched: std::io::Result<_> = watch();
    watched
        .map(|_| ())
        .map_err(|error| Failure::failed(format!("cannot watch for signals: {error}")))
}

fn say(text: &str) {
    terminal::say(&format!("systole: {text}"));
}

/// A random number: the keys of the standard library's hash maps are.
pub(super) fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}

/// This host's name, to beat under when no other is given.
pub(super) fn host_name() -> Result<String, Failure> {
    let read = std::fs::read_to_string("/proc/sys/kernel/hostname");
    let name = read.map(|text| text.trim().to_owned()).unwrap_or_default();
    if name.is_empty() {
        return Err(Failure::usage("this host has no name to beat under; give one with --name"));
    }
    Ok(name)
}

/// Who beats, checked against the rules of names, groups and labels.
pub(super) fn profile(
    name: &str,
    group: &str,
    labels: &[(String, String)],
) -> Result<OwnedProfile, Failure> {
    let pairs: Vec<(&str, &str)> = labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let profile = Profile::new(name, group, &pairs).map_err(|reject| {
        Failure::usage(match reject {
            Reject::Name => format!(
                "--name: `{}` is no name; give 1 to {MAX_NAME} bytes of UTF-8 without control \
                 characters",
                name.escape_debug()
            ),
            Reject::Length => "name, group and labels are too long for one datagram together; \
                               shorten or drop some labels"
                .to_owned(),
            _ => format!(
                "--group or --label breaks the rules; give a group of at most {MAX_GROUP} bytes, at \
                 most {MAX_LABELS} labels with keys of 1 to {MAX_KEY} and values of at most \
                 {MAX_VALUE} bytes, no key twice, no control characters"
            ),
        })
    })?;
    Ok(OwnedProfile::of(&profile))
}

/// The key to tag with. That it may speak for the group is found out here, where somebody sees it,
/// rather than by the monitor, which would drop every beat.
pub(super) fn key(path: &Path, id: Option<u8>, group: &str) -> Result<FileKey, Failure> {
    let key = keys_file::sender_key(path, id)?;
    match &key.groups {
        Some(groups) if !groups.iter().any(|may| may == group) => Err(Failure::usage(format!(
            "--key: key {} in {} speaks for {} only; give one of these as --group, or another key",
            key.key.id(),
            path.display(),
            groups.join(", ")
        ))),
        _ => Ok(key),
    }
}

pub(super) fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("is not KEY=VALUE, like rack=r7".into()),
    }
}

pub(super) fn parse_interval(text: &str) -> Result<Duration, String> {
    let longest = Duration::from_secs(90 * 86_400);
    value::duration(text, Duration::from_millis(1), longest)
        .map_err(|why| format!("{why}; give a duration from 1ms to 90d, like 500ms or 1s"))
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    value::duration(text, Duration::from_millis(10), Duration::from_secs(3_600))
        .map_err(|why| format!("{why}; give a duration from 10ms to 1h, like 10s"))
}

fn parse_jitter(text: &str) -> Result<f64, String> {
    value::number(text, 0.0, 0.5).map_err(|why| format!("{why}; give a number from 0 to 0.5"))
}

fn parse_status(text: &str) -> Result<Status, String> {
    Status::parse(text)
        .ok_or_else(|| "is no status; give one of ok, warn, critical, maintenance".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_breaks_the_rules_is_named_with_the_rules() {
        let why = |name: &str, group: &str, labels: &[(&str, &str)]| {
            let labels: Vec<_> =
                labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
            let failure = profile(name, group, &labels).expect_err("this must be refused");
            assert_eq!(failure.code(), 2);
            failure.to_string()
        };
        assert_eq!(
            why("web\n1", "", &[]),
            "--name: `web\\n1` is no name; give 1 to 255 bytes of UTF-8 without control characters"
        );
        assert!(why("", "", &[]).starts_with("--name: `` is no name"));
        assert!(why("web-1", &"g".repeat(65), &[]).starts_with("--group or --label breaks"));
        assert!(why("web-1", "", &[("rack", "1"), ("rack", "2")]).contains("no key twice"));
        let long = "v".repeat(255);
        let labels = [
            ("a", long.as_str()),
            ("b", &long),
            ("c", &long),
            ("d", &long),
            ("e", &long),
            ("f", &long),
        ];
        assert!(why("web-1", "", &labels).contains("too long for one datagram"));
    }

    #[test]
    fn flags_that_are_wrong_say_what_is_right() {
        assert!(parse_label("rack").unwrap_err().contains("KEY=VALUE"));
        assert!(parse_label("=r7").is_err());
        assert_eq!(parse_label("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(parse_interval("91d").unwrap_err().contains("1ms to 90d"));
        assert!(parse_interval("1").unwrap_err().starts_with("has no unit"));
        assert!(parse_jitter("0.6").is_err() && parse_jitter("0.1") == Ok(0.1));
        assert!(parse_status("fine").is_err());
    }
}
