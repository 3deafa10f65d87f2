//! `/metrics`: everything that is counted, for Prometheus, in the OpenMetrics text format.
//!
//! Nothing is kept for it: a scrape reads the reactors' counters as they are. No label depends on a
//! peer, and so many groups as the settings say have series of their own: a million peers in ten
//! thousand groups make no more series than that.

use super::Monitor;
use super::error::ApiError;
use super::subscribers::Subscribers;
use crate::clock;
use crate::control::figures::{
    SCRAPE_BOUNDS_NS, by_reason, coarse, drop_reason, plain_counters, refusal_reason,
};
use crate::control::report::{QualityRow, Scoped};
use crate::control::survey::Tally;
use crate::control::{ControlState, LISTED};
use crate::metrics::HistogramKind;
use crate::wire::Status;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeGaugeValue, MetricEncoder, NoLabelSet, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;
use std::fmt;

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// `GET /metrics`.
pub(super) async fn scrape(State(monitor): State<Monitor>) -> Result<Response, ApiError> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape(monitor)));
    let mut body = String::with_capacity(32 << 10);
    text::encode(&mut body, &registry)
        .map_err(|_| ApiError::internal("the metrics could not be written"))?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], body).into_response())
}

/// Reads the monitor when it is scraped.
struct Scrape(Monitor);

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scrape")
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let (state, to) = (&*self.0.state, &mut encoder);
        monitor(state, to)?;
        subscribers(&self.0.subscribers, to)?;
        peers(state, to)?;
        alarms(state, to)?;
        quality(state, to)?;
        reasons(state, to)?;
        per_reactor(state, to)?;
        histograms(state, to)?;
        process(state, to)
    }
}

fn monitor(state: &ControlState, to: &mut DescriptorEncoder) -> fmt::Result {
    let mut info = to.encode_descriptor(
        "systole_build",
        "The monitor's version and identity",
        None,
        MetricType::Info,
    )?;
    let monitor = format!("{:016x}", state.config.monitor_id);
    info.encode_info(&[
        ("version", env!("CARGO_PKG_VERSION")),
        ("monitor", &monitor),
        ("transport", state.transport()),
    ])?;
    let uptime = state.uptime_ns() as f64 / 1e9;
    gauge(to, "systole_uptime_seconds", "Time since the monitor's start", uptime)?;
    let clock = clock::wall_ns() as f64 / 1e9;
    gauge(to, "systole_clock_seconds", "The monitor's wall clock, seconds since 1970", clock)?;
    let most = state.config.max_peers as i64;
    gauge(to, "systole_max_peers", "Most peers that the monitor takes", most)?;
    let named = state.registry.len() as i64;
    gauge(to, "systole_named_peers", "Peers whose name is known", named)?;
    let seq = state.events.newest() as i64;
    gauge(to, "systole_last_sequence", "The last transition's sequence number", seq)
}

fn subscribers(subscribers: &Subscribers, to: &mut DescriptorEncoder) -> fmt::Result {
    let now = subscribers.now() as i64;
    gauge(to, "systole_subscribers", "Who follows the event stream now", now)?;
    let most = subscribers.most() as i64;
    gauge(to, "systole_max_subscribers", "Most that may follow the event stream at once", most)?;
    let help = "Event streams refused because as many as may were open";
    let name = "systole_subscribers_refused";
    counter(to.encode_descriptor(name, help, None, MetricType::Counter)?, subscribers.refused())
}

fn peers(state: &ControlState, to: &mut DescriptorEncoder) -> fmt::Result {
    let mut family =
        to.encode_descriptor("systole_peers", "Peers by state", None, MetricType::Gauge)?;
    for kept in LISTED {
        let labels = [("state", kept.as_str())];
        family.encode_family(&labels)?.encode_gauge(&(state.peers_in(kept) as i64))?;
    }
    let mut fleet = Tally::default();
    state.tallies.all().iter().for_each(|group| fleet.add(group));
    let help = "Living peers by the status that they give, as last surveyed";
    let mut family = to.encode_descriptor("systole_peer_status", help, None, MetricType::Gauge)?;
    for status in Status::ALL {
        let labels = [("status", status.as_str())];
        family.encode_family(&labels)?.encode_gauge(&i64::from(fleet.saying(status)))?;
    }
    let help = "Transitions by the states that they lead from and to";
    let mut family =
        to.encode_descriptor("systole_transitions", help, None, MetricType::Counter)?;
    for (from, to, n) in state.transitions.occurred() {
        let labels = [("from", from.as_str()), ("to", to.as_str())];
        counter(family.encode_family(&labels)?, n)?;
    }
    Ok(())
}

/// What alarms now, and what keeps from it.
fn alarms(state: &ControlState, to: &mut DescriptorEncoder) -> fmt::Result {
    let alarms = state.summary().alarms;
    for (name, help, n) in [
        ("systole_incidents_open", "Incidents that are open", alarms.incidents),
        ("systole_peers_held", "Suspects held since too many fell silent at once", alarms.held),
        ("systole_peers_flapping", "Peers that flap", alarms.flapping),
        ("systole_peers_in_conflict", "Peers that have two senders", alarms.in_conflict),
        ("systole_expectations_missing", "Expectations that are not met", alarms.missing),
        ("systole_silences", "Silences that hold", alarms.silences),
    ] {
        gauge(to, name, help, n as i64)?;
    }
    let (refused, untracked, untold) = {
        let alarms = state.alarms();
        let untracked = alarms.flapping.untracked() + alarms.qos.untracked();
        (alarms.incidents.refused(), untracked, alarms.conflicts.untold())
    };
    for (name, help, n) in [
        ("systole_incidents_refused", "Incidents not opened: as many as may be are", refused),
        (
            "systole_groups_refused",
            "Peers left without their group or parent",
            state.groups.refused(),
        ),
        (
            "systole_changes_untracked",
            "Changes of peers that found no room of their own",
            untracked,
        ),
        (
            "systole_conflicts_untold",
            "Findings of a second sender of which nothing was told: as many as may be are",
            untold,
        ),
        (
            "systole_state_files_damaged",
            "Files of the state that were damaged, and begun anew or cut off",
            state.damaged(),
        ),
    ] {
        counter(to.encode_descriptor(name, help, None, MetricType::Counter)?, n)?;
    }
    Ok(())
}

/// Chen's metrics of the fleet and of the largest groups; the rest is one, `other`. A scrape needs
/// few series, whatever the senders call their groups.
fn quality(state: &ControlState, to: &mut DescriptorEncoder) -> fmt::Result {
    let rows = state.quality_rows();
    let labels: Vec<Vec<(&str, &str)>> = rows
        .iter()
        .map(|row| match &row.label {
            Scoped::Fleet => vec![("scope", "fleet")],
            Scoped::Group(name) => vec![("scope", "group"), ("group", name)],
            Scoped::Other => vec![("scope", "other")],
        })
        .collect();
    for (name, help, of) in COUNTED {
        let mut family = to.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (row, labels) in rows.iter().zip(&labels) {
            let exemplar = None::<&Exemplar<NoLabelSet, f64>>;
            family.encode_family(&labels.as_slice())?.encode_counter(&of(row), exemplar)?;
        }
    }
    let help = "Peers that are up or suspect";
    let mut family = to.encode_descriptor("systole_living_peers", help, None, MetricType::Gauge)?;
    for (row, labels) in rows.iter().zip(&labels) {
        let living = i64::from(row.tally.living());
        family.encode_family(&labels.as_slice())?.encode_gauge(&living)?;
    }
    let help = "Spread of arrivals as the detectors have learnt it, the mean over the peers";
    let mut family =
        to.encode_descriptor("systole_jitter_seconds", help, None, MetricType::Gauge)?;
    for (row, labels) in rows.iter().zip(&labels) {
        if let Some(jitter_ns) = row.tally.jitter_ns() {
            family.encode_family(&labels.as_slice())?.encode_gauge(&(jitter_ns / 1e9))?;
        }
    }
    Ok(())
}

type Of = fn(&QualityRow) -> f64;
/// What is counted of the fleet and of groups. Rates and means are the reader's to make, over the
/// time that it wants.
const COUNTED: [(&str, &str, Of); 6] = [
    ("systole_mistakes", "Calls of down that a heartbeat of the same incarnation ended", |row| {
        row.totals.wrong.mistakes as f64
    }),
    ("systole_mistake_seconds", "How long those held, in sum", |row| {
        row.totals.wrong.mistake_ns as f64 / 1e9
    }),
    (
        "systole_wrong_suspicions",
        "Suspicions that a heartbeat of the same incarnation ended",
        |row| row.totals.wrong.suspicions as f64,
    ),
    ("systole_watched_seconds", "Time that living peers were watched, in sum", |row| {
        row.totals.watched_ns / 1e9
    }),
    ("systole_detections", "Calls of down, right and wrong", |row| row.totals.detections as f64),
    ("systole_detection_seconds", "Their detection times, in sum", |row| {
        row.totals.detection_ns as f64 / 1e9
    }),
];

/// What was dropped or refused, by reason; also the reasons that never occurred, so that an alert
/// can be written before the day it is needed.
fn reasons(state: &ControlState, to: &mut DescriptorEncoder) -> fmt::Result {
    let mut family = |name, help, reason_of| {
        let mut family = to.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (reason, n) in by_reason(state, reason_of) {
            counter(family.encode_family(&[("reason", reason)])?, n)?;
        }
        Ok(())
    };
    let dropped = "Datagrams dropped by the monitor, by reason";
    family("systole_datagrams_dropped", dropped, drop_reason)?;
    let refused = "Well-formed heartbeats refused, by reason";
    family("systole_heartbeats_refused", refused, refusal_reason)
}

fn per_reactor(state: &ControlState, to: &mut DescriptorEncoder) -> fmt::Result {
    let numbers: Vec<String> = (0..state.reactors().len()).map(|i| i.to_string()).collect();
    let reactors = || numbers.iter().zip(state.reactors());
    for of in plain_counters() {
        let name = format!("systole_{}", of.label());
        let mut family = to.encode_descriptor(
            &name,
            of.help().trim_end_matches('.'),
            None,
            MetricType::Counter,
        )?;
        for (number, reactor) in reactors() {
            let labels = [("reactor", number.as_str())];
            counter(family.encode_family(&labels)?, reactor.counters.get(of))?;
        }
    }
    let help = "Reports that wait for the publisher";
    let mut family =
        to.encode_descriptor("systole_reports_waiting", help, None, MetricType::Gauge)?;
    for (number, reactor) in reactors() {
        let labels = [("reactor", number.as_str())];
        family.encode_family(&labels)?.encode_gauge(&(reactor.reports.len() as i64))?;
    }
    Ok(())
}

fn histograms(state: &ControlState, to: &mut DescriptorEncoder) -> fmt::Result {
    for &kind in HistogramKind::ALL {
        let counts = state.histogram(kind);
        let bounds = SCRAPE_BOUNDS_NS.iter().map(|&ns| ns as f64 / 1e9).chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(coarse(&counts)).collect();
        let name = format!("systole_{}_seconds", kind.label().trim_end_matches("_ns"));
        let help = kind.help().trim_end_matches('.');
        let mut metric = to.encode_descriptor(&name, help, None, MetricType::Histogram)?;
        let sum = counts.sum_ns() as f64 / 1e9;
        metric.encode_histogram::<NoLabelSet>(sum, counts.count(), &buckets, None)?;
    }
    Ok(())
}

/// The process, under the names that every Prometheus client uses.
fn process(state: &ControlState, to: &mut DescriptorEncoder) -> fmt::Result {
    if let Some(rss) = resident_bytes() {
        gauge(to, "process_resident_memory_bytes", "Resident memory", rss as i64)?;
    }
    let started = state.config.started_wall_ns as f64 / 1e9;
    gauge(to, "process_start_time_seconds", "Start, seconds since 1970", started)?;
    let help = "User and system time";
    let mut cpu = to.encode_descriptor("process_cpu_seconds", help, None, MetricType::Counter)?;
    cpu.encode_counter::<NoLabelSet, _, f64>(&cpu_seconds(), None)
}

/// Resident memory of this process (proc_pid_statm(5)).
fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    // SAFETY: sysconf has no preconditions.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    Some(pages * u64::try_from(page).ok()?)
}

/// Processor time of this process (CLOCK_PROCESS_CPUTIME_ID is user and system time together).
fn cpu_seconds() -> f64 {
    clock::process_cpu_ns() as f64 / 1e9
}

fn gauge(
    to: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    value: impl EncodeGaugeValue,
) -> fmt::Result {
    to.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
}

fn counter(mut metric: MetricEncoder<'_>, value: u64) -> fmt::Result {
    metric.encode_counter(&value, None::<&Exemplar<NoLabelSet, f64>>)
}
