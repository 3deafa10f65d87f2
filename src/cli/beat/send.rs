//! Where the beats go: one socket for each monitor, kept right across DNS changes and outages.
//!
//! The only answer that a heartbeat may draw is an ICMP "nobody listens here", which the kernel
//! reports on the *next* send, without sending that. So a refused send is repeated at once: else
//! every second beat would be lost while a monitor comes back. A monitor that was in trouble is
//! sent HELLOs until a send goes through, for it is likely a fresh one that knows no names.
//!
//! Where there is a fallback the targets are relays, and are asked now and then whether they live
//! ([`Liveness`]). One that is dead is sent questions and no beats until it answers.
//!
//! Names are looked up by a thread of its own, since a dead DNS server holds up the asker for many
//! seconds, in which we must go on beating.

use super::liveness::Liveness;
use crate::wire::{Key, encode_question, is_answer};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// Port of a target that names none.
const DEFAULT_PORT: u16 = 4600;
/// How often names are looked up anew.
const RESOLVE_EVERY: Duration = Duration::from_secs(30);
/// Shortest time between two look-ups when sends fail.
const RESOLVE_AT_MOST_EVERY: Duration = Duration::from_secs(1);

/// Room for an answer, and for one byte more: what fills it is none.
const MAX_ANSWER: usize = 64;
/// Most answers read at a time.
const MOST_ANSWERS: usize = 16;

/// A monitor's address as the operator wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An address: nothing to look up.
    Literal(SocketAddr),
    /// A name and a port.
    Named(String, u16),
}

impl Address {
    /// `HOST:PORT`, `[::1]:4600`, or either without the port.
    ///
    /// # Errors
    /// The middle of a sentence that says why not.
    pub fn parse(text: &str) -> Result<Address, String> {
        const RIGHT: &str = "give HOST:PORT, like 10.0.0.1:4600, [fd00::1]:4600 or monitor:4600";
        if let Ok(address) = text.parse() {
            return Ok(Address::Literal(address));
        }
        if let Ok(ip) = text.trim_matches(['[', ']']).parse() {
            return Ok(Address::Literal(SocketAddr::new(ip, DEFAULT_PORT)));
        }
        let (host, port) = match text.rsplit_once(':') {
            None => (text, DEFAULT_PORT),
            Some((host, port)) => {
                (host, port.parse().map_err(|_| format!("has no valid port; {RIGHT}"))?)
            }
        };
        if host.is_empty() || host.contains(['/', ':', ' ', '[']) {
            return Err(format!("is not a host and port; {RIGHT}"));
        }
        Ok(Address::Named(host.to_owned(), port))
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Literal(address) => address.fmt(f),
            Address::Named(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

/// What a name means now, or why that is not known.
pub type Answer = Result<Vec<SocketAddr>, String>;

/// One monitor, or relay.
struct Target {
    address: Address,
    /// What the name means now; the literal address alone otherwise.
    addresses: Vec<SocketAddr>,
    /// There has been an answer to what the name means, if only "unknown".
    looked_up: bool,
    /// Which of them is in use.
    current: usize,
    /// Connected to it; `None` before the first send and after an error.
    socket: Option<UdpSocket>,
    /// It is sent a HELLO next, whatever the schedule says.
    wants_hello: bool,
    /// What is wrong, as last said.
    trouble: Option<String>,
    /// Whether it lives, if that is asked.
    liveness: Option<Liveness>,
    /// Sends that the kernel refused.
    unsent: u64,
    /// When the last error was.
    failed: Option<Instant>,
    /// So long without an error is the end of trouble.
    calm: Duration,
}

/// The datagram that is due, in both forms: a target may want the longer one.
#[derive(Clone, Copy, Debug)]
pub struct Datagrams<'a> {
    /// What the schedule says: a BEAT, a HELLO or a BYE.
    pub due: &'a [u8],
    /// The same heartbeat as a HELLO; empty when none may take its place (a BYE).
    pub hello: &'a [u8],
}

/// All monitors.
pub struct Targets {
    targets: Vec<Target>,
    resolver: Option<Sender<()>>,
    /// What questions are tagged with.
    key: Option<Key>,
}

impl Targets {
    /// Begins to look up the names; what the one at a place means is told to `resolved`, in a thread
    /// of its own, which ends when that answers false.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn new(
        addresses: &[Address],
        resolved: impl Fn(usize, Answer) -> bool + Send + 'static,
    ) -> io::Result<Targets> {
        let named: Vec<(usize, String, u16)> = addresses
            .iter()
            .enumerate()
            .filter_map(|(index, address)| match address {
                Address::Literal(_) => None,
                Address::Named(host, port) => Some((index, host.clone(), *port)),
            })
            .collect();
        let resolver = if named.is_empty() {
            None
        } else {
            let (wake, woken) = channel();
            std::thread::Builder::new()
                .name("resolver".into())
                .spawn(move || resolve_forever(&named, &resolved, &woken))?;
            Some(wake)
        };
        let targets = addresses.iter().cloned().map(Target::new).collect();
        Ok(Targets { targets, resolver, key: None })
    }

    /// The same, asked whether they live, by this key.
    pub fn asked(mut self, key: Option<Key>) -> Targets {
        self.key = key;
        self.targets.iter_mut().for_each(|target| target.liveness = Some(Liveness::default()));
        self
    }

    /// The same, for who sends so often that a send goes well while the refusal of the last one is still
    /// on its way: trouble is over after so long without an error.
    pub fn calm_after(mut self, calm: Duration) -> Targets {
        self.targets.iter_mut().for_each(|target| target.calm = calm);
        self
    }

    /// Reads what the targets have answered, and asks those of which it is time. To be called
    /// before each beat.
    pub fn ask(&mut self, now_ns: u64, mut draw: impl FnMut() -> u64) {
        let key = self.key.as_ref();
        self.targets.iter_mut().for_each(|target| target.ask(now_ns, key, &mut draw));
    }

    /// Whether none of them lives, as far as it is asked.
    pub fn all_dead(&self) -> bool {
        self.targets.iter().all(Target::is_dead)
    }

    /// Has each of them sent a HELLO next.
    pub fn greet(&mut self) {
        self.targets.iter_mut().for_each(|target| target.wants_hello = true);
    }

    /// Sends that the kernel refused: a full send buffer, or the trouble that was said.
    pub fn unsent(&self) -> u64 {
        self.targets.iter().map(|target| target.unsent).sum()
    }

    /// What is wrong with them, in a few words.
    pub fn complaint(&self) -> String {
        let one = |target: &Target| {
            let why = target.trouble.as_deref().unwrap_or("no answer");
            format!("{}: {why}", target.address)
        };
        self.targets.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    /// Sends to all. `say` is told when a monitor gets into trouble, and when it is out again.
    pub fn send(&mut self, datagrams: Datagrams<'_>, mut say: impl FnMut(String)) {
        for target in &mut self.targets {
            target.send(datagrams, &mut say);
        }
        let ask_anew = self.targets.iter().any(|target| target.trouble.is_some());
        if let (true, Some(resolver)) = (ask_anew, &self.resolver) {
            // The thread lives as long as this end of the channel.
            let _ = resolver.send(());
        }
    }

    /// Whether some name has not been looked up even once.
    pub fn unresolved(&self) -> bool {
        self.targets.iter().any(|target| !target.looked_up)
    }

    /// Takes what a name means now. True when that target wants its HELLO now, not with the next
    /// beat: it was unknown until now, or has moved.
    pub fn resolved(&mut self, index: usize, answer: Answer, mut say: impl FnMut(String)) -> bool {
        let target = &mut self.targets[index];
        target.looked_up = true;
        match answer {
            Ok(addresses) if !addresses.is_empty() => target.take_addresses(addresses),
            // An address that worked is better than none.
            _ if !target.addresses.is_empty() => false,
            Ok(_) => {
                target.in_trouble("the name has no address", &mut say);
                false
            }
            Err(why) => {
                target.in_trouble(&why, &mut say);
                false
            }
        }
    }
}

impl Target {
    fn new(address: Address) -> Target {
        let addresses = match &address {
            Address::Literal(literal) => vec![*literal],
            Address::Named(..) => Vec::new(),
        };
        Target {
            looked_up: !addresses.is_empty(),
            address,
            addresses,
            current: 0,
            socket: None,
            wants_hello: true,
            trouble: None,
            liveness: None,
            unsent: 0,
            failed: None,
            calm: Duration::ZERO,
        }
    }

    fn is_dead(&self) -> bool {
        let nowhere = self.looked_up && self.addresses.is_empty();
        self.liveness.as_ref().is_some_and(|liveness| liveness.is_dead() || nowhere)
    }

    fn send(&mut self, datagrams: Datagrams<'_>, say: &mut impl FnMut(String)) {
        if self.addresses.is_empty() || self.is_dead() {
            return;
        }
        match self.try_send(datagrams) {
            Ok(()) => {
                self.wants_hello = false;
                let calm = self.failed.is_none_or(|failed| failed.elapsed() >= self.calm);
                if calm && self.trouble.take().is_some() && self.liveness.is_none() {
                    say(format!("{} is reachable again", self.address));
                }
            }
            // A full send buffer, and nothing is wrong with the target.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.unsent += 1,
            Err(error) => {
                self.unsent += 1;
                self.fail(&error, say);
                if !self.is_dead() {
                    // Its failure is what the next send reports.
                    let _ = self.try_send(datagrams);
                }
            }
        }
    }

    /// Takes in that the kernel reports an error.
    fn fail(&mut self, error: &io::Error, say: &mut impl FnMut(String)) {
        let refused = error.kind() == io::ErrorKind::ConnectionRefused;
        self.wants_hello = true;
        self.failed = Some(Instant::now());
        self.in_trouble(&error.to_string(), say);
        if let (true, Some(liveness)) = (refused, &mut self.liveness) {
            liveness.refused();
        }
        if !refused || self.addresses.len() > 1 {
            self.try_another();
        }
    }

    /// A socket keeps the source address of its time: after a change of the network only a new one is
    /// right. And perhaps another address of the name is.
    fn try_another(&mut self) {
        self.socket = None;
        self.current = (self.current + 1) % self.addresses.len();
    }

    /// Reads what was answered, and asks if it is time.
    fn ask(&mut self, now_ns: u64, key: Option<&Key>, draw: impl FnOnce() -> u64) {
        if self.addresses.is_empty() {
            return;
        }
        self.hear(now_ns, key);
        let Some(liveness) = &mut self.liveness else { return };
        let Some(nonce) = liveness.ask(now_ns, draw) else { return };
        if liveness.is_dead() && self.addresses.len() > 1 {
            self.try_another();
        }
        let mut question = Vec::new();
        encode_question(nonce, key, &mut question);
        if let Err(error) = self.try_send(Datagrams { due: &question, hello: &[] }) {
            self.fail(&error, &mut |_| {});
            // As with a beat: what failed was the one before.
            let _ = self.try_send(Datagrams { due: &question, hello: &[] });
        }
    }

    /// Reads what came back, without waiting.
    fn hear(&mut self, now_ns: u64, key: Option<&Key>) {
        let mut datagram = [0; MAX_ANSWER];
        for _ in 0..MOST_ANSWERS {
            let Some(socket) = &self.socket else { return };
            let Some(liveness) = &mut self.liveness else { return };
            match socket.recv(&mut datagram) {
                Ok(length) => {
                    let nonce = liveness.asking();
                    if nonce.is_some_and(|nonce| is_answer(&datagram[..length], nonce, key)) {
                        liveness.answered(now_ns);
                        self.trouble = None;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => self.fail(&error, &mut |_| {}),
            }
        }
    }

    fn try_send(&mut self, datagrams: Datagrams<'_>) -> io::Result<()> {
        let address = self.addresses[self.current];
        let socket = match &mut self.socket {
            Some(socket) => socket,
            empty => empty.insert(connect(address)?),
        };
        let hello = self.wants_hello && !datagrams.hello.is_empty();
        socket.send(if hello { datagrams.hello } else { datagrams.due }).map(|_| ())
    }

    /// Says what is wrong, once for each new reason. Where there is a fallback, that goes over to it
    /// is what is said.
    fn in_trouble(&mut self, why: &str, say: &mut impl FnMut(String)) {
        if self.trouble.as_deref() != Some(why) {
            if self.liveness.is_none() {
                say(format!("cannot reach {}: {why}; still trying", self.address));
            }
            self.trouble = Some(why.to_owned());
        }
    }

    fn take_addresses(&mut self, addresses: Vec<SocketAddr>) -> bool {
        let in_use = self.addresses.get(self.current).copied();
        let kept = addresses.iter().position(|address| Some(*address) == in_use);
        self.addresses = addresses;
        self.current = kept.unwrap_or(0);
        if kept.is_none() {
            self.socket = None;
            self.wants_hello = true;
        }
        kept.is_none()
    }
}

fn connect(address: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(address)?;
    // A full send buffer loses one beat instead of holding up all the others.
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Looks the names up every 30 s, and soon after being woken; ends with the other end of `woken`.
fn resolve_forever(
    named: &[(usize, String, u16)],
    resolved: &dyn Fn(usize, Answer) -> bool,
    woken: &Receiver<()>,
) {
    loop {
        for (index, host, port) in named {
            let answer = (host.as_str(), *port).to_socket_addrs();
            let answer = answer.map(Iterator::collect).map_err(|error| error.to_string());
            if !resolved(*index, answer) {
                return;
            }
        }
        match woken.recv_timeout(RESOLVE_EVERY) {
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
            Ok(()) => {
                std::thread::sleep(RESOLVE_AT_MOST_EVERY);
                while woken.try_recv().is_ok() {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: Datagrams<'static> = Datagrams { due: b"beat", hello: b"hello" };

    fn receiver() -> (UdpSocket, SocketAddr) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let address = socket.local_addr().unwrap();
        (socket, address)
    }

    fn received(socket: &UdpSocket) -> String {
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).expect("a datagram arrives");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    fn targets(addresses: &[Address]) -> Targets {
        Targets::new(addresses, |_, _| true).unwrap()
    }

    #[test]
    fn addresses_as_people_write_them() {
        let literal = |text: &str| Address::Literal(text.parse().unwrap());
        assert_eq!(Address::parse("10.0.0.1:99"), Ok(literal("10.0.0.1:99")));
        assert_eq!(Address::parse("10.0.0.1"), Ok(literal("10.0.0.1:4600")));
        assert_eq!(Address::parse("[::1]:99"), Ok(literal("[::1]:99")));
        assert_eq!(Address::parse("::1"), Ok(literal("[::1]:4600")));
        assert_eq!(Address::parse("[::1]"), Ok(literal("[::1]:4600")));
        let named = |port| Address::Named("monitor".into(), port);
        assert_eq!(Address::parse("monitor:99"), Ok(named(99)));
        assert_eq!(Address::parse("monitor"), Ok(named(4600)));
        for text in ["", ":4600", "monitor:", "monitor:x", "http://monitor:4600", "a b:1"] {
            let why = Address::parse(text).unwrap_err();
            assert!(why.contains("give HOST:PORT"), "{text}: {why}");
        }
    }

    #[test]
    fn the_first_datagram_is_a_hello_whatever_is_due() {
        let (socket, address) = receiver();
        let mut targets = targets(&[Address::Literal(address)]);
        targets.send(BOTH, |said| panic!("{said}"));
        targets.send(BOTH, |said| panic!("{said}"));
        assert_eq!((received(&socket).as_str(), received(&socket).as_str()), ("hello", "beat"));
    }

    #[test]
    fn trouble_is_said_once_and_ends_with_a_hello() {
        let (socket, address) = receiver();
        drop(socket);
        let mut targets = targets(&[Address::Literal(address)]);
        let mut said = Vec::new();
        // Nobody listens. The kernel says so on the send after the first.
        for _ in 0..5 {
            targets.send(BOTH, |text| said.push(text));
        }
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].starts_with(&format!("cannot reach {address}: Connection refused")));
        let socket = UdpSocket::bind(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        targets.send(BOTH, |text| said.push(text));
        assert_eq!(received(&socket), "hello", "the very first send gets through");
        targets.send(BOTH, |text| said.push(text));
        assert_eq!(said[1..], [format!("{address} is reachable again")]);
    }

    const SECOND_NS: u64 = 1_000_000_000;
    const PATIENCE: Duration = Duration::from_secs(600);

    fn answer(relay: &UdpSocket) {
        let mut question = [0; 64];
        let (length, from) = relay.recv_from(&mut question).expect("it is asked");
        let mut answer = Vec::new();
        let guard = crate::wire::Guard::default();
        crate::wire::answer_to(&question[..length], &guard, &mut answer).unwrap().unwrap();
        relay.send_to(&answer, from).unwrap();
    }

    /// Asks again and again until it is so: loopback takes a moment.
    #[track_caller]
    fn until(targets: &mut Targets, now_ns: u64, dead: bool) {
        let end = std::time::Instant::now() + Duration::from_secs(10);
        while targets.all_dead() != dead {
            assert!(std::time::Instant::now() < end, "it never is");
            targets.ask(now_ns, || 7);
        }
    }

    #[test]
    fn a_silent_relay_is_sent_questions_only_until_it_answers() {
        let (relay, address) = receiver();
        let mut targets = targets(&[Address::Literal(address)]).asked(None);
        for second in 0..4 {
            targets.ask(second * SECOND_NS, || 7);
            targets.send(BOTH, |said| panic!("{said}"));
        }
        assert!(targets.all_dead());
        let question = received(&relay);
        assert_eq!(question.len(), received(&relay).len().max(question.len()));
        let beats = [(); 5].map(|()| received(&relay)).concat();
        assert_eq!(beats.matches("beat").count(), 2, "the first was a hello, the fourth was not");
        targets.ask(4 * SECOND_NS, || 8);
        assert!(targets.all_dead());
        answer(&relay);
        until(&mut targets, 4 * SECOND_NS + 1, false);
    }

    #[test]
    fn a_relay_that_is_gone_is_dead_at_once_and_back_with_its_first_answer() {
        let (relay, address) = receiver();
        drop(relay);
        let mut targets = targets(&[Address::Literal(address)]).asked(None);
        targets.send(BOTH, |said| panic!("{said}"));
        until(&mut targets, 0, true);
        assert!(targets.complaint().contains("Connection refused"), "{}", targets.complaint());
        let relay = UdpSocket::bind(address).unwrap();
        relay.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        targets.ask(SECOND_NS, || 9);
        answer(&relay);
        until(&mut targets, SECOND_NS + 1, false);
        assert_eq!(targets.complaint(), format!("{address}: no answer"));
    }

    #[test]
    fn who_sends_often_says_only_once_that_nobody_listens() {
        let (socket, address) = receiver();
        drop(socket);
        let mut targets = targets(&[Address::Literal(address)]).calm_after(PATIENCE);
        let mut said = Vec::new();
        targets.send(BOTH, |text| said.push(text));
        targets.send(BOTH, |text| said.push(text));
        // As when the refusal takes longer than the next send.
        let _socket = UdpSocket::bind(address).unwrap();
        targets.send(BOTH, |text| said.push(text));
        targets.send(BOTH, |text| said.push(text));
        assert_eq!((said.len(), targets.unsent()), (1, 2), "{said:?}");
    }

    #[test]
    fn a_name_that_moves_is_followed_with_a_hello() {
        let (old, old_address) = receiver();
        let (new, new_address) = receiver();
        let mut targets = Targets {
            targets: vec![Target::new(Address::Named("monitor".into(), 1))],
            resolver: None,
            key: None,
        };
        targets.send(BOTH, |said| panic!("{said}"));
        assert!(targets.resolved(0, Ok(vec![old_address]), |said| panic!("{said}")));
        targets.send(BOTH, |said| panic!("{said}"));
        assert_eq!(received(&old), "hello");
        assert!(!targets.resolved(0, Ok(vec![new_address, old_address]), |said| panic!("{said}")));
        // The DNS server is gone: the address that worked stays.
        assert!(!targets.resolved(0, Err("no answer".into()), |said| panic!("{said}")));
        targets.send(BOTH, |said| panic!("{said}"));
        assert_eq!(received(&old), "beat");
        assert!(targets.resolved(0, Ok(vec![new_address]), |said| panic!("{said}")));
        targets.send(BOTH, |said| panic!("{said}"));
        assert_eq!(received(&new), "hello");
    }

    #[test]
    fn an_unknown_name_is_trouble_said_once() {
        let mut targets = Targets {
            targets: vec![Target::new(Address::Named("monitor".into(), 1))],
            resolver: None,
            key: None,
        };
        let mut said = Vec::new();
        for _ in 0..3 {
            assert!(!targets.resolved(0, Err("no such name".into()), |text| said.push(text)));
        }
        assert_eq!(said, ["cannot reach monitor:1: no such name; still trying"]);
    }
}
