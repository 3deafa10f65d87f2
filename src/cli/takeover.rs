//! An upgrade without deafness: a new process takes the sockets of the one that runs, and its state.
//!
//! ```text
//!   new (--takeover)                    old, on the socket `takeover` in the state directory
//!   what I listen on, reactors  ──────▶ the same? else "no", and it goes on
//!                                       reads what has come, tells the last transitions, ends the
//!                                       state in order, unlocks the directory
//!   sockets (SCM_RIGHTS)        ◀────── and keeps copies
//!   state, reactors
//!   ready                       ──────▶ ends; if the connection ends first, it goes on (`resume`)
//! ```
//!
//! The sockets are never closed, so the kernel queues what comes in between, and the new process
//! reads it before it judges anybody. Nothing is judged by the old one once it has let go.
//!
//! Who may ask: whoever may open the directory, which is ours alone (mode 0700).

use super::Failure;
use crate::config::Settings;
use crate::store::{StateDir, StateError};
use sendfd::{RecvWithFd, SendWithFd};
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, BufReader, Write};
use std::mem::ManuallyDrop;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};
use tracing::{info, warn};

const SOCKET: &str = "takeover";
/// Descriptors of one message; the kernel takes up to 253.
const AT_A_TIME: usize = 64;
/// What the new one says at last.
const READY: &str = "ready\n";
/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(30);

/// What both sides must agree about.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Terms {
    /// The UDP addresses as they were asked for.
    pub udp: Vec<SocketAddr>,
    /// Reactors: each has a socket of every address.
    pub reactors: usize,
}

impl Terms {
    /// Those of a monitor with these settings.
    pub fn of(settings: &Settings, reactors: usize) -> Terms {
        Terms { udp: settings.udp.clone(), reactors }
    }
}

/// What is asked, in a line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Question {
    /// Whether these terms would do; nothing is handed over.
    Look {
        look: Terms,
    },
    Sockets(Terms),
}

/// The answer to either question.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Yes(Offer),
    No { why: String },
}

/// What there is to take over: so many sockets of each of so many addresses, then HTTP's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Offer {
    /// Addresses.
    pub groups: usize,
    /// Sockets of each.
    pub reactors: usize,
    /// Where HTTP is served.
    pub http: SocketAddr,
}

/// Copies of all that is listened on.
pub struct Sockets {
    /// By address, in reactor order.
    pub groups: Vec<Vec<UdpSocket>>,
    /// HTTP's.
    pub http: TcpListener,
}

impl Sockets {
    /// Their descriptors: address by address in reactor order, then HTTP's.
    pub fn descriptors(&self) -> Vec<RawFd> {
        let udp = self.groups.iter().flatten().map(AsRawFd::as_raw_fd);
        udp.chain([self.http.as_raw_fd()]).collect()
    }
}

/// The monitor that has let go. It goes on if we end before it was told that we are ready: the connection is
/// closed by the end of the process, when the state is unlocked, and not before.
pub struct Predecessor(ManuallyDrop<UnixStream>);

impl Predecessor {
    /// We are ready: it can end.
    pub fn relieve(self) {
        // If it has ended by itself, nobody needs to be told.
        let _ = ManuallyDrop::into_inner(self.0).write_all(READY.as_bytes());
    }
}

/// Asks the monitor that uses a state directory for its sockets, and waits until it has ended its
/// part. `None` when there is no such monitor, or it ends for another reason; then it is gone.
///
/// # Errors
/// It refuses, or something is wrong on the way; it goes on then.
pub fn ask(directory: &Path, terms: &Terms) -> Result<Option<(Sockets, Predecessor)>, Failure> {
    let Ok(stream) = UnixStream::connect(directory.join(SOCKET)) else { return Ok(None) };
    let Some(Offer { groups, reactors, .. }) = agreed(&stream, &Question::Sockets(terms.clone()))?
    else {
        until_gone(directory);
        return Ok(None);
    };
    let Some(sockets) = receive(&stream, groups * reactors + 1)? else {
        until_gone(directory);
        return Ok(None);
    };
    let no_sockets = || Failure::failed("taking over: too few sockets came");
    let mut sockets = sockets.into_iter();
    let group = |_| sockets.by_ref().take(reactors).map(UdpSocket::from).collect();
    let groups = (0..groups).map(group).collect();
    let http = sockets.next().map(TcpListener::from).ok_or_else(no_sockets)?;
    Ok(Some((Sockets { groups, http }, Predecessor(ManuallyDrop::new(stream)))))
}

/// Asks what would be handed over without taking anything; it goes on in any case. `None` as in [`ask`].
///
/// # Errors
/// It would refuse.
pub fn look(directory: &Path, terms: &Terms) -> Result<Option<Offer>, Failure> {
    let Ok(stream) = UnixStream::connect(directory.join(SOCKET)) else { return Ok(None) };
    let offer = agreed(&stream, &Question::Look { look: terms.clone() })?;
    if offer.is_none() {
        until_gone(directory);
    }
    Ok(offer)
}

/// What the other side offers, if it agrees; `None` when it ends.
fn agreed(mut stream: &UnixStream, question: &Question) -> Result<Option<Offer>, Failure> {
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    let mut line = serde_json::to_vec(question).map_err(|error| failed(error.into()))?;
    line.push(b'\n');
    let answer = match stream.write_all(&line).and_then(|()| read_line(stream)) {
        Err(error) if has_ended(&error) => String::new(),
        read => read.map_err(failed)?,
    };
    if answer.is_empty() {
        return Ok(None);
    }
    match serde_json::from_str(&answer).map_err(|error| failed(error.into()))? {
        Answer::Yes(offer) => Ok(Some(offer)),
        Answer::No { why } => {
            Err(Failure::usage(format!("the monitor that runs does not hand over: {why}")))
        }
    }
}

/// Whether the other side has ended with something unread.
fn has_ended(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

/// Waits, for a while, until a monitor that ends has ended: it closes its descriptors in no known order.
fn until_gone(directory: &Path) {
    let began = Instant::now();
    let is_taken = || matches!(StateDir::open(directory), Err(StateError::Taken { .. }));
    while began.elapsed() < PATIENCE && (is_offered(directory) || is_taken()) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn failed(error: io::Error) -> Failure {
    Failure::failed(format!("taking over: {error}"))
}

/// Whether a monitor that uses this state directory would hand over.
pub fn is_offered(directory: &Path) -> bool {
    UnixStream::connect(directory.join(SOCKET)).is_ok()
}

/// Listens for whoever wants to take over; `hand_over` is given the connection of one that agrees, to
/// be answered with [`give`] when all else has ended.
///
/// # Errors
/// The system refuses.
pub fn offer(
    directory: &Path,
    terms: Terms,
    http: SocketAddr,
    hand_over: impl Fn(UnixStream) + Send + 'static,
) -> io::Result<()> {
    let path = directory.join(SOCKET);
    // Left over from a process that was killed; the directory is locked, so nobody listens there.
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path)?;
    let body = move || {
        for stream in listener.incoming().flatten() {
            match agree(&stream, &terms, http) {
                Ok(true) => return hand_over(stream),
                Ok(false) => {}
                Err(error) => warn!(%error, "somebody asked to take over and did not go on"),
            }
        }
    };
    std::thread::Builder::new().name("systole-takeover".into()).spawn(body).map(drop)
}

/// Hears what the other side wants; true when it is what we have.
fn agree(stream: &UnixStream, ours: &Terms, http: SocketAddr) -> io::Result<bool> {
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let asked = read_line(stream)?;
    if asked.is_empty() {
        // Somebody looked whether we are here.
        return Ok(false);
    }
    let (theirs, is_look) = match serde_json::from_str(&asked)? {
        Question::Look { look } => (look, true),
        Question::Sockets(terms) => (terms, false),
    };
    if theirs == *ours {
        if is_look {
            let offer = Offer { groups: ours.udp.len(), reactors: ours.reactors, http };
            answer(stream, &Answer::Yes(offer))?;
        }
        return Ok(!is_look);
    }
    let why = format!(
        "it listens on {:?} with {} reactors, the new one wants {:?} with {}; start it with the \
         same --udp and --reactors, or stop the one that runs first",
        ours.udp, ours.reactors, theirs.udp, theirs.reactors
    );
    if !is_look {
        info!("not handing over: {why}");
    }
    answer(stream, &Answer::No { why })?;
    Ok(false)
}

/// Gives the sockets away, and with them the right to the state.
///
/// # Errors
/// The other side has gone.
pub fn give(stream: &UnixStream, sockets: &Sockets) -> io::Result<()> {
    let reactors = sockets.groups.first().map_or(0, Vec::len);
    let http = sockets.http.local_addr()?;
    answer(stream, &Answer::Yes(Offer { groups: sockets.groups.len(), reactors, http }))?;
    for some in sockets.descriptors().chunks(AT_A_TIME) {
        stream.send_with_fd(b"f", some)?;
    }
    Ok(())
}

/// Waits beside us for the one that was given the sockets; `heard` is told whether it is ready, or has
/// ended before.
///
/// # Errors
/// The system refuses a thread.
pub fn await_heir(stream: UnixStream, heard: impl FnOnce(bool) + Send + 'static) -> io::Result<()> {
    let body = move || {
        // As long as it takes: whoever waits for it to start can end it.
        let _ = stream.set_read_timeout(None);
        heard(read_line(&stream).is_ok_and(|line| line == READY));
    };
    std::thread::Builder::new().name("systole-heir".into()).spawn(body).map(drop)
}

fn answer(mut stream: &UnixStream, answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// A line, read byte by byte: what follows it may carry descriptors.
fn read_line(stream: &UnixStream) -> io::Result<String> {
    let mut line = String::new();
    BufReader::with_capacity(1, stream).read_line(&mut line)?;
    Ok(line)
}

/// So many sockets; `None` when the other side has ended before it had sent them all.
fn receive(stream: &UnixStream, count: usize) -> Result<Option<Vec<OwnedFd>>, Failure> {
    let mut sockets = Vec::new();
    while sockets.len() < count {
        let (mut byte, mut some) = ([0], [-1; AT_A_TIME]);
        let (bytes, came) = match stream.recv_with_fd(&mut byte, &mut some) {
            Err(error) if has_ended(&error) => return Ok(None),
            received => received.map_err(failed)?,
        };
        if bytes == 0 {
            return Ok(None);
        }
        // SAFETY: the kernel has just made these descriptors for us, and nobody else knows them.
        let came = some[..came].iter().map(|&fd| unsafe { OwnedFd::from_raw_fd(fd) });
        let before = sockets.len();
        sockets.extend(came);
        // The kernel leaves out what there is no room for, and says nothing.
        if sockets.len() < count.min(before + AT_A_TIME) {
            return Err(Failure::failed(format!(
                "taking over: not all of {count} sockets came; raise the limit of open files (ulimit -n)"
            )));
        }
    }
    Ok(Some(sockets))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use std::sync::mpsc;

    fn terms(reactors: usize) -> Terms {
        Terms { udp: vec!["127.0.0.1:4600".parse().unwrap()], reactors }
    }

    #[test]
    fn who_agrees_is_given_all_sockets_in_their_order_and_others_are_told_why_not() {
        let temp = TempDir::new();
        assert!(ask(temp.path(), &terms(2)).unwrap().is_none(), "nobody is there");
        assert!(!is_offered(temp.path()));
        let bind = |_| UdpSocket::bind("127.0.0.1:0").unwrap();
        // More than one message holds.
        let groups: Vec<Vec<UdpSocket>> = (0..2).map(|_| (0..50).map(bind).collect()).collect();
        let http = TcpListener::bind("127.0.0.1:0").unwrap();
        let here = http.local_addr().unwrap();
        let ours = Sockets { groups, http };
        let (asked, heard) = mpsc::channel();
        let send = move |stream| asked.send(stream).unwrap();
        offer(temp.path(), terms(50), here, send).unwrap();
        assert!(is_offered(temp.path()), "and whoever only looks is given nothing");
        for refusal in [ask(temp.path(), &terms(2)).err(), look(temp.path(), &terms(2)).err()] {
            let refusal = refusal.unwrap();
            assert_eq!(refusal.code(), 2);
            assert!(refusal.to_string().contains("the same --udp and --reactors"), "{refusal}");
        }
        let found = look(temp.path(), &terms(50)).unwrap().unwrap();
        assert_eq!((found.groups, found.http), (1, here), "and takes nothing");

        std::thread::scope(|scope| {
            let theirs = scope.spawn(|| ask(temp.path(), &terms(50)).unwrap().unwrap());
            let heir = heard.recv().unwrap();
            give(&heir, &ours).unwrap();
            let (theirs, predecessor) = theirs.join().unwrap();
            let addresses = |sockets: &Sockets| -> Vec<_> {
                sockets.groups.iter().flatten().map(|s| s.local_addr().unwrap()).collect()
            };
            assert_eq!(addresses(&theirs), addresses(&ours));
            assert_eq!(theirs.http.local_addr().unwrap(), ours.http.local_addr().unwrap());
            let (tell, told) = mpsc::channel();
            await_heir(heir, move |is_ready| tell.send(is_ready).unwrap()).unwrap();
            predecessor.relieve();
            assert!(told.recv().unwrap());
        });
    }

    #[test]
    fn an_heir_that_ends_is_not_ready() {
        let (old, new) = UnixStream::pair().unwrap();
        let (tell, told) = mpsc::channel();
        await_heir(old, move |is_ready| tell.send(is_ready).unwrap()).unwrap();
        (&new).write_all(b"read").unwrap();
        drop(new);
        assert!(!told.recv().unwrap());
    }

    /// Killed as soon as it is asked, or before it has sent all its sockets.
    #[test]
    fn one_that_ends_while_it_is_asked_is_nobody() {
        for agrees in [false, true] {
            let temp = TempDir::new();
            let path = temp.path().join(SOCKET);
            let listener = UnixListener::bind(&path).unwrap();
            std::thread::scope(|scope| {
                let asked = scope.spawn(|| ask(temp.path(), &terms(2)).unwrap());
                let (stream, _) = listener.accept().unwrap();
                read_line(&stream).unwrap();
                if agrees {
                    let http = "127.0.0.1:4680".parse().unwrap();
                    answer(&stream, &Answer::Yes(Offer { groups: 1, reactors: 2, http })).unwrap();
                }
                std::fs::remove_file(&path).unwrap();
                drop((stream, listener));
                assert!(asked.join().unwrap().is_none());
            });
        }
    }
}
