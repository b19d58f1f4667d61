//! What somebody wants to have registered, checked and turned into registrations.
//!
//! Pure.

use super::request::{Addition, DEFAULT_INSTANCE, MAX_ADDITIONS, RESERVED_INSTANCES};
use crate::store::{Attributes, Key};
use crate::wire::name::Name;
use crate::wire::record::rtype;

/// The highest TTL (RFC 2181 §8).
const MAX_TTL_S: u32 = i32::MAX as u32;

/// The name that `text` stands for at a server of these domains.
pub(super) fn name(text: &str, domains: &[Name]) -> Result<Name, String> {
    let cannot = |why: &dyn std::fmt::Display| format!("{text:?} cannot be a name here: {why}");
    let name = Name::from_text(text).map_err(|error| cannot(&error))?;
    let name = match domains.first() {
        Some(first) if name.labels().count() == 1 && !text.ends_with('.') => {
            name.below(first).map_err(|error| cannot(&error))?
        }
        _ => name,
    };
    if !domains.iter().any(|domain| name.is_within(domain)) {
        let domains: Vec<_> = domains.iter().map(ToString::to_string).collect();
        return Err(cannot(&format_args!("the node answers for {} alone", domains.join(", "))));
    }
    Ok(name.to_lower_case())
}

/// The instance that is meant.
pub(super) fn instance(asked: Option<&str>) -> Result<&str, String> {
    let instance = asked.unwrap_or(DEFAULT_INSTANCE);
    if RESERVED_INSTANCES.contains(&instance) {
        return Err(format!("the instance {instance:?} is the node's own: take another name"));
    }
    if instance.is_empty() {
        return Err("an instance needs a name".into());
    }
    Ok(instance)
}

/// The registrations that `additions` ask for, or what is wrong with which.
pub(super) fn registrations(
    additions: &[Addition],
    domains: &[Name],
) -> Result<Vec<(Key, Attributes)>, String> {
    let mut all = Vec::new();
    for addition in additions {
        all.extend(one(addition, domains)?);
        if all.len() > MAX_ADDITIONS {
            return Err(format!("more than {MAX_ADDITIONS} registrations in one request: send several"));
        }
    }
    Ok(all)
}

fn one(addition: &Addition, domains: &[Name]) -> Result<Vec<(Key, Attributes)>, String> {
    let Addition { name: text, addresses, instance: asked, ttl_s, port, service } = addition;
    let name = name(text, domains)?;
    let instance = instance(asked.as_deref())?;
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
    Ok(keys.into_iter().map(|key| (key, attributes.clone())).collect())
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

    fn addition() -> Addition {
        Addition { name: "Web".into(), addresses: vec![[10, 0, 0, 1].into()], ..Addition::default() }
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
    fn a_service_is_registered_beside_its_addresses() {
        let with = Addition { port: Some(80), service: Some("http".into()), ..addition() };
        let keys = registrations(&[with], &domains()).unwrap();
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
            Addition { addresses: vec![], ..addition() },
            Addition { addresses: vec![[0, 0, 0, 0].into()], ..addition() },
            Addition { addresses: vec![[224, 0, 0, 1].into()], ..addition() },
            Addition { ttl_s: Some(u32::MAX), ..addition() },
            Addition { port: Some(80), ..addition() },
            Addition { service: Some("http".into()), ..addition() },
            Addition { port: Some(80), service: Some("a.b.c".into()), ..addition() },
            Addition { instance: Some("files".into()), ..addition() },
            Addition { instance: Some(String::new()), ..addition() },
            Addition { instance: Some("x".repeat(65)), ..addition() },
        ];
        for addition in wrong {
            assert!(registrations(std::slice::from_ref(&addition), &domains()).is_err(), "{addition:?}");
        }
        let many = vec![addition(); MAX_ADDITIONS + 1];
        assert!(registrations(&many, &domains()).unwrap_err().contains("send several"));
    }
}
