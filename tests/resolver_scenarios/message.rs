//! What scenarios say of a message, as text and as bytes.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use redbreast::wire::header::{self, rcode::mnemonic, u16_at};
use redbreast::wire::message::{RecordView, expand_name, records};
use redbreast::wire::name::Name;
use redbreast::wire::record::{CLASS_IN, rtype};

/// A record's data, as far as scenarios have any.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Data {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    Cname(String),
    Ns(String),
    /// Its MINIMUM field; all others are as they are.
    Soa(u32),
    Txt(String),
}

/// `OWNER TTL TYPE DATA`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    owner: String,
    ttl_s: u32,
    data: Data,
}

/// `RCODE [truncated] [authenticated] [RECORD, ...] [authority RECORD, ...] [EDE CODE]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Message {
    rcode: u8,
    truncated: bool,
    authenticated: bool,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    extended_error: Option<u16>,
}

/// A name in wire form.
pub(crate) fn wire(name: &str) -> Result<Vec<u8>, String> {
    let name = Name::from_text(name).map_err(|error| format!("`{name}` is no name: {error}"))?;
    Ok(name.as_wire().to_vec())
}

/// The name at `at` in `message`, lower-cased.
pub(crate) fn name_at(message: &[u8], at: usize) -> String {
    let name = expand_name(message, at).and_then(|wire| Name::from_wire(&wire)).expect("we write names");
    let text = name.to_lower_case().to_string();
    text.strip_suffix('.').filter(|text| !text.is_empty()).unwrap_or(&text).to_owned()
}

fn word<'a>(words: &mut impl Iterator<Item = &'a str>, what: &str) -> Result<&'a str, String> {
    words.next().ok_or_else(|| format!("expected {what}, and the line ends"))
}

/// A word that means something else than text.
pub(crate) fn read<T: std::str::FromStr>(word: &str, what: &str) -> Result<T, String> {
    word.parse().map_err(|_| format!("`{word}` is not {what}"))
}

impl Record {
    fn parse(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        let owner = word(&mut words, "the owner of a record")?.to_owned();
        wire(&owner)?;
        let ttl_s = read(word(&mut words, "its TTL")?, "a TTL in seconds")?;
        let rtype = word(&mut words, "its type")?;
        let data = word(&mut words, "its data")?;
        let data = match rtype {
            "A" => Data::A(read(data, "an IPv4 address")?),
            "AAAA" => Data::Aaaa(read(data, "an IPv6 address")?),
            "CNAME" => Data::Cname(data.into()),
            "NS" => Data::Ns(data.into()),
            "SOA" => Data::Soa(read(data, "the MINIMUM of an SOA record")?),
            "TXT" => Data::Txt(data.into()),
            _ => return Err(format!("records of type `{rtype}` are in no scenario")),
        };
        match words.next() {
            Some(more) => Err(format!("`{more}` behind a record; a comma goes between two of them")),
            None => Ok(Self { owner, ttl_s, data }),
        }
    }

    fn to_bytes(&self, asked: &[u8]) -> Vec<u8> {
        let name = |text: &str| if text == "*" { asked.to_vec() } else { wire(text).expect("was read") };
        let (rtype, rdata) = match &self.data {
            Data::A(v4) => (rtype::A, v4.octets().to_vec()),
            Data::Aaaa(v6) => (rtype::AAAA, v6.octets().to_vec()),
            Data::Cname(to) => (rtype::CNAME, name(to)),
            Data::Ns(to) => (rtype::NS, name(to)),
            Data::Soa(minimum_s) => (rtype::SOA, [&[0; 18][..], &minimum_s.to_be_bytes()].concat()),
            Data::Txt(text) => {
                (rtype::TXT, [&[u8::try_from(text.len()).expect("short")], text.as_bytes()].concat())
            }
        };
        let len = u16::try_from(rdata.len()).expect("short");
        let fixed = [rtype.to_be_bytes(), CLASS_IN.to_be_bytes()].concat();
        [&name(&self.owner), &fixed, &self.ttl_s.to_be_bytes()[..], &len.to_be_bytes(), &rdata].concat()
    }

    fn read(message: &[u8], view: &RecordView<'_>) -> Self {
        let data = match view.rtype {
            rtype::A => Data::A(<[u8; 4]>::try_from(view.rdata).expect("four bytes").into()),
            rtype::AAAA => Data::Aaaa(<[u8; 16]>::try_from(view.rdata).expect("sixteen bytes").into()),
            rtype::CNAME => Data::Cname(name_at(message, view.rdata_at)),
            rtype::NS => Data::Ns(name_at(message, view.rdata_at)),
            rtype::SOA => Data::Soa(u32::from_be_bytes(*view.rdata.last_chunk().expect("four bytes"))),
            _ => Data::Txt(String::from_utf8_lossy(&view.rdata[1..]).into_owned()),
        };
        Self { owner: name_at(message, view.owner_at), ttl_s: view.ttl_s, data }
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ", self.owner, self.ttl_s)?;
        match &self.data {
            Data::A(v4) => write!(f, "A {v4}"),
            Data::Aaaa(v6) => write!(f, "AAAA {v6}"),
            Data::Cname(to) => write!(f, "CNAME {to}"),
            Data::Ns(to) => write!(f, "NS {to}"),
            Data::Soa(minimum_s) => write!(f, "SOA {minimum_s}"),
            Data::Txt(text) => write!(f, "TXT {text}"),
        }
    }
}

impl Message {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (text, extended_error) = match text.split_once(" EDE ") {
            Some((text, code)) => (text, Some(read(code.trim(), "the number of an extended error")?)),
            None => (text, None),
        };
        let (code, mut text) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        let rcode = (0..16).find(|&it| mnemonic(it) == code);
        let rcode = rcode.ok_or_else(|| format!("`{code}` is no response code"))?;
        let mut flag = |flag: &str| {
            let rest = text.trim().strip_prefix(flag);
            text = rest.unwrap_or(text);
            rest.is_some()
        };
        let (truncated, authenticated) = (flag("truncated"), flag("authenticated"));
        let text = format!(" {} ", text.trim());
        let (answers, authorities) = text.split_once(" authority ").unwrap_or((&text, ""));
        let records = |text: &str| {
            let records = text.split(',').map(str::trim).filter(|it| !it.is_empty());
            records.map(Record::parse).collect::<Result<Vec<_>, _>>()
        };
        let (answers, authorities) = (records(answers)?, records(authorities)?);
        Ok(Self { rcode, truncated, authenticated, answers, authorities, extended_error })
    }

    /// A response to `query`, with an OPT record if there is to be one; `*` stands for the name that was asked for.
    pub(crate) fn to_bytes(&self, query: &[u8], edns: bool) -> Vec<u8> {
        let name_len = expand_name(query, header::LEN).expect("we write names").len();
        let question = &query[header::LEN..header::LEN + name_len + 4];
        let tc = if self.truncated { header::TC } else { 0 };
        let ad = if self.authenticated { header::AD } else { 0 };
        let flags = [header::QR | header::RD | tc, header::RA | ad | self.rcode];
        let mut out = [&query[..2], &flags, &[0, 1]].concat();
        for count in [self.answers.len(), self.authorities.len(), usize::from(edns)] {
            out.extend(u16::try_from(count).expect("few").to_be_bytes());
        }
        out.extend(question);
        for record in self.answers.iter().chain(&self.authorities) {
            out.extend(record.to_bytes(&question[..name_len]));
        }
        if edns {
            let option = self.extended_error.map(|code| [&[0, 15, 0, 2], &code.to_be_bytes()[..]].concat());
            let option = option.unwrap_or_default();
            out.extend(b"\0\0\x29\x04\xd0\0\0\0\0\0");
            out.extend([u8::try_from(option.len()).expect("short")]);
            out.extend(option);
        }
        out
    }

    /// What a response says.
    pub(crate) fn read(response: &[u8]) -> Self {
        let mut views: Vec<_> = records(response).collect();
        let opt = views.iter().position(|view| view.rtype == rtype::OPT).map(|i| views.remove(i));
        let (answers, authorities) = views.split_at(u16_at(response, header::ANCOUNT).into());
        let all = |views: &[RecordView<'_>]| views.iter().map(|view| Record::read(response, view)).collect();
        Self {
            rcode: response[3] & header::RCODE_MASK,
            truncated: response[2] & header::TC != 0,
            authenticated: response[3] & header::AD != 0,
            answers: all(answers),
            authorities: all(authorities),
            extended_error: opt.and_then(|opt| extended_error(opt.rdata)),
        }
    }
}

/// The number of the extended error among the options of an OPT record (RFC 8914).
fn extended_error(mut options: &[u8]) -> Option<u16> {
    while let Some((head, rest)) = options.split_first_chunk::<4>() {
        let (value, rest) = rest.split_at_checked(u16_at(head, 2).into())?;
        if u16_at(head, 0) == 15 {
            return Some(u16_at(value, 0));
        }
        options = rest;
    }
    None
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(mnemonic(self.rcode))?;
        for (is_set, flag) in [(self.truncated, " truncated"), (self.authenticated, " authenticated")] {
            f.write_str(if is_set { flag } else { "" })?;
        }
        for (before, records) in [(" ", &self.answers), (" authority ", &self.authorities)] {
            for (i, record) in records.iter().enumerate() {
                write!(f, "{}{record}", if i == 0 { before } else { ", " })?;
            }
        }
        self.extended_error.map_or(Ok(()), |code| write!(f, " EDE {code}"))
    }
}
