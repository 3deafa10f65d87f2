//! `systole relay`: the relay's core between sockets and targets, in one thread.
//!
//! ```text
//!  senders ─▶ io (uring or poll) ─▶ relay::Relay ─▶ send::Targets ─▶ every monitor
//!               ▲    └◀── answers ──────┘              ▲
//!            signals                         own HELLO, BEAT, BYE
//! ```
//!
//! It keeps nothing: whoever starts it anew has lost at most what it held, some milliseconds' worth.

use super::beat::schedule::{Form, Numbers, Schedule};
use super::beat::send::{Address, Answer, Datagrams, Targets};
use super::beat::{host_name, key, parse_interval, parse_label, profile, random};
use super::{Failure, terminal, words};
use crate::clock;
use crate::config::keys_file::{self, FileKey};
use crate::config::value;
use crate::io::sockets::{self, BindError};
use crate::io::{self, AnyBackend, Backend, Patience, TransportChoice, Waker};
use crate::relay::{Outside, Relay};
use crate::wire::{
    Auth, Guard, Key, Keyring, Kind, OwnedProfile, PeerId, Status, encode_beat, encode_hello,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  systole relay --to monitor-a --to monitor-b --name relay-r7
  systole relay --udp 10.7.0.1:4600 --to monitor:4600 --max-delay 10ms
  systole relay --to monitor --keys /etc/systole/keys --key /etc/systole/relay.key
  systole beat --to relay-r7 --fallback monitor-a --name web-7       one behind it
";

const AFTER: &str = "\
What it hears in `--max-delay` goes to each of --to as one datagram or two, or sooner when that is full; \
each beat with the time that it was held, so that its silence counts from when the relay heard it. BYE, \
lines of text, and a HELLO that says something new, or says the same after a minute, go on whole.

With --keys it hears only what is tagged by one of them, as a monitor with `--auth required`. Its own key \
(--key) then stands for the beats of those senders whose keys speak for the same groups; others' go on \
whole, with their own tags, several to a datagram. Give it a key that speaks for all its senders' groups \
and its own. Without --keys it believes everybody, and its tag \
stands for all: give it a network that you trust.

On stdout comes one line, when it is ready: ready udp=ADDR[,ADDR]. SIGUSR1 has it say what it counted, \
SIGHUP read the keys again. SIGTERM (exit code 0) and Ctrl-C (130) send what is held, and a BYE.";

/// A monitor's trouble is over after so long without a refusal; longer than a way there and back.
const CALM: Duration = Duration::from_secs(2);
/// How long to wait for the sockets of a relay that was killed.
const LET_GO: Duration = Duration::from_millis(500);

/// What was given as flags.
#[derive(clap::Args, Debug)]
#[command(before_long_help = EXAMPLES, after_long_help = AFTER)]
pub struct RelayArgs {
    /// Where to listen; may be repeated. Without it on port 4600 of all addresses.
    #[arg(long, value_name = "ADDR", env = "SYSTOLE_RELAY_UDP")]
    #[arg(value_delimiter = ',', value_parser = value::address)]
    udp: Vec<SocketAddr>,
    /// A monitor, or another relay; several may be given, and each gets everything.
    #[arg(long, value_name = "HOST:PORT", required = true, env = "SYSTOLE_TO")]
    #[arg(value_delimiter = ',', value_parser = Address::parse)]
    to: Vec<Address>,
    /// The relay's own name as a peer; the host's name and `-relay` when not given.
    #[arg(long, env = "SYSTOLE_NAME")]
    name: Option<String>,
    /// What it belongs to.
    #[arg(long, default_value = "", hide_default_value = true, env = "SYSTOLE_GROUP")]
    group: String,
    /// More about it; may be repeated, up to 16 times.
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_label)]
    label: Vec<(String, String)>,
    /// How often it beats itself, 1ms to 90d.
    #[arg(long, value_name = "DURATION", default_value = "1s", env = "SYSTOLE_INTERVAL")]
    #[arg(value_parser = parse_interval)]
    interval: Duration,
    /// Longest time that a beat is held, 100us to 1s.
    #[arg(long, value_name = "DURATION", default_value = "5ms", value_parser = parse_delay)]
    max_delay: Duration,
    /// File with the keys of the senders; without it everybody is heard.
    #[arg(long, value_name = "FILE", env = "SYSTOLE_KEYS")]
    keys: Option<PathBuf>,
    /// File with the key to tag with, as `systole keygen` makes it.
    #[arg(long, value_name = "FILE", env = "SYSTOLE_KEY")]
    key: Option<PathBuf>,
    /// Which key of that file, when it has several.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    #[arg(requires = "key")]
    key_id: Option<u8>,
    /// How datagrams come in.
    #[arg(long, value_name = "auto|uring|poll", default_value = "auto")]
    #[arg(value_parser = parse_transport)]
    transport: TransportChoice,
    /// Receive buffer of each socket.
    #[arg(long, value_name = "SIZE", default_value = "16MiB", value_parser = parse_buffer)]
    receive_buffer: u64,
    /// Say every so often what was counted, 1s to 1d.
    #[arg(long, value_name = "DURATION", value_parser = parse_stats)]
    stats: Option<Duration>,
}

/// What the other threads tell the loop.
enum Notice {
    Resolved(usize, Answer),
    Signal(i32),
}

/// Relays until told to stop.
///
/// # Errors
/// Wrong usage, a port that is taken, keys that cannot be used (exit code 2); a transport that
/// fails for good (1).
pub fn relay(args: RelayArgs) -> Result<u8, Failure> {
    let name = match &args.name {
        Some(name) => name.clone(),
        None => format!("{}-relay", host_name()?),
    };
    let profile = profile(&name, &args.group, &args.label)?;
    let own_key =
        args.key.as_deref().map(|path| key(path, args.key_id, &args.group)).transpose()?;
    let keys = Keys { senders: args.keys, own: own_key };
    let guard = keys.guard()?;
    let (addresses, sockets) = listen(&args.udp, args.receive_buffer as usize)?;
    refuse_itself(&args.to, &addresses)?;
    let answering = sockets.iter().map(UdpSocket::try_clone).collect::<Result<_, _>>();
    let answering = answering.map_err(|error| Failure::failed(format!("a socket: {error}")))?;
    let opened = io::open(args.transport, sockets).map_err(|e| Failure::usage(e.to_string()))?;
    if let Some(why) = &opened.fallback {
        say(&format!("transport poll (recvmmsg) instead of uring: {why}"));
    }
    let refused =
        |error: std::io::Error| Failure::failed(format!("the system refuses a thread: {error}"));
    let (notices, received) = channel();
    watch_signals(notices.clone(), opened.backend.waker()).map_err(refused)?;
    let waker = opened.backend.waker();
    let resolved = move |index, answer| {
        let told = notices.send(Notice::Resolved(index, answer)).is_ok();
        waker.wake();
        told
    };
    let targets = Targets::new(&args.to, resolved).map_err(refused)?.calm_after(CALM);
    let id = PeerId::of(&name);
    let interval_us = args.interval.as_nanos().div_ceil(1_000) as u64;
    let delay_ns = args.max_delay.as_nanos() as u64;
    let own = keys.own.as_ref().map(|own| own.key.clone());
    let running = Running {
        relay: Relay::new(id, delay_ns, own.clone(), guard),
        ends: Ends { targets, answering, origin: None },
        own: Own {
            numbers: Numbers::new(id, interval_us, clock::wall_ns()),
            profile,
            key: own,
            due: Vec::new(),
            hello: Vec::new(),
        },
        schedule: Schedule::new(interval_us * 1_000, 0.1, random(), clock::monotonic_ns()),
        stats_ns: args.stats.map(|every| every.as_nanos() as u64),
        keys,
        name,
    };
    let listening: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
    let monitors: Vec<String> = args.to.iter().map(Address::to_string).collect();
    let delay = words::exact(args.max_delay.as_nanos() as u64);
    say(&format!("{} relays to {}, within {delay}", running.name, monitors.join(", ")));
    terminal::print(&format!("ready udp={}", listening.join(",")))?;
    running.run(opened.backend, &received)
}

/// All that the loop has.
struct Running {
    relay: Relay,
    ends: Ends,
    own: Own,
    schedule: Schedule,
    keys: Keys,
    stats_ns: Option<u64>,
    name: String,
}

impl Running {
    fn run(mut self, mut backend: AnyBackend, received: &Receiver<Notice>) -> Result<u8, Failure> {
        let failed = |error| Failure::failed(format!("receiving fails: {error}"));
        // To answer questions. Costs some 50 ns a datagram.
        backend.tell_sources(true).map_err(failed)?;
        let mut said_ring = false;
        let mut say_ns = self.stats_ns.map(|every_ns| clock::monotonic_ns() + every_ns);
        loop {
            // Before the look: a beat that comes during it may look older than it is, not younger.
            let now_ns = clock::monotonic_ns();
            if let Some(form) = self.schedule.take(now_ns) {
                self.own.beat(form, &mut self.ends.targets);
                if form == Form::Hello {
                    self.relay.introduce(&mut self.ends);
                }
            }
            let Running { relay, ends, .. } = &mut self;
            let taken = backend
                .receive_with(&mut |datagram, origin| {
                    ends.origin = origin.address().map(|address| (origin.socket, address));
                    relay.datagram(datagram, now_ns, ends);
                })
                .map_err(failed)?;
            if !said_ring && relay.counts().looped > 0 {
                said_ring = true;
                say(
                    "what it has sent comes back to it: relays send to each other in a ring; see their --to",
                );
            }
            let now_ns = clock::monotonic_ns();
            relay.flush_if_due(now_ns, ends);
            while let Ok(notice) = received.try_recv() {
                if let Some(code) = self.take(notice, &backend) {
                    return Ok(code);
                }
            }
            if say_ns.is_some_and(|say_ns| say_ns <= now_ns) {
                self.say_counts(&backend);
                say_ns = self.stats_ns.map(|every_ns| now_ns + every_ns);
            }
            if taken == 0 {
                let due = [self.relay.due_ns(), Some(self.schedule.next_ns()), say_ns];
                let next_ns = due.into_iter().flatten().min().unwrap_or(u64::MAX);
                let timeout_ns = Some(next_ns.saturating_sub(now_ns));
                let patience = Patience { timeout_ns, want: 1, min_wait_ns: 0 };
                backend.wait(patience).map_err(failed)?;
            }
        }
    }

    /// Acts on a notice. Returns the exit code if it is the end.
    fn take(&mut self, notice: Notice, backend: &AnyBackend) -> Option<u8> {
        match notice {
            Notice::Resolved(index, answer) => {
                if self.ends.targets.resolved(index, answer, |text| say(&text)) {
                    self.own.beat(Form::Hello, &mut self.ends.targets);
                    self.relay.introduce(&mut self.ends);
                }
            }
            Notice::Signal(SIGUSR1) => self.say_counts(backend),
            Notice::Signal(SIGHUP) => match self.keys.guard() {
                Ok(guard) => {
                    let ids: Vec<_> = guard.keys.keys().map(|key| key.id().to_string()).collect();
                    self.relay.set_guard(guard);
                    say(&format!("keys read: {}", ids.join(", ")));
                }
                Err(failure) => say(&format!("the keys stay as they were: {failure}")),
            },
            Notice::Signal(signal) => {
                self.relay.flush(clock::monotonic_ns(), &mut self.ends);
                self.own.bye(&mut self.ends.targets);
                self.say_counts(backend);
                return Some(if signal == SIGINT { 130 } else { 0 });
            }
        }
        None
    }

    fn say_counts(&self, backend: &AnyBackend) {
        let (unsent, drops) = (self.ends.targets.unsent(), backend.queues().drops);
        let mut counts = self.relay.counts().clone();
        counts.overlong(backend.counts().overlong);
        say(&format!("{}: {counts} unsent={unsent} kernel_drops={drops}", self.name));
    }
}

/// Both ends of the relay's world: the monitors, and who sent the datagram at hand.
struct Ends {
    targets: Targets,
    /// The sockets that the transport receives from, in its order.
    answering: Vec<UdpSocket>,
    /// Which of them the datagram at hand came to, and from where.
    origin: Option<(usize, SocketAddr)>,
}

impl Outside for Ends {
    fn forward(&mut self, datagram: &[u8]) {
        self.targets.send(Datagrams { due: datagram, hello: &[] }, |text| say(&text));
    }

    fn answer(&mut self, datagram: &[u8]) {
        if let Some((socket, address)) = self.origin {
            // An answer that is lost is asked for again.
            let _ = self.answering[socket].send_to(datagram, address);
        }
    }
}

/// The relay as a peer.
struct Own {
    numbers: Numbers,
    profile: OwnedProfile,
    key: Option<Key>,
    /// Kept to be used again.
    due: Vec<u8>,
    hello: Vec<u8>,
}

impl Own {
    fn beat(&mut self, form: Form, targets: &mut Targets) {
        let heartbeat = self.numbers.next(Kind::Beat, Status::Ok, clock::wall_ns());
        self.due.clear();
        self.hello.clear();
        self.due.extend_from_slice(&encode_beat(&heartbeat));
        encode_hello(&heartbeat, &self.profile.profile(), &mut self.hello);
        if let Some(key) = &self.key {
            key.seal(&mut self.due, 0);
            key.seal(&mut self.hello, 0);
        }
        let due = if form == Form::Hello { &self.hello } else { &self.due };
        targets.send(Datagrams { due, hello: &self.hello }, |text| say(&text));
    }

    fn bye(&mut self, targets: &mut Targets) {
        let heartbeat = self.numbers.next(Kind::Bye, Status::Ok, clock::wall_ns());
        self.due.clear();
        self.due.extend_from_slice(&encode_beat(&heartbeat));
        if let Some(key) = &self.key {
            key.seal(&mut self.due, 0);
        }
        targets.send(Datagrams { due: &self.due, hello: &[] }, |text| say(&text));
    }
}

/// Whose keys are believed, and which one is ours.
struct Keys {
    senders: Option<PathBuf>,
    own: Option<FileKey>,
}

impl Keys {
    /// The guard before the relay. It has our own key, too, so that it can be compared with the
    /// senders'.
    fn guard(&self) -> Result<Guard, Failure> {
        let Some(path) = &self.senders else { return Ok(Guard::default()) };
        let mut keys = keys_file::keyring(path)?;
        if let Some(own) = &self.own {
            add(&mut keys, own, path)?;
        }
        Ok(Guard { auth: Auth::Required, keys })
    }
}

fn add(keys: &mut Keyring, own: &FileKey, path: &Path) -> Result<(), Failure> {
    let id = own.key.id();
    match keys.get(id) {
        Some(known) if *known != own.key => Err(Failure::usage(format!(
            "--key: key {id} is another one in {}; give each key an id of its own",
            path.display()
        ))),
        Some(_) => Ok(()),
        None => {
            let added = keys.insert(own.key.clone(), own.groups.as_deref());
            debug_assert!(added, "there was none of its id");
            Ok(())
        }
    }
}

/// Binds the addresses; without any, port 4600 of all, where a family that is missing is left out.
fn listen(
    addresses: &[SocketAddr],
    receive_buffer: usize,
) -> Result<(Vec<SocketAddr>, Vec<UdpSocket>), Failure> {
    let all: [SocketAddr; 2] =
        [(Ipv4Addr::UNSPECIFIED, 4600).into(), (Ipv6Addr::UNSPECIFIED, 4600).into()];
    let by_default = addresses.is_empty();
    let mut bound = (Vec::new(), Vec::new());
    for &address in if by_default { &all[..] } else { addresses } {
        match sockets::bind_group_within(LET_GO, address, 1, receive_buffer) {
            Ok(group) => {
                let granted = group.receive_buffer.granted;
                if granted < receive_buffer {
                    say(&format!(
                        "the receive buffer of {} is {granted} bytes instead of {receive_buffer}: \
                         raise net.core.rmem_max, or grant CAP_NET_ADMIN",
                        group.address
                    ));
                }
                bound.0.push(group.address);
                bound.1.extend(group.sockets);
            }
            Err(error) if by_default && error.is_family_unavailable() => {
                say(&format!("not listening there: {error}"));
            }
            Err(error) => return Err(refused(&error)),
        }
    }
    if bound.1.is_empty() {
        return Err(Failure::usage(
            "this machine has neither IPv4 nor IPv6; give --udp an address",
        ));
    }
    Ok(bound)
}

/// A relay that sends to its own port would hear itself, and send on what it hears, for ever.
fn refuse_itself(to: &[Address], listening: &[SocketAddr]) -> Result<(), Failure> {
    // Whether an address is one of this machine's, only binding to it can tell.
    let is_ours = |ip| UdpSocket::bind((ip, 0)).is_ok();
    for target in to {
        let addresses = match target {
            Address::Literal(address) => vec![*address],
            // One that cannot be looked up now is looked up again later.
            Address::Named(host, port) => {
                (&**host, *port).to_socket_addrs().map_or(Vec::new(), Iterator::collect)
            }
        };
        let itself = |address: &SocketAddr| {
            let here = |own: &&SocketAddr| {
                own.port() == address.port()
                    && (own.ip() == address.ip()
                        || own.ip().is_unspecified()
                            && own.is_ipv4() == address.is_ipv4()
                            && is_ours(address.ip()))
            };
            listening.iter().find(here).copied()
        };
        if let Some(own) = addresses.iter().find_map(itself) {
            return Err(Failure::usage(format!(
                "--to {target} is this relay itself, which listens on {own}: give the monitor's \
                 address, or --udp another port"
            )));
        }
    }
    Ok(())
}

fn refused(error: &BindError) -> Failure {
    Failure::usage(error.to_string())
}

/// Has signals arrive as notices, and wake the loop.
fn watch_signals(notices: Sender<Notice>, waker: Waker) -> std::io::Result<()> {
    let watched = [SIGTERM, SIGINT, SIGUSR1, SIGHUP];
    let mut signals = signal_hook::iterator::Signals::new(watched)?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            if notices.send(Notice::Signal(signal)).is_err() {
                return;
            }
            waker.wake();
        }
    })?;
    Ok(())
}

fn say(text: &str) {
    terminal::say(&format!("systole: {text}"));
}

fn parse_delay(text: &str) -> Result<Duration, String> {
    value::duration(text, Duration::from_micros(100), Duration::from_secs(1))
        .map_err(|why| format!("{why}; give a duration from 100us to 1s, like 5ms"))
}

fn parse_stats(text: &str) -> Result<Duration, String> {
    value::duration(text, Duration::from_secs(1), Duration::from_secs(86_400))
        .map_err(|why| format!("{why}; give a duration from 1s to 1d, like 60s"))
}

fn parse_buffer(text: &str) -> Result<u64, String> {
    value::size(text, 4 << 10, 1 << 30)
        .map_err(|why| format!("{why}; give a size from 4KiB to 1GiB, like 16MiB"))
}

fn parse_transport(text: &str) -> Result<TransportChoice, String> {
    let choices = [TransportChoice::Auto, TransportChoice::Uring, TransportChoice::Poll];
    choices
        .into_iter()
        .find(|choice| choice.to_string() == text)
        .ok_or_else(|| "is not a choice; give one of auto, uring, poll".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_does_not_relay_to_itself() {
        let all: Vec<SocketAddr> = vec!["0.0.0.0:4600".parse().unwrap()];
        let one: Vec<SocketAddr> = vec!["127.0.0.1:4600".parse().unwrap()];
        let refused = |to: &str, own: &[SocketAddr]| {
            refuse_itself(&[Address::parse(to).unwrap()], own).is_err()
        };
        assert!(refused("127.0.0.1", &all) && refused("127.0.0.1", &one));
        assert!(refused("localhost", &all));
        // Another port, another host, another address of the same port.
        assert!(!refused("127.0.0.1:4601", &all) && !refused("192.0.2.7", &all));
        assert!(!refused("127.0.0.2", &one));
    }
}
