//! A stop answers: queries that wait for others, what is still in the sockets, TCP clients that are slow; and it takes
//! no longer than it may.

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use redbreast::wire::header::{self, rcode};
use redbreast::wire::name::Name;

use crate::control::start;
use crate::harness::{PATIENCE, Server, ask, has, query, redbreast, wait_until};
use crate::http::get;
use crate::tcp::{connect, frame, receive};

const A: u16 = 1;

/// Well below the time that a client waits for an upstream, and above what an idle machine takes by far.
const QUICKLY: Duration = Duration::from_secs(10);

/// Somebody who is asked and never answers.
fn silent() -> (UdpSocket, String) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap().to_string();
    (socket, address)
}

/// A server whose upstream is silent, with names of its own, and where it is controlled.
fn forwarding(upstream: &str) -> (tempfile::TempDir, Server, String) {
    let directory = tempfile::tempdir().unwrap();
    let names = directory.path().join("names");
    fs::write(&names, "10.0.0.1 web\n").unwrap();
    let names = names.to_str().unwrap();
    let args = ["--names", names, "--upstream", upstream, "--upstream-timeout", "60000", "--workers", "2"];
    let (server, at) = start(&args);
    (directory, server, at)
}

fn counted(at: &str, event: &str) -> u64 {
    get(at, "/v1/status").json()["counters"][event].as_u64().unwrap()
}

/// How often a server that has stopped says that it has counted this.
fn told(log: &str, event: &str) -> u64 {
    let counts = log.split("counted: ").nth(1).unwrap_or_else(|| panic!("it tells: {log}"));
    let of = counts.split([',', '\n']).find_map(|part| part.trim().strip_prefix(&format!("{event} ")));
    of.map_or(0, |count| count.parse().unwrap())
}

fn code(message: &[u8]) -> u8 {
    message[3] & header::RCODE_MASK
}

/// A dig that waits for its answer for longer than anything here takes.
fn dig(server: &Server, name: &str, more: &[&str]) -> Child {
    let mut dig = Command::new("dig");
    dig.args(["@127.0.0.1", "-p", &server.port(), "+tries=1", "+time=30", name]).args(more);
    dig.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("dig starts")
}

fn says_servfail(dig: Child) {
    let output = dig.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.contains("status: SERVFAIL"), "{text}");
}

/// Answers to the queries with these ids that this client gets, by their response codes.
fn codes(client: &UdpSocket, ids: std::ops::Range<u16>) -> Vec<u8> {
    let mut codes = vec![u8::MAX; usize::from(ids.end)];
    let mut buffer = [0; 2_048];
    for i in ids.clone() {
        let len = client.recv(&mut buffer).unwrap_or_else(|error| panic!("answer {i} of {ids:?}: {error}"));
        let id = u16::from_be_bytes([buffer[0], buffer[1]]);
        codes[usize::from(id)] = code(&buffer[..len]);
    }
    codes.split_off(usize::from(ids.start))
}

#[test]
fn queries_that_wait_for_upstreams_are_answered() {
    const OVER_UDP: u16 = 100;
    /// More than may wait of one connection: the others are in its buffers.
    const OVER_TCP: u16 = 2_000;
    if !has("dig", &["-v"]) {
        return;
    }
    let (_upstream, address) = silent();
    let (_directory, server, at) = forwarding(&address);
    let (client, mut stream) = (server.client(), connect(&server));
    let many: Vec<u8> = (0..OVER_TCP).flat_map(|id| frame(&query(id, "tcp.example", A))).collect();
    stream.write_all(&many).unwrap();
    for id in 0..OVER_UDP {
        client.send(&query(id, &format!("name-{id}.example"), A)).unwrap();
    }
    let digs = [dig(&server, "dig.example", &[]), dig(&server, "dig.example", &["+tcp"])];
    wait_until("all wait that may", || counted(&at, "forwarded") >= u64::from(OVER_UDP) + 1_024 + 2);
    let begin = Instant::now();
    server.signal("-TERM");
    let log = server.stop_after(|| {
        digs.into_iter().for_each(says_servfail);
        assert_eq!(codes(&client, 0..OVER_UDP), vec![rcode::SERVFAIL; OVER_UDP.into()]);
        let mut ids: Vec<_> =
            (0..OVER_TCP).map(|_| receive(&mut stream).expect("all are answered")).collect();
        assert!(ids.iter().all(|message| code(message) == rcode::SERVFAIL));
        ids.sort_unstable_by_key(|message| [message[0], message[1]]);
        assert!(ids.iter().zip(0..OVER_TCP).all(|(message, id)| message[..2] == id.to_be_bytes()));
        assert!(receive(&mut stream).is_none(), "the end of the stream");
    });
    assert!(begin.elapsed() < QUICKLY, "{:?}", begin.elapsed());
    let stopping = told(&log, "stopping") + told(&log, "forward_failed");
    assert_eq!(stopping, u64::from(OVER_UDP + OVER_TCP) + 2, "each is counted once: {log}");
    assert_eq!(told(&log, "stop_timed_out"), 0, "{log}");
}

#[test]
fn queries_that_wait_for_other_nodes_are_answered_by_what_those_have_said() {
    if !has("dig", &["-v"]) {
        return;
    }
    for design in ["broadcast", "cache"] {
        let (peer, peer_address) = silent();
        let listen = silent().1;
        let args = ["--design", design, "--peer-listen", &listen, "--peer", &peer_address];
        let more = ["--window-ms", "5000", "--collect", "--workers", "1"];
        let (server, at) = start(&[&args[..], &more].concat());
        let client = server.client();
        client.send(&query(9, "known.redbreast.internal", A)).unwrap();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut buffer = [0; 2_048];
        let (len, from) = peer.recv_from(&mut buffer).expect("it is asked");
        // Its question without the OPT record behind that.
        let mut answer = buffer[..len - 11].to_vec();
        answer[2] = header::QR | 4;
        answer[3] = 0;
        answer[header::ANCOUNT + 1] = 1;
        answer[header::ANCOUNT + 2..header::LEN].fill(0);
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 10, 0, 0, 7]);
        peer.send_to(&answer, from).unwrap();
        wait_until("it was heard", || counted(&at, "peer_datagrams_in") == 1);
        // These come last: their window is not long.
        let nobody = [
            dig(&server, "nobody.redbreast.internal", &[]),
            dig(&server, "nobody.redbreast.internal", &["+tcp"]),
        ];
        wait_until("both wait", || counted(&at, "asked") == 3);
        let begin = Instant::now();
        server.signal("-TERM");
        let log = server.stop_after(|| {
            nobody.into_iter().for_each(says_servfail);
            let len = client.recv(&mut buffer).expect("an answer");
            let answer = &buffer[..len];
            assert_eq!((code(answer), answer[7], &answer[len - 4..]), (0, 1, &[10, 0, 0, 7][..]), "{design}");
        });
        assert!(begin.elapsed() < QUICKLY, "{:?}", begin.elapsed());
        assert_eq!((told(&log, "stopping"), told(&log, "positive")), (2, 1), "{design}: {log}");
    }
}

#[test]
fn what_is_in_the_sockets_is_answered() {
    const QUERIES: u16 = 200;
    let (_upstream, address) = silent();
    let (_directory, server, _) = forwarding(&address);
    let (client, mut old) = (server.client(), connect(&server));
    old.write_all(&frame(&query(0, "web.redbreast.internal", A))).unwrap();
    assert_eq!(code(&receive(&mut old).unwrap()), rcode::NOERROR);
    server.signal("-STOP");
    let names = ["web.redbreast.internal", "nobody.redbreast.internal", "web.example", "more.example"];
    let expected = [rcode::NOERROR, rcode::NXDOMAIN, rcode::SERVFAIL, rcode::SERVFAIL];
    let name = |id: u16| names[usize::from(id) % names.len()];
    (0..QUERIES).for_each(|id| _ = client.send(&query(id, name(id), A)).unwrap());
    // The kernel makes the connection, and nobody has accepted it.
    let mut new = connect(&server);
    for stream in [&mut old, &mut new] {
        let many: Vec<u8> = (0..QUERIES).flat_map(|id| frame(&query(id, name(id), A))).collect();
        stream.write_all(&many).unwrap();
        stream.write_all(&frame(&query(QUERIES, names[0], A))[..20]).unwrap(); // half a query is none
    }
    server.signal("-TERM");
    server.signal("-CONT");
    let log = server.stop_after(|| {
        let expected: Vec<_> = (0..usize::from(QUERIES)).map(|id| expected[id % expected.len()]).collect();
        assert_eq!(codes(&client, 0..QUERIES), expected);
        for stream in [&mut old, &mut new] {
            let answers: BTreeSet<_> = (0..QUERIES)
                .map(|_| receive(stream).expect("an answer"))
                .map(|it| (it[1], code(&it)))
                .collect();
            assert!(answers.iter().eq(&(0..=199).zip(expected.iter().copied()).collect::<BTreeSet<_>>()));
            assert!(receive(stream).is_none());
        }
    });
    assert_eq!(told(&log, "positive"), 3 * u64::from(QUERIES) / 4 + 1, "{log}");
    assert_eq!(told(&log, "nxdomain"), 3 * u64::from(QUERIES) / 4, "{log}");
}

#[test]
fn slow_tcp_clients_get_their_answers_and_those_who_take_none_hold_nothing_up() {
    const QUERIES: u16 = 150;
    let directory = tempfile::tempdir().unwrap();
    let names = directory.path().join("names");
    let addresses: String = (0..4_000).map(|i| format!("10.3.{}.{} many\n", i / 250, i % 250)).collect();
    fs::write(&names, addresses).unwrap();
    for reads in [true, false] {
        let server = Server::with_names(&names, &[]);
        let mut stream = connect(&server);
        let many: Vec<u8> =
            (0..QUERIES).flat_map(|id| frame(&query(id, "many.redbreast.internal", A))).collect();
        stream.write_all(&many).unwrap();
        // More than the kernel's buffers hold is on its way.
        let mut first = [0; 2];
        stream.read_exact(&mut first).unwrap();
        thread::sleep(Duration::from_millis(200));
        let begin = Instant::now();
        server.signal("-TERM");
        let log = server.stop_after(|| {
            if !reads {
                return;
            }
            let mut bytes = first.to_vec();
            let mut part = vec![0; 1 << 16];
            loop {
                match stream.read(&mut part) {
                    Ok(0) => break,
                    Ok(read) => bytes.extend(&part[..read]),
                    Err(error) => panic!("after {} bytes: {error}", bytes.len()),
                }
                thread::sleep(Duration::from_micros(500));
            }
            let mut rest = &bytes[..];
            let mut answers = 0;
            while let Some((prefix, after)) = rest.split_first_chunk::<2>() {
                rest = &after[usize::from(u16::from_be_bytes(*prefix))..];
                answers += 1;
            }
            assert_eq!(answers, QUERIES, "all of them, whole");
        });
        // It waits for those who take nothing, but not for ever.
        let (least, most) = if reads { (0, QUICKLY.as_millis()) } else { (2_500, QUICKLY.as_millis()) };
        let took = begin.elapsed().as_millis();
        assert!((least..most).contains(&took), "reads: {reads}: {took} ms");
        assert!(log.contains("stopped"), "{log}");
    }
}

/// An update that adds one address, unsigned.
fn update(id: u16) -> Vec<u8> {
    let zone = Name::from_text("redbreast.internal").unwrap();
    let name = Name::from_text(&format!("host-{id}.redbreast.internal")).unwrap();
    let [high, low] = id.to_be_bytes();
    let head = [high, low, 5 << 3, 0, 0, 1, 0, 0, 0, 1, 0, 0];
    let record = [0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 1, high, low];
    [&head[..], zone.as_wire(), &[0, 6, 0, 1], name.as_wire(), &record].concat()
}

#[test]
fn updates_are_made_or_refused_and_what_was_acknowledged_is_on_disk() {
    const UPDATES: u16 = 1_400;
    const EACH: u16 = 100;
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let args = ["--allow-unsigned-updates", "--data-dir", data.to_str().unwrap(), "--workers", "1"];
    let server = Server::start(&args);
    // So many clients that each one's socket has room for all of its answers.
    let clients: Vec<_> = (0..UPDATES / EACH).map(|i| (server.client(), i * EACH..(i + 1) * EACH)).collect();
    // Some are under way, some wait, some are more than may wait.
    for (client, ids) in &clients {
        ids.clone().for_each(|id| _ = client.send(&update(id)).unwrap());
    }
    let begin = Instant::now();
    server.signal("-TERM");
    let mut answered = Vec::new();
    let log = server.stop_after(|| {
        answered = clients.iter().flat_map(|(client, ids)| codes(client, ids.clone())).collect();
    });
    assert!(begin.elapsed() < QUICKLY, "{:?}", begin.elapsed());
    assert!(answered.iter().all(|code| [rcode::NOERROR, rcode::SERVFAIL].contains(code)), "{answered:?}");
    assert!(answered.contains(&rcode::SERVFAIL), "some came too late");
    let (handed, full) = (told(&log, "handed_over"), told(&log, "offload_full"));
    assert_eq!(handed + full, u64::from(UPDATES), "each is one or the other: {log}");
    assert_eq!(told(&log, "stop_timed_out"), 0, "{log}");
    let again = Server::start(&args);
    let client = again.client();
    for (id, _) in (0..UPDATES).zip(&answered).filter(|(_, code)| **code == rcode::NOERROR) {
        let answer = ask(&client, &query(id, &format!("host-{id}.redbreast.internal"), A));
        assert_eq!(answer[7], 1, "host-{id} was acknowledged");
    }
}

/// Starts a server that is given this socket, as a service manager would.
fn given(socket: &UdpSocket) -> Server {
    let mut command = Command::new("sh");
    command.args(["-c", "exec 3>&1 1>&2; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\"", "sh"]);
    command.arg(redbreast().get_program()).args(["serve", "--control", "127.0.0.1:0", "--workers", "2"]);
    command.stdout(OwnedFd::from(socket.try_clone().unwrap()));
    Server::spawn(&mut command)
}

#[test]
fn the_next_process_has_the_sockets_of_a_service_manager() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.connect(socket.local_addr().unwrap()).unwrap();
    for round in 0..3 {
        // It waits in the socket until there is a process again.
        client.send(&query(round, "nobody.redbreast.internal", A)).unwrap();
        let server = given(&socket);
        assert_eq!(codes(&client, round..round + 1), [rcode::NXDOMAIN], "round {round}");
        server.stop();
    }
}

#[test]
fn new_clients_find_the_port_closed_when_it_has_stopped() {
    let server = Server::start(&[]);
    let address: SocketAddr = server.address;
    // An idle connection is no reason to wait.
    let mut idle = TcpStream::connect(address).unwrap();
    let begin = Instant::now();
    server.stop();
    assert!(begin.elapsed() < Duration::from_millis(2_500), "{:?}", begin.elapsed());
    assert_eq!(idle.read(&mut [0; 1]).unwrap(), 0, "it was closed in order");
    assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}
