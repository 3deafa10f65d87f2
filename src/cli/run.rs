//! Runs the monitor: binds, starts, says that it is ready, and ends what it started in order.
//!
//! ```text
//!  bind ─▶ control ─▶ reactors ─▶ prober ─▶ http ─▶ "ready" ─▶ a signal ─▶ and back again
//! ```
//!
//! Nothing is started before everything is bound, so that a taken port costs nothing; and the end
//! goes along the way of the data, so that a last transition still reaches whoever listens.

use super::foresee::{self, Http};
use super::listen::Listening;
use super::state::{self, Identity, Keeper};
use super::takeover::{self, Predecessor, Sockets, Terms};
use super::terminal::colours_allowed;
use super::{Failure, bypass, keys, resume, rival};
use crate::clock;
use crate::config::{ExpectSettings, GroupSettings, LogFormat, Settings};
use crate::control::expect::{Expectation, Expected};
use crate::control::groups::Rule;
use crate::control::{Control, ControlConfig};
use crate::engine::Groups;
use crate::http;
use crate::io::sockets::{self, Group};
use crate::io::{Inlet, Transport};
use crate::reactor::cores::CorePlan;
use crate::reactor::probe::Prober;
use crate::reactor::start::StartError;
use crate::reactor::{self, Fleet, ReactorSettings};
use crate::trace::recorder::RecordSettings;
use crate::trace::{Recorder, Tap};
use anyhow::Context;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::hash::{BuildHasher, RandomState};
use std::io::{ErrorKind, IsTerminal, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, mpsc};
use std::time::Duration;
use tokio::sync::watch;
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;
use wildmatch::WildMatch;

/// Why the monitor ends.
enum End {
    Signal(i32),
    ReactorFailed(String),
    /// Another process takes over; it waits for the answer.
    HandOver(UnixStream),
    /// It is ready.
    HeirReady,
    /// It has ended before it was.
    HeirGone,
}

/// Runs the monitor until SIGINT or SIGTERM.
///
/// # Errors
/// What keeps it from starting, as a [`Failure`] with exit code 2, or what ended it.
pub fn run(settings: Settings) -> anyhow::Result<()> {
    start_logging(&settings);
    let reactors = settings.reactors.unwrap_or_else(default_reactors);
    let cores = CorePlan::new(reactors);
    cores.keep_off();
    let (end, ends) = mpsc::channel();
    end_on_signal(end.clone())?;

    let guard = keys::guard(&settings, resume::keys().as_deref())?;
    let files = resume::Files::of(&settings).context("copying the settings")?;
    let terms = Terms::of(&settings, reactors);
    let (listening, predecessor) = listen(&settings, &terms)?;
    let udp = listening.udp();
    let (attachment, shares) = bypass::attach(&settings, &udp, reactors)?;
    let Listening { groups: bound, http: listener } = listening;
    let http_address = listener.local_addr().context("reading the HTTP address")?;

    let started_wall_ns = clock::wall_ns();
    let monitor = settings.monitor_id.unwrap_or_else(random);
    let fresh = Identity { monitor, epoch_ns: started_wall_ns };
    let (memory, remembered, identity, mut keeper) =
        state::open(&settings, reactors as u32, fresh)?.split();
    let own = settings.groups.iter().map(|group| group.policy);
    let policies = std::iter::once(settings.policy).chain(own).collect();
    let groups = Arc::new(Groups::new(policies, settings.brake));
    let learnt_holds = remembered.places.same_detectors;
    let config = ControlConfig {
        monitor_id: identity.monitor,
        epoch_ns: identity.epoch_ns,
        started_wall_ns,
        state_dir: keeper.as_ref().map(|keeper| keeper.path().to_owned()),
        looked_ns: keeper.as_ref().and_then(Keeper::looked_ns),
        groups: groups.clone(),
        max_peers: settings.max_peers as usize,
        ring_capacity: settings.events,
        udp: udp.clone(),
        brake: settings.brake,
        rules: rules(&settings),
        expect: settings.expect.iter().map(expectation).collect(),
        metrics_groups: settings.metrics_groups,
        guard: guard.clone(),
    };
    let control = Control::start(config, remembered).context("starting the control plane")?;
    let (recorder, taps) = match &settings.record {
        Some(record) => record_to(record, reactors)?,
        None => (None, Vec::new()),
    };
    let probe_secret = random();
    let reactor_settings = ReactorSettings {
        transport: settings.transport,
        idle: settings.idle,
        groups,
        learnt_holds,
        max_peers: settings.max_peers,
        cores: cores.clone(),
        guard: guard.clone(),
        newcomers: settings.newcomers,
        taps,
        probe_secret,
    };
    let copies = keeper.as_ref().map(|_| copies(&bound, &listener)).transpose();
    let copies = copies.context("copying the sockets")?;
    let sockets = sockets::by_reactor(bound.into_iter().map(|group| group.sockets));
    let inlets = sockets.into_iter().zip(shares);
    let inlets = inlets.map(|(sockets, xdp)| Inlet { sockets, xdp }).collect();
    let listener_thread = Some(control.publisher_thread());
    let (asked, heard) = (end.clone(), end.clone());
    let on_failure = move |message| drop(end.send(End::ReactorFailed(message)));
    let fleet = reactor::start(&reactor_settings, inlets, memory, listener_thread, on_failure)
        .map_err(explain)?;
    say_what_started(&fleet);
    control.attach(fleet.handles.clone());
    if let Some(keeper) = &mut keeper {
        keeper.settle();
        keeper.say_what_was_recovered(&fleet, &control.state());
    }
    let prober = Prober::start(udp[0], reactors as u32, probe_secret)
        .inspect_err(|error| warn!(%error, "no ingest probes: ingest_ns stays empty"))
        .ok();
    let (shutdown, shut_down) = watch::channel(false);
    let server =
        http::serve(listener, control.state(), shut_down).context("starting the HTTP server")?;

    let state = control.state();
    keys::read_again_on_hangup(&settings, guard, move || state.groups.keys_changed())?;
    info!(address = %http_address, "serving HTTP");
    if let Some(keeper) = &keeper {
        let hand_over = move |stream| drop(asked.send(End::HandOver(stream)));
        takeover::offer(keeper.path(), terms, http_address, hand_over).unwrap_or_else(|error| {
            warn!(%error, "nobody can take over from this process (--takeover)");
        });
    }
    say_ready(&udp, http_address);
    predecessor.into_iter().for_each(Predecessor::relieve);
    let mut heir = None;
    let failure = match ends.recv().context("the signal thread ended")? {
        End::Signal(signal) => {
            let name = if signal == SIGINT { "SIGINT" } else { "SIGTERM" };
            info!(signal = name, "ending: reading what has arrived, telling the last transitions");
            None
        }
        End::ReactorFailed(message) => Some(message),
        End::HandOver(stream) => {
            info!("handing over: reading what has arrived, telling the last transitions");
            heir = Some(stream);
            None
        }
        // Of an heir that nobody has asked for yet.
        End::HeirReady | End::HeirGone => None,
    };

    drop(prober);
    fleet.stop();
    // Whoever takes over attaches a program of its own.
    drop(attachment);
    drop(recorder);
    control.shutdown();
    // Ended, and unlocked.
    keeper.into_iter().for_each(Keeper::end);
    let given = match (&heir, &copies) {
        (Some(heir), Some(copies)) => takeover::give(heir, copies),
        _ => Ok(()),
    };
    shutdown.send_replace(true);
    server.join().context("the HTTP server")?;
    if let (Some(heir), Some(copies)) = (heir, copies)
        && (given.is_err() || !becomes_ready(heir, heard, &ends)?)
    {
        warn!("the new one has ended before it was ready: going on from the state");
        cores.give_back();
        return Err(resume::go_on(&copies, &files).into());
    }
    match failure {
        None => Ok(()),
        Some(message) => Err(Failure::failed(message).into()),
    }
}

/// Where we listen: on what we have left ourselves, what another process hands over, what is inherited, or
/// what is bound; and who handed over.
fn listen(settings: &Settings, terms: &Terms) -> Result<(Listening, Option<Predecessor>), Failure> {
    if let Some(Sockets { groups, http }) = resume::left()? {
        return Ok((Listening::adopt(groups, http, Http::Inherits, settings)?, None));
    }
    if let Some((Sockets { groups, http }, predecessor, moves)) = take_over(settings, terms)? {
        return Ok((Listening::adopt(groups, http, moves, settings)?, Some(predecessor)));
    }
    rival::refuse(settings)?;
    Ok((Listening::open(settings, terms.reactors)?, None))
}

/// Whether the one that was given the sockets says that it is ready. Once it has them, nobody waits for us:
/// a signal ends us as well.
fn becomes_ready(
    heir: UnixStream,
    heard: mpsc::Sender<End>,
    ends: &mpsc::Receiver<End>,
) -> anyhow::Result<bool> {
    let tell = move |is_ready| {
        drop(heard.send(if is_ready { End::HeirReady } else { End::HeirGone }));
    };
    takeover::await_heir(heir, tell).context("waiting for the new one")?;
    loop {
        match ends.recv().context("the signal thread ended")? {
            End::HeirReady | End::Signal(_) => return Ok(true),
            End::HeirGone => return Ok(false),
            End::ReactorFailed(_) | End::HandOver(_) => {}
        }
    }
}

/// The sockets of the monitor that runs, if that is wanted and there is one, and where HTTP goes. It stops
/// before it answers, so what would keep us from starting is found out before it is asked.
fn take_over(
    settings: &Settings,
    terms: &Terms,
) -> Result<Option<(Sockets, Predecessor, Http)>, Failure> {
    if !settings.takeover {
        return Ok(None);
    }
    let Some((directory, _)) = state::place(settings) else {
        return Err(Failure::usage(
            "--takeover: there is no state directory to find the other monitor by; give both the \
             same --state-dir",
        ));
    };
    // Whoever ends while it is asked is gone behind that.
    let asked = || -> Result<_, Failure> {
        let Some(offer) = takeover::look(&directory, terms)? else { return Ok(None) };
        foresee::files_and_transport(settings)?;
        let http = foresee::http(settings.http, Some(offer.http))?;
        Ok(takeover::ask(&directory, terms)?.map(|(sockets, before)| (sockets, before, http)))
    };
    let taken = asked()?;
    let says = match taken {
        Some(_) => "took over from the one that ran",
        None => "nobody runs there to take over from",
    };
    info!(directory = %directory.display(), "{says}");
    Ok(taken)
}

/// Copies of the sockets, which keep them open when the reactors have ended.
fn copies(groups: &[Group], http: &TcpListener) -> std::io::Result<Sockets> {
    let group = |group: &Group| group.sockets.iter().map(UdpSocket::try_clone).collect();
    let groups = groups.iter().map(group).collect::<Result<_, _>>()?;
    Ok(Sockets { groups, http: http.try_clone()? })
}

/// What holds for groups, as the control plane is told it; policy 0 is everybody's.
fn rules(settings: &Settings) -> Vec<Rule> {
    let rule = |(i, group): (usize, &GroupSettings)| Rule {
        pattern: WildMatch::new(&group.name),
        policy: i as u16 + 1,
        brake: group.brake,
        parent: group.parent.clone(),
    };
    settings.groups.iter().enumerate().map(rule).collect()
}

fn expectation(settings: &ExpectSettings) -> Expectation {
    let (what, within) = match settings {
        ExpectSettings::Peer { name, within } => (Expected::Peer(name.clone()), within),
        ExpectSettings::Group { name, count, within } => {
            (Expected::Group { name: name.clone(), count: *count }, within)
        }
    };
    Expectation { what, within_ns: within.as_nanos() as u64 }
}

fn start_logging(settings: &Settings) {
    let filter = EnvFilter::new(&settings.log_level);
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // An error means that logging was started before, as by a test; that one stays.
    let _ = match settings.log_format {
        LogFormat::Text => {
            let no_color = std::env::var_os("NO_COLOR");
            let colours = std::io::stderr().is_terminal() && colours_allowed(no_color.as_deref());
            log.with_ansi(colours).with_target(false).try_init()
        }
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
}

/// A signal this soon after the first is the same wish told twice: `timeout` sends to its child and to
/// its group, a terminal and a supervisor may both send.
const SAME_WISH: Duration = Duration::from_secs(1);

/// What a signal asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wish {
    /// To end in order.
    End,
    /// Nothing that is not being done.
    Nothing,
    /// To end at once.
    Kill,
}

impl Wish {
    /// What the signal asks for that comes so long after the first one; `None` for the first.
    fn after(first: Option<Duration>) -> Wish {
        match first {
            None => Wish::End,
            Some(since) if since < SAME_WISH => Wish::Nothing,
            Some(_) => Wish::Kill,
        }
    }
}

/// Sends an [`End`] for the first SIGINT or SIGTERM; another one, a second later or more and while
/// the first is obeyed, kills.
fn end_on_signal(end: mpsc::Sender<End>) -> anyhow::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("taking over SIGINT and SIGTERM")?;
    let body = move || {
        let mut first_ns = None;
        for signal in signals.forever() {
            let now_ns = clock::monotonic_ns();
            let since = first_ns.map(|first_ns| Duration::from_nanos(now_ns - first_ns));
            first_ns.get_or_insert(now_ns);
            let heard = match Wish::after(since) {
                Wish::End => end.send(End::Signal(signal)).is_ok(),
                Wish::Nothing => true,
                Wish::Kill => false,
            };
            if !heard {
                // Somebody is in a hurry: what the signal does by default.
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            }
        }
    };
    std::thread::Builder::new()
        .name("systole-signal".into())
        .spawn(body)
        .context("starting the signal thread")?;
    Ok(())
}

/// All cores but one, which is left to the control plane and to everybody else; at least one.
pub(super) fn default_reactors() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().saturating_sub(1).max(1))
}

pub(super) fn explain(error: StartError) -> Failure {
    Failure::usage(error.to_string())
}

fn say_what_started(fleet: &Fleet) {
    let transport = reactor::transport_of(&fleet.handles).unwrap_or("none");
    let of = |kind| fleet.handles.iter().filter(|handle| handle.transport == kind).count();
    let (uring, poll) = (of(Transport::Uring), of(Transport::Poll));
    if let Some(reason) = &fleet.fallback {
        match uring {
            0 => warn!("transport poll (recvmmsg) instead of uring: {reason}"),
            _ => warn!(
                uring,
                poll, "transport poll (recvmmsg) instead of uring for some reactors: {reason}"
            ),
        }
    }
    let cores: Vec<_> = fleet.handles.iter().map(|handle| handle.cpu).collect();
    let pinned = cores.iter().flatten().map(ToString::to_string).collect::<Vec<_>>().join(",");
    info!(%transport, reactors = cores.len(), cores = pinned, "reactors run");
    if cores.contains(&None) {
        warn!("a reactor could not be pinned to a core; it runs, with less even latency");
    }
}

/// Begins the recording.
fn record_to(
    record: &RecordSettings,
    reactors: usize,
) -> anyhow::Result<(Option<Recorder>, Vec<Tap>)> {
    let (recorder, taps) = Recorder::start(record.clone(), reactors).map_err(|error| {
        let path = record.path.display();
        Failure::usage(format!("cannot record to {path}: {error}; correct --record"))
    })?;
    info!(file = %record.path.display(), "recording arrivals");
    Ok((Some(recorder), taps))
}

/// The one line on standard output: what a script waits for. It is ready whoever hears it: by now the peers
/// are judged by its settings, and the one before would have to go on from there.
fn say_ready(udp: &[SocketAddr], http: SocketAddr) {
    let udp = udp.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let mut out = std::io::stdout().lock();
    match writeln!(out, "ready udp={udp} http={http}").and_then(|()| out.flush()) {
        // Started with its standard output closed: nobody waits for the line.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        Err(error) => warn!(%error, "nobody was told on standard output that the monitor is ready"),
        Ok(()) => {}
    }
}

/// A number that nobody can guess, from the keys that std draws from the system for its hash maps.
fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_sent_twice_at_once_is_one_and_a_later_one_is_impatience() {
        let after_ms = |ms| Wish::after(Some(Duration::from_millis(ms)));
        assert_eq!(Wish::after(None), Wish::End);
        assert_eq!([0, 1, 999].map(after_ms), [Wish::Nothing; 3]);
        assert_eq!([1_000, 60_000].map(after_ms), [Wish::Kill; 2]);
    }
}
