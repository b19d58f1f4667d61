//! Upstreams that are silent to some questions, go away for a moment or are reached from another address: no question
//! is lost by that, as none is at dnsmasq.

use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{PATIENCE, Server, has, query, stdout, wait_until};
use crate::upstreams::{Told, UNBOUND, Upstream, World};

const A: u16 = 1;
const HTTPS: u16 = 65;

/// Answers all questions for addresses, and no others.
fn answer(query: &[u8]) -> Option<Vec<u8>> {
    let end = 12 + query.get(12..)?.iter().position(|byte| *byte == 0)? + 5;
    if query.get(end - 4..end)? != [0, 1, 0, 1] {
        return None;
    }
    let mut answer = query[..end].to_vec();
    answer[2..12].copy_from_slice(b"\x81\x80\0\x01\0\x01\0\0\0\0");
    answer.extend(b"\xc0\x0c\0\x01\0\x01\0\0\x01\x2c\0\x04\xc6\x12\0\x09");
    Some(answer)
}

/// An upstream that can be away: then its port is closed.
struct Scripted {
    address: SocketAddr,
    away: Arc<AtomicBool>,
}

impl Scripted {
    fn start() -> Self {
        let mut socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let away = Arc::new(AtomicBool::new(false));
        let it = Self { address, away: Arc::clone(&away) };
        thread::spawn(move || {
            let mut buffer = [0; 1500];
            loop {
                socket.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
                match socket.recv_from(&mut buffer) {
                    Ok((len, from)) => {
                        let answer = answer(&buffer[..len]);
                        thread::sleep(Duration::from_millis(1));
                        answer.into_iter().for_each(|answer| _ = socket.send_to(&answer, from));
                    }
                    Err(error) => {
                        assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
                    }
                }
                if away.load(Ordering::Relaxed) {
                    drop(socket);
                    wait_until("it is to be back", || !away.load(Ordering::Relaxed));
                    socket = UdpSocket::bind(address).expect("nobody has taken its port");
                }
            }
        });
        it
    }
}

/// Asks for addresses of so many names, one after the other at these intervals, each from a port of its own, so that
/// all workers are asked. Returns how many were not answered with one, and how long the slowest took.
fn lost(server: SocketAddr, names: &str, count: u16, every: Duration) -> (usize, Duration) {
    let ask = |id| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(server).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let begin = Instant::now();
        socket.send(&query(id, &format!("n{id}.{names}.example"), A)).unwrap();
        let mut answer = [0; 1500];
        let len = socket.recv(&mut answer).unwrap_or_default();
        (len < 12 || answer[3] & 15 != 0 || answer[7] == 0, begin.elapsed())
    };
    thread::scope(|scope| {
        let asked = (0..count).map(|id| {
            thread::sleep(every);
            scope.spawn(move || ask(id))
        });
        let asked: Vec<_> = asked.collect();
        let told: Vec<_> = asked.into_iter().map(|it| it.join().unwrap()).collect();
        let lost = told.iter().filter(|(lost, _)| *lost).count();
        (lost, told.iter().map(|(_, took)| *took).max().unwrap_or_default())
    })
}

/// Asks for what the upstreams never answer, twice and for long enough that they could be taken to be down.
fn ask_in_vain(server: SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for (id, pause_ms) in [(1, 2_000), (2, 600)] {
        socket.send_to(&query(id, &format!("h{id}.example"), HTTPS), server).unwrap();
        thread::sleep(Duration::from_millis(pause_ms));
    }
}

#[test]
fn silence_about_some_questions_costs_the_others_nothing() {
    let upstreams = [Scripted::start(), Scripted::start()].map(|it| it.address.to_string());
    let both = ["--upstream", &upstreams[0], "--upstream", &upstreams[1]];
    let ask = |(workers, upstreams): (&str, &[&str])| {
        let server = Server::start(&[&["--workers", workers], upstreams].concat());
        ask_in_vain(server.address);
        let lost = lost(server.address, "quick", 24, Duration::from_millis(1));
        println!("{workers} workers, {upstreams:?}: {lost:?}");
        assert_eq!(lost.0, 0);
    };
    thread::scope(|scope| {
        for case in [("1", &both[..2]), ("2", &both[..2]), ("4", &both), ("1", &both)] {
            scope.spawn(move || ask(case));
        }
    });
    if has("dnsmasq", &["--version"]) {
        let option = format!("--server={}", upstreams[0].replace(':', "#"));
        let dnsmasq = Upstream::dnsmasq(&[&option]);
        ask_in_vain(dnsmasq.address);
        println!("dnsmasq: {:?}", lost(dnsmasq.address, "peer", 24, Duration::from_millis(1)));
    }
}

#[test]
fn an_upstream_that_is_away_for_a_moment_costs_no_question() {
    let upstream = Scripted::start();
    let server = Server::start(&["--workers", "2", "--upstream", &upstream.address.to_string()]);
    let address = server.address;
    let asking = thread::spawn(move || lost(address, "restart", 100, Duration::from_millis(5)));
    thread::sleep(Duration::from_millis(150));
    upstream.away.store(true, Ordering::Relaxed);
    thread::sleep(Duration::from_millis(150));
    upstream.away.store(false, Ordering::Relaxed);
    let lost = asking.join().unwrap();
    println!("of 100: {lost:?}");
    assert_eq!(lost.0, 0);
}

/// A network behind that of a world, with an Unbound that has an address for all names.
struct Beyond {
    holder: Child,
    unbound: Child,
}

impl Drop for Beyond {
    fn drop(&mut self) {
        for child in [&mut self.unbound, &mut self.holder] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Beyond {
    fn new(world: &World) -> Self {
        let mut command = world.command("unshare");
        let holder = command.args(["--net", "sh", "-c", "exec sleep 1000"]).spawn().unwrap();
        let pid = holder.id().to_string();
        let own = fs::read_link(format!("/proc/{}/ns/net", std::process::id())).unwrap();
        let near = world.stdout("readlink", &["/proc/self/ns/net"]);
        wait_until("it is there", || {
            fs::read_link(format!("/proc/{pid}/ns/net"))
                .is_ok_and(|it| it != own && it.to_str() != Some(near.trim()))
        });
        world.stdout("ip", &["link", "add", "near", "type", "veth", "peer", "name", "far", "netns", &pid]);
        let far = |words: &str| {
            let target = ["--target", &pid, "--net", "ip"];
            stdout(world.command("nsenter").args(target).args(words.split(' ')))
        };
        far("addr add 10.9.0.1/16 dev far");
        far("link set far up");
        world.stdout("ip", &["link", "set", "near", "up"]);
        let config = world.directory().join("beyond");
        let text = "server:\n interface: 10.9.0.1\n access-control: 0.0.0.0/0 allow\n num-threads: 1\n do-daemonize: \
                    no\n use-syslog: no\n username: \"\"\n chroot: \"\"\n pidfile: \"\"\n module-config: \
                    \"iterator\"\n local-zone: \".\" redirect\n local-data: \". 300 A 198.18.0.9\"\nremote-control:\n \
                    control-enable: no\n";
        fs::write(&config, text).unwrap();
        let mut command = world.command("nsenter");
        command.args(["--target", &pid, "--net", UNBOUND, "-d", "-c"]).arg(&config);
        let unbound = command.stderr(Stdio::null()).spawn().unwrap();
        Self { holder, unbound }
    }

    /// Runs `ip` there.
    fn ip(&self, world: &World, words: &str) {
        let pid = self.holder.id().to_string();
        stdout(world.command("nsenter").args(["--target", &pid, "--net", "ip"]).args(words.split(' ')));
    }
}

/// Asks for so many names with dig, one after the other. Returns how many failed, and how many took longer than a
/// second.
fn dig(world: &World, names: &str, count: usize) -> (usize, usize) {
    let (mut failed, mut late) = (0, 0);
    for i in 0..count {
        let begin = Instant::now();
        let name = format!("n{i}.{names}.example");
        let words = ["@127.0.0.1", "+time=10", "+tries=1", &name];
        let told = Told::read(world.stdout("dig", &words));
        failed += usize::from(told.status != "NOERROR" || told.answer.len() != 1);
        late += usize::from(begin.elapsed() > Duration::from_secs(1));
    }
    (failed, late)
}

#[test]
fn another_address_of_this_host_costs_no_question() {
    let tools = [(UNBOUND, "-V"), ("dig", "-v"), ("readlink", "--version")];
    if !tools.iter().all(|(tool, probe)| has(tool, &[probe])) {
        return;
    }
    let Some(world) = World::new(&[]) else { return };
    let beyond = Beyond::new(&world);
    let ip = |words: &str| _ = world.stdout("ip", &words.split(' ').collect::<Vec<_>>());
    ip("addr add 10.9.0.2/16 dev near");
    let _server = world.server(&["--workers", "2", "--upstream", "10.9.0.1"]);
    wait_until("the upstream answers", || dig(&world, "first", 1).0 == 0);
    assert_eq!(dig(&world, "before", 40).0, 0);
    // As by DHCP: the address is another from one moment to the next.
    // The first of a network would take all others with it.
    ip("addr del 10.9.0.2/16 dev near");
    ip("addr add 10.9.7.7/16 dev near");
    let gone = dig(&world, "gone", 40);
    println!("an address that is gone: {gone:?}");
    assert!(gone.0 == 0 && gone.1 <= 2, "{gone:?}");
    // The address is still there, but nothing comes back to it; and another is to be used.
    ip("addr add 10.9.8.8/16 dev near");
    beyond.ip(&world, "route add blackhole 10.9.7.7/32");
    ip("route replace 10.9.0.0/16 dev near src 10.9.8.8");
    let unrouted = dig(&world, "unrouted", 40);
    println!("an address that nothing comes back to: {unrouted:?}");
    assert!(unrouted.0 == 0 && unrouted.1 <= 2, "{unrouted:?}");
}
