//! Queries written, and answers read strictly, byte by byte: what is not exactly as RFC 1035 has it panics.

use std::fmt::Debug;

use hickory_proto::op::Message;

pub(crate) const A: u16 = 1;
pub(crate) const NS: u16 = 2;
pub(crate) const CNAME: u16 = 5;
pub(crate) const SOA: u16 = 6;
pub(crate) const PTR: u16 = 12;
pub(crate) const MX: u16 = 15;
pub(crate) const TXT: u16 = 16;
pub(crate) const AAAA: u16 = 28;
pub(crate) const SRV: u16 = 33;
pub(crate) const OPT: u16 = 41;
pub(crate) const ANY: u16 = 255;

pub(crate) const CLASS_IN: u16 = 1;
pub(crate) const CLASS_CH: u16 = 3;
pub(crate) const CLASS_ANY: u16 = 255;

pub(crate) const NOERROR: u16 = 0;
pub(crate) const FORMERR: u16 = 1;
pub(crate) const NXDOMAIN: u16 = 3;
pub(crate) const NOTIMP: u16 = 4;
pub(crate) const REFUSED: u16 = 5;
pub(crate) const BADVERS: u16 = 16;
pub(crate) const BADCOOKIE: u16 = 23;

/// Flags as they stand in the second word of a header.
pub(crate) const QR: u16 = 0x8000;
pub(crate) const AA: u16 = 0x0400;
pub(crate) const TC: u16 = 0x0200;
pub(crate) const RD: u16 = 0x0100;
pub(crate) const RA: u16 = 0x0080;
pub(crate) const Z: u16 = 0x0040;
pub(crate) const AD: u16 = 0x0020;
pub(crate) const CD: u16 = 0x0010;
pub(crate) const OPCODE_SHIFT: u32 = 11;

/// The EDNS option that cookies are in.
const COOKIE: u16 = 10;

/// The flag DO in the OPT record.
pub(crate) const DO: u16 = 0x8000;

/// A query to be sent: a question, and an OPT record if there is one.
#[derive(Clone)]
pub(crate) struct Query {
    pub(crate) id: u16,
    pub(crate) flags: u16,
    pub(crate) name: Vec<u8>,
    pub(crate) qtype: u16,
    pub(crate) qclass: u16,
    pub(crate) edns: Option<Edns>,
}

/// An OPT record, of a query or of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Edns {
    pub(crate) size: u16,
    pub(crate) high_rcode: u8,
    pub(crate) version: u8,
    pub(crate) flags: u16,
    pub(crate) options: Vec<(u16, Vec<u8>)>,
}

impl Default for Edns {
    fn default() -> Self {
        Self { size: 1232, high_rcode: 0, version: 0, flags: 0, options: Vec::new() }
    }
}

impl Edns {
    pub(crate) fn with_option(code: u16, data: &[u8]) -> Self {
        Self { options: vec![(code, data.to_vec())], ..Self::default() }
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut data = Vec::new();
        for (code, value) in &self.options {
            let len = u16::try_from(value.len()).unwrap();
            data.extend([&code.to_be_bytes()[..], &len.to_be_bytes(), value].concat());
        }
        let data_len = u16::try_from(data.len()).unwrap();
        [
            &[0][..],
            &OPT.to_be_bytes(),
            &self.size.to_be_bytes(),
            &[self.high_rcode, self.version],
            &self.flags.to_be_bytes(),
            &data_len.to_be_bytes(),
            &data,
        ]
        .concat()
    }

    /// The data of an option that is there once or not at all.
    pub(crate) fn option(&self, code: u16) -> Option<&[u8]> {
        let mut found = self.options.iter().filter(|(other, _)| *other == code);
        let first = found.next().map(|(_, data)| &data[..]);
        assert!(found.next().is_none(), "option {code} twice: {self:?}");
        first
    }
}

impl Query {
    /// A query in class IN with RD set, without EDNS.
    pub(crate) fn new(name: &str, qtype: u16) -> Self {
        Self { id: 0x1a2b, flags: RD, name: wire_name(name), qtype, qclass: CLASS_IN, edns: None }
    }

    pub(crate) fn class(self, qclass: u16) -> Self {
        Self { qclass, ..self }
    }

    pub(crate) fn flags(self, flags: u16) -> Self {
        Self { flags, ..self }
    }

    pub(crate) fn edns(self, edns: Edns) -> Self {
        Self { edns: Some(edns), ..self }
    }

    pub(crate) fn option(self, code: u16, data: &[u8]) -> Self {
        self.edns(Edns::with_option(code, data))
    }

    /// The question as it stands in the message.
    pub(crate) fn question(&self) -> Vec<u8> {
        [&self.name[..], &self.qtype.to_be_bytes(), &self.qclass.to_be_bytes()].concat()
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let opt = self.edns.as_ref().map(Edns::to_bytes).unwrap_or_default();
        let counts = [1, 0, 0, u16::from(self.edns.is_some())];
        message(self.id, self.flags, counts, &[&self.question(), &opt])
    }
}

/// A message of any parts.
pub(crate) fn message(id: u16, flags: u16, counts: [u16; 4], parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = [id.to_be_bytes(), flags.to_be_bytes()].concat();
    bytes.extend(counts.iter().flat_map(|count| count.to_be_bytes()));
    bytes.extend(parts.concat());
    bytes
}

/// A name on the wire, its case and every character but the dot as they are.
pub(crate) fn wire_name(text: &str) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in text.split('.').filter(|label| !label.is_empty()) {
        wire.push(u8::try_from(label.len()).unwrap());
        wire.extend_from_slice(label.as_bytes());
    }
    wire.push(0);
    wire
}

/// One record of an answer; names in its data are written out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Record {
    pub(crate) owner: Vec<u8>,
    pub(crate) rtype: u16,
    pub(crate) class: u16,
    pub(crate) ttl: u32,
    pub(crate) data: Vec<u8>,
}

/// A response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) over: &'static str,
    pub(crate) len: usize,
    pub(crate) id: u16,
    pub(crate) flags: u16,
    pub(crate) questions: u16,
    pub(crate) question: Vec<u8>,
    pub(crate) answers: Vec<Record>,
    pub(crate) authorities: Vec<Record>,
    pub(crate) additionals: Vec<Record>,
    pub(crate) edns: Option<Edns>,
}

impl Answer {
    /// Reads a response.
    ///
    /// # Panics
    /// If it is none, or breaks any rule of the format.
    pub(crate) fn read(over: &'static str, bytes: &[u8]) -> Self {
        Message::from_vec(bytes)
            .unwrap_or_else(|error| panic!("hickory-proto over {over}: {error}: {bytes:?}"));
        let mut reader = Reader { bytes, at: 0 };
        let (id, flags) = (reader.u16(), reader.u16());
        assert!(flags & QR != 0, "over {over}: no response: {bytes:?}");
        let [questions, answers, authorities, additionals] = [(); 4].map(|()| reader.u16());
        let start = reader.at;
        for _ in 0..questions {
            reader.name();
            reader.at += 4;
        }
        let question = bytes[start..reader.at].to_vec();
        let [answers, authorities, mut additionals] = [answers, authorities, additionals]
            .map(|count| (0..count).map(|_| reader.record()).collect::<Vec<_>>());
        assert_eq!(reader.at, bytes.len(), "over {over}: bytes behind the last record: {bytes:?}");
        let opts: Vec<_> = additionals.extract_if(.., |record| record.rtype == OPT).collect();
        assert!(opts.len() <= 1, "over {over}: {opts:?}");
        let edns = opts.first().map(read_opt);
        let len = bytes.len();
        Self { over, len, id, flags, questions, question, answers, authorities, additionals, edns }
    }

    /// The response code with the part of it that is in the OPT record.
    pub(crate) fn rcode(&self) -> u16 {
        let high = self.edns.as_ref().map_or(0, |edns| edns.high_rcode);
        u16::from(high) << 4 | self.flags & 15
    }

    pub(crate) fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// The addresses, or other data, of the answer section, sorted.
    pub(crate) fn data(&self) -> Vec<&[u8]> {
        let mut data: Vec<_> = self.answers.iter().map(|record| &record.data[..]).collect();
        data.sort_unstable();
        data
    }

    /// The one SOA record in the authority section, if there is one and nothing else.
    pub(crate) fn negative_soa(&self) -> Option<&Record> {
        match &self.authorities[..] {
            [record] if record.rtype == SOA => Some(record),
            _ => None,
        }
    }

    /// What has to be the same whenever the same is asked: not the order, not which of many were left out, and not what
    /// cookies make of the time and the client's address.
    pub(crate) fn essence(&self) -> impl PartialEq + Debug {
        let sorted = |records: &[Record]| {
            let mut records = if self.has(TC) { Vec::new() } else { records.to_vec() };
            records.sort();
            records
        };
        let edns = self.edns.clone().map(|mut edns| {
            edns.options.retain(|(code, _)| *code != COOKIE);
            edns
        });
        let records = [&self.answers, &self.authorities, &self.additionals].map(|records| sorted(records));
        (self.flags, self.question.clone(), records, edns)
    }

    /// The data of an option of the OPT record.
    pub(crate) fn option(&self, code: u16) -> Option<&[u8]> {
        self.edns.as_ref()?.option(code)
    }
}

fn read_opt(record: &Record) -> Edns {
    assert_eq!(record.owner, [0], "the owner of OPT is the root");
    let [high_rcode, version, high, low] = record.ttl.to_be_bytes();
    let mut reader = Reader { bytes: &record.data, at: 0 };
    let mut options = Vec::new();
    while reader.at < record.data.len() {
        let (code, len) = (reader.u16(), reader.u16());
        options.push((code, reader.take(len.into()).to_vec()));
    }
    Edns { size: record.class, high_rcode, version, flags: u16::from_be_bytes([high, low]), options }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> &'a [u8] {
        let taken = &self.bytes[self.at..self.at + len];
        self.at += len;
        taken
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.take(2).try_into().unwrap())
    }

    /// A name, written out. Each pointer has to point further to the front than the one before (RFC 1035 §4.1.4: to a
    /// prior occurrence), and not into the header.
    fn name(&mut self) -> Vec<u8> {
        let mut name = Vec::new();
        let (mut at, mut end, mut lowest) = (self.at, None, self.at);
        loop {
            let len = usize::from(self.bytes[at]);
            match len {
                0 => {
                    name.push(0);
                    break;
                }
                1..64 => {
                    name.extend_from_slice(&self.bytes[at..=at + len]);
                    at += 1 + len;
                }
                0xc0.. => {
                    end.get_or_insert(at + 2);
                    at = (len & 0x3f) << 8 | usize::from(self.bytes[at + 1]);
                    assert!((12..lowest).contains(&at), "a pointer to {at} from {lowest}: {:?}", self.bytes);
                    lowest = at;
                }
                _ => panic!("label type {len:#x}: {:?}", self.bytes),
            }
        }
        assert!(name.len() <= 255, "a name of {} bytes", name.len());
        self.at = end.unwrap_or(at + 1);
        name
    }

    fn record(&mut self) -> Record {
        let owner = self.name();
        let (rtype, class) = (self.u16(), self.u16());
        let ttl = u32::from_be_bytes(self.take(4).try_into().unwrap());
        let len = usize::from(self.u16());
        let end = self.at + len;
        let mut data = Vec::new();
        let (before, names) = match rtype {
            NS | CNAME | PTR => (0, 1),
            SOA => (0, 2),
            MX => (2, 1),
            _ => (0, 0),
        };
        data.extend(self.take(before));
        for _ in 0..names {
            data.extend(self.name());
        }
        let rest = end.checked_sub(self.at).expect("names end within the data");
        data.extend_from_slice(self.take(rest));
        Record { owner, rtype, class, ttl, data }
    }
}
