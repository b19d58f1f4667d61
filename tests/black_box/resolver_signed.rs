//! Validation behind us: a signed root and a signed top-level domain at a Knot, which we ask, and validators that ask
//! us.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::harness::{Server, has, stdout};
use crate::upstreams::{KNOT, Spot, Told, UNBOUND, Upstream};

/// Signs a zone; returns it, its DS records and its key-signing key's record.
fn sign(directory: &Path, name: &str, zone: &str) -> (String, String, String) {
    let tool =
        |program: &str, words: &[&str]| stdout(Command::new(program).current_dir(directory).args(words));
    let key = |flags: &[&str]| {
        let words = [&["-a", "ECDSAP256SHA256"], flags, &[name]].concat();
        tool("dnssec-keygen", &words).trim().to_owned()
    };
    let (zone_key, signing_key) = (key(&[]), key(&["-f", "KSK"]));
    let record = |key: &str| fs::read_to_string(directory.join(format!("{key}.key"))).unwrap();
    let text = format!("{zone}{}{}", record(&zone_key), record(&signing_key));
    fs::write(directory.join("unsigned"), text).unwrap();
    tool("dnssec-signzone", &["-o", name, "-f", "signed", "-k", &signing_key, "unsigned", &zone_key]);
    let read = |file: &str| fs::read_to_string(directory.join(file)).unwrap();
    let is_record = |line: &&str| !line.starts_with(';');
    let anchor = record(&signing_key).lines().filter(is_record).collect::<String>();
    let ds = tool("dnssec-dsfromkey", &["-2", &signing_key]);
    (read("signed"), ds, anchor)
}

const SOA: &str = "SOA ns.com. x.com. 1 3600 600 86400 60";

/// Knot with both zones, and the anchor of the root.
fn upstream() -> Option<(Upstream, String)> {
    let tools =
        [("dnssec-keygen", "-V"), ("dnssec-signzone", "-V"), (UNBOUND, "-V"), ("delv", "-v"), ("dig", "-v")];
    if !has(KNOT, &["--version"]) || !tools.iter().all(|(tool, probe)| has(tool, &[probe])) {
        return None;
    }
    let directory = tempfile::tempdir().unwrap();
    let com = format!(
        "$TTL 300\n@ {SOA}\n@ NS ns\nns A 198.18.0.53\nwww.shop A 198.18.0.1\nalias CNAME www.shop\n"
    );
    let (com, ds, _) = sign(directory.path(), "com.", &com);
    let root = format!("$TTL 300\n. {SOA}\n. NS ns.com.\ncom. NS ns.com.\nns.com. A 198.18.0.53\n{ds}");
    let (root, _, anchor) = sign(directory.path(), ".", &root);
    Some((Upstream::knot(&[(".", &root), ("com", &com)]), anchor))
}

#[test]
fn validators_behind_us_find_the_chain_of_keys() {
    let Some((knot, anchor)) = upstream() else { return };
    let server = Server::start(&["--workers", "1", "--upstream", &knot.at()]);
    for (name, qtype) in [("com", "DS"), ("com", "DNSKEY"), (".", "DNSKEY"), ("com", "SOA"), ("com", "NS")] {
        let told = Told::dig(server.address, &[name, qtype]);
        assert_eq!((&*told.status, told.has_flag("aa")), ("NOERROR", false), "{}", told.text);
        assert!(!told.answer.is_empty(), "{}", told.text);
    }
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    // delv, by itself.
    let words: Vec<_> = anchor.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "DNSKEY").expect("a key");
    let (numbers, key) = words[at + 1..].split_at(3);
    let anchors = format!("trust-anchors {{ . static-key {} \"{}\"; }};\n", numbers.join(" "), key.concat());
    fs::write(path("anchors"), anchors).unwrap();
    let port = server.port();
    let words =
        ["@127.0.0.1", "-p", &port, "-a", &path("anchors"), "+root=.", "+multiline", "www.shop.com", "A"];
    let text = stdout(Command::new("delv").args(words));
    assert!(text.contains("fully validated") && text.contains("198.18.0.1"), "{text}");
    // Unbound, which asks nobody but us.
    fs::write(path("root.key"), format!("{anchor}\n")).unwrap();
    let more = format!(
        " module-config: \"validator iterator\"\n trust-anchor-file: \"{}\"\n local-zone: \".\" nodefault\n\
         forward-zone:\n name: \".\"\n forward-addr: 127.0.0.1@{port}\n",
        path("root.key")
    );
    let unbound = Upstream::validating_unbound(Spot::Anywhere, &more);
    for (name, status, answers) in
        [("www.shop.com", "NOERROR", 2), ("alias.com", "NOERROR", 4), ("nobody.com", "NXDOMAIN", 0)]
    {
        let told = Told::dig(unbound.address, &["+dnssec", name]);
        assert_eq!((&*told.status, told.has_flag("ad")), (status, true), "{}", told.text);
        assert_eq!(told.answer.len(), answers, "{}", told.text);
    }
}
