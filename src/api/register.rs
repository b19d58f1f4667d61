//! What somebody wants to have registered, checked and turned into registrations.
//!
//! Pure.

use std::path::Path;

use crate::api::request::{DEFAULT_INSTANCE, MAX_ADDITIONS, RegisterRequest, is_reserved};
use crate::health::spec::{Check, Probe};
use crate::policy::rules::Scope;
use crate::policy::select::{MAX_TIER, MAX_WEIGHT};
use crate::store::{Attributes, Key, MAX_CHECK_LEN};
use crate::wire::name::Name;
use crate::wire::record::rtype;

/// The highest TTL (RFC 2181 §8).
const MAX_TTL_S: u32 = crate::limits::MAX_TTL_S;

/// The longest slow start: a day.
const MAX_SLOW_START_S: u32 = 86_400;

/// The name that `text` stands for at a server of these domains, in lower case; it may be in none of them.
pub(crate) fn any_name(text: &str, domains: &[Name]) -> Result<Name, String> {
    let cannot = |why: &dyn std::fmt::Display| format!("{text:?} cannot be a name here: {why}");
    let name = Name::from_text(text).map_err(|error| cannot(&error))?;
    let name = match domains.first() {
        Some(first) if name.labels().count() == 1 && !text.ends_with('.') => {
            name.below(first).map_err(|error| cannot(&error))?
        }
        _ => name,
    };
    Ok(name.to_lower_case())
}

/// The same, where it has to be in one of the domains.
pub(crate) fn name(text: &str, domains: &[Name]) -> Result<Name, String> {
    let name = any_name(text, domains)?;
    if !domains.iter().any(|domain| name.is_within(domain)) {
        let domains: Vec<_> = domains.iter().map(ToString::to_string).collect();
        let domains = domains.join(", ");
        return Err(format!("{text:?} cannot be a name here: the node answers for {domains} alone"));
    }
    Ok(name)
}

/// That addresses can stand under a name: it is one of a host (RFC 1123 §2.1), or has underscores as containers' have.
///
/// # Errors
/// What is none.
pub fn check_host(name: &Name) -> Result<(), String> {
    let is_host = |label: &[u8]| {
        label.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte))
            && !label.starts_with(b"-")
            && !label.ends_with(b"-")
    };
    match name.labels().find(|label| !is_host(label)) {
        Some(label) => Err(format!(
            "{:?} in {name} is no part of a host's name: those have letters, digits, `-` and `_` alone, and no `-` at \
             an end",
            String::from_utf8_lossy(label)
        )),
        None => Ok(()),
    }
}

/// The names that `text` stands for at a server of these domains: one, or after `*.` a domain with all that is in it,
/// or with `*` all that nothing else is said of.
///
/// # Errors
/// Why it stands for none.
pub fn parse_scope(text: &str, domains: &[Name]) -> Result<Scope, String> {
    let wire = |name: Name| name.as_wire().into();
    match text.strip_prefix('*') {
        None => Ok(Scope::Name(wire(name(text, domains)?))),
        Some("") => Ok(Scope::Default),
        Some(rest) => match rest.strip_prefix('.') {
            Some(domain) => Ok(Scope::Domain(wire(name(domain, domains)?))),
            None => Err(format!("{text:?} stands for no names: expected a name, *.DOMAIN, or *")),
        },
    }
}

/// The instance that is meant.
pub(crate) fn instance(asked: Option<&str>) -> Result<&str, String> {
    let instance = asked.unwrap_or(DEFAULT_INSTANCE);
    if is_reserved(instance) {
        return Err(format!("the instance {instance:?} is the node's own: take another name"));
    }
    if instance.is_empty() {
        return Err("an instance needs a name".into());
    }
    Ok(instance)
}

/// The registrations that `additions` ask for, or what is wrong with which.
///
/// Programs can be run as checks if they are in `check_dir`.
pub(crate) fn registrations(
    additions: &[RegisterRequest],
    domains: &[Name],
    check_dir: Option<&Path>,
) -> Result<Vec<(Key, Attributes)>, String> {
    let mut all = Vec::new();
    for addition in additions {
        let instance = instance(addition.instance.as_deref())?;
        all.extend(one(addition, instance, domains, check_dir)?);
        if all.len() > MAX_ADDITIONS {
            return Err(format!("more than {MAX_ADDITIONS} registrations in one request: send several"));
        }
    }
    Ok(all)
}

/// The same for one that a container asks for by being there.
pub(crate) fn of_container(
    addition: &RegisterRequest,
    instance: &str,
    domains: &[Name],
    check_dir: Option<&Path>,
) -> Result<Vec<(Key, Attributes)>, String> {
    one(addition, instance, domains, check_dir)
}

fn one(
    addition: &RegisterRequest,
    instance: &str,
    domains: &[Name],
    check_dir: Option<&Path>,
) -> Result<Vec<(Key, Attributes)>, String> {
    let RegisterRequest { name: text, addresses, ttl_s, port, service, .. } = addition;
    let name = name(text, domains)?;
    check_host(&name)?;
    if addresses.is_empty() {
        return Err(format!("{text:?} needs an address"));
    }
    if let Some(wrong) = addresses.iter().find(|ip| ip.is_unspecified() || ip.is_multicast()) {
        return Err(format!("{wrong} is no address of a host"));
    }
    if ttl_s.is_some_and(|ttl_s| ttl_s > MAX_TTL_S) {
        return Err(format!("a TTL is at most {MAX_TTL_S} seconds"));
    }
    let attributes = Attributes { ttl_s: *ttl_s, ..Attributes::default() };
    let of_address = Attributes { ttl_s: *ttl_s, ..balancing(addition, check_dir)? };
    let mut keys: Vec<_> = addresses.iter().map(|&ip| Key::address(instance, &name, ip)).collect();
    match (port, service) {
        (None, None) => {}
        (Some(port), Some(service)) => keys.push(Key {
            instance: instance.into(),
            name: service_name(service, &name)?,
            rtype: rtype::SRV,
            // Priority and weight are 0: there is one record of the service for all addresses of the name.
            rdata: [&[0; 4], &port.to_be_bytes()[..], name.as_wire()].concat().into(),
        }),
        (Some(_), None) => {
            return Err("a port belongs to a service: say which, for example _http._tcp".into());
        }
        (None, Some(_)) => return Err("a service needs a port".into()),
    }
    keys.iter().try_for_each(Key::check).map_err(|error| format!("{text:?}: {error}"))?;
    let attributes =
        |key: &Key| if key.rtype == rtype::SRV { attributes.clone() } else { of_address.clone() };
    Ok(keys.into_iter().map(|key| (key.clone(), attributes(&key))).collect())
}

/// What is said of how addresses share the traffic.
fn balancing(addition: &RegisterRequest, check_dir: Option<&Path>) -> Result<Attributes, String> {
    let RegisterRequest { weight, tier, check, slow_start_s, .. } = addition;
    let weight = weight.map(|weight| {
        u16::try_from(weight).map_err(|_| format!("a weight is from 0 to {MAX_WEIGHT}, not {weight}"))
    });
    let tier = u8::try_from(tier.unwrap_or_default()).ok().filter(|tier| *tier <= MAX_TIER);
    let check = check.as_ref().map(|text| text.parse::<Check>().map_err(|error| error.to_string()));
    let check = check.transpose()?;
    if let Some(Probe::Command { program }) = check.as_ref().map(|check| &check.probe) {
        let directory = check_dir.ok_or("the node runs no programs: it was started without --check-dir")?;
        if !directory.join(&**program).is_file() {
            return Err(format!("there is no program {program:?} in the node's {}", directory.display()));
        }
    }
    let check = check.map(|check| check.to_string());
    if check.as_ref().is_some_and(|check| check.len() > MAX_CHECK_LEN) {
        return Err(format!("a check can have {MAX_CHECK_LEN} bytes"));
    }
    if slow_start_s.is_some_and(|slow_start_s| !(1..=MAX_SLOW_START_S).contains(&slow_start_s)) {
        return Err(format!("a slow start takes from 1 to {MAX_SLOW_START_S} seconds"));
    }
    Ok(Attributes {
        weight: weight.transpose()?,
        tier: tier.ok_or_else(|| format!("a tier is from 0 to {MAX_TIER}"))?,
        check: check.map(Into::into),
        slow_start_s: *slow_start_s,
        ..Attributes::default()
    })
}

/// `_service._proto.NAME` (RFC 2782).
fn service_name(text: &str, name: &Name) -> Result<Name, String> {
    let (service, proto) = text.split_once(['.', '/']).unwrap_or((text, "tcp"));
    let [service, proto] = [service, proto].map(|label| label.strip_prefix('_').unwrap_or(label));
    let sound = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    if !sound(service) || !sound(proto) {
        return Err(format!("{text:?} is no service: expected one like _http._tcp, http/tcp or http"));
    }
    let relative = Name::from_text(&format!("_{service}._{proto}")).map_err(|error| error.to_string())?;
    relative.below(name).map(|name| name.to_lower_case()).map_err(|error| format!("{text:?}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domains() -> Vec<Name> {
        ["example", "other.test"].map(|text| Name::from_text(text).unwrap()).to_vec()
    }

    fn addition() -> RegisterRequest {
        RegisterRequest {
            name: "Web".into(),
            addresses: vec![[10, 0, 0, 1].into()],
            ..RegisterRequest::default()
        }
    }

    #[test]
    fn names_without_a_dot_are_in_the_first_domain() {
        let shown = |text| name(text, &domains()).map(|name| name.to_string());
        let web = Name::from_text("web.example").unwrap().to_string();
        assert_eq!(shown("WEB"), Ok(web.clone()));
        assert_eq!(shown("web.example"), Ok(web));
        assert!(shown("a.other.test").is_ok());
        let long = "x".repeat(64);
        for wrong in ["web.", "web.org", "", "a..b", &long] {
            assert!(shown(wrong).is_err(), "{wrong}");
        }
        assert!(shown("web.org").unwrap_err().contains("other.test"));
    }

    #[test]
    fn a_scope_is_a_name_a_domain_or_all() {
        let wire = |text: &str| Name::from_text(text).unwrap().as_wire().into();
        let scope = |text| parse_scope(text, &domains());
        assert_eq!(scope("*"), Ok(Scope::Default));
        assert_eq!(scope("Web"), Ok(Scope::Name(wire("web.example"))));
        assert_eq!(scope("*.lab.example"), Ok(Scope::Domain(wire("lab.example"))));
        assert_eq!(scope("*.example."), Ok(Scope::Domain(wire("example"))));
        for wrong in ["", "*web", "*.", "*.org.", "web.org"] {
            assert!(scope(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_service_is_registered_beside_its_addresses() {
        let with = RegisterRequest { port: Some(80), service: Some("http".into()), ..addition() };
        let keys = registrations(&[with], &domains(), None).unwrap();
        assert_eq!(keys.len(), 2);
        assert_eq!(keys[1].0.name, Name::from_text("_http._tcp.web.example").unwrap());
        assert_eq!(&keys[1].0.rdata[..], b"\0\0\0\0\0\x50\x03web\x07example\0");
        for (text, proto) in [("_dns._udp", "_udp"), ("dns/udp", "_udp"), ("_dns", "_tcp")] {
            let wanted = Name::from_text(&format!("_dns.{proto}.web.example")).unwrap();
            assert_eq!(service_name(text, &Name::from_text("web.example").unwrap()), Ok(wanted));
        }
    }

    #[test]
    fn what_makes_no_sense_is_told() {
        let wrong = [
            RegisterRequest { addresses: vec![], ..addition() },
            RegisterRequest { addresses: vec![[0, 0, 0, 0].into()], ..addition() },
            RegisterRequest { addresses: vec![[224, 0, 0, 1].into()], ..addition() },
            RegisterRequest { ttl_s: Some(u32::MAX), ..addition() },
            RegisterRequest { port: Some(80), ..addition() },
            RegisterRequest { service: Some("http".into()), ..addition() },
            RegisterRequest { port: Some(80), service: Some("a.b.c".into()), ..addition() },
            RegisterRequest { weight: Some(65_536), ..addition() },
            RegisterRequest { tier: Some(16), ..addition() },
            RegisterRequest { check: Some("ping".into()), ..addition() },
            RegisterRequest { check: Some("command:x".into()), ..addition() },
            RegisterRequest { slow_start_s: Some(0), ..addition() },
            RegisterRequest { slow_start_s: Some(86_401), ..addition() },
            RegisterRequest { instance: Some("files".into()), ..addition() },
            RegisterRequest { instance: Some(String::new()), ..addition() },
            RegisterRequest { instance: Some("x".repeat(65)), ..addition() },
        ];
        for addition in wrong {
            assert!(
                registrations(std::slice::from_ref(&addition), &domains(), None).is_err(),
                "{addition:?}"
            );
        }
        let many = vec![addition(); MAX_ADDITIONS + 1];
        assert!(registrations(&many, &domains(), None).unwrap_err().contains("send several"));
    }
}
