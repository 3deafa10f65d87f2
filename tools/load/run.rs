//! One run from the first question to the verdict.

use crate::absence::Absences;
use crate::bare::{BareTimers, Lateness};
use crate::brake;
use crate::flood::Flood;
use crate::follow::{Patience, follow};
use crate::monitor::Monitor;
use crate::options::Options;
use crate::peers::Peers;
use crate::plan::{Figures, Plan};
use crate::report::{self, MonitorReport, Report};
use crate::send::{self, Run, Sender, Sent};
use crate::truth::{Cause, Rules, Silence, Verdict, judge};
use crate::watch::Watch;
use anyhow::{Context, anyhow};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;
use systole::api::Summary;
use systole::cli::terminal;
use systole::clock;
use systole::metrics::histogram::Snapshot;
use systole::wire::{decode_interval, encode_interval};

/// From the plan's being made to its first heartbeat: the threads start in it.
const LEAD_NS: u64 = 100_000_000;

/// Why a run could not begin.
#[derive(Debug)]
pub enum Failure {
    /// The options do not fit the monitor or this machine.
    Usage(anyhow::Error),
    /// Nobody answered.
    NoMonitor(anyhow::Error),
}

/// What a run came to.
pub struct Outcome {
    /// In figures.
    pub report: Report,
    /// With the single values.
    pub verdict: Verdict,
    /// The generator's own lateness.
    pub send_lateness: Snapshot,
}

/// Runs the load that the options ask for. `stop` ends it early.
pub fn run(options: &Options, stop: Arc<AtomicBool>) -> Result<Outcome, Failure> {
    let monitor = Monitor::new(&options.http);
    let before = monitor.summary().map_err(Failure::NoMonitor)?;
    let run = Arc::new(prepare(options, &before, stop).map_err(Failure::Usage)?);
    let cores = send::cores(options.threads);
    let senders: Vec<Sender> = (0..options.threads as u32)
        .map(|i| Sender::open(run.clone(), i, options.threads as u32, cores[i as usize]))
        .collect::<Result<_, _>>()
        .map_err(Failure::Usage)?;

    let flood = (options.flood > 0).then(|| Flood::open(run.clone())).transpose();
    let flood = flood.map_err(Failure::Usage)?;

    let (notes, heard) = mpsc::channel();
    let patience = if options.across_restarts { Patience::Restarts } else { Patience::Losses };
    let (listener, epoch, after) = (monitor.clone(), before.epoch, before.last_seq);
    // Never joined: it may sit in a read for as long as the monitor is silent.
    let follower = spawn("load-follow", move || follow(&listener, epoch, after, patience, &notes));
    drop(follower.map_err(Failure::Usage)?);
    let senders = senders.into_iter().map(|sender| spawn("load-send", move || sender.run()));
    let senders = senders.collect::<Result<Vec<_>, _>>().map_err(Failure::Usage)?;

    let flood = flood.map(|flood| spawn("load-flood", move || flood.run()));
    let flood = flood.transpose().map_err(Failure::Usage)?;
    let timers = BareTimers::start().context("starting a thread").map_err(Failure::Usage)?;
    let mut watch = Watch::new(&run, heard, before.last_seq);
    watch.until_sent(&monitor, &senders);
    let mut sent = merge(senders);
    sent.flooded = flood.map_or(0, |flood| flood.join().unwrap_or(0));
    watch.until_left(sent.byes);
    watch
        .until_ns(|absences| last_deadline(&run.rules, excused(options, absences), &sent.silences));
    // The watch's own connection may be one that a killed monitor left behind.
    let after = monitor.summary().or_else(|_| monitor.summary());
    match &after {
        Ok(after) => watch.until_seq(after.last_seq),
        Err(error) => {
            watch.broken.get_or_insert(format!("the monitor is gone: {error:#}"));
        }
    }
    let after = after.unwrap_or_else(|_| before.clone());
    if let Some(why) = unheard(options, (&before, &after), sent.sent, &watch.registered) {
        watch.broken.get_or_insert(why);
    }
    let bare = timers.finish();
    let absences = excused(options, &watch.absences);
    let mut verdict = judge(&run.rules, absences, &sent.silences, &watch.sightings);
    verdict.follow_lives(
        &run.rules,
        &sent.sent_for,
        sent.byes_from_ns,
        &sent.silences,
        &watch.sightings,
    );
    let report = compose(options, &run, &watch, &sent, &bare, &verdict, (&before, &after));
    Ok(Outcome { report, verdict, send_lateness: sent.lateness })
}

fn warn(text: &str) {
    terminal::say(&format!("systole-load: {text}"));
}

/// Why none of our heartbeats came to anything, if none did.
fn unheard(
    options: &Options,
    (before, after): (&Summary, &Summary),
    sent: u64,
    registered: &[bool],
) -> Option<String> {
    if sent == 0 || registered.iter().any(|up| *up) {
        return None;
    }
    // Others may beat beside us, so that its count of heartbeats goes on.
    let dropped = dropped(before, after);
    let refused = |why: &str| dropped.get(why).copied().unwrap_or(0);
    match &options.key_file {
        None if refused("unauthenticated") > 0 => Some(format!(
            "none of our heartbeats was taken, and {} were refused as unauthenticated: the monitor \
             asks for tags (--auth required); give --key FILE, a file of one of its keys",
            report::count(refused("unauthenticated"))
        )),
        Some(file) if refused("unknown_key") + refused("bad_tag") > 0 => Some(format!(
            "none of our heartbeats was taken: is the key in --key {} one of the monitor's?",
            file.display()
        )),
        _ if after.heartbeats > before.heartbeats => None,
        _ => Some(format!(
            "none of our heartbeats reached the monitor: it listens on {}, we sent to {}",
            before.udp.join(", "),
            options.to
        )),
    }
}

/// Options and the monitor's settings to a plan that starts in a moment.
fn prepare(options: &Options, before: &Summary, stop: Arc<AtomicBool>) -> anyhow::Result<Run> {
    let timing = &before.timing;
    let ns = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 8);
    let interval_us = options.interval.as_micros() as u64;
    // As the wire carries it: long intervals are rounded up to whole seconds.
    let interval_us = decode_interval(encode_interval(interval_us)).unwrap_or(interval_us);
    let interval_ns = interval_us * 1_000;
    let timeout_ns = (interval_ns as f64 * timing.missed) as u64 + timing.grace_ns;
    let mut rules = Rules::new(timeout_ns, ns(options.slack));
    if options.across_restarts {
        rules.early_ns = interval_ns;
        let one_more_ns = (interval_ns + timing.grace_ns) as f64 / timing.suspect_at;
        rules.one_more_ns = timeout_ns.min(one_more_ns as u64);
    }
    let silenced = options.kill + options.flap;
    if let (Some(hold), Some(settings)) =
        (brake::hold(before.mass_silence, options.senders, silenced), &before.mass_silence)
    {
        warn(&brake::warning(settings, options.senders, silenced));
        rules.hold_ns = ns(hold);
    } else if before.alarms.held > 0
        && let Some(settings) = &before.mass_silence
    {
        warn(&brake::is_on(settings, before.alarms.held));
        rules.hold_ns = settings.hold_ns;
    }
    let default_flap_ns = timeout_ns + interval_ns.max(250_000_000);
    let flap_for_ns = options.flap_for.map_or(default_flap_ns, ns);
    let duration_ns = ns(options.duration);
    if options.flap > 0 && flap_for_ns > duration_ns {
        return Err(anyhow!(
            "--flap-for {}: longer than the load; raise --duration {:?}",
            report::nanos(flap_for_ns),
            options.duration
        ));
    }
    let ramp_ns = ns(options.ramp);
    let mut end_ns = ramp_ns + duration_ns;
    if options.kill > 0 {
        let deadlines = ramp_ns + ns(options.kill_at) + timeout_ns;
        end_ns = end_ns.max(deadlines + rules.hold_ns + rules.slack_ns + rules.slop_ns);
    }
    if options.flap > 0 {
        end_ns += rules.slack_ns;
    }
    let peers = Peers::new(&options.prefix, &options.group, options.senders);
    let mut figures = Figures {
        seed: options.seed,
        senders: options.senders,
        interval_ns,
        ramp_ns,
        duration_ns,
        jitter: options.jitter,
        loss: options.loss,
        reorder: options.reorder,
        duplicate: options.duplicate,
        hello_every: options.hello_every,
        kill: options.kill,
        kill_at_ns: ramp_ns + ns(options.kill_at),
        kill_together: options.kill_together,
        flap: options.flap,
        flap_for_ns,
        restart: options.restart,
        start_wall_ns: 0,
    };
    let start_ns = clock::monotonic_ns() + LEAD_NS;
    figures.start_wall_ns = start_ns.saturating_add_signed(clock::wall_offset_ns());
    Ok(Run {
        plan: Arc::new(Plan::new(figures)),
        peers,
        rules,
        to: options.to,
        start_ns,
        end_ns,
        sources: options.sources,
        spread_addresses: options.spread_addresses,
        segments: options.gso,
        key: options.key.clone(),
        flood: options.flood,
        stop,
        sent: AtomicU64::new(0),
    })
}

fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> anyhow::Result<JoinHandle<T>> {
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(work).context("cannot start a thread: ask for fewer --threads")
}

fn merge(senders: Vec<JoinHandle<Sent>>) -> Sent {
    let mut all = Sent { byes_from_ns: u64::MAX, ..Sent::default() };
    for sender in senders {
        let part = sender.join().expect("a sender thread panicked; its message is above");
        all.sent += part.sent;
        all.sent_for.extend(part.sent_for);
        all.byes_from_ns = all.byes_from_ns.min(part.byes_from_ns);
        all.refused += part.refused;
        all.byes += part.byes;
        all.mischief.lost += part.mischief.lost;
        all.mischief.reordered += part.mischief.reordered;
        all.mischief.duplicated += part.mischief.duplicated;
        all.mischief.restarted += part.mischief.restarted;
        all.silences.extend(part.silences);
        all.lateness.merge(&part.lateness);
        all.cpu_ns += part.cpu_ns;
        all.load_ns = all.load_ns.max(part.load_ns);
    }
    all
}

/// By when the last of the killed has to be visible. The planned end covers it, unless the senders
/// were so late that the killed went on beating.
fn last_deadline(rules: &Rules, absences: &Absences, silences: &[Silence]) -> u64 {
    let last =
        silences.iter().filter(|silence| silence.cause == Cause::Kill).max_by_key(|s| s.from_ns);
    last.map_or(0, |last| rules.deadline_ns(last, absences) + rules.hold_ns + rules.slack_ns)
}

/// Absences of the monitor count only where they were announced: otherwise a broken stream is no
/// excuse.
fn excused<'a>(options: &Options, absences: &'a Absences) -> &'a Absences {
    const NONE: &Absences = &Absences::NONE;
    if options.across_restarts { absences } else { NONE }
}

fn compose(
    options: &Options,
    run: &Run,
    watch: &Watch<'_>,
    sent: &Sent,
    bare: &Lateness,
    verdict: &Verdict,
    (before, after): (&Summary, &Summary),
) -> Report {
    let was_replaced = after.started != before.started;
    let counted_before = if was_replaced { 0 } else { before.heartbeats };
    let accepted = after.heartbeats.saturating_sub(counted_before);
    let (offered, applied) = watch.rates(sent.sent, accepted, sent.load_ns);
    let f = &run.plan.figures;
    let killed_at = (f.start_wall_ns + f.kill_at_ns) as i128;
    let killed_at = jiff::Timestamp::from_nanosecond(killed_at).ok();
    let names = |numbers: &[u32]| run.peers.names(numbers);
    let figures = |values: &[u64]| report::Figures::exact(&mut values.to_vec());
    Report {
        agrees: verdict.agrees() && watch.broken.is_none(),
        broken: watch.broken.clone(),
        interrupted: run.stop.load(Ordering::Relaxed),
        version: env!("CARGO_PKG_VERSION"),
        seed: options.seed,
        senders: options.senders,
        interval_ns: f.interval_ns,
        timeout_ns: run.rules.timeout_ns,
        load_ns: sent.load_ns,
        monitor: MonitorReport {
            version: before.version.clone(),
            id: before.monitor.clone(),
            transport: before.transport.clone(),
            reactors: before.reactors,
            timing: before.timing,
        },
        sent: sent.sent,
        refused: sent.refused,
        offered_per_second: offered,
        accepted,
        was_replaced,
        accepted_per_second: applied,
        registered: watch.registered.iter().filter(|up| **up).count() as u64,
        killed: verdict.killed,
        killed_at: killed_at.filter(|_| verdict.killed > 0).map(|time| format!("{time:.9}")),
        detected: verdict.detected,
        missed: verdict.missed.len() as u64,
        missed_names: names(&verdict.missed),
        false_alarms: verdict.false_alarms.len() as u64,
        false_alarm_names: names(&verdict.false_alarms),
        resurrected: verdict.resurrected.len() as u64,
        resurrected_names: names(&verdict.resurrected),
        unknown: verdict.unknown.len() as u64,
        unknown_names: names(&verdict.unknown),
        dismissed: verdict.dismissed.len() as u64,
        dismissed_names: names(&verdict.dismissed),
        lapses: verdict.lapses,
        lapses_detected: verdict.lapses_detected,
        lapses_missed: verdict.lapses_missed.len() as u64,
        lapses_missed_names: names(&verdict.lapses_missed),
        monitor_absences: watch.absences.count(),
        monitor_absent_ns: watch.absences.total_ns(),
        generator_stalls: verdict.generator_stalls,
        stall_alarms: verdict.stall_alarms,
        byes: sent.byes,
        flooded: sent.flooded,
        left: watch.left,
        lost: sent.mischief.lost,
        reordered: sent.mischief.reordered,
        duplicated: sent.mischief.duplicated,
        restarted: sent.mischief.restarted,
        kernel_drops: after.kernel_drops.saturating_sub(before.kernel_drops),
        dropped: dropped(before, after),
        lateness_ns: figures(&verdict.lateness_ns),
        detection_time_ns: figures(&verdict.detection_ns),
        visible_ns: figures(&verdict.visible_ns),
        send_lateness_ns: report::Figures::of(&sent.lateness.to_hdr()),
        bare_sleep_ns: report::Figures::of(&bare.sleep.to_hdr()),
        bare_hybrid_ns: report::Figures::of(&bare.hybrid.to_hdr()),
        cpu_ns_per_send: sent.cpu_ns as f64 / sent.sent.max(1) as f64,
        cpu_cores: sent.cpu_ns as f64 / sent.load_ns.max(1) as f64,
    }
}

/// What the monitor dropped and refused between two summaries, by reason.
fn dropped(before: &Summary, after: &Summary) -> BTreeMap<String, u64> {
    let earlier = |why: &String| before.dropped.get(why).copied().unwrap_or(0);
    let during = after.dropped.iter().map(|(why, n)| (why.clone(), n.saturating_sub(earlier(why))));
    during.filter(|(_, n)| *n > 0).collect()
}
