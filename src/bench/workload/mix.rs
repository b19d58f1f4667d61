//! Mixes: queries drawn from names, by their popularity, kind and type.
//!
//! Pure. The queries are drawn before the run, so that drawing costs nothing while it is measured; equal seeds draw
//! equal queries.

use std::fs;
use std::path::Path;

use fastrand::Rng;

use super::query_file::{QueryFile, QueryFileError, Reading};
use crate::wire::name::Name;
use crate::wire::record::rtype;

/// Names that a pattern makes at most, and queries that are drawn at most.
pub const MAX_NAMES: u64 = 100_000_000;

/// Letters and digits of a random label.
const RANDOM_LABEL_LEN: usize = 12;

/// What a query is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One of the names.
    Positive,
    /// A random name beside one of the names.
    Negative,
    /// A random name below one of the names.
    Random,
}

/// Shares of a whole, by what they are of.
#[derive(Clone, Debug, PartialEq)]
pub struct Shares<T>(Vec<(T, f64)>);

impl<T: Copy> Shares<T> {
    /// All of one thing.
    #[must_use]
    pub fn all(of: T) -> Self {
        Self(vec![(of, 1.0)])
    }

    /// Reads `name=50%,name=50%`. `read` knows the names.
    ///
    /// # Errors
    /// What is wrong with the text: the shares have to be positive and to make up 100%.
    pub fn parse(text: &str, read: impl Fn(&str) -> Option<T>, names: &str) -> Result<Self, String> {
        let mut shares = Vec::new();
        for part in text.split(',') {
            let (name, share) = part.split_once('=').unwrap_or((part, "100%"));
            let of = read(name.trim()).ok_or_else(|| format!("`{name}` is unknown; expected {names}"))?;
            let percent = share.trim().strip_suffix('%').and_then(|number| number.parse::<f64>().ok());
            let percent = percent.filter(|percent| *percent > 0.0 && *percent <= 100.0);
            let percent = percent.ok_or_else(|| format!("`{share}` is no share; expected one like 50%"))?;
            shares.push((of, percent / 100.0));
        }
        let sum: f64 = shares.iter().map(|(_, share)| share).sum();
        if (sum - 1.0).abs() > 1e-6 {
            return Err(format!("the shares make up {:.3}%; expected 100%", sum * 100.0));
        }
        Ok(Self(shares))
    }

    fn draw(&self, random: &mut Rng) -> T {
        let mut rest = random.f64();
        for (of, share) in &self.0 {
            if rest < *share {
                return *of;
            }
            rest -= share;
        }
        self.0[self.0.len() - 1].0
    }
}

/// Reads the kinds of a mix, like `positive=50%,negative=50%`.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_kinds(text: &str) -> Result<Shares<Kind>, String> {
    let read = |name: &str| match name {
        "positive" => Some(Kind::Positive),
        "negative" => Some(Kind::Negative),
        "random" => Some(Kind::Random),
        _ => None,
    };
    Shares::parse(text, read, "positive, negative or random")
}

/// Reads the types of a mix, like `A=80%,AAAA=20%`.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_types(text: &str) -> Result<Shares<u16>, String> {
    Shares::parse(text, rtype::from_text, "a record type like A or AAAA")
}

/// What to draw.
#[derive(Clone, Debug)]
pub struct Mix {
    /// Shares of kinds.
    pub kinds: Shares<Kind>,
    /// Shares of types.
    pub types: Shares<u16>,
    /// Exponent of Zipf's law: the `k`-th name is asked for `1 / k^s` as often as the first. 0: all alike.
    pub zipf: f64,
    /// How many queries to draw.
    pub count: u64,
    /// Where the random numbers begin.
    pub seed: u64,
}

impl Mix {
    /// Draws queries about `names`, the first being the most popular.
    ///
    /// # Errors
    /// [`QueryFileError`], if there are too many.
    pub fn draw(&self, names: &[Name], reading: &Reading) -> Result<QueryFile, QueryFileError> {
        let mut random = Rng::with_seed(self.seed);
        let popularity = Popularity::new(names.len(), self.zipf);
        let mut queries = QueryFile::begin_as(reading);
        let mut wire = Vec::new();
        for _ in 0..self.count {
            let name = names[popularity.draw(&mut random)].as_wire();
            wire.clear();
            let under = match self.kinds.draw(&mut random) {
                Kind::Positive => {
                    wire.extend_from_slice(name);
                    None
                }
                // What follows on its first label; the root has nothing beside it.
                Kind::Negative => Some(&name[if name[0] == 0 { 0 } else { 1 + usize::from(name[0]) }..]),
                Kind::Random => Some(name),
            };
            if let Some(parent) = under {
                push_random_label(&mut wire, &mut random);
                wire.extend_from_slice(parent);
                if wire.len() > 255 {
                    // There is no room for one more label: beside it then.
                    wire.truncate(1 + RANDOM_LABEL_LEN);
                    wire.extend_from_slice(&name[1 + usize::from(name[0])..]);
                }
            }
            if wire.len() <= 255 {
                let query_type = self.types.draw(&mut random);
                queries.push(&wire, query_type).map_err(|fault| too_many(&fault))?;
            }
        }
        queries.end("the mix")
    }
}

fn too_many(fault: &str) -> QueryFileError {
    QueryFileError::Unreadable { file: "the mix".into(), error: std::io::Error::other(fault.to_owned()) }
}

fn push_random_label(wire: &mut Vec<u8>, random: &mut Rng) {
    wire.push(u8::try_from(RANDOM_LABEL_LEN).unwrap_or(0));
    wire.extend((0..RANDOM_LABEL_LEN).map(|_| {
        const DIGITS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
        DIGITS[random.usize(..DIGITS.len())]
    }));
}

/// How often each of some names is asked for.
struct Popularity {
    count: usize,
    /// The summed weights up to each; empty if all are alike.
    sums: Vec<f64>,
}

impl Popularity {
    fn new(count: usize, exponent: f64) -> Self {
        let mut sum = 0.0;
        let weights = (1..=count).map(|rank| {
            sum += (rank as f64).powf(-exponent);
            sum
        });
        Self { count, sums: if exponent == 0.0 { Vec::new() } else { weights.collect() } }
    }

    fn draw(&self, random: &mut Rng) -> usize {
        let Some(total) = self.sums.last() else { return random.usize(..self.count) };
        let at = random.f64() * total;
        self.sums.partition_point(|sum| *sum <= at).min(self.count - 1)
    }
}

/// Reads names, one a line: the first word, so that a file of queries or of domains will do.
///
/// # Errors
/// A [`QueryFileError`].
pub fn read_names(path: &Path) -> Result<Vec<Name>, QueryFileError> {
    let file = path.display().to_string();
    let text =
        fs::read_to_string(path).map_err(|error| QueryFileError::Unreadable { file: file.clone(), error })?;
    let mut names = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        let first = text.split_ascii_whitespace().next();
        let Some(first) = first.filter(|first| !first.starts_with(['#', ';'])) else { continue };
        let name = Name::from_text(first).map_err(|error| QueryFileError::BadLine {
            file: file.clone(),
            line,
            good: names.len() as u64,
            fault: format!("`{first}` is not a domain name: {error}"),
        })?;
        names.push(name);
    }
    if names.is_empty() { Err(QueryFileError::Empty { file }) } else { Ok(names) }
}

/// Makes the names of a pattern like `host{1..10000}.example` or `h{001..250}.example`: one for each number.
///
/// # Errors
/// What is wrong with the pattern.
pub fn expand_pattern(pattern: &str) -> Result<Vec<Name>, String> {
    let expected = || format!("`{pattern}` is no pattern; expected one like `host{{1..10000}}.example`");
    let (front, rest) = pattern.split_once('{').ok_or_else(expected)?;
    let (range, back) = rest.split_once('}').ok_or_else(expected)?;
    let (first, last) = range.split_once("..").ok_or_else(expected)?;
    let width = if first.starts_with('0') { first.len() } else { 0 };
    let (first, last): (u64, u64) =
        (first.parse().map_err(|_| expected())?, last.parse().map_err(|_| expected())?);
    if last < first || last - first >= MAX_NAMES {
        return Err(format!("`{pattern}` makes no names, or more than {MAX_NAMES}"));
    }
    let name = |number| {
        let text = format!("{front}{number:0width$}{back}");
        Name::from_text(&text).map_err(|error| format!("`{text}` is not a domain name: {error}"))
    };
    (first..=last).map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn names() -> Vec<Name> {
        expand_pattern("h{1..100}.example").unwrap()
    }

    fn mix() -> Mix {
        Mix {
            kinds: Shares::all(Kind::Positive),
            types: Shares::all(rtype::A),
            zipf: 0.0,
            count: 20_000,
            seed: 1,
        }
    }

    fn questions(mix: &Mix) -> Vec<Vec<u8>> {
        let queries = mix.draw(&names(), &Reading::default()).unwrap();
        (0..queries.count()).map(|i| queries.question(i).to_vec()).collect()
    }

    #[test]
    fn kinds_and_types_have_their_shares() {
        let kinds = parse_kinds("positive=50%, negative=30%,random=20%").unwrap();
        let types = parse_types("A=80%,AAAA=20%").unwrap();
        let questions = questions(&Mix { kinds, types, ..mix() });
        let share = |test: &dyn Fn(&[u8]) -> bool| {
            questions.iter().filter(|question| test(question)).count() as f64 / questions.len() as f64
        };
        let is_random = |question: &[u8]| usize::from(question[0]) == RANDOM_LABEL_LEN;
        assert!((share(&|question| !is_random(question)) - 0.5).abs() < 0.02);
        assert!(
            (share(&|question| is_random(question) && question[13] == 7) - 0.3).abs() < 0.02,
            "beside: x.example"
        );
        assert!(
            (share(&|question| is_random(question) && question[13] < 7) - 0.2).abs() < 0.02,
            "below: x.hN.example"
        );
        assert!((share(&|question| question[question.len() - 3] == 28) - 0.2).abs() < 0.02);
    }

    #[test]
    fn popularity_follows_zipfs_law() {
        let mut counts = HashMap::new();
        for question in questions(&Mix { zipf: 1.0, ..mix() }) {
            *counts.entry(question).or_insert(0u32) += 1;
        }
        let count = |name: &[u8]| f64::from(counts[&[name, b"\x07example\0\0\x01\0\x01"].concat()]);
        // The sum of 1/k up to 100 is 5.187.
        assert!((count(b"\x02h1") / 20_000.0 - 1.0 / 5.187).abs() < 0.015);
        assert!((count(b"\x02h1") / count(b"\x03h10") - 10.0).abs() < 2.5);
        let alike = questions(&mix());
        assert_eq!(alike.iter().collect::<std::collections::HashSet<_>>().len(), 100);
        assert_eq!(alike, questions(&mix()), "equal seeds draw equal queries");
        assert_ne!(alike, questions(&Mix { seed: 2, ..mix() }));
    }

    #[test]
    fn patterns_count_and_pad() {
        let names = expand_pattern("h{08..11}.x").unwrap();
        assert_eq!(
            names.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["h08.x.", "h09.x.", "h10.x.", "h11.x."]
        );
        for bad in ["h.x", "h{1..}.x", "h{2..1}.x", "h{1..2", "h{1..2}..x", "h{0..99999999999}.x"] {
            assert!(expand_pattern(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn shares_that_make_no_whole_are_refused() {
        for (bad, words) in [
            ("positive=50%", "make up 50.000%"),
            ("positive=50%,wrong=50%", "expected positive, negative or random"),
            ("positive=x,negative=50%", "no share"),
            ("positive=150%", "no share"),
        ] {
            let error = parse_kinds(bad).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        assert!(parse_kinds("positive").is_ok());
    }

    #[test]
    fn no_name_is_too_long() {
        let long = Name::from_text(&format!("{0}.{0}.{0}.{1}", "a".repeat(63), "b".repeat(61))).unwrap();
        assert_eq!(long.as_wire().len(), 255);
        let queries = Mix { kinds: Shares::all(Kind::Random), count: 10, ..mix() }
            .draw(&[long, Name::root()], &Reading::default())
            .unwrap();
        assert!((0..queries.count()).all(|i| queries.question(i).len() <= 259));
    }
}
