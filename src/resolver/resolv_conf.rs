//! Files in the format of resolv.conf(5): the upstreams that a machine has been given.
//!
//! Pure. Read as glibc's resolver reads them: a line that makes no sense is passed over, and told. What is for programs
//! that look names up, and not for who answers them, is ignored: `search`, `domain`, `sortlist`, `ndots`.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use super::upstream::{DNS_PORT, Upstream, check_address, is_own};

/// The keywords that say nothing to us.
const IGNORED: [&str; 3] = ["domain", "search", "sortlist"];

/// Seconds for which glibc waits for an answer, and how often it asks, unless the file says otherwise; and the most
/// that it takes from one (`RES_TIMEOUT`, `RES_DFLRETRY`, `RES_MAXRETRANS`, `RES_MAXRETRY`).
const DEFAULT_TIMEOUT_S: u32 = 5;
const DEFAULT_ATTEMPTS: u32 = 2;
const MAX_TIMEOUT_S: u32 = 30;
const MAX_ATTEMPTS: u32 = 5;

/// What a file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// The name servers, each once. An unspecified address is this machine's loopback.
    pub nameservers: Vec<SocketAddr>,
    /// They are to be asked in turn.
    pub rotate: bool,
    /// Seconds to wait for an answer, if that is said.
    pub timeout_s: Option<u32>,
    /// How often to ask, if that is said.
    pub attempts: Option<u32>,
    /// What was passed over: the line, counted from 1, and what is wrong with it.
    pub passed_over: Vec<(usize, String)>,
}

impl ResolvConf {
    /// Reads a file's bytes. `interface` finds the number of an interface by its name.
    #[must_use]
    pub fn parse(bytes: &[u8], interface: impl Fn(&str) -> Option<u32>) -> Self {
        let mut read = Self::default();
        for (i, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            if let Err(why) = read.take(&String::from_utf8_lossy(line), &interface) {
                read.passed_over.push((i + 1, why));
            }
        }
        read
    }

    fn take(&mut self, line: &str, interface: impl Fn(&str) -> Option<u32>) -> Result<(), String> {
        let mut words = line.split_ascii_whitespace();
        let Some(keyword) = words.next() else { return Ok(()) };
        if line.starts_with(['#', ';']) {
            return Ok(());
        }
        if line.starts_with(|first: char| first.is_ascii_whitespace()) {
            return Err("there is a space before the keyword".into());
        }
        match keyword {
            "nameserver" => {
                let address = words.next().ok_or("an address has to follow `nameserver`")?;
                let address = nameserver(address, interface)?;
                if !self.nameservers.contains(&address) {
                    self.nameservers.push(address);
                }
                match words.next() {
                    Some(more) if !more.starts_with(['#', ';']) => {
                        Err(format!("a line can have one name server; `{more}` is not taken"))
                    }
                    _ => Ok(()),
                }
            }
            "options" => words.try_for_each(|option| self.take_option(option)),
            _ if IGNORED.contains(&keyword) => Ok(()),
            _ => Err(format!("there is no keyword `{keyword}`")),
        }
    }

    /// Takes an option; those that are not known may be of other resolvers.
    fn take_option(&mut self, option: &str) -> Result<(), String> {
        let number = |text: &str, most: u32| {
            let number: u32 = text.parse().map_err(|_| format!("`{option}`: expected a number"))?;
            Ok::<_, String>(Some(number.clamp(1, most)))
        };
        match option.split_once(':').unwrap_or((option, "")) {
            ("rotate", "") => self.rotate = true,
            ("timeout", seconds) => self.timeout_s = number(seconds, MAX_TIMEOUT_S)?,
            ("attempts", attempts) => self.attempts = number(attempts, MAX_ATTEMPTS)?,
            _ => {}
        }
        Ok(())
    }

    /// How long a question may take as a whole, if the file says anything of that: so long for each time that it is
    /// asked.
    #[must_use]
    pub fn patience(&self) -> Option<Duration> {
        let said = self.timeout_s.is_some() || self.attempts.is_some();
        let (timeout_s, attempts) =
            (self.timeout_s.unwrap_or(DEFAULT_TIMEOUT_S), self.attempts.unwrap_or(DEFAULT_ATTEMPTS));
        said.then(|| Duration::from_secs(u64::from(timeout_s * attempts)))
    }

    /// The name servers as upstreams, but for those that are this server itself, which listens at `listen`: often it is
    /// the first in the file, for the programs of this machine. `is_local` says whether an address is one of this
    /// machine. The second part are those that were left out.
    #[must_use]
    pub fn without_own(
        &self,
        listen: &[SocketAddr],
        is_local: impl Fn(IpAddr) -> bool,
    ) -> (Vec<Upstream>, Vec<SocketAddr>) {
        let (own, others): (Vec<_>, Vec<_>) =
            self.nameservers.iter().partition(|address| is_own(**address, listen, &is_local));
        (others.into_iter().map(Upstream::dns).collect(), own)
    }
}

/// Reads a name server's address, which may have an interface behind `%`.
fn nameserver(text: &str, interface: impl Fn(&str) -> Option<u32>) -> Result<SocketAddr, String> {
    let wrong = || format!("`{text}` is no address");
    let address = match text.split_once('%') {
        None => SocketAddr::new(text.parse::<IpAddr>().map_err(|_| wrong())?, DNS_PORT),
        Some((ip, scope)) => {
            let ip: Ipv6Addr = ip.parse().map_err(|_| wrong())?;
            let number = scope.parse().ok().or_else(|| interface(scope));
            let number = number.ok_or_else(|| format!("`{text}`: there is no interface `{scope}`"))?;
            SocketAddrV6::new(ip, DNS_PORT, 0, number).into()
        }
    };
    let canonical = SocketAddr::new(address.ip().to_canonical(), DNS_PORT);
    let address = if canonical.is_ipv4() { canonical } else { address };
    if !address.ip().is_unspecified() {
        check_address(address)?;
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> ResolvConf {
        ResolvConf::parse(text.as_bytes(), |name| (name == "eth0").then_some(7))
    }

    #[test]
    fn a_file_says_whom_to_ask_and_how() {
        let read = parsed(
            "# made by hand\n; so is this\ndomain example\nsearch example corp.example\nsortlist 10.0.0.0/8\n\n\
             nameserver 10.0.0.2\nnameserver\t2001:db8::1 # the second\nnameserver fe80::1%eth0\r\nnameserver \
             10.0.0.2\n\
             nameserver fe80::2%3\nnameserver ::ffff:10.0.0.3\nnameserver 0.0.0.0\n\
             options timeout:1 attempts:3 rotate ndots:2 edns0 trust-ad\nnameserver 10.0.0.4",
        );
        let expected = [
            "10.0.0.2:53",
            "[2001:db8::1]:53",
            "[fe80::1%7]:53",
            "[fe80::2%3]:53",
            "10.0.0.3:53",
            "0.0.0.0:53",
            "10.0.0.4:53",
        ];
        assert_eq!(read.nameservers, expected.map(|text| text.parse().unwrap()));
        assert_eq!((read.timeout_s, read.attempts, read.rotate), (Some(1), Some(3), true));
        assert_eq!(read.patience(), Some(Duration::from_secs(3)));
        assert_eq!(read.passed_over, []);
    }

    #[test]
    fn lines_that_make_no_sense_are_passed_over_and_told() {
        for (line, told) in [
            ("nameserver", "an address has to follow"),
            ("nameserver dns.example", "`dns.example` is no address"),
            ("nameserver 10.0.0", "is no address"),
            ("nameserver [10.0.0.2]:5353", "is no address"),
            ("nameserver 10.0.0.2%eth0", "is no address"),
            ("nameserver fe80::1%eth9", "there is no interface `eth9`"),
            ("nameserver fe80::1", "say by which interface"),
            ("nameserver 224.0.0.251", "not the address of one host"),
            (" nameserver 10.0.0.2", "a space before the keyword"),
            ("nameservers 10.0.0.2", "there is no keyword `nameservers`"),
            ("options timeout:soon", "`timeout:soon`: expected a number"),
            ("options attempts:", "`attempts:`: expected a number"),
        ] {
            let read = parsed(&format!("# first\n{line}\n"));
            assert_eq!(read.nameservers, [], "{line}");
            let [(2, why)] = &read.passed_over[..] else { panic!("{line}: {:?}", read.passed_over) };
            assert!(why.contains(told), "{line}: {why}");
        }
        let two = parsed("nameserver 10.0.0.2 10.0.0.3");
        assert_eq!((two.nameservers.len(), two.passed_over.len()), (1, 1));
        assert_eq!(ResolvConf::parse(b"\xff\xfe\nnameserver 10.0.0.2", |_| None).nameservers.len(), 1);
    }

    #[test]
    fn patience_is_bounded_as_glibc_bounds_it() {
        let patience = |options: &str| parsed(&format!("options {options}")).patience();
        assert_eq!(patience("rotate"), None);
        assert_eq!(patience("timeout:2"), Some(Duration::from_secs(4)));
        assert_eq!(patience("attempts:1"), Some(Duration::from_secs(5)));
        assert_eq!(patience("timeout:99 attempts:99"), Some(Duration::from_secs(150)));
        assert_eq!(patience("timeout:0 attempts:0"), Some(Duration::from_secs(1)));
    }

    #[test]
    fn this_server_itself_is_left_out() {
        let read = parsed("nameserver 127.0.0.1\nnameserver 10.0.0.1\nnameserver 10.0.0.2");
        let listen = |text: &str| [text.parse().unwrap()];
        let is_local = |ip: IpAddr| ip.to_string() == "10.0.0.1";
        let (others, own) = read.without_own(&listen("127.0.0.1:53"), is_local);
        assert_eq!(others.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(own, ["127.0.0.1:53".parse().unwrap()]);
        let (others, own) = read.without_own(&listen("0.0.0.0:53"), is_local);
        assert_eq!((others.len(), own.len()), (1, 2));
        assert_eq!(read.without_own(&listen("0.0.0.0:5353"), is_local).1, []);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>, words in "(nameserver|options|;| \
                                                                        |\n|:|%|[0-9a-f.]){0,40}") {
            let read = ResolvConf::parse(&bytes, |_| None);
            prop_assert!(read.passed_over.len() <= bytes.len() + 1);
            let read = ResolvConf::parse(words.as_bytes(), |_| Some(1));
            prop_assert!(read.nameservers.len() <= words.len());
        }
    }
}
