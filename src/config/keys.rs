//! The one table of keys: name, default, range and meaning of every setting of the monitor.

/// One setting: a flag, an environment variable and a key of the file at once.
#[derive(Debug, PartialEq, Eq)]
pub struct Key {
    /// Name as the flag has it, without `--`. `_` for `-` in the file; upper case, `_` for `-` and
    /// `SYSTOLE_` before it in the environment.
    pub name: &'static str,
    /// Placeholder of its value in the help.
    pub value: &'static str,
    /// The default as text, comma-separated where there are several; empty when there is none.
    pub default: &'static str,
    /// What is allowed, worded to follow "give".
    pub allowed: &'static str,
    /// What it means, in a line or two.
    pub help: &'static str,
    /// Whether it takes several values: repeated or comma-separated, an array in the file.
    pub several: bool,
}

impl Key {
    /// Its name in the environment: `SYSTOLE_MAX_PEERS`.
    pub fn variable(&self) -> String {
        format!("SYSTOLE_{}", self.name.replace('-', "_").to_uppercase())
    }
}

const fn key(
    name: &'static str,
    value: &'static str,
    default: &'static str,
    allowed: &'static str,
    help: &'static str,
) -> Key {
    Key { name, value, default, allowed, help, several: false }
}

/// Placeholder of a setting whose flag may stand alone, for `yes`.
pub const SWITCH: &str = "yes|no";

/// Every key of the monitor.
pub const KEYS: &[Key] = &[
    key("config", "FILE", "", "the path of a TOML file", "TOML file with any of these settings"),
    Key {
        name: "udp",
        value: "ADDR",
        default: "0.0.0.0:4600,[::]:4600",
        allowed: "IP:PORT, like 0.0.0.0:4600 or [::1]:4600 (port 0 takes a free one)",
        help: "UDP address to receive heartbeats on; several may be given",
        several: true,
    },
    key(
        "http",
        "ADDR",
        "127.0.0.1:4680",
        "IP:PORT, like 127.0.0.1:4680 (port 0 takes a free one)",
        "address of the HTTP API and the dashboard",
    ),
    key(
        "interval",
        "DURATION",
        "1s",
        "a duration from 1ms to 90d, like 250ms, 3s or 1d",
        "interval of senders that do not state their own",
    ),
    key(
        "missed",
        "N",
        "3",
        "a number from 1 to 1000, like 3 or 2.5",
        "intervals that a peer may miss: timeout = missed x its interval + grace",
    ),
    key(
        "grace",
        "DURATION",
        "50ms",
        "a duration from 0ms to 1h, like 50ms",
        "added to every timeout, for the network and the sender's scheduler",
    ),
    key(
        "suspect-at",
        "SHARE",
        "0.7",
        "a share from 0.01 to 1, like 0.7 or 70% (1 turns suspicion off)",
        "share of the timeout after which a silent peer is suspected",
    ),
    key(
        "timeout",
        "DURATION",
        "auto",
        "`auto` or a duration from 1ms to 1000d, like 5s",
        "a timeout for everybody instead of missed x interval; the grace is added",
    ),
    key(
        "detector",
        "NAME",
        "fixed",
        "one of fixed, chen, bertier, phi, blend",
        "how the deadline is found; all but fixed allow missed - 1 intervals after the expected arrival",
    ),
    key(
        "threshold",
        "PHI",
        "8",
        "a number from 0.01 to 1000, like 8",
        "for --detector phi: the level at which a peer is down",
    ),
    key(
        "margin",
        "DURATION",
        "0s",
        "a duration from 0s to 1000d, like 100ms",
        "for --detector chen: added to what may be missed",
    ),
    key(
        "deviations",
        "N",
        "8",
        "a number from 0 to 1000, like 8",
        "for --detector blend: the margin, in mean errors of its forecast",
    ),
    key(
        "floor",
        "DURATION",
        "0ms",
        "a duration from 0ms to 1000d, like 500ms; no more than the ceiling",
        "no timeout is shorter, whatever the interval",
    ),
    key(
        "ceiling",
        "DURATION",
        "1000d",
        "a duration from 0ms to 1000d, like 1h; no less than the floor",
        "no timeout is longer, whatever the interval",
    ),
    key(
        "mass-silence",
        "SHARE",
        "0.5",
        "`off` or a share from 0.01 to 1, like 0.5 or 50%",
        "hold peers as suspect when so large a share of the fleet or a group falls silent at once",
    ),
    key(
        "mass-silence-least",
        "N",
        "100",
        "a whole number from 2 to 4294967295",
        "mass silence is no fewer peers than this",
    ),
    key(
        "mass-silence-hold",
        "DURATION",
        "2m",
        "a duration from 0ms to 30d, like 2m",
        "how long they are held at most; then they are called down",
    ),
    key(
        "max-peers",
        "N",
        "1000000",
        "a whole number from 1 to 134217728",
        "most peers to keep; newcomers beyond it are refused and counted",
    ),
    key(
        "auth",
        "RULE",
        "off",
        "one of off, optional, required; the latter two need --keys",
        "whether heartbeats must be tagged: no (off), once a peer has been (optional), yes (required)",
    ),
    key(
        "keys",
        "FILE",
        "",
        "the path of a file that `systole keygen` made, not open to everybody",
        "keys of senders; read again on SIGHUP",
    ),
    key(
        "newcomers-per-source",
        "RATE",
        "off",
        "`off` or a rate from 1/s to 1000000/s, like 1000/s",
        "most new peers from one source address (of IPv6: 64 bits of it)",
    ),
    key(
        "newcomers-per-key",
        "RATE",
        "off",
        "`off` or a rate from 1/s to 1000000/s, like 1000/s",
        "most new peers by one key",
    ),
    key(
        "newcomers-fresh",
        "DURATION",
        "off",
        "`off` or a duration from 1s to 1d, like 30s",
        "how long ago an authenticated newcomer may say it has sent; needs clocks that agree",
    ),
    key(
        "reactors",
        "N",
        "auto",
        "`auto` or a whole number from 1 to 256",
        "pinned receive threads; auto is one per core but one",
    ),
    key(
        "transport",
        "KIND",
        "auto",
        "one of auto, uring, poll, xdp",
        "receive path: io_uring, recvmmsg (poll), AF_XDP (xdp, needs --interface), or the best that \
         works here (auto)",
    ),
    Key {
        name: "interface",
        value: "NAME[:QUEUES]",
        default: "",
        allowed: "an interface and its receive queues, like eth1, eth1:2 or eth1:0-3",
        help: "interface to receive from past the kernel's network stack (AF_XDP); several may be given",
        several: true,
    },
    key(
        "xdp-mode",
        "MODE",
        "auto",
        "one of auto, zero-copy, native, generic",
        "how AF_XDP gets frames: written by the device, copied in the driver, behind it, or the best \
         that works (auto)",
    ),
    key(
        "xdp-frames",
        "N",
        "8192",
        "a power of two from 64 to 65536",
        "datagrams that may wait in each AF_XDP queue; 2 KiB of locked memory each",
    ),
    key(
        "xdp-busy-poll",
        SWITCH,
        "no",
        "yes or no",
        "have the reactor drive the device's queue, instead of interrupts; for --idle spin",
    ),
    key(
        "xdp-checksum",
        SWITCH,
        "no",
        "yes or no",
        "check UDP's checksum of what AF_XDP brings; never between virtual interfaces (veth)",
    ),
    key(
        "idle",
        "POLICY",
        "hybrid",
        "one of hybrid, spin, sleep",
        "how to wait for a deadline: sleep then poll (hybrid), poll only (spin), sleep only (sleep)",
    ),
    key(
        "forget-down",
        "DURATION",
        "7d",
        "a duration from 1s to 1000d, like 7d",
        "forget a peer that has been down for so long",
    ),
    key(
        "forget-left",
        "DURATION",
        "1h",
        "a duration from 1s to 1000d, like 1h",
        "forget a peer that left so long ago",
    ),
    key(
        "receive-buffer",
        "SIZE",
        "64MiB",
        "a size from 4KiB to 1GiB, like 64MiB",
        "receive buffer to ask of the kernel for each socket",
    ),
    key(
        "events",
        "N",
        "65536",
        "a whole number from 1 to 16777216",
        "transitions to keep for subscribers that reconnect",
    ),
    key(
        "metrics-groups",
        "N",
        "100",
        "a whole number from 0 to 10000",
        "groups with metrics of their own, the largest; the others are one, `other`",
    ),
    key(
        "record",
        "FILE",
        "",
        "the path of a file to write",
        "record every arrival there, for `systole replay` and `systole tune`",
    ),
    key(
        "record-size",
        "SIZE",
        "256MiB",
        "a size from 64KiB to 1024GiB, like 256MiB",
        "begin a new file when the recording has this size; the one before becomes FILE.1",
    ),
    key(
        "record-files",
        "N",
        "4",
        "a whole number from 1 to 1000",
        "how many full files the recording may be in all; the oldest go",
    ),
    key(
        "monitor-id",
        "HEX",
        "random",
        "`random` or 1 to 16 hex digits, like 00000000000000a1",
        "id of this monitor, in every transition",
    ),
    key(
        "state-dir",
        "DIR",
        "auto",
        "a directory, `auto` (in memory, for this user and address) or `none`",
        "where peers, names and transitions are kept over a restart",
    ),
    key(
        "takeover",
        SWITCH,
        "no",
        "yes or no",
        "take sockets and state over from the monitor that uses the state directory",
    ),
    key("log-format", "FORMAT", "text", "one of text, json", "how log lines (stderr) look"),
    key(
        "log-level",
        "LEVEL",
        "info",
        "off, error, warn, info, debug, trace, or a filter like info,systole::io=debug",
        "how much to log",
    ),
];
