//! Whether answers are what they should be: the expected set of each question, by a file.
//!
//! The file is read by the main thread before the run; each sending thread then checks what it receives and keeps its
//! own counts, which are added up at the end.
//!
//! ```text
//! # name        type   what the answer should be
//! web.example   A      192.0.2.1 192.0.2.2     # these addresses, all of them and no others, in any order
//! old.example   A      NXDOMAIN                # this response code
//! web.example   AAAA   NODATA                  # NOERROR without records of the type
//! 192.0.2.7     db.example                     # a line of a hosts file: one more address of db.example
//! ```

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use super::message::{question_text, type_text};
use super::workload::QueryFile;
use crate::wire::header::{self, rcode};
use crate::wire::message::{answers, expand_name};
use crate::wire::name::Name;
use crate::wire::record::{CLASS_IN, rtype};

/// Examples of wrong answers that are kept.
const MAX_EXAMPLES: usize = 10;

/// Not expected anything of.
const NOTHING: u32 = u32::MAX;

/// What the answer to one question should be.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Expectation {
    /// This response code; none of the type's records with NOERROR.
    Code(u8),
    /// These data and no others: addresses, or names in wire form and lower case.
    Set(Vec<Box<[u8]>>),
}

/// What all answers should be.
pub struct Expectations {
    all: Vec<Expectation>,
    /// Number in `all` of what is expected of each query, or [`NOTHING`].
    by_query: Vec<u32>,
    /// The questions, as text, for the examples, and their types.
    texts: Vec<String>,
    types: Vec<u16>,
}

impl Expectations {
    /// Reads what is expected of the answers to `queries` from a file.
    ///
    /// # Errors
    /// What is wrong with the file, with the line, or that it says nothing of any query.
    pub fn open(path: &Path, queries: &QueryFile) -> Result<Self, String> {
        let file = path.display();
        let text = fs::read_to_string(path).map_err(|error| format!("{file}: cannot be read: {error}"))?;
        let mut by_question = HashMap::new();
        for (line, text) in (1..).zip(text.lines()) {
            read_line(text, &mut by_question).map_err(|fault| format!("{file}:{line}: {fault}"))?;
        }
        let this = Self::new(by_question, queries);
        if this.by_query.iter().all(|&number| number == NOTHING) {
            return Err(format!("{file}: says nothing of any of the {} queries", queries.count()));
        }
        Ok(this)
    }

    fn new(by_question: HashMap<Vec<u8>, Expectation>, queries: &QueryFile) -> Self {
        let mut numbers = HashMap::new();
        let (mut all, mut texts, mut types) = (Vec::new(), Vec::new(), Vec::new());
        for (question, expectation) in by_question {
            numbers.insert(question.clone(), u32::try_from(all.len()).unwrap_or(NOTHING));
            texts.push(question_text(&question));
            types.push(header::u16_at(&question, question.len() - 4));
            all.push(expectation);
        }
        let lower = |index| lower_case(queries.question(index));
        let by_query =
            (0..queries.count()).map(|index| numbers.get(&lower(index)).copied().unwrap_or(NOTHING));
        Self { by_query: by_query.collect(), all, texts, types }
    }
}

fn lower_case(question: &[u8]) -> Vec<u8> {
    let name_len = question.len() - 4;
    let mut lower = question.to_vec();
    lower[..name_len].make_ascii_lowercase();
    lower
}

fn question(name: &str, query_type: u16) -> Result<Vec<u8>, String> {
    let name = Name::from_text(name).map_err(|error| format!("`{name}` is not a domain name: {error}"))?;
    let name = name.to_lower_case();
    Ok([name.as_wire(), &query_type.to_be_bytes(), &CLASS_IN.to_be_bytes()].concat())
}

fn read_line(line: &str, by_question: &mut HashMap<Vec<u8>, Expectation>) -> Result<(), String> {
    let line = line.split(['#', ';']).next().unwrap_or_default();
    let fields: Vec<_> = line.split_ascii_whitespace().collect();
    let Some((&first, rest)) = fields.split_first() else { return Ok(()) };
    if let Ok(address) = first.parse::<IpAddr>() {
        for name in rest {
            let (query_type, data) = address_data(address);
            let set = by_question
                .entry(question(name, query_type)?)
                .or_insert_with(|| Expectation::Set(Vec::new()));
            match set {
                Expectation::Set(set) if !set.contains(&data) => set.push(data),
                Expectation::Set(_) => {}
                Expectation::Code(_) => {
                    return Err(format!("`{name}` was expected to have no address before"));
                }
            }
        }
        return Ok(());
    }
    let [type_text, expected @ ..] = rest else {
        return Err(format!(
            "`{first}` alone; expected `name type data...`, `name type NXDOMAIN`, or `address name...`"
        ));
    };
    let query_type = rtype::from_text(type_text)
        .ok_or_else(|| format!("`{type_text}` is not a record type; expected one like A"))?;
    let expectation = match expected {
        [] => return Err("nothing is expected; name addresses, a response code, or NODATA".into()),
        [code] if code_of(code).is_some() => Expectation::Code(code_of(code).unwrap_or_default()),
        data => {
            Expectation::Set(data.iter().map(|text| data_of(query_type, text)).collect::<Result<_, _>>()?)
        }
    };
    if by_question.insert(question(first, query_type)?, expectation).is_some() {
        return Err(format!("`{first} {type_text}` stands here twice"));
    }
    Ok(())
}

fn code_of(text: &str) -> Option<u8> {
    if text == "NODATA" {
        return Some(rcode::NOERROR);
    }
    (1..16).find(|&code| rcode::mnemonic(code) == text)
}

fn address_data(address: IpAddr) -> (u16, Box<[u8]>) {
    match address {
        IpAddr::V4(v4) => (rtype::A, v4.octets().into()),
        IpAddr::V6(v6) => (rtype::AAAA, v6.octets().into()),
    }
}

fn data_of(query_type: u16, text: &str) -> Result<Box<[u8]>, String> {
    match query_type {
        rtype::A | rtype::AAAA => match text.parse().map(address_data) {
            Ok((same, data)) if same == query_type => Ok(data),
            _ => Err(format!("`{text}` is no address of type {}", type_text(query_type))),
        },
        rtype::PTR | rtype::CNAME | rtype::NS => Name::from_text(text)
            .map(|name| name.to_lower_case().as_wire().into())
            .map_err(|error| format!("`{text}` is not a domain name: {error}")),
        _ => Err(format!(
            "data of type {} is not compared; expected a response code or NODATA",
            type_text(query_type)
        )),
    }
}

/// What was found when answers were compared with what was expected.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verification {
    /// Answers that something was expected of.
    pub checked: u64,
    /// Those that were as expected.
    pub right: u64,
    /// Those with another response code than expected, or with no records where some were expected.
    pub wrong_code: u64,
    /// Those with data that was not expected: it is stale, or simply wrong.
    pub unexpected: u64,
    /// Those without some of the data that was expected.
    pub missing: u64,
    /// Those that were cut off (TC) and so could not be compared.
    pub truncated: u64,
    /// Answers that nothing was expected of.
    pub unchecked: u64,
    /// Some wrong answers, in words.
    pub examples: Vec<String>,
    /// For each question with several data, how often each came first.
    pub first: HashMap<String, Vec<u64>>,
}

impl Verification {
    /// Whether all answers that could be compared were as expected.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.wrong_code + self.unexpected + self.missing == 0
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: Self) {
        self.checked += other.checked;
        self.right += other.right;
        self.wrong_code += other.wrong_code;
        self.unexpected += other.unexpected;
        self.missing += other.missing;
        self.truncated += other.truncated;
        self.unchecked += other.unchecked;
        self.examples.extend(other.examples);
        self.examples.truncate(MAX_EXAMPLES);
        for (question, counts) in other.first {
            let sums = self.first.entry(question).or_insert_with(|| vec![0; counts.len()]);
            sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
    }
}

/// Checks the answers that one thread receives.
pub(super) struct Verifier<'a> {
    expectations: &'a Expectations,
    found: Verification,
    /// For each expectation, how often each of its data came first.
    first: Vec<Vec<u64>>,
    /// Which of the expected data are in an answer; kept for its room.
    seen: Vec<bool>,
}

impl<'a> Verifier<'a> {
    pub(super) fn new(expectations: &'a Expectations) -> Self {
        let first = expectations.all.iter().map(|expectation| match expectation {
            Expectation::Set(set) => vec![0; set.len()],
            Expectation::Code(_) => Vec::new(),
        });
        Self { expectations, found: Verification::default(), first: first.collect(), seen: Vec::new() }
    }

    /// Checks the answer to query number `query`.
    pub(super) fn check(&mut self, query: u32, answer: &[u8]) {
        let number = self.expectations.by_query[query as usize];
        if number == NOTHING {
            self.found.unchecked += 1;
            return;
        }
        self.found.checked += 1;
        if answer[2] & header::TC != 0 {
            self.found.truncated += 1;
            return;
        }
        let number = number as usize;
        let code = answer[3] & header::RCODE_MASK;
        let query_type = self.expectations.types[number];
        let data = answers(answer).filter(|record| record.rtype == query_type);
        match &self.expectations.all[number] {
            Expectation::Code(expected) => {
                if code == *expected && (code != rcode::NOERROR || data.count() == 0) {
                    self.found.right += 1;
                } else {
                    self.found.wrong_code += 1;
                    self.example(number, answer, code);
                }
            }
            Expectation::Set(_) if code != rcode::NOERROR => {
                self.found.wrong_code += 1;
                self.example(number, answer, code);
            }
            Expectation::Set(set) => {
                self.seen.clear();
                self.seen.resize(set.len(), false);
                let mut unexpected = false;
                for (i, record) in data.enumerate() {
                    let place = match query_type {
                        rtype::PTR | rtype::CNAME | rtype::NS => {
                            let name =
                                expand_name(answer, record.rdata_at).map(|name| name.to_ascii_lowercase());
                            set.iter().position(|known| name.as_deref() == Some(known))
                        }
                        _ => set.iter().position(|known| **known == *record.rdata),
                    };
                    match place {
                        Some(place) => {
                            self.seen[place] = true;
                            self.first[number][place] += u64::from(i == 0);
                        }
                        None => unexpected = true,
                    }
                }
                let missing = self.seen.contains(&false);
                self.found.unexpected += u64::from(unexpected);
                self.found.missing += u64::from(missing);
                self.found.right += u64::from(!unexpected && !missing);
                if unexpected || missing {
                    self.example(number, answer, code);
                }
            }
        }
    }

    #[cold]
    fn example(&mut self, number: usize, answer: &[u8], code: u8) {
        if self.found.examples.len() >= MAX_EXAMPLES {
            return;
        }
        let mut text = format!("{}: {}", self.expectations.texts[number], rcode::mnemonic(code));
        for record in answers(answer) {
            let data = match record.rdata {
                &[a, b, c, d] if record.rtype == rtype::A => IpAddr::from([a, b, c, d]).to_string(),
                data => match <[u8; 16]>::try_from(data) {
                    Ok(octets) if record.rtype == rtype::AAAA => IpAddr::from(octets).to_string(),
                    _ => type_text(record.rtype),
                },
            };
            let _ = write!(text, " {data}");
        }
        self.found.examples.push(text);
    }

    pub(super) fn finish(mut self) -> Verification {
        let several = self.expectations.texts.iter().zip(self.first).filter(|(_, counts)| counts.len() > 1);
        self.found.first = several.map(|(text, counts)| (text.clone(), counts)).collect();
        self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# what should be\n\
        web.example A 192.0.2.1 192.0.2.2 ; both\n\
        old.example A NXDOMAIN\n\
        web.example AAAA NODATA\n\
        192.0.2.7 db.example DB2.example\n192.0.2.8 db.example\n\
        ptr.example PTR Web.Example\n";

    fn expectations(file: &str, queries: &QueryFile) -> Result<Expectations, String> {
        let mut by_question = HashMap::new();
        file.lines().try_for_each(|line| read_line(line, &mut by_question))?;
        Ok(Expectations::new(by_question, queries))
    }

    fn queries(text: &str) -> QueryFile {
        QueryFile::read(text.as_bytes(), "test", None).unwrap()
    }

    /// An answer to query 0 of `queries` with a response code and records of the type asked for.
    fn answer(queries: &QueryFile, code: u8, data: &[&[u8]]) -> Vec<u8> {
        let mut answer = queries.packet(0).to_vec();
        answer[2] |= header::QR;
        answer[3] |= code;
        answer[7] = data.len().try_into().unwrap();
        let query_type = header::u16_at(queries.question(0), queries.question(0).len() - 4).to_be_bytes();
        for data in data {
            let len = u16::try_from(data.len()).unwrap().to_be_bytes();
            answer.extend([&b"\xc0\x0c"[..], &query_type, b"\0\x01\0\0\0\x01", &len, data].concat());
        }
        answer
    }

    fn check(query: &str, code: u8, data: &[&[u8]]) -> Verification {
        let queries = queries(query);
        let expectations = expectations(FILE, &queries).unwrap();
        let mut verifier = Verifier::new(&expectations);
        verifier.check(0, &answer(&queries, code, data));
        verifier.finish()
    }

    #[test]
    fn an_answer_is_right_if_its_set_is_the_expected_one() {
        let (one, two): (&[u8], &[u8]) = (&[192, 0, 2, 1], &[192, 0, 2, 2]);
        for (data, right, missing, unexpected) in [
            (&[two, one][..], 1, 0, 0),
            (&[one], 0, 1, 0),
            (&[one, two, &[192, 0, 2, 3]], 0, 0, 1),
            (&[&[192, 0, 2, 3]], 0, 1, 1),
            (&[], 0, 1, 0),
        ] {
            let found = check("WEB.example A", 0, data);
            assert_eq!(
                (found.checked, found.right, found.missing, found.unexpected),
                (1, right, missing, unexpected)
            );
            assert_eq!(
                (found.holds(), found.examples.len()),
                (right == 1, 1 - usize::try_from(right).unwrap())
            );
        }
        assert_eq!(check("web.example A", 3, &[]).examples, ["web.example A: NXDOMAIN"]);
        assert_eq!(check("web.example A", 0, &[two, one]).first["web.example A"], [0, 1]);
        assert!(check("db.example A", 0, &[&[192, 0, 2, 8], &[192, 0, 2, 7]]).holds());
        assert!(check("ptr.example PTR", 0, &[b"\x03WEB\x07example\0"]).holds());
    }

    #[test]
    fn a_response_code_or_no_data_can_be_expected() {
        assert!(check("old.example A", 3, &[]).holds());
        assert_eq!(check("old.example A", 0, &[]).wrong_code, 1);
        assert!(check("web.example AAAA", 0, &[]).holds());
        assert_eq!(check("web.example AAAA", 0, &[&[0; 16]]).wrong_code, 1);
        assert_eq!(check("web.example AAAA", 3, &[]).wrong_code, 1);
        assert_eq!(check("other.example A", 0, &[]).unchecked, 1);
    }

    #[test]
    fn bad_lines_say_what_was_expected() {
        let queries = queries("a A");
        for (line, words) in [
            ("a", "expected `name type data...`"),
            ("a A", "nothing is expected"),
            ("a A 1.2.3", "no address of type A"),
            ("a A ::1", "no address of type A"),
            ("a WHAT 1.2.3.4", "not a record type"),
            ("a..b A 1.2.3.4", "not a domain name"),
            ("a TXT hello", "not compared"),
            ("a A 1.2.3.4\nA. A 1.2.3.5", "twice"),
        ] {
            let error = expectations(line, &queries).err().unwrap();
            assert!(error.contains(words), "{line}: {error}");
        }
    }
}
