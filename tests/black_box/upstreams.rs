//! Name servers of others for the resolver to ask, one that only listens, and namespaces in which port 53 is free.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::harness::{Server, has, stdout, wait_until};

/// The domain that is not ours.
pub(crate) const ZONE: &str = "forwarded.example";

pub(crate) const UNBOUND: &str = "/usr/sbin/unbound";
pub(crate) const NAMED: &str = "/usr/sbin/named";
pub(crate) const KNOT: &str = "/usr/sbin/knotd";
/// Python with what Debian does not have: aioquic.
pub(crate) const PYTHON: &str = "/opt/redbreast-test-tools/bin/python3";

/// How many addresses `big` has: 3,250 bytes of them.
pub(crate) const BIG: usize = 200;

/// What is in it.
pub(crate) fn zone() -> String {
    let big: String = (0..BIG).map(|i| format!("big A 198.18.1.{i}\n")).collect();
    // Unbound takes the TTL of a record for that of those behind it, so the short one is the last.
    let middle: String = ["a", "b", "c"].map(|it| format!("middle TXT \"{}\"\n", it.repeat(200))).concat();
    format!(
        r#"$ORIGIN {ZONE}.
$TTL 300
@ SOA ns hostmaster 1 3600 600 86400 30
@ NS ns
@ MX 10 mail
ns A 198.18.0.53
mail A 198.18.0.25
www A 198.18.0.1
www A 198.18.0.2
www AAAA 2001:2::1
alias CNAME www
chain CNAME alias
dangling CNAME nobody
text TXT "one" "two words"
_sip._tcp SRV 1 2 5060 www
web HTTPS 1 . alpn=h2,h3 ipv4hint=198.18.0.1
odd TYPE65280 \# 4 0a000001
*.any A 198.18.0.7
{middle}{big}short 1 A 198.18.0.3
"#
    )
}

/// Where a name server is to be.
#[derive(Clone, Copy)]
pub(crate) enum Spot<'a> {
    /// At a port that is free.
    Anywhere,
    /// At this address of a world of its own.
    In(&'a World, SocketAddr),
}

/// A name server of others. It is killed when it goes out of scope.
pub(crate) struct Upstream {
    child: Child,
    pub(crate) address: SocketAddr,
    directory: TempDir,
    program: &'static str,
    arguments: Vec<String>,
    started: &'static str,
}

impl Upstream {
    /// Unbound, which resolves names in [`ZONE`] and refuses all others, with more in its configuration, where PORT is
    /// its port.
    pub(crate) fn unbound(spot: Spot<'_>, zone: &str, more: &str) -> Self {
        let file = |address: SocketAddr, directory: &Path| {
            let (ip, port, dir) = (address.ip(), address.port(), directory.display());
            let more = more.replace("PORT", &port.to_string());
            fs::write(directory.join("zone"), zone).unwrap();
            let config = format!(
                "server:\n interface: {ip}@{port}\n num-threads: 1\n module-config: \"iterator\"\n do-daemonize: no\n \
                 use-syslog: no\n logfile: \"\"\n log-queries: yes\n username: \"\"\n chroot: \"\"\n directory: \
                 \"{dir}\"\n pidfile: \"\"\n ede: yes\n do-not-query-localhost: no\n local-zone: \".\" refuse\n \
                 local-zone: \"{ZONE}.\" transparent\n{more}\n\
                 auth-zone:\n name: \"{ZONE}.\"\n zonefile: \"zone\"\n for-downstream: no\n for-upstream: yes\n \
                 fallback-enabled: no\nremote-control:\n control-enable: no\n"
            );
            fs::write(directory.join("config"), config).unwrap();
            vec!["-d".into(), "-c".into(), format!("{dir}/config")]
        };
        Self::start(spot, UNBOUND, "start of service", file)
    }

    /// Unbound with nothing but this in its configuration.
    pub(crate) fn validating_unbound(spot: Spot<'_>, more: &str) -> Self {
        Self::start(spot, UNBOUND, "start of service", |address, directory| {
            let (ip, port, dir) = (address.ip(), address.port(), directory.display());
            let config = format!(
                "server:\n interface: {ip}@{port}\n num-threads: 1\n do-daemonize: no\n use-syslog: no\n logfile: \
                 \"\"\n username: \"\"\n chroot: \"\"\n directory: \"{dir}\"\n pidfile: \"\"\n \
                 do-not-query-localhost: no\n{more}remote-control:\n control-enable: no\n"
            );
            fs::write(directory.join("config"), config).unwrap();
            vec!["-d".into(), "-c".into(), format!("{dir}/config")]
        })
    }

    /// BIND with [`ZONE`], over HTTPS alone, with `key.pem` and `certificate.pem` of this directory.
    pub(crate) fn named_https(zone: &str, certificates: &Path) -> Self {
        let certificates = certificates.display();
        // "running" it says at its start, too, of the system that it runs on.
        Self::start(Spot::Anywhere, NAMED, "all zones loaded", |address, directory| {
            let (ip, port, dir) = (address.ip(), address.port(), directory.display());
            fs::write(directory.join("zone"), zone).unwrap();
            let config = format!(
                "tls local {{ key-file \"{certificates}/key.pem\"; cert-file \"{certificates}/certificate.pem\"; }};\n\
                 http local {{ endpoints {{ \"/dns-query\"; }}; }};\n\
                 options {{ directory \
                 \"{dir}\"; pid-file none; session-keyfile none; recursion no; notify no; max-records-per-type 0;\n \
                 listen-on port {port} tls local http local {{ {ip}; }}; listen-on-v6 {{ none; }}; }};\n\
                 controls {{ }};\nzone \"{ZONE}\" {{ type primary; file \"zone\"; }};\n"
            );
            fs::write(directory.join("config"), config).unwrap();
            vec!["-g".into(), "-n".into(), "1".into(), "-c".into(), format!("{dir}/config")]
        })
    }

    /// Knot, with these zones.
    pub(crate) fn knot(zones: &[(&str, &str)]) -> Self {
        Self::start(Spot::Anywhere, KNOT, "server started", |address, directory| {
            let (ip, port, dir) = (address.ip(), address.port(), directory.display());
            let mut config = format!(
                "server:\n  rundir: \"{dir}\"\n  listen: {ip}@{port}\n  udp-workers: 1\n  tcp-workers: 1\n  \
                 background-workers: 1\ncontrol:\n  listen: \"{dir}/control\"\ndatabase:\n  storage: \
                 \"{dir}\"\nlog:\n  - target: stderr\n    any: info\ntemplate:\n  - id: default\n    storage: \
                 \"{dir}\"\n    zonefile-sync: -1\n    journal-content: none\nzone:\n"
            );
            for (domain, zone) in zones {
                fs::write(directory.join(format!("{domain}zone")), zone).unwrap();
                config += &format!("  - domain: {domain}\n    file: {domain}zone\n");
            }
            fs::write(directory.join("config"), config).unwrap();
            vec!["--config".into(), format!("{dir}/config")]
        })
    }

    /// A server of DNS over QUIC with the certificate in `directory`, which asks another over TCP. `words` say what it
    /// does besides.
    pub(crate) fn doq(directory: &Path, other: SocketAddr, words: &[&str]) -> Self {
        Self::start(Spot::Anywhere, PYTHON, "ready", |address, _| {
            let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/doq_server.py").to_owned();
            let file = |name: &str| directory.join(name).display().to_string();
            let (port, ip) = (address.port().to_string(), other.ip().to_string());
            let fixed =
                [script, port, file("certificate.pem"), file("key.pem"), ip, other.port().to_string()];
            fixed.into_iter().chain(words.iter().map(|word| (*word).to_owned())).collect()
        })
    }

    /// dnsmasq, with these options for what it knows. It knows of no other server.
    pub(crate) fn dnsmasq(options: &[&str]) -> Self {
        Self::start(Spot::Anywhere, "dnsmasq", "started, version", |address, _| {
            let (ip, port) = (address.ip(), address.port());
            let common = format!(
                "--keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --bind-interfaces --pid-file= \
                 --user=root --log-facility=- --log-queries --listen-address={ip} --port={port}"
            );
            common.split_whitespace().chain(options.iter().copied()).map(str::to_owned).collect()
        })
    }

    /// Starts `program`, which says `started` when it is there. `prepare` writes its files and returns its arguments.
    fn start(
        spot: Spot<'_>,
        program: &'static str,
        started: &'static str,
        prepare: impl Fn(SocketAddr, &Path) -> Vec<String>,
    ) -> Self {
        // Somebody else may take the port before it does.
        for _ in 0..5 {
            let directory = tempfile::tempdir().unwrap();
            let (address, mut command) = match spot {
                Spot::Anywhere => (free_address(), Command::new(program)),
                Spot::In(world, address) => (address, world.command(program)),
            };
            let arguments = prepare(address, directory.path());
            let child = spawn(&mut command, &arguments, directory.path());
            let mut it = Self { child, address, directory, program, arguments, started };
            if it.is_up() {
                return it;
            }
        }
        panic!("{program} does not start");
    }

    /// Waits until it is there; not if it has ended, or has no port.
    fn is_up(&mut self) -> bool {
        let mut has_ended = false;
        wait_until(&format!("{} is there", self.program), || {
            has_ended = self.child.try_wait().unwrap().is_some();
            has_ended || self.log().contains(self.started)
        });
        if has_ended || self.log().contains("cannot bind") {
            println!("{}: {}", self.program, self.log());
        }
        !has_ended && !self.log().contains("cannot bind")
    }

    /// Ends it, at once.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again where it was, outside of worlds.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.child = spawn(&mut Command::new(self.program), &self.arguments, self.directory.path());
        assert!(self.is_up());
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    pub(crate) fn at(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap()
    }

    /// How often it was asked for a name and type, as Unbound logs it.
    pub(crate) fn heard(&self, name: &str, rtype: &str) -> usize {
        self.log().matches(&format!(" {name}. {rtype} IN")).count()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(command: &mut Command, arguments: &[String], directory: &Path) -> Child {
    let log = File::create(directory.join("log")).unwrap();
    let copy = log.try_clone().unwrap();
    command.args(arguments).stdin(Stdio::null()).stdout(copy).stderr(log).spawn().expect("it starts")
}

/// An address whose port is free for UDP and TCP.
fn free_address() -> SocketAddr {
    loop {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = udp.local_addr().unwrap();
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// An upstream that has the same address for every name, and notes what it is asked.
pub(crate) struct Recorder {
    pub(crate) address: SocketAddr,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Recorder {
    /// It takes so long for each answer, and runs as long as the tests do.
    pub(crate) fn start(delay: Duration) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let notes = Arc::clone(&heard);
        thread::spawn(move || {
            let mut buffer = [0; 1500];
            while let Ok((len, from)) = socket.recv_from(&mut buffer) {
                let (name, question_len) = question_of(&buffer[..len]);
                notes.lock().unwrap().push(name);
                thread::sleep(delay);
                let mut answer = buffer[..question_len].to_vec();
                answer[2..12].copy_from_slice(b"\x81\x80\0\x01\0\x01\0\0\0\0");
                answer.extend(b"\xc0\x0c\0\x01\0\x01\0\0\x01\x2c\0\x04\xc6\x12\0\x09");
                let _ = socket.send_to(&answer, from);
            }
        });
        Self { address, heard }
    }

    /// The names that it was asked for.
    pub(crate) fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }
}

/// The name in a query, and where its question ends.
fn question_of(query: &[u8]) -> (String, usize) {
    let (mut at, mut name) = (12, String::new());
    while let Some(len) = query.get(at).copied().map(usize::from).filter(|len| *len > 0) {
        name += &String::from_utf8_lossy(&query[at + 1..at + 1 + len]);
        name.push('.');
        at += 1 + len;
    }
    (name, at + 5)
}

/// A network of its own, in which all ports are free, with files of its own in /etc.
pub(crate) struct World {
    holder: Child,
    directory: TempDir,
}

impl World {
    /// One with these `files` in /etc, by name and content. `None` where there can be none.
    pub(crate) fn new(files: &[(&str, &str)]) -> Option<Self> {
        let unshare = ["--map-root-user", "--net", "--mount"];
        if !has("unshare", &[&unshare[..], &["true"]].concat())
            || !has("ip", &["-V"])
            || !has("nsenter", &["--version"])
        {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(directory.path().join(name), content).unwrap();
        }
        // A file may be a link into a place that is not there in this namespace.
        let script = r#"
set -eu
ip link set lo up
for file in "$1"/*; do
    [ -e "$file" ] && mount --bind "$file" "$(readlink -f "/etc/${file##*/}")"
done
echo ready
exec cat
"#;
        let mut holder = Command::new("unshare")
            .args(unshare)
            .args(["sh", "-c", script, "sh", directory.path().to_str().unwrap()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let world = Self { holder, directory };
        assert_eq!(line, "ready\n");
        Some(world)
    }

    /// Something to be run there.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--preserve-credentials", "--user", "--net", "--mount", "--target"]);
        command.arg(self.holder.id().to_string()).arg(program);
        command
    }

    /// A `redbreast serve` there, at the port that everybody asks.
    pub(crate) fn server(&self, arguments: &[&str]) -> Server {
        let mut command = self.command(env!("CARGO_BIN_EXE_redbreast"));
        command.args(["serve", "--listen", "127.0.0.1:53", "--control", "127.0.0.1:0"]).args(arguments);
        Server::spawn(&mut command)
    }

    /// What `program`, with these words, prints there.
    pub(crate) fn stdout(&self, program: &str, words: &[&str]) -> String {
        stdout(self.command(program).args(words))
    }

    /// A directory for files.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// What dig was told.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) status: String,
    pub(crate) flags: String,
    /// As it came back.
    pub(crate) question: String,
    /// Records without their TTLs, in the order of their texts.
    pub(crate) answer: Vec<String>,
    pub(crate) authority: Vec<String>,
    /// The lowest of the TTLs.
    pub(crate) ttl_s: u32,
    pub(crate) text: String,
}

impl Told {
    /// Asks with dig, which waits for long.
    pub(crate) fn dig(server: SocketAddr, arguments: &[&str]) -> Self {
        let (ip, port): (IpAddr, _) = (server.ip(), server.port());
        assert_eq!(ip, Ipv4Addr::LOCALHOST);
        let mut command = Command::new("dig");
        command.args(["@127.0.0.1", "-p", &port.to_string(), "+time=15", "+tries=1"]).args(arguments);
        Self::read(stdout(&mut command))
    }

    /// Reads what dig has printed.
    pub(crate) fn read(text: String) -> Self {
        let between = |start: &str, end: &str| {
            let rest = text.split(start).nth(1).unwrap_or_default();
            rest.split(end).next().unwrap_or_default().trim().to_owned()
        };
        let mut ttls = Vec::new();
        let mut section = |name: &str| {
            let lines = between(&format!("{name} SECTION:\n"), "\n\n");
            let record = |line: &str| {
                let mut words: Vec<_> = line.split_whitespace().collect();
                ttls.push(words.remove(1).parse().expect("a TTL"));
                words.join(" ")
            };
            let mut records: Vec<_> = lines.lines().map(record).collect();
            records.sort();
            records
        };
        let (answer, authority) = (section("ANSWER"), section("AUTHORITY"));
        Self {
            status: between("status: ", ","),
            flags: between(";; flags: ", ";"),
            question: between("QUESTION SECTION:\n;", "\n"),
            answer,
            authority,
            ttl_s: ttls.into_iter().min().unwrap_or_default(),
            text,
        }
    }

    pub(crate) fn has_flag(&self, flag: &str) -> bool {
        self.flags.split(' ').any(|it| it == flag)
    }

    /// The number of the extended error that it was told.
    pub(crate) fn reason(&self) -> Option<u16> {
        self.text.split("; EDE: ").nth(1)?.split_whitespace().next()?.parse().ok()
    }
}
