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

use self::bill::{Bill, Fleet, Limit, Way};
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
/// stdout is closed, or the fleet is more than a monitor holds.
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
    Ok(u8::from(args.peers > bill::MOST_PEERS))
}

fn text(answer: &Answer, terminal: Terminal) -> String {
    let Answer { fleet, direct, relayed, .. } = answer;
    let relays = words::plural(relayed.relays, "relay");
    let mut table =
        terminal.table(&["", "DIRECT", &format!("BY {}", relays.to_uppercase())], &[1, 2]);
    let mut row = |what: &str, values: [String; 2]| {
        let [direct, relayed] = values.map(Cell::new);
        table.add_row([Cell::new(what), direct, relayed]);
    };
    let bills = [direct, relayed];
    let [nic] = alike([fleet.nic_bits as f64], &RATES);
    row("datagrams a second", bills.map(|b| words::count(b.datagrams_per_s.ceil() as u64)));
    row("heartbeats in each", bills.map(|b| format!("{:.1}", b.heartbeats_per_datagram)));
    row("on the wire", alike(bills.map(|b| b.wire_bits_per_s), &RATES));
    let share = bills.map(|b| format!("{:.1} %", b.nic_share * 100.0));
    row(&format!("of a network of {nic} (--nic)"), share);
    row("reactors' time, cores", bills.map(|b| format!("{:.2}", b.busy_cores)));
    row("reactors", bills.map(|b| words::count(b.reactors)));
    row("memory", alike(bills.map(|b| b.memory_bytes), &SIZES));
    row("back after a kill", alike(bills.map(|b| b.restart_ns), &TIMES));
    row("a full receive buffer holds", alike(bills.map(|b| b.buffer_ns), &TIMES));
    row("heard of it later by", alike(bills.map(|b| b.delay_ns as f64), &TIMES));
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
        "When the fleet grows, there give way\n  directly: {}\n  by relays: {}\n\n\
         systole serve{} --reactors {}{}    (with relays: --reactors {})",
        limits(direct),
        limits(relayed),
        match direct.max_peers {
            bill::DEFAULT_MAX_PEERS => String::new(),
            max_peers => format!(" --max-peers {max_peers}"),
        },
        direct.reactors,
        if fleet.tagged { " --keys FILE --auth required" } else { "" },
        relayed.reactors
    );
    text
}

/// What gives way, in its order.
fn limits(bill: &Bill) -> String {
    let limit = |Limit { what, times }: &Limit| match *times {
        ..1.0 => format!("{what} already, by {} times too little", figure(1.0 / times)),
        _ => format!("{what} at {} times", figure(*times)),
    };
    bill.limits.iter().map(limit).collect::<Vec<_>>().join(", ")
}

/// Two digits, or all before the point.
fn figure(number: f64) -> String {
    match number {
        ..10.0 => format!("{number:.1}"),
        _ => words::count(number.round() as u64),
    }
}

/// A unit, and how much of the smallest it is.
type Unit = (&'static str, f64);

const RATES: [Unit; 5] =
    [("Tbit/s", 1e12), ("Gbit/s", 1e9), ("Mbit/s", 1e6), ("kbit/s", 1e3), ("bit/s", 1.0)];
const SIZES: [Unit; 4] = [
    ("TiB", 1_099_511_627_776.0),
    ("GiB", 1_073_741_824.0),
    ("MiB", 1_048_576.0),
    ("KiB", 1_024.0),
];
const TIMES: [Unit; 7] = [
    ("d", 86_400e9),
    ("h", 3_600e9),
    ("min", 60e9),
    ("s", 1e9),
    ("ms", 1e6),
    ("µs", 1e3),
    ("ns", 1.0),
];

/// The values of a row in one unit, that of the largest, to three of its digits: what stands side by
/// side is compared.
fn alike<const N: usize>(values: [f64; N], units: &[Unit]) -> [String; N] {
    let largest = values.iter().copied().fold(0.0, f64::max);
    let fits = units.iter().find(|(_, scale)| largest >= *scale).or(units.last());
    let (unit, scale) = fits.copied().unwrap_or(("", 1.0));
    let places = match largest / scale {
        ..10.0 => 2,
        10.0..100.0 => 1,
        _ => 0,
    };
    values.map(|value| {
        let text = format!("{:.places$}", value / scale);
        let text = match text.contains('.') {
            true => text.trim_end_matches('0').trim_end_matches('.'),
            false => &text,
        };
        format!("{text} {unit}")
    })
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
    value::share(text, 0.01, 1.0)
        .map_err(|problem| format!("{problem}; give a share from 0.01 to 1, like 0.5 or 50%"))
}

fn nanoseconds(text: &str) -> Result<f64, String> {
    value::number(text, 1.0, 1e6)
        .map_err(|problem| format!("{problem}; give nanoseconds, like 450"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_one_unit() {
        assert_eq!(alike([7.84e9, 2.773e8], &RATES), ["7.84 Gbit/s", "0.28 Gbit/s"]);
        assert_eq!(alike([0.0, 5e6], &TIMES), ["0 ms", "5 ms"]);
        assert_eq!(alike([995e6, 1.3e9], &TIMES), ["0.99 s", "1.3 s"]);
        assert_eq!(alike([301.4e6, 402e6], &TIMES), ["301 ms", "402 ms"]);
        assert_eq!(alike([26.4 * 1_048_576.0], &SIZES), ["26.4 MiB"]);
        assert_eq!(alike([0.0, 0.0], &TIMES), ["0 ns", "0 ns"]);
    }
}
