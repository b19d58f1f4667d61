//! Scripts that were written for weaveDNS keep working: the requests that `weave` itself makes, by curl.

use serde_json::Value;

use crate::control::start;
use crate::harness::{ask, query};
use crate::http::{get, send};

const FORM: &str = "content-type: application/x-www-form-urlencoded\r\n";

#[test]
fn names_come_and_go_as_by_the_api_of_weave() {
    let (server, at) = start(&["--domain", "weave.local"]);
    let client = server.client();
    let count = |name: &str| ask(&client, &query(7, name, 1))[7];
    let put = |container: &str, ip: &str, form: &str| {
        send(&at, "PUT", &format!("/name/{container}/{ip}"), FORM, form)
    };
    let id = "9cf6a1f5c7b1a7f8d4b1d8c54f0b3a6e9d2c1b0a9f8e7d6c5b4a39281706f5e4";
    assert_eq!(put(id, "10.2.1.1", "fqdn=Web.weave.local.&check-alive=true").status, 204);
    // In the address, as curl's users like it.
    assert_eq!(send(&at, "PUT", &format!("/name/{id}/10.2.1.2?fqdn=web.weave.local"), "", "").status, 204);
    assert_eq!(put("weave:extern", "10.2.1.3", "fqdn=web.weave.local").status, 204);
    assert_eq!(put("other", "10.2.1.4", "fqdn=db.weave.local").status, 204);
    crate::harness::wait_until("all are answered", || {
        count("WEB.weave.local") == 3 && count("db.weave.local") == 1
    });
    let entries = get(&at, "/name").json();
    let entry = |addr: &str| -> Value {
        entries.as_array().unwrap().iter().find(|it| it["Addr"] == addr).cloned().expect(addr)
    };
    assert_eq!(entry("10.2.1.1")["ContainerID"], id);
    assert_eq!(entry("10.2.1.1")["Hostname"], "web.weave.local.");
    assert_eq!(
        (&entry("10.2.1.3")["ContainerID"], &entry("10.2.1.3")["Tombstone"]),
        (&"weave:extern".into(), &0.into())
    );
    let mut fields: Vec<_> = entry("10.2.1.4").as_object().unwrap().keys().cloned().collect();
    fields.sort();
    assert_eq!(fields, ["Addr", "ContainerID", "Hostname", "Origin", "Tombstone", "Version"]);
    assert_eq!(get(&at, "/domain").body, "weave.local.");
    assert_eq!(get(&at, "/dns-address").body, "127.0.0.1");
    assert_eq!(get(&at, "/dns-address-port").body, server.address.to_string());
    // What is left out of a deletion can be any.
    let delete = |path: &str| send(&at, "DELETE", path, "", "").status;
    assert_eq!(delete(&format!("/name/{id}/10.2.1.1?fqdn=other.weave.local")), 204);
    assert_eq!(count("web.weave.local"), 3, "another name was meant");
    assert_eq!(delete(&format!("/name/{id}/10.2.1.1")), 204);
    crate::harness::wait_until("one is gone", || count("web.weave.local") == 2);
    assert_eq!(delete("/name/*/10.2.1.4"), 204);
    crate::harness::wait_until("by its address", || count("db.weave.local") == 0);
    assert_eq!(delete(&format!("/name/{id}")), 204);
    crate::harness::wait_until("the container's are gone", || count("web.weave.local") == 1);
    assert_eq!(delete("/name?fqdn=web.weave.local"), 204);
    crate::harness::wait_until("all are gone", || count("web.weave.local") == 0);
    assert_eq!(delete("/name/nobody"), 204, "it is gone, as was asked");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let (_server, at) = start(&["--domain", "weave.local"]);
    for (path, told) in [
        ("/name/c1/10.2.1?fqdn=web.weave.local", "10.2.1"),
        ("/name/c1/10.2.1.1", "fqdn"),
        ("/name/c1/10.2.1.1?fqdn=web.elsewhere", "weave.local."),
        ("/name/files/10.2.1.1?fqdn=web.weave.local", "the node's own"),
    ] {
        let answer = send(&at, "PUT", path, "", "");
        assert_eq!(answer.status, 400, "{path}");
        assert!(answer.problem().contains(told), "{path}: {answer:?}");
    }
    assert_eq!(send(&at, "DELETE", "/name/c1/nowhere", "", "").status, 400);
    assert_eq!(get(&at, "/name").json(), Value::Array(Vec::new()));
}
