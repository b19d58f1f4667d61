//! Asks nodes for names at a steady pace, and notes what each answer was and how long it took.
//!
//! Runs on a thread of its own for each cluster. It never waits for an answer: a node that is silent is asked all the
//! same.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::SockRef;

use crate::wire::header::{RCODE_MASK, rcode, u16_at};
use crate::wire::message::{answers, write_query};
use crate::wire::name::Name;
use crate::wire::record::rtype;

/// How long an answer is waited for.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// Time between two questions of a check, at first and where something was lost: slow enough that every design can ask
/// for each name.
const CHECK_STEPS: [Duration; 3] =
    [Duration::from_micros(70), Duration::from_millis(1), Duration::from_millis(2)];

/// Bytes of answers that the kernel is asked to hold for a probe.
const RECEIVE_BUFFER_LEN: usize = 4 << 20;

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ProbeAnswer {
    /// Addresses, sorted.
    Addresses(Vec<Ipv4Addr>),
    /// That there is no such name, or no address.
    Nothing,
    /// Something else.
    Failure,
    /// Nothing came.
    Silence,
}

/// One question and what came of it.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    /// Which of the questions.
    pub(super) question: usize,
    /// When it was asked, and when it was answered or given up.
    pub(super) asked: Instant,
    pub(super) ended: Instant,
    pub(super) answer: ProbeAnswer,
}

impl Sample {
    pub(super) fn latency(&self) -> Duration {
        self.ended - self.asked
    }
}

/// A question: which name, to whom.
#[derive(Clone, Debug)]
pub(super) struct ProbeQuestion {
    pub(super) node: SocketAddr,
    pub(super) name: Name,
}

/// How often is asked, and for how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Each question comes once in this time.
    pub(super) period: Duration,
    /// And so often at most.
    pub(super) turns: Option<u32>,
}

/// Asks questions in turn, as `next` gives them for their numbers and the turn, until `go_on` says that it is enough.
pub(super) fn probe(
    namespace: Option<&str>,
    questions: u32,
    pace: Pace,
    next: impl Fn(usize, u32) -> ProbeQuestion,
    mut go_on: impl FnMut() -> bool,
) -> io::Result<Vec<Sample>> {
    enter(namespace)?;
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_nonblocking(true)?;
    SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER_LEN)?;
    let mut asker = Asker { socket, open: HashMap::new(), samples: Vec::new(), next_id: 0 };
    let begin = Instant::now();
    let step = pace.period / questions.max(1);
    let most = pace.turns.map_or(u32::MAX, |turns| turns.saturating_mul(questions));
    let mut sent: u32 = 0;
    while sent < most && go_on() {
        let due = begin + step * sent;
        if Instant::now() < due {
            asker.receive_until(due)?;
            continue;
        }
        let number = (sent % questions.max(1)) as usize;
        asker.ask(number, &next(number, sent / questions.max(1)))?;
        sent += 1;
    }
    // What is still open may yet be answered.
    let end = Instant::now() + PATIENCE;
    while !asker.open.is_empty() && Instant::now() < end {
        asker.receive_until(Instant::now() + Duration::from_millis(10))?;
    }
    asker.give_up_all();
    asker.samples.sort_by_key(|sample| sample.asked);
    Ok(asker.samples)
}

/// Puts this thread into a network namespace.
fn enter(namespace: Option<&str>) -> io::Result<()> {
    let Some(name) = namespace else { return Ok(()) };
    let file = File::open(Path::new("/run/netns").join(name))?;
    Ok(move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?)
}

struct Asker {
    socket: UdpSocket,
    /// Questions by their ids.
    open: HashMap<u16, (usize, Instant)>,
    samples: Vec<Sample>,
    next_id: u16,
}

impl Asker {
    fn ask(&mut self, number: usize, question: &ProbeQuestion) -> io::Result<()> {
        self.give_up(Instant::now());
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        let packet = write_query(id, &question.name, rtype::A);
        self.open.insert(id, (number, Instant::now()));
        match self.socket.send_to(&packet, question.node) {
            // A node that has been killed has its port closed, which is told at the next send: nobody answers, either
            // way.
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn receive_until(&mut self, until: Instant) -> io::Result<()> {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().into() };
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut buffer = [0; 4096];
        while let Ok(len) = self.socket.recv(&mut buffer) {
            let message = &buffer[..len];
            if len < 12 {
                continue;
            }
            if let Some((question, asked)) = self.open.remove(&u16_at(message, 0)) {
                let answer = read(message);
                self.samples.push(Sample { question, asked, ended: Instant::now(), answer });
            }
        }
        Ok(())
    }

    fn give_up(&mut self, now: Instant) {
        let late: Vec<_> =
            self.open.iter().filter(|(_, (_, asked))| now - *asked >= PATIENCE).map(|(id, _)| *id).collect();
        for id in late {
            if let Some((question, asked)) = self.open.remove(&id) {
                self.samples.push(Sample { question, asked, ended: now, answer: ProbeAnswer::Silence });
            }
        }
    }

    fn give_up_all(&mut self) {
        let ended = Instant::now();
        let open = std::mem::take(&mut self.open);
        let silent = |(question, asked)| Sample { question, asked, ended, answer: ProbeAnswer::Silence };
        self.samples.extend(open.into_values().map(silent));
    }
}

fn read(message: &[u8]) -> ProbeAnswer {
    let mut addresses: Vec<_> = answers(message)
        .filter(|record| record.rtype == rtype::A)
        .filter_map(|record| Some(Ipv4Addr::from(*record.rdata.first_chunk::<4>()?)))
        .collect();
    addresses.sort_unstable();
    match (message[3] & RCODE_MASK, addresses.is_empty()) {
        (rcode::NOERROR, false) => ProbeAnswer::Addresses(addresses),
        (rcode::NOERROR | rcode::NXDOMAIN, _) => ProbeAnswer::Nothing,
        _ => ProbeAnswer::Failure,
    }
}

/// Asks a node for each name, and says which were not answered with their address. What was lost on the way is asked
/// once more, slower.
pub(super) fn check_all(
    namespace: Option<String>,
    node: SocketAddr,
    names: Vec<(Name, Ipv4Addr)>,
) -> io::Result<Vec<String>> {
    // On a thread of its own, since that goes into the namespace for good.
    let thread = std::thread::Builder::new().name("self-check".into()).spawn(move || {
        let mut open: Vec<usize> = (0..names.len()).collect();
        let mut answers = vec![ProbeAnswer::Silence; names.len()];
        for step in CHECK_STEPS {
            let count = u32::try_from(open.len()).unwrap_or(u32::MAX);
            let pace = Pace { period: step * count, turns: Some(1) };
            let question = |number: usize, _| ProbeQuestion { node, name: names[open[number]].0.clone() };
            for sample in probe(namespace.as_deref(), count, pace, question, || true)? {
                answers[open[sample.question]] = sample.answer;
            }
            open.retain(|&i| answers[i] != ProbeAnswer::Addresses(vec![names[i].1]));
        }
        let told = |&i: &usize| format!("{} should be {}, and is {:?}", names[i].0, names[i].1, answers[i]);
        Ok(open.iter().map(told).collect())
    })?;
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
