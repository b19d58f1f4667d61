//! Whom to ask for names that are not ours: what the flags say, and the file that they name.
//!
//! Runs on the main thread, and on the thread `files` when the file is read again.

use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use crate::resolver::resolv_conf::ResolvConf;
use crate::resolver::settings::{MAX_UPSTREAMS, Settings, Upstreams};
use crate::resolver::upstream::{Upstream, is_own};
use crate::sys::file_error::{self, FileError};

/// Reads the file, if there is one, and says whom to ask for what, for a server that listens at `listen`. The second
/// part is what a person should know of it: what was passed over or left out.
///
/// # Errors
/// When a file cannot be read.
pub fn read(settings: &Settings, listen: &[SocketAddr]) -> Result<(Upstreams, Vec<String>), FileError> {
    read_where(settings, listen, is_local)
}

/// The same where `is_local` says which addresses are of this machine.
fn read_where(
    settings: &Settings,
    listen: &[SocketAddr],
    is_local: impl Fn(IpAddr) -> bool,
) -> Result<(Upstreams, Vec<String>), FileError> {
    let mut told = Vec::new();
    let mut others = |upstreams: &[Upstream]| {
        let (own, others): (Vec<_>, Vec<_>) =
            upstreams.iter().cloned().partition(|upstream| is_own(upstream.address, listen, &is_local));
        told.extend(
            own.iter().map(|own| format!("the upstream {own} is this server itself, and is not asked")),
        );
        others
    };
    let general = others(&settings.upstreams);
    let mut forwards = settings.forwards.clone();
    forwards.iter_mut().for_each(|forward| forward.upstreams = others(&forward.upstreams));
    let mut upstreams = Upstreams::new(general, forwards, settings.timeout);
    upstreams.fail_fast = settings.fail_fast;
    upstreams.order = settings.order;
    upstreams.rebind_protection = settings.rebind_protection;
    upstreams.rebind_allow.clone_from(&settings.rebind_allow);
    if let Some(path) = &settings.resolv_conf {
        let file = ResolvConf::parse(&file_error::read(path, "upstreams")?, interface);
        let at = |(line, why): &(usize, String)| {
            FileError::at(path, *line, format_args!("{why}; the line is passed over")).to_string()
        };
        told.extend(file.passed_over.iter().map(at));
        let (found, own) = file.without_own(listen, &is_local);
        let itself = |own: &SocketAddr| {
            FileError::of(path, format_args!("{} is this server itself, and is not asked", own.ip()))
                .to_string()
        };
        told.extend(own.iter().map(itself));
        if found.is_empty() {
            told.push(FileError::of(path, "there is no name server in it that could be asked").to_string());
        }
        let left_out = upstreams.add(found);
        if left_out > 0 {
            let what =
                format_args!("{left_out} name servers are left out; {MAX_UPSTREAMS} can be asked at most");
            told.push(FileError::of(path, what).to_string());
        }
        upstreams.rotate = file.rotate;
        upstreams.timeout =
            file.patience().map_or(settings.timeout, |patience| patience.min(settings.timeout));
    }
    Ok((upstreams, told))
}

/// Whether `ip` is an address of this machine: nothing can be bound to any other.
#[must_use]
pub fn is_local(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

/// `text`, upstreams between commas, with the numbers of network interfaces for their names, where these stand behind a
/// `%`.
///
/// # Errors
/// If there is no interface of such a name.
pub fn number_scopes(text: &str) -> Result<String, String> {
    Ok(text.split(',').map(number_scope).collect::<Result<Vec<_>, _>>()?.join(","))
}

/// The same of one upstream.
fn number_scope(text: &str) -> Result<String, String> {
    let Some((before, rest)) = text.split_once('%') else { return Ok(text.into()) };
    // In a path it stands before the number of a byte.
    if before.rsplit("://").next().is_some_and(|place| place.contains('/')) {
        return Ok(text.into());
    }
    let (name, rest) = rest.split_at(rest.find([']', ':', '#', '/']).unwrap_or(rest.len()));
    let number = match name.parse::<u32>() {
        Ok(number) => number,
        Err(_) => interface(name).ok_or_else(|| {
            format!("there is no network interface `{name}` here; `ip link` has their names and numbers")
        })?,
    };
    Ok(format!("{before}%{number}{rest}"))
}

/// The number of the network interface `name`.
fn interface(name: &str) -> Option<u32> {
    let is_name = !name.contains('/') && !name.starts_with('.');
    let number = is_name.then(|| fs::read_to_string(format!("/sys/class/net/{name}/ifindex")).ok())??;
    number.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn told(settings: &Settings, listen: &str) -> (Upstreams, String) {
        let (upstreams, told) = read_where(settings, &[listen.parse().unwrap()], |_| false).unwrap();
        (upstreams, told.join("\n"))
    }

    fn texts(upstreams: &[Upstream]) -> Vec<String> {
        upstreams.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn flags_and_the_file_say_together_whom_to_ask() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        std::fs::write(
            &path,
            "nameserver 127.0.0.1\nnameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver here\noptions timeout:1 \
             rotate\n",
        )
        .unwrap();
        let settings = Settings {
            upstreams: vec!["192.0.2.2".parse().unwrap(), "tls://192.0.2.3".parse().unwrap()],
            resolv_conf: Some(path.clone()),
            forwards: vec!["example=192.0.2.4,127.0.0.1".parse().unwrap()],
            ..Settings::default()
        };
        let (upstreams, lines) = told(&settings, "0.0.0.0:53");
        assert_eq!(texts(upstreams.general()), ["192.0.2.2", "tls://192.0.2.3", "192.0.2.1"]);
        assert_eq!(texts(&upstreams.forwards()[0].upstreams), ["192.0.2.4"]);
        assert_eq!((upstreams.rotate, upstreams.timeout), (true, Duration::from_secs(2)));
        for line in [
            "the upstream 127.0.0.1 is this server itself".to_owned(),
            format!("{}: 127.0.0.1 is this server itself", path.display()),
            format!("{}:4: `here` is no address; the line is passed over", path.display()),
        ] {
            assert!(lines.contains(&line), "{lines}");
        }
        // At another port it is another server.
        assert_eq!(told(&settings, "127.0.0.1:5353").0.general().len(), 4);
    }

    #[test]
    fn a_file_without_name_servers_is_told_and_one_that_is_not_there_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        let settings = Settings { resolv_conf: Some(path.clone()), ..Settings::default() };
        assert!(read(&settings, &[]).unwrap_err().to_string().contains("cannot read the upstreams"));
        std::fs::write(&path, "search example\n").unwrap();
        let (upstreams, lines) = told(&settings, "127.0.0.1:53");
        assert_eq!(upstreams.general(), []);
        assert!(lines.contains("there is no name server in it"), "{lines}");
        let many: String = (1..=MAX_UPSTREAMS + 1).map(|i| format!("nameserver 192.0.2.{i}\n")).collect();
        std::fs::write(&path, many).unwrap();
        let (upstreams, lines) = told(&settings, "127.0.0.1:53");
        assert_eq!(upstreams.general().len(), MAX_UPSTREAMS);
        assert!(lines.contains("1 name servers are left out"), "{lines}");
    }

    #[test]
    fn addresses_and_interfaces_of_this_machine_are_known() {
        assert!(is_local("127.0.0.1".parse().unwrap()));
        assert!(!is_local("255.255.255.254".parse().unwrap()));
        assert!(interface("lo").is_some());
        let lo = interface("lo").unwrap();
        for (text, expected) in [
            ("fe80::1%lo", format!("fe80::1%{lo}")),
            ("a=[fe80::1%lo]:53,tls://fe80::2%lo#b", format!("a=[fe80::1%{lo}]:53,tls://fe80::2%{lo}#b")),
            ("https://fe80::1%lo/x%2Cy#b,10.0.0.2", format!("https://fe80::1%{lo}/x%2Cy#b,10.0.0.2")),
            ("https://10.0.0.2/%2C", "https://10.0.0.2/%2C".into()),
            ("fe80::1%7", "fe80::1%7".into()),
            ("10.0.0.2", "10.0.0.2".into()),
        ] {
            assert_eq!(number_scopes(text), Ok(expected));
        }
        assert!(number_scopes("fe80::1%no-such").unwrap_err().contains("`no-such`"));
        assert_eq!((interface("../lo"), interface("no-such-interface")), (None, None));
    }
}
