//! The same cases asked of BIND, Knot, NSD and Unbound, with the same records: what is answered otherwise is listed
//! here with its reason, and nothing else may be.
//!
//! Compared are response code, AA, AD, CD, TC, the answers with their TTLs, and whether the authority section has an
//! SOA. RA is not: a resolver has it and an authority has not.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::message::{
    A, AA, AAAA, AD, ANY, Answer, CD, CLASS_ANY, CLASS_CH, CNAME, DO, Edns, MX, OPCODE_SHIFT, PTR, Query, RD,
    SOA, SRV, TC, TXT, message,
};
use crate::server::{PATIENCE, has, wait_until};
use crate::transport::{tcp, udp};
use crate::world::{MANY, World};

const DOMAIN: &str = "redbreast.internal";
const REVERSE: &str = "3.0.0.10.in-addr.arpa";

/// What a peer answers otherwise than we do.
struct Difference {
    /// Empty for all of them.
    peer: &'static str,
    /// How the case's name begins.
    case: &'static str,
    /// Which of the things compared.
    what: &'static [&'static str],
    why: &'static str,
}

/// Cases that a peer answers with what is no valid message, and so are not asked of it.
const INVALID: &[(&str, &str)] = &[
    // It returns the query's two OPT records, which RFC 6891 §6.1.1 forbids, with FORMERR as ours.
    ("unbound", "two OPT"),
];

/// The first that fits counts.
const DIFFERENCES: &[Difference] = &[
    differs(
        "",
        "single ",
        &["rcode", "AA", "soa"],
        "they refuse all names that are not theirs; a name of one label is what a search path ends with, and we say \
         whether it exists",
    ),
    differs(
        "unbound",
        "flags CD",
        &["CD"],
        "it is a resolver, which repeats CD (RFC 4035 §3.2.2); authorities clear it (§3.1.6)",
    ),
    differs(
        "knot",
        "opcode 4",
        &["rcode"],
        "it knows NOTIFY and is no secondary of this zone (NOTAUTH); we do not know it",
    ),
    differs(
        "nsd",
        "opcode 4",
        &["rcode"],
        "it knows NOTIFY and has no zone of this name (NXDOMAIN); we do not know it",
    ),
    differs(
        "unbound",
        "opcode 4",
        &["rcode"],
        "it knows NOTIFY and takes none from here (REFUSED); we do not know it",
    ),
    differs(
        "knot",
        "opcode 5",
        &["rcode"],
        "it knows UPDATE and finds this one malformed (FORMERR); we do not know it",
    ),
    differs(
        "knot",
        "meta IXFR",
        &["rcode", "AA", "soa"],
        "it knows transfers and has none to give to this client (NOTAUTH); we refuse them",
    ),
    differs("nsd", "meta IXFR", &["rcode", "AA", "soa"], "as with Knot"),
    differs(
        "knot",
        "meta AXFR",
        &["rcode", "AA", "soa"],
        "it knows transfers, takes none over UDP (NOTIMP) and has none to give (NOTAUTH); we refuse them",
    ),
    differs("nsd", "meta AXFR", &["rcode", "AA", "soa"], "as with Knot"),
    differs(
        "unbound",
        "meta ",
        &["rcode", "AA", "soa"],
        "it takes questions for meta types as malformed; Knot and NSD, like us, as types without records",
    ),
    differs(
        "knot",
        "class ANY",
        &["AA"],
        "RFC 1035 §6.2 has no authority in answers to all classes; NSD is like us",
    ),
    differs("unbound", "class ANY", &["none"], "it does not answer class ANY at all"),
    differs(
        "knot",
        "edns cookie of 7 bytes",
        &["rcode", "AA", "answers"],
        "cookies are off in its configuration, and so it does not look; RFC 7873 §5.2.2 is FORMERR",
    ),
    differs("nsd", "edns cookie of 7 bytes", &["rcode", "AA", "answers"], "as with Knot"),
    differs("unbound", "edns cookie of 7 bytes", &["rcode", "AA", "answers"], "as with Knot"),
    differs(
        "nsd",
        "questions 0",
        &["none"],
        "it closes the TCP connection; we let the client go on with its other queries",
    ),
    differs("knot", "questions 2", &["none"], "it is silent; RFC 9619 §4 is FORMERR"),
    differs(
        "nsd",
        "bytes behind",
        &["rcode", "AA", "answers"],
        "it ignores them; to us a message with more than it says is malformed, as to Knot",
    ),
    differs("unbound", "bytes behind", &["rcode", "AA", "answers"], "as NSD"),
    differs(
        "unbound",
        "any web",
        &["answers", "soa"],
        "its local data has no answer to ANY; RFC 8482 §4.1 is one record set, as the others give",
    ),
    differs("unbound", "any six", &["answers", "soa"], "as above"),
    differs(
        "bind",
        "record loop",
        &["rcode"],
        "with the aliases it says SERVFAIL; Knot and NSD, like us, NOERROR",
    ),
    differs(
        "bind",
        "any web",
        &["answers"],
        "over TCP it gives all sets; RFC 8482 §4.1 leaves that open, and one is enough",
    ),
    differs(
        "bind",
        "class ANY",
        &["rcode", "answers"],
        "it does not look in all classes at once; NSD does, as we do",
    ),
    differs(
        "bind",
        "class private",
        &["rcode"],
        "NOTIMP for classes it does not know; the others and we refuse them",
    ),
    differs("bind", "flags CD", &["CD"], "it repeats CD; authorities clear it (RFC 4035 §3.1.6)"),
    differs(
        "bind",
        "opcode 4",
        &["rcode"],
        "it knows NOTIFY and finds this one malformed (FORMERR); we do not know it",
    ),
    differs(
        "bind",
        "opcode 5",
        &["rcode"],
        "it knows UPDATE and finds this one malformed (FORMERR); we do not know it",
    ),
    differs(
        "bind",
        "meta IXFR",
        &["rcode"],
        "it says NOTAUTH for a name that is no zone; we refuse transfers",
    ),
    differs("bind", "meta AXFR", &["rcode"], "as above"),
    differs(
        "bind",
        "meta ",
        &["rcode", "AA", "soa"],
        "it takes questions for meta types as malformed or not implemented; Knot and NSD, like us, as types without \
         records",
    ),
    differs(
        "bind",
        "bytes behind",
        &["rcode", "AA", "answers"],
        "it ignores them; to us, as to Knot, they are a fault",
    ),
    differs("unbound", "record ", &["answers", "soa", "rcode"], "its local data does not follow CNAMEs"),
    differs(
        "unbound",
        "foreign ",
        &["AA"],
        "its local zone of type refuse sets AA with REFUSED; we claim no authority over what is not ours",
    ),
    differs(
        "unbound",
        "flags AA TC",
        &["rcode", "answers"],
        "it takes a query with TC as malformed; the others, like us, ignore the flag (RFC 1035 §4.1.1: for responses)",
    ),
    differs(
        "unbound",
        "many edns 4096",
        &["TC", "answers"],
        "it sends up to 4096 bytes, we and the others 1232 (DNS Flag Day 2020)",
    ),
];

const fn differs(
    peer: &'static str,
    case: &'static str,
    what: &'static [&'static str],
    why: &'static str,
) -> Difference {
    Difference { peer, case, what, why }
}

/// Names of all kinds, each asked for several types.
fn names() -> Vec<(String, Query)> {
    const RECORDS: [&str; 9] =
        ["alias", "again", "outside", "dangling", "only-six", "loop", "to-apex", "_http._tcp.web", "mx"];
    const HOSTS: [&str; 9] =
        ["web", "WeB", "six", "mixed-case", "deep.er", "er", "nobody", "x.web", "mail_1"];
    let mut names = Vec::new();
    for (qtype, text) in [
        (A, "A"),
        (AAAA, "AAAA"),
        (CNAME, "CNAME"),
        (MX, "MX"),
        (SRV, "SRV"),
        (TXT, "TXT"),
        (65_280, "TYPE65280"),
    ] {
        for host in RECORDS {
            names.push((format!("record {host} {text}"), Query::new(&format!("{host}.{DOMAIN}"), qtype)));
        }
        for host in HOSTS {
            names.push((format!("name {host} {text}"), Query::new(&format!("{host}.{DOMAIN}"), qtype)));
        }
    }
    names
}

/// A case: its name, and the bytes to send.
fn cases() -> Vec<(String, Vec<u8>)> {
    let mut cases = Vec::new();
    let mut add = |name: String, query: Query| cases.push((name, query.to_bytes()));
    names().into_iter().for_each(|(name, query)| add(name, query));
    let web = format!("web.{DOMAIN}");
    for (qtype, text) in [(A, "A"), (MX, "MX"), (2, "NS")] {
        add(format!("apex {text}"), Query::new(DOMAIN, qtype));
    }
    add("apex SOA".into(), Query::new(DOMAIN, SOA));
    for (qtype, text) in [(PTR, "PTR"), (A, "A")] {
        add(format!("reverse {text}"), Query::new(REVERSE, qtype));
    }
    for (name, host) in
        [("web", &web[..]), ("er", "er.redbreast.internal"), ("six", "six.redbreast.internal")]
    {
        add(format!("any {name}"), Query::new(host, ANY));
    }
    for name in ["example.com", "notredbreast.internal", "."] {
        add(format!("foreign {name}"), Query::new(name, A));
    }
    for name in ["nobody", "internal"] {
        add(format!("single {name}"), Query::new(name, A));
    }
    for (class, text) in [(CLASS_CH, "CH"), (CLASS_ANY, "ANY"), (4, "HS"), (0xff00, "private")] {
        add(format!("class {text}"), Query::new(&web, A).class(class));
    }
    for (flags, text) in [(0, "none"), (RD | CD, "CD"), (RD | AD, "AD"), (RD | AA | TC, "AA TC")] {
        add(format!("flags {text}"), Query::new(&web, A).flags(flags));
    }
    for opcode in [1, 2, 3, 4, 5, 15] {
        add(format!("opcode {opcode}"), Query::new(&web, A).flags(opcode << OPCODE_SHIFT));
    }
    for (qtype, text) in
        [(251, "IXFR"), (252, "AXFR"), (253, "MAILB"), (249, "TKEY"), (250, "TSIG"), (41, "OPT")]
    {
        add(format!("meta {text}"), Query::new(&web, qtype));
    }
    let edns = |change: fn(&mut Edns)| {
        let mut edns = Edns::default();
        change(&mut edns);
        Query::new(&web, A).edns(edns)
    };
    add("edns plain".into(), edns(|_| {}));
    add("edns DO".into(), edns(|edns| edns.flags = DO));
    add("edns version 1".into(), edns(|edns| edns.version = 1));
    add("edns unknown option".into(), edns(|edns| edns.options = vec![(65_001, vec![1, 2, 3])]));
    add("edns unknown flags".into(), edns(|edns| edns.flags = 0x7fff));
    add("edns cookie of 7 bytes".into(), edns(|edns| edns.options = vec![(10, vec![1; 7])]));
    let many = format!("many.{DOMAIN}");
    add("many".into(), Query::new(&many, A));
    for size in [0, 512, 1232, 4096] {
        add(format!("many edns {size}"), Query::new(&many, A).edns(Edns { size, ..Edns::default() }));
    }
    let question = Query::new(&web, A).question();
    cases.push(("questions 0".into(), message(1, RD, [0, 0, 0, 0], &[])));
    cases.push(("questions 2".into(), message(1, RD, [2, 0, 0, 0], &[&question, &question])));
    let opt = Edns::default().to_bytes();
    cases.push(("two OPT".into(), message(1, RD, [1, 0, 0, 2], &[&question, &opt, &opt])));
    cases.push(("bytes behind".into(), message(1, RD, [1, 0, 0, 0], &[&question, b"x"])));
    cases
}

/// The records that the server of `World` has, as lines of a zone file, by zone.
fn zones() -> [(&'static str, Vec<String>); 2] {
    let mut forward = vec![format!("{DOMAIN}. 7 IN SOA ns.{DOMAIN}. hostmaster.{DOMAIN}. 1 60 10 3600 7")];
    forward.push(format!("{DOMAIN}. 7 IN NS ns.{DOMAIN}."));
    for (host, rdata) in [
        ("ns", "A 127.0.0.1"),
        ("web", "A 10.0.0.1"),
        ("web", "A 10.0.0.2"),
        ("web", "AAAA fd00::1"),
        ("mixed-case", "A 10.0.0.3"),
        ("deep.er", "A 10.0.0.4"),
        ("mail_1", "A 10.0.0.5"),
        ("six", "AAAA fd00::6"),
        ("mx", "MX 10 mail_1.redbreast.internal."),
        ("alias", "CNAME web.redbreast.internal."),
        ("again", "CNAME alias.redbreast.internal."),
        ("outside", "CNAME www.example.com."),
        ("dangling", "CNAME nobody.redbreast.internal."),
        ("only-six", "CNAME six.redbreast.internal."),
        ("to-apex", "CNAME redbreast.internal."),
        ("loop", "CNAME pool.redbreast.internal."),
        ("pool", "CNAME loop.redbreast.internal."),
        ("_http._tcp.web", "SRV 0 5 8080 web.redbreast.internal."),
        ("_http._tcp.web", "SRV 1 5 8081 six.redbreast.internal."),
        ("_http._tcp.web", "SRV 2 5 8082 web.redbreast.internal."),
    ] {
        forward.push(format!("{host}.{DOMAIN}. 7 IN {rdata}"));
    }
    forward.extend(
        (0..MANY).map(|i| format!("many.{DOMAIN}. 7 IN A {}", Ipv4Addr::from_bits((10 << 24 | 1 << 16) + i))),
    );
    let soa = format!("{REVERSE}. 7 IN SOA ns.{REVERSE}. hostmaster.{REVERSE}. 1 60 10 3600 7");
    let ns = format!("{REVERSE}. 7 IN NS ns.{DOMAIN}."); // BIND takes no zone without
    [(DOMAIN, forward), (REVERSE, vec![soa, ns, format!("{REVERSE}. 7 IN PTR mixed-case.{DOMAIN}.")])]
}

/// A server of others, killed when it goes out of scope.
struct Peer {
    child: Child,
    address: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where a daemon is, which may be where an ordinary user's search path does not lead.
fn daemon(program: &str) -> PathBuf {
    let folders = ["/usr/local/sbin", "/usr/sbin", "/usr/local/bin", "/usr/bin"];
    let found = folders.iter().map(|folder| Path::new(folder).join(program)).find(|path| path.exists());
    found.unwrap_or_else(|| program.into())
}

/// A port of 127.0.0.1 that is free over both transports.
fn free_port() -> u16 {
    loop {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        if TcpListener::bind(address).is_ok() {
            return address.port();
        }
    }
}

impl Peer {
    /// Starts `program` with the configuration that `configure` makes from a port and a directory with zone files.
    fn start(program: &str, args: &[&str], configure: fn(u16, &Path) -> String) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (zone, records) in zones() {
            fs::write(dir.path().join(zone), records.join("\n") + "\n").unwrap();
        }
        let port = free_port();
        let config = dir.path().join("conf");
        fs::write(&config, configure(port, dir.path())).unwrap();
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let child = Command::new(daemon(program))
            .args(args)
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("it was found");
        let mut peer = Self { child, address: ([127, 0, 0, 1], port).into(), _dir: dir };
        let ready = Query::new(&format!("web.{DOMAIN}"), A).to_bytes();
        let begin = Instant::now();
        wait_until(&format!("{program} answers"), || {
            let log = || fs::read_to_string(peer._dir.path().join("log")).unwrap_or_default();
            let ended = peer.child.try_wait().unwrap();
            assert!(ended.is_none() && begin.elapsed() < PATIENCE, "{program}: {ended:?}: {}", log());
            let answer = udp(peer.address, &ready, Duration::from_millis(200));
            answer.is_some_and(|answer| Answer::read("UDP", &answer).answers.len() == 2)
        });
        peer
    }
}

/// What is compared of an answer, by name.
fn compared(answer: Option<&Answer>) -> Vec<(&'static str, String)> {
    let Some(answer) = answer else { return vec![("none", "no answer".into())] };
    let truncated = answer.has(TC);
    let mut records: Vec<_> = answer
        .answers
        .iter()
        .map(|record| {
            let lower = |bytes: &[u8]| bytes.to_ascii_lowercase();
            // The serial is each server's own.
            let end = record.data.len() - if record.rtype == SOA { 20 } else { 0 };
            (lower(&record.owner), record.rtype, record.class, record.ttl, lower(&record.data[..end]))
        })
        .collect();
    records.sort();
    let soa = answer.authorities.iter().any(|record| record.rtype == SOA);
    vec![
        ("rcode", answer.rcode().to_string()),
        ("AA", answer.has(AA).to_string()),
        ("AD", answer.has(AD).to_string()),
        ("CD", answer.has(CD).to_string()),
        ("TC", truncated.to_string()),
        // Of what did not fit, each leaves out something else.
        ("answers", if truncated { "some".into() } else { format!("{records:?}") }),
        ("soa", soa.to_string()),
    ]
}

/// Asks a peer and us all cases, and fails when anything is different that is not listed.
fn compare(name: &str, peer: &Peer) {
    let world = World::new();
    let patience = Duration::from_millis(700);
    let mut unlisted = String::new();
    let mut seen = BTreeSet::new();
    for (case, bytes) in cases() {
        if INVALID.contains(&(name, &case)) {
            continue;
        }
        for (over, ask) in [("UDP", udp as fn(_, &[u8], _) -> _), ("TCP", tcp)] {
            let ours = ask(world.server.address, &bytes, PATIENCE).map(|answer| Answer::read(over, &answer));
            let theirs = ask(peer.address, &bytes, patience).map(|answer| Answer::read(over, &answer));
            let (ours, theirs) = (compared(ours.as_ref()), compared(theirs.as_ref()));
            let fields: Vec<_> = if theirs.len() == ours.len() {
                ours.iter().zip(&theirs).filter(|(a, b)| a != b).collect()
            } else {
                vec![(&ours[0], &theirs[0])]
            };
            for (our, their) in fields {
                let what = their.0;
                let listed = DIFFERENCES.iter().position(|difference| {
                    [name, ""].contains(&difference.peer)
                        && case.starts_with(difference.case)
                        && difference.what.contains(&what)
                });
                match listed {
                    Some(i) => drop(seen.insert(i)),
                    None => {
                        writeln!(unlisted, "{case} over {over}: {what}: we {}, {name} {}", our.1, their.1)
                            .unwrap()
                    }
                }
            }
        }
    }
    for (i, difference) in DIFFERENCES.iter().enumerate().filter(|(_, difference)| difference.peer == name) {
        if !seen.contains(&i) {
            println!("listed but not seen with this {name}: {} ({})", difference.case, difference.why);
        }
    }
    assert!(unlisted.is_empty(), "not listed in DIFFERENCES:\n{unlisted}");
}

#[test]
fn knot() {
    if !has(daemon("knotd").to_str().unwrap(), &["--version"]) {
        return;
    }
    let peer = Peer::start("knotd", &["--config"], |port, dir| {
        let dir = dir.display();
        format!(
            "server:\n  rundir: \"{dir}\"\n  listen: 127.0.0.1@{port}\n  udp-workers: 1\n  tcp-workers: 1\n  \
             background-workers: 1\ncontrol:\n  listen: \"{dir}/control\"\ndatabase:\n  storage: \"{dir}\"\nlog:\n  \
             - target: stderr\n    any: notice\ntemplate:\n  - id: default\n    storage: \"{dir}\"\n    \
             semantic-checks: off\n    zonefile-sync: -1\n    journal-content: none\nzone:\n  \
             - domain: {DOMAIN}\n    file: {DOMAIN}\n  - domain: {REVERSE}\n    file: {REVERSE}\n"
        )
    });
    compare("knot", &peer);
}

#[test]
fn bind() {
    if !has(daemon("named").to_str().unwrap(), &["-v"]) {
        return;
    }
    let peer = Peer::start("named", &["-g", "-n", "1", "-c"], |port, dir| {
        let dir = dir.display();
        format!(
            "options {{ directory \"{dir}\"; managed-keys-directory \"{dir}\"; listen-on port {port} {{ 127.0.0.1; }}; \
             listen-on-v6 {{ none; }}; recursion no; minimal-responses yes; minimal-any yes; dnssec-validation no; \
             pid-file none; lock-file none; session-keyfile none; notify no; allow-transfer {{ none; }}; \
             max-udp-size 1232; edns-udp-size 1232; answer-cookie no; }};\ncontrols {{ }};\n\
             zone \"{DOMAIN}\" {{ type primary; file \"{DOMAIN}\"; check-names ignore; }};\n\
             zone \"{REVERSE}\" {{ type primary; file \"{REVERSE}\"; }};\n"
        )
    });
    compare("bind", &peer);
}

#[test]
fn nsd() {
    if !has(daemon("nsd").to_str().unwrap(), &["-v"]) {
        return;
    }
    let peer = Peer::start("nsd", &["-d", "-c"], |port, dir| {
        let dir = dir.display();
        format!(
            "server:\n  ip-address: 127.0.0.1@{port}\n  server-count: 1\n  minimal-responses: yes\n  \
             rrl-ratelimit: 0\n  rrl-whitelist-ratelimit: 0\n  username: \"\"\n  chroot: \"\"\n  database: \"\"\n  \
             zonesdir: \"{dir}\"\n  pidfile: \"{dir}/pid\"\n  xfrdfile: \"{dir}/xfrd.state\"\n  \
             xfrdir: \"{dir}\"\n  zonelistfile: \"{dir}/zone.list\"\nremote-control:\n  control-enable: no\n\
             zone:\n  name: {DOMAIN}\n  zonefile: {DOMAIN}\nzone:\n  name: {REVERSE}\n  zonefile: {REVERSE}\n"
        )
    });
    compare("nsd", &peer);
}

#[test]
fn unbound() {
    if !has(daemon("unbound").to_str().unwrap(), &["-V"]) {
        return;
    }
    let peer = Peer::start("unbound", &["-d", "-c"], |port, dir| {
        let mut text = format!(
            "server:\n  interface: 127.0.0.1@{port}\n  num-threads: 1\n  minimal-responses: yes\n  ip-ratelimit: 0\n  \
             module-config: \"iterator\"\n  do-daemonize: no\n  use-syslog: no\n  logfile: \"\"\n  username: \"\"\n  \
             chroot: \"\"\n  directory: \"{}\"\n  pidfile: \"\"\n  local-zone: \".\" refuse\n",
            dir.display()
        );
        for (zone, records) in zones() {
            writeln!(text, "  local-zone: \"{zone}.\" static").unwrap();
            for record in records {
                writeln!(text, "  local-data: '{record}'").unwrap();
            }
        }
        text + "remote-control:\n  control-enable: no\n"
    });
    compare("unbound", &peer);
}
