//! What is registered of a container: its names with its addresses.
//!
//! Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use bollard::models::{ContainerInspectResponse, EndpointSettings, HealthStatusEnum};

use super::DockerRules;
use crate::api::register;
use crate::api::request::{CONTAINER_PREFIX, RegisterRequest};
use crate::policy::select::Health;
use crate::store::{Attributes, Key};
use crate::wire::name::Name;

/// Characters of an id that `docker ps` shows.
const SHORT_ID_LEN: usize = 12;

/// A running container.
#[derive(Debug, PartialEq)]
pub(super) struct Container {
    pub(super) name: Box<str>,
    pub(super) instance: Box<str>,
    pub(super) health: Health,
    pub(super) registrations: Vec<(Key, Attributes)>,
}

impl Container {
    /// What is registered of a container that the Engine describes so; `None` if it does not run.
    ///
    /// # Errors
    /// What is wrong with its labels.
    pub(super) fn read(told: &ContainerInspectResponse, rules: &DockerRules) -> Result<Option<Self>, String> {
        let state = told.state.clone().unwrap_or_default();
        let (Some(id), true, false) = (&told.id, state.running == Some(true), state.paused == Some(true))
        else {
            return Ok(None);
        };
        let name = told.name.as_deref().unwrap_or_default().trim_start_matches('/');
        let config = told.config.clone().unwrap_or_default();
        let labels = Labels(config.labels.unwrap_or_default());
        let short_id = id.get(..SHORT_ID_LEN).unwrap_or(id);
        let networks = told.network_settings.clone().unwrap_or_default().networks.unwrap_or_default();
        let is_meant = |network: &String| rules.networks.is_empty() || rules.networks.contains(network);
        // What is ignored runs all the same, which somebody may want to know.
        let networks = networks.into_iter().filter(|(network, _)| is_meant(network) && !labels.is_ignored());
        let host = host_name(config.hostname.as_deref(), config.domainname.as_deref());
        let of_container = [Some(name.to_owned()), host.filter(|host| host != short_id)];
        let mut addresses: BTreeMap<String, BTreeSet<IpAddr>> = BTreeMap::new();
        for (_, endpoint) in networks {
            let names = match labels.names() {
                Some(names) => names,
                None => {
                    let aliases =
                        endpoint.aliases.iter().flatten().filter(|alias| *alias != short_id).cloned();
                    of_container.iter().flatten().cloned().chain(aliases).collect()
                }
            };
            for name in names {
                addresses.entry(name).or_default().extend(addresses_of(&endpoint));
            }
        }
        let instance = format!("{CONTAINER_PREFIX}{short_id}");
        let mut registrations = Vec::new();
        for (text, addresses) in addresses.into_iter().filter(|(_, addresses)| !addresses.is_empty()) {
            // Names that are nobody's fault: containers are called as their users like it, and hosts are of other
            // domains.
            if labels.names().is_none() && !can_be_ours(&text, &rules.domains) {
                continue;
            }
            let wanted = labels.addition(text, addresses.into_iter().collect());
            let of_name = wanted.and_then(|addition| {
                register::of_container(&addition, &instance, &rules.domains, rules.check_dir.as_deref())
            });
            registrations.extend(of_name.map_err(|why| format!("{name}: {why}"))?);
        }
        let health = match state.health.and_then(|health| health.status) {
            Some(HealthStatusEnum::HEALTHY) => Health::Up,
            Some(HealthStatusEnum::UNHEALTHY) => Health::Down,
            _ => Health::Unknown,
        };
        Ok(Some(Self { name: name.into(), instance: instance.into(), health, registrations }))
    }
}

/// What a container says of itself by its labels.
struct Labels(HashMap<String, String>);

impl Labels {
    fn get(&self, label: &str) -> Option<&str> {
        self.0.get(label).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    fn is_ignored(&self) -> bool {
        self.0.get("redbreast.ignore").is_some_and(|value| value.trim() != "false")
    }

    /// The names to be registered, if it is not its own.
    fn names(&self) -> Option<Vec<String>> {
        Some(self.get("redbreast.name")?.split(',').map(|name| name.trim().to_owned()).collect())
    }

    fn number(&self, label: &str) -> Result<Option<u32>, String> {
        let read =
            |value: &str| value.parse().map_err(|_| format!("label {label}={value}: expected a number"));
        self.get(label).map(read).transpose()
    }

    /// What is to be registered under one name.
    fn addition(&self, name: String, addresses: Vec<IpAddr>) -> Result<RegisterRequest, String> {
        let port = self.get("redbreast.port").map(|value| {
            let (service, port) = value.rsplit_once(':').unwrap_or(("", value));
            let port = port.parse::<u16>().map_err(|_| {
                format!(
                    "label redbreast.port={value}: expected PORT or SERVICE:PORT, like 8080 or _pg._tcp:5432"
                )
            })?;
            // Without a service it is the one that the name says.
            let label = name.split('.').next().unwrap_or_default();
            Ok::<_, String>((port, if service.is_empty() { label.to_owned() } else { service.to_owned() }))
        });
        let (port, service) = port.transpose()?.unzip();
        Ok(RegisterRequest {
            addresses,
            port,
            service,
            ttl_s: self.number("redbreast.ttl")?,
            weight: self.number("redbreast.weight")?,
            tier: self.number("redbreast.tier")?,
            check: self.get("redbreast.check").map(str::to_owned),
            slow_start_s: self.number("redbreast.slow-start")?,
            name,
            instance: None,
        })
    }
}

/// What a container calls itself, with its domain if it has one.
fn host_name(host: Option<&str>, domain: Option<&str>) -> Option<String> {
    let host = host.filter(|host| !host.is_empty())?;
    Some(match domain.filter(|domain| !domain.is_empty()) {
        Some(domain) => format!("{host}.{domain}"),
        None => host.to_owned(),
    })
}

/// Whether this can be a name in our domains at all.
fn can_be_ours(text: &str, domains: &[Name]) -> bool {
    register::name(text, domains).is_ok_and(|name| register::check_host(&name).is_ok())
}

fn addresses_of(endpoint: &EndpointSettings) -> impl Iterator<Item = IpAddr> {
    let both = [&endpoint.ip_address, &endpoint.global_ipv6_address];
    both.into_iter()
        .flatten()
        .filter_map(|text| text.parse::<IpAddr>().ok())
        .filter(|ip| !ip.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::rdata_text;

    /// As the Engine tells it, where it has to do with names.
    const TOLD: &str = r#"{
        "Id": "4f3a2b1c0d9e8f7a6b5c4d3e2f1a0b9c8d7e6f5a4b3c2d1e0f9a8b7c6d5e4f3a", "Name": "/shop_web_1",
        "State": {"Running": true, "Paused": false, "Health": {"Status": "healthy"}},
        "Config": {"Hostname": "web", "Domainname": "", "Labels": {}},
        "NetworkSettings": {"Networks": {
            "front": {"IPAddress": "172.18.0.2", "GlobalIPv6Address": "fd00::2", "Aliases": ["www", "4f3a2b1c0d9e"]},
            "back": {"IPAddress": "172.19.0.2", "GlobalIPv6Address": "", "Aliases": null}}}}"#;

    fn rules(networks: &[&str]) -> DockerRules {
        DockerRules {
            socket: "/nowhere".into(),
            networks: networks.iter().map(ToString::to_string).collect(),
            domains: vec![Name::from_text("example").unwrap()],
            check_dir: None,
        }
    }

    fn read(
        change: impl FnOnce(&mut serde_json::Value),
        networks: &[&str],
    ) -> Result<Option<Container>, String> {
        let mut told: serde_json::Value = serde_json::from_str(TOLD).unwrap();
        change(&mut told);
        Container::read(&serde_json::from_value(told).unwrap(), &rules(networks))
    }

    fn shown(container: &Container) -> Vec<String> {
        let show = |(key, _): &(Key, Attributes)| {
            format!("{} {}", key.name, rdata_text::show(key.rtype, &key.rdata))
        };
        let mut all: Vec<_> = container.registrations.iter().map(show).collect();
        all.sort();
        all
    }

    #[test]
    fn a_container_has_its_names_in_all_its_networks() {
        let container = read(|_| {}, &[]).unwrap().unwrap();
        assert_eq!((&*container.instance, container.health), ("docker:4f3a2b1c0d9e", Health::Up));
        let both =
            |name: &str| ["172.18.0.2", "172.19.0.2", "fd00::2"].map(|ip| format!("{name}.example. {ip}"));
        let mut expected = [both("shop_web_1"), both("web")].concat();
        expected.extend(["172.18.0.2", "fd00::2"].map(|ip| format!("www.example. {ip}")));
        expected.sort();
        assert_eq!(shown(&container), expected);
        let back = read(|_| {}, &["back"]).unwrap().unwrap();
        assert_eq!(shown(&back), ["shop_web_1.example. 172.19.0.2", "web.example. 172.19.0.2"]);
        let elsewhere =
            read(|told| told["Config"]["Domainname"] = "other.test".into(), &["back"]).unwrap().unwrap();
        assert_eq!(shown(&elsewhere), ["shop_web_1.example. 172.19.0.2"]);
        let ours =
            read(|told| told["Config"]["Domainname"] = "lab.example".into(), &["back"]).unwrap().unwrap();
        assert_eq!(shown(&ours)[1], "web.lab.example. 172.19.0.2");
    }

    #[test]
    fn labels_say_more() {
        let labelled = |labels: serde_json::Value| read(|told| told["Config"]["Labels"] = labels, &["back"]);
        let labels = serde_json::json!({
            "redbreast.name": "api, admin.example", "redbreast.weight": "3", "redbreast.port": "_pg._tcp:5432",
            "redbreast.check": "tcp:5432", "other": "x"
        });
        let container = labelled(labels).unwrap().unwrap();
        let names = [
            "_pg._tcp.admin.example. 0 0 5432 admin.example.",
            "_pg._tcp.api.example. 0 0 5432 api.example.",
            "admin.example. 172.19.0.2",
            "api.example. 172.19.0.2",
        ];
        assert_eq!(shown(&container), names);
        let weight = |(key, attributes): &(Key, Attributes)| (key.rtype == 1).then_some(attributes.weight);
        assert!(container.registrations.iter().filter_map(weight).all(|weight| weight == Some(3)));
        let plain =
            labelled(serde_json::json!({"redbreast.port": "80", "redbreast.name": "web"})).unwrap().unwrap();
        assert_eq!(shown(&plain)[0], "_web._tcp.web.example. 0 0 80 web.example.");
        let shown_with = |value: &str| {
            shown(&labelled(serde_json::json!({"redbreast.ignore": value})).unwrap().expect("it runs"))
        };
        assert!(shown_with("true").is_empty() && !shown_with("false").is_empty());
        for (label, value, told) in [
            ("redbreast.weight", "heavy", "expected a number"),
            ("redbreast.weight", "65536", "65535"),
            ("redbreast.port", "http", "expected PORT"),
            ("redbreast.name", "web.other.test", "the node answers for"),
            ("redbreast.check", "ping", "ping"),
        ] {
            let why = labelled(serde_json::json!({label: value})).unwrap_err();
            assert!(why.contains(told) && why.starts_with("shop_web_1: "), "{label}: {why}");
        }
    }

    #[test]
    fn what_does_not_run_has_no_names() {
        assert_eq!(read(|told| told["State"]["Running"] = false.into(), &[]), Ok(None));
        assert_eq!(read(|told| told["State"]["Paused"] = true.into(), &[]), Ok(None));
        let alone =
            read(|told| told["NetworkSettings"]["Networks"] = serde_json::json!({}), &[]).unwrap().unwrap();
        assert_eq!(shown(&alone), Vec::<String>::new());
        let odd = read(|told| told["Name"] = "/-odd-".into(), &["back"]).unwrap().unwrap();
        assert_eq!(shown(&odd), ["web.example. 172.19.0.2"]);
    }
}
