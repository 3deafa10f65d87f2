//! `systole plan`: what a fleet would cost, in cores, memory and network.
//!
//! ```text
//!  fleet (peers, interval, names, tags, relays) ─▶ Demand ─▶ by Costs ─▶ Bill ─▶ table or JSON
//! ```
//!
//! Arithmetic only. The costs are measured ones, of the machine that `docs/capacity.md` names; it says
//! how to measure one's own, and each can be given as an option.

mod bill;
mod costs;

use self::bill::{Bill, Fleet, Way};
use self::costs::Costs;
use super::terminal::{self, Terminal};
use super::{Failure, words};
use crate::config::value;
use comfy_table::Cell;
use serde::Serialize;
use std::fmt::Write;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  systole plan --peers 10M --interval 1s
  systole plan --peers 50k --interval 100ms --tagged --nic 1G
  systole plan --peers 100M --interval 10s --children 10k --json
";

const AFTER: &str = "\
Costs were measured on a virtual machine with two shared cores; yours differ. docs/capacity.md says how \
each was measured and how to measure your own.";

/// What was given as flags.
#[derive(clap::Args, Debug)]
#[command(before_long_help = EXAMPLES, after_long_help = AFTER)]
pub struct PlanArgs {
    /// Peers of the fleet, like 50k, 10M or 2500000.
    #[arg(long, value_name = "N", value_parser = peers)]
    peers: u64,
    /// The interval of their heartbeats.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = interval)]
    interval: Duration,
    /// Heartbeats carry a tag, and it is checked.
    #[arg(long)]
    tagged: bool,
    /// Bytes of a name and its group and labels, on average.
    #[arg(long, value_name = "BYTES", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1_420))]
    name_bytes: u32,
    /// Peers behind each relay, in the plan with relays.
    #[arg(long, value_name = "N", default_value = "1000", value_parser = peers)]
    children: u64,
    /// How long a relay may hold a heartbeat back.
    #[arg(long, value_name = "DURATION", default_value = "5ms", value_parser = delay)]
    relay_delay: Duration,
    /// The network that the monitor has, bits a second.
    #[arg(long, value_name = "BITS", default_value = "10G", value_parser = bits)]
    nic: u64,
    /// Share of a core that steady load may take, so that storms and restarts have room.
    #[arg(long, value_name = "SHARE", default_value_t = 0.5, value_parser = share)]
    load: f64,
    /// What a datagram costs a reactor on your machine, nanoseconds.
    #[arg(long, value_name = "NS", value_parser = nanoseconds)]
    datagram_ns: Option<f64>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Answer {
    #[serde(flatten)]
    fleet: Fleet,
    costs: Costs,
    direct: Bill,
    relayed: Bill,
}

/// Prints what a fleet would cost.
///
/// # Errors
/// stdout is closed.
pub fn plan(args: &PlanArgs) -> Result<u8, Failure> {
    let fleet = Fleet {
        peers: args.peers,
        interval_ns: args.interval.as_nanos() as u64,
        tagged: args.tagged,
        name_bytes: args.name_bytes,
        children: args.children.min(args.peers),
        relay_delay_ns: args.relay_delay.as_nanos() as u64,
        nic_bits: args.nic,
        load: args.load,
    };
    let measured = Costs::measured();
    let costs = args.datagram_ns.map_or(measured, |ns| measured.with_datagram_ns(ns));
    let answer = Answer {
        direct: Bill::of(&fleet, &costs, Way::Direct),
        relayed: Bill::of(&fleet, &costs, Way::Relayed),
        fleet,
        costs,
    };
    match args.json {
        true => terminal::print_json(&answer)?,
        false => terminal::print(&text(&answer, Terminal::detect()))?,
    }
    Ok(0)
}

fn text(answer: &Answer, terminal: Terminal) -> String {
    let Answer { fleet, direct, relayed, .. } = answer;
    let relays = words::plural(relayed.relays, "relay");
    let mut table =
        terminal.table(&["", "DIRECT", &format!("BY {}", relays.to_uppercase())], &[1, 2]);
    let mut row = |what: &str, of: &dyn Fn(&Bill) -> String| {
        table.add_row([Cell::new(what), Cell::new(of(direct)), Cell::new(of(relayed))]);
    };
    row("datagrams a second", &|bill| words::count(bill.datagrams_per_s.ceil() as u64));
    row("heartbeats in each", &|bill| format!("{:.1}", bill.heartbeats_per_datagram));
    row("on the wire", &|bill| format!("{}bit/s", scaled(bill.wire_bits_per_s)));
    row("of the network", &|bill| format!("{:.1} %", bill.nic_share * 100.0));
    row("reactors' time, cores", &|bill| format!("{:.2}", bill.busy_cores));
    row("reactors", &|bill| words::count(bill.reactors));
    row("memory", &|bill| bytes(bill.memory_bytes));
    row("back after a kill", &|bill| words::duration(bill.restart_ns as u64));
    row("a full receive buffer holds", &|bill| words::duration(bill.buffer_ns as u64));
    row("heard of it later by", &|bill| words::duration(bill.delay_ns));
    let mut text = format!(
        "{} every {}: {} heartbeats a second\n\n{}\n\n",
        words::plural(fleet.peers, "peer"),
        words::duration(fleet.interval_ns),
        words::count(direct.heartbeats_per_s.ceil() as u64),
        terminal::render(&table)
    );
    if fleet.peers > bill::MOST_PEERS {
        let most = words::count(bill::MOST_PEERS);
        return text + &format!("A monitor holds {most} peers at most: divide the fleet.");
    }
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "What gives way first: {}; with relays {}.\n\n\
         systole serve --max-peers {} --reactors {}    (with relays: --reactors {})",
        direct.bottleneck, relayed.bottleneck, direct.max_peers, direct.reactors, relayed.reactors
    );
    text
}

/// A number in thousands: `7.84 G`, `12.5 k`.
fn scaled(value: f64) -> String {
    let unit = [("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)].into_iter().find(|u| value >= u.1);
    let (unit, scale) = unit.unwrap_or(("", 1.0));
    format!("{:.2} {unit}", value / scale)
}

fn bytes(value: f64) -> String {
    let unit = [("TiB", 40), ("GiB", 30), ("MiB", 20)].into_iter();
    let mut unit = unit.map(|(unit, bits)| (unit, value / (1u64 << bits) as f64));
    let (unit, value) = unit.find(|(_, value)| *value >= 1.0).unwrap_or(("KiB", value / 1024.0));
    format!("{value:.1} {unit}")
}

/// A count with a decimal unit, `50k`, `2.5M`.
fn with_unit(text: &str) -> Result<f64, String> {
    let (number, scale) = match text.trim_end_matches(|c: char| "kMGT".contains(c)) {
        number if number.len() == text.len() => (number, 1.0),
        number if number.len() + 1 == text.len() => match &text[number.len()..] {
            "k" => (number, 1e3),
            "M" => (number, 1e6),
            "G" => (number, 1e9),
            _ => (number, 1e12),
        },
        _ => return Err("is not a number".into()),
    };
    let number: f64 = number.replace('_', "").parse().map_err(|_| "is not a number".to_owned())?;
    Ok(number * scale)
}

fn peers(text: &str) -> Result<u64, String> {
    let count = with_unit(text).and_then(|count| match (1.0..=1e12).contains(&count) {
        true => Ok(count.round() as u64),
        false => Err("is out of range".into()),
    });
    count.map_err(|problem| format!("{problem}; give a number from 1 to 1T, like 50k or 10M"))
}

fn bits(text: &str) -> Result<u64, String> {
    let rate = with_unit(text).and_then(|rate| match (1e3..=1e15).contains(&rate) {
        true => Ok(rate as u64),
        false => Err("is out of range".into()),
    });
    rate.map_err(|problem| format!("{problem}; give bits a second, like 1G or 25G"))
}

fn interval(text: &str) -> Result<Duration, String> {
    value::duration(text, Duration::from_micros(100), Duration::from_secs(366 * 86_400))
        .map_err(|problem| format!("{problem}; give a duration from 100us to 366d, like 1s"))
}

fn delay(text: &str) -> Result<Duration, String> {
    value::duration(text, Duration::ZERO, Duration::from_secs(10))
        .map_err(|problem| format!("{problem}; give a duration from 0s to 10s, like 5ms"))
}

fn share(text: &str) -> Result<f64, String> {
    value::number(text, 0.01, 1.0)
        .map_err(|problem| format!("{problem}; give a number from 0.01 to 1"))
}

fn nanoseconds(text: &str) -> Result<f64, String> {
    value::number(text, 1.0, 1e6)
        .map_err(|problem| format!("{problem}; give nanoseconds, like 450"))
}
