//! A registration: who owns it, what it says, and its bytes, which are the same in memory, on disk and on the wire.
//!
//! Pure. Runs on whichever thread has the lock.

use std::fmt;
use std::net::IpAddr;

use super::codec::{Malformed, Reader, put_bytes, put_varint, varint_len};
use crate::policy::select::{Health, MAX_TIER, RAMP_STEPS, Standing};
use crate::wire::name::Name;
use crate::wire::record::rtype;
use crate::wire::reverse_name::ReverseName;

/// Bytes of an instance's name at most; a container's id has 64.
pub const MAX_INSTANCE_LEN: usize = crate::limits::MAX_INSTANCE_LEN;
/// Bytes of a record's data at most. A hundred of them still fit in an answer over TCP.
pub const MAX_RDATA_LEN: usize = crate::limits::MAX_RDATA_LEN;
/// Bytes of all attributes at most.
pub(super) const MAX_ATTRIBUTES_LEN: usize = crate::limits::MAX_ATTRIBUTES_LEN;
/// Bytes of a registration at most.
pub(super) const MAX_RECORD_LEN: usize = crate::limits::MAX_RECORD_LEN;

/// Bytes of a check at most.
pub const MAX_CHECK_LEN: usize = crate::limits::MAX_CHECK_LEN;

/// Attributes by their kinds. One of a kind that we do not know is kept and passed on as it is: two releases may run
/// side by side.
mod attribute {
    pub(super) const TTL_S: u64 = 1;
    pub(super) const NO_POINTER: u64 = 2;
    pub(super) const WEIGHT: u64 = 3;
    pub(super) const TIER: u64 = 4;
    pub(super) const CHECK: u64 = 5;
    pub(super) const SLOW_START_S: u64 = 6;
    pub(super) const VALUE: u64 = 7;
    /// From here on it is not what was registered, but what its node has found out about it since. That comes last.
    pub(super) const FIRST_OF_STATE: u64 = 32;
    pub(super) const HEALTH: u64 = 32;
    pub(super) const RAMP: u64 = 33;
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attribute<'a> {
    TtlS(u32),
    NoPointer,
    Weight(u16),
    Tier(u8),
    Check(&'a str),
    SlowStartS(u32),
    Value(&'a [u8]),
    Health(Health),
    Ramp(u8),
    Unknown,
}

/// What is registered. Within one origin it is there once; to register it again changes its attributes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// What it belongs to, for example a container; several may register the same name and data.
    pub instance: Box<str>,
    /// Its name. Upper and lower case are the same.
    pub name: Name,
    /// The type of its record.
    pub rtype: u16,
    /// The data of its record as it goes on the wire, names uncompressed.
    pub rdata: Box<[u8]>,
}

/// What is said of a registration besides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// How long others may keep the record; the answering node's own setting if it is not said.
    pub ttl_s: Option<u32>,
    /// The address does not lead back to the name: there is no PTR record.
    pub no_pointer: bool,
    /// How often the address is to be chosen, compared with the others; 1 if it is not said.
    pub weight: Option<u16>,
    /// The address is used when those of lower numbers do not suffice.
    pub tier: u8,
    /// How the node finds out whether the address is well, as text.
    pub check: Option<Box<str>>,
    /// For how long the weight of an address that is new, or well again, is ramped up.
    pub slow_start_s: Option<u32>,
    /// What a statement says.
    pub(crate) value: Option<Box<[u8]>>,
    /// What a later release has said, in its bytes.
    pub(crate) unknown: Vec<u8>,
    /// What the node has found out since.
    pub state: ObservedState,
}

/// What a node finds out about its own registrations. It ends with the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ObservedState {
    /// What checks have found.
    pub health: Health,
    /// Parts of the weight that there are by now, if not all.
    pub ramp: Option<u8>,
}

impl ObservedState {
    fn encode(self, out: &mut Vec<u8>) {
        let mut put = |kind, value: u8| {
            put_varint(out, kind);
            put_bytes(out, &[value]);
        };
        match self.health {
            Health::Unknown => {}
            Health::Up => put(attribute::HEALTH, 1),
            Health::Down => put(attribute::HEALTH, 2),
        }
        if let Some(ramp) = self.ramp {
            put(attribute::RAMP, ramp);
        }
    }
}

impl Attributes {
    /// That others may keep the record for so long.
    #[must_use]
    pub fn with_ttl_s(ttl_s: u32) -> Self {
        Self { ttl_s: Some(ttl_s), ..Self::default() }
    }

    /// That the address has this weight.
    #[must_use]
    pub fn with_weight(weight: u16) -> Self {
        Self { weight: Some(weight), ..Self::default() }
    }
}

/// Why something cannot be registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TooLong {
    /// The instance has so many bytes.
    Instance(usize),
    /// The data has so many bytes.
    Rdata(usize),
}

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instance(len) => write!(f, "an instance of {len} bytes; it can have {MAX_INSTANCE_LEN}"),
            Self::Rdata(len) => write!(f, "record data of {len} bytes; it can have {MAX_RDATA_LEN}"),
        }
    }
}

impl std::error::Error for TooLong {}

impl Key {
    /// The registration of an address.
    #[must_use]
    pub fn address(instance: &str, name: &Name, address: IpAddr) -> Self {
        let (rtype, rdata) = match address {
            IpAddr::V4(v4) => (rtype::A, v4.octets().to_vec()),
            IpAddr::V6(v6) => (rtype::AAAA, v6.octets().to_vec()),
        };
        Self { instance: instance.into(), name: name.clone(), rtype, rdata: rdata.into() }
    }

    /// Whether every part is within its limit.
    ///
    /// # Errors
    /// [`TooLong`].
    pub fn check(&self) -> Result<(), TooLong> {
        if self.instance.len() > MAX_INSTANCE_LEN {
            return Err(TooLong::Instance(self.instance.len()));
        }
        if self.rdata.len() > MAX_RDATA_LEN {
            return Err(TooLong::Rdata(self.rdata.len()));
        }
        Ok(())
    }
}

/// The bytes of a registration.
#[must_use]
pub fn encode(key: &Key, attributes: &Attributes) -> Box<[u8]> {
    let mut out = Vec::with_capacity(key.instance.len() + key.name.as_wire().len() + key.rdata.len() + 8);
    encode_to(&mut out, &key.instance, key.name.as_wire(), (key.rtype, &key.rdata), attributes);
    out.into()
}

/// Where in the bytes of a registration its parts end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// The name is here.
    pub name: (usize, usize),
    /// The key, which is in front, has so many bytes.
    pub key_len: usize,
}

/// Appends the bytes of a registration by its parts, `name` in wire form and any case. Returns where they are.
pub fn encode_to(
    out: &mut Vec<u8>,
    instance: &str,
    name: &[u8],
    (rtype, rdata): (u16, &[u8]),
    attributes: &Attributes,
) -> Parts {
    let begin = out.len();
    put_bytes(out, instance.as_bytes());
    let name_at = out.len() - begin;
    out.extend(name.iter().map(u8::to_ascii_lowercase));
    put_varint(out, rtype.into());
    put_bytes(out, rdata);
    let parts = Parts { name: (name_at, name_at + name.len()), key_len: out.len() - begin };
    if let Some(ttl_s) = attributes.ttl_s {
        put_number(out, attribute::TTL_S, ttl_s.into());
    }
    if attributes.no_pointer {
        put_varint(out, attribute::NO_POINTER);
        put_bytes(out, &[]);
    }
    if let Some(weight) = attributes.weight {
        put_number(out, attribute::WEIGHT, weight.into());
    }
    if attributes.tier > 0 {
        put_number(out, attribute::TIER, attributes.tier.into());
    }
    if let Some(check) = &attributes.check {
        put_varint(out, attribute::CHECK);
        put_bytes(out, check.as_bytes());
    }
    if let Some(slow_start_s) = attributes.slow_start_s {
        put_number(out, attribute::SLOW_START_S, slow_start_s.into());
    }
    if let Some(value) = &attributes.value {
        put_varint(out, attribute::VALUE);
        put_bytes(out, value);
    }
    out.extend_from_slice(&attributes.unknown);
    attributes.state.encode(out);
    parts
}

fn put_number(out: &mut Vec<u8>, kind: u64, number: u64) {
    put_varint(out, kind);
    put_varint(out, varint_len(number) as u64);
    put_varint(out, number);
}

/// A registration's bytes, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    instance: &'a [u8],
    /// Its name in wire form and lower case.
    pub name: &'a [u8],
    /// The type of its record.
    pub rtype: u16,
    /// The data of its record.
    pub rdata: &'a [u8],
    /// The bytes of all that: two registrations with equal keys are one.
    pub key: &'a [u8],
    /// All bytes of the registration: those of the key, and behind them its attributes.
    pub bytes: &'a [u8],
}

impl<'a> Record<'a> {
    /// Takes `bytes` apart.
    ///
    /// # Errors
    /// [`Malformed`], also for parts that are longer than they may be and for upper case in the name.
    pub fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let record = Self::split(bytes)?;
        let is_address = match record.rtype {
            rtype::A => record.rdata.len() == 4,
            rtype::AAAA => record.rdata.len() == 16,
            _ => true,
        };
        let short = bytes.len() - record.key.len() <= MAX_ATTRIBUTES_LEN;
        let lower = !record.name.iter().any(u8::is_ascii_uppercase);
        if !is_address || !short || !lower || str::from_utf8(record.instance).is_err() {
            return Err(Malformed);
        }
        record.each_attribute(|_, _| {})?;
        Ok(record)
    }

    /// Takes bytes apart that have been [read](Self::read) before.
    ///
    /// # Panics
    /// If they are no registration.
    #[must_use]
    pub fn known(bytes: &'a [u8]) -> Self {
        debug_assert!(Self::read(bytes).is_ok());
        Self::split(bytes).expect("read before")
    }

    #[inline]
    fn split(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader(bytes);
        let instance = reader.bytes(MAX_INSTANCE_LEN)?;
        let name = reader.take(name_len(reader.0)?)?;
        let rtype = u16::try_from(reader.varint()?).map_err(|_| Malformed)?;
        let rdata = reader.bytes(MAX_RDATA_LEN)?;
        let key = &bytes[..bytes.len() - reader.0.len()];
        Ok(Self { instance, name, rtype, rdata, key, bytes })
    }

    /// What it belongs to.
    #[must_use]
    pub fn instance(&self) -> &'a str {
        str::from_utf8(self.instance).unwrap_or_default()
    }

    /// What is said of it besides.
    ///
    /// # Errors
    /// [`Malformed`], never after [`read`](Self::read).
    pub fn attributes(&self) -> Result<Attributes, Malformed> {
        let mut attributes = Attributes::default();
        self.each_attribute(|attribute, bytes| match attribute {
            Attribute::TtlS(ttl_s) => attributes.ttl_s = Some(ttl_s),
            Attribute::NoPointer => attributes.no_pointer = true,
            Attribute::Weight(weight) => attributes.weight = Some(weight),
            Attribute::Tier(tier) => attributes.tier = tier,
            Attribute::Check(check) => attributes.check = Some(check.into()),
            Attribute::SlowStartS(slow_start_s) => attributes.slow_start_s = Some(slow_start_s),
            Attribute::Value(value) => attributes.value = Some(value.into()),
            Attribute::Health(health) => attributes.state.health = health,
            Attribute::Ramp(ramp) => attributes.state.ramp = Some(ramp),
            Attribute::Unknown => attributes.unknown.extend_from_slice(bytes),
        })?;
        Ok(attributes)
    }

    /// Whether anything is said of it besides.
    #[must_use]
    pub fn has_attributes(&self) -> bool {
        self.bytes.len() > self.key.len()
    }

    /// What was registered: its bytes but for what its node has found out about it since.
    #[must_use]
    pub fn declared(&self) -> &'a [u8] {
        let mut reader = Reader(&self.bytes[self.key.len()..]);
        let mut end = self.bytes.len();
        while !reader.is_empty() {
            let at = self.bytes.len() - reader.0.len();
            let Ok(kind) = reader.varint() else { break };
            if kind >= attribute::FIRST_OF_STATE {
                end = at;
                break;
            }
            if reader.bytes(MAX_ATTRIBUTES_LEN).is_err() {
                break;
            }
        }
        &self.bytes[..end]
    }

    /// The bytes of what was registered with another state.
    #[must_use]
    pub fn with_state(&self, state: ObservedState) -> Vec<u8> {
        let mut bytes = self.declared().to_vec();
        state.encode(&mut bytes);
        bytes
    }

    /// How the address stands by what its own node says of it.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let mut standing = Standing::default();
        // Nearly all have no attributes at all. What has been read before has no fault.
        let _ = self.each_attribute(|attribute, _| match attribute {
            Attribute::Weight(weight) => standing.weight = weight,
            Attribute::Tier(tier) => standing.tier = tier,
            Attribute::Health(health) => standing.health = health,
            Attribute::Ramp(ramp) => standing.ramp = ramp,
            _ => {}
        });
        standing
    }

    /// What a statement says.
    pub(super) fn value(&self) -> Option<&'a [u8]> {
        let mut found = None;
        let read = self.each_attribute(|attribute, _| {
            if let Attribute::Value(value) = attribute {
                found = Some(value);
            }
        });
        read.ok().and(found)
    }

    /// How long others may keep the record, if that is said.
    #[must_use]
    pub fn ttl_s(&self) -> Option<u32> {
        let mut found = None;
        let read = self.each_attribute(|attribute, _| {
            if let Attribute::TtlS(ttl_s) = attribute {
                found = Some(ttl_s);
            }
        });
        read.ok().and(found)
    }

    /// Whether the address leads back to the name.
    fn has_pointer(&self) -> bool {
        let mut wanted = true;
        let read = self.each_attribute(|attribute, _| wanted &= attribute != Attribute::NoPointer);
        read.is_ok() && wanted
    }

    /// Calls `with` for each attribute, and its bytes.
    #[inline]
    fn each_attribute(&self, mut with: impl FnMut(Attribute<'a>, &'a [u8])) -> Result<(), Malformed> {
        let mut reader = Reader(&self.bytes[self.key.len()..]);
        while !reader.is_empty() {
            let begin = reader.0;
            let kind = reader.varint()?;
            let value = reader.bytes(MAX_ATTRIBUTES_LEN)?;
            let number = || Reader(value).varint();
            let attribute = match kind {
                attribute::TTL_S => Attribute::TtlS(u32::try_from(number()?).map_err(|_| Malformed)?),
                attribute::NO_POINTER => Attribute::NoPointer,
                attribute::WEIGHT => Attribute::Weight(u16::try_from(number()?).map_err(|_| Malformed)?),
                attribute::TIER => match u8::try_from(number()?) {
                    Ok(tier) if tier <= MAX_TIER => Attribute::Tier(tier),
                    _ => return Err(Malformed),
                },
                attribute::CHECK if value.len() <= MAX_CHECK_LEN => {
                    Attribute::Check(str::from_utf8(value).map_err(|_| Malformed)?)
                }
                attribute::SLOW_START_S => {
                    Attribute::SlowStartS(u32::try_from(number()?).map_err(|_| Malformed)?)
                }
                attribute::VALUE => Attribute::Value(value),
                attribute::HEALTH => Attribute::Health(match value {
                    [1] => Health::Up,
                    [2] => Health::Down,
                    _ => Health::Unknown,
                }),
                attribute::RAMP => match value {
                    &[ramp] if (1..=RAMP_STEPS).contains(&ramp) => Attribute::Ramp(ramp),
                    _ => return Err(Malformed),
                },
                _ => Attribute::Unknown,
            };
            with(attribute, &begin[..begin.len() - reader.0.len()]);
        }
        Ok(())
    }

    /// The address, if it has one.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        match self.rtype {
            rtype::A => <[u8; 4]>::try_from(self.rdata).ok().map(IpAddr::from),
            rtype::AAAA => <[u8; 16]>::try_from(self.rdata).ok().map(IpAddr::from),
            _ => None,
        }
    }

    /// The name under which a PTR record leads from the address to the name, unless that is not wanted.
    #[must_use]
    pub fn reverse_name(&self) -> Option<ReverseName> {
        let address = self.address()?;
        self.has_pointer().then(|| ReverseName::new(address))
    }

    /// What is registered.
    #[must_use]
    pub fn to_key(&self) -> Key {
        Key {
            instance: self.instance().into(),
            name: Name::from_wire(self.name).unwrap_or_else(Name::root),
            rtype: self.rtype,
            rdata: self.rdata.into(),
        }
    }
}

/// Bytes of the wire name at the front of `bytes`.
#[inline]
fn name_len(bytes: &[u8]) -> Result<usize, Malformed> {
    let mut at = 0;
    loop {
        match *bytes.get(at).ok_or(Malformed)? {
            0 if at < 255 => return Ok(at + 1),
            len @ 1..=63 => at += 1 + usize::from(len),
            _ => return Err(Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key::address("c1", &Name::from_text("Web.example").unwrap(), [10, 0, 0, 1].into())
    }

    #[test]
    fn a_registration_comes_back_with_its_name_in_lower_case() {
        for ttl_s in [None, Some(0), Some(300)] {
            let attributes = Attributes { ttl_s, ..Attributes::default() };
            let bytes = encode(&key(), &attributes);
            let record = Record::read(&bytes).unwrap();
            assert_eq!(
                (record.instance(), record.name, record.rtype),
                ("c1", &b"\x03web\x07example\0"[..], 1)
            );
            assert_eq!((record.address(), record.attributes()), (Some([10, 0, 0, 1].into()), Ok(attributes)));
            assert_eq!(record.to_key(), Key { name: key().name.to_lower_case(), ..key() });
        }
    }

    #[test]
    fn what_was_registered_is_told_from_what_was_found_out() {
        let attributes = Attributes {
            weight: Some(300),
            tier: 2,
            check: Some("tcp:80".into()),
            slow_start_s: Some(30),
            ..Attributes::with_ttl_s(5)
        };
        let declared = encode(&key(), &attributes);
        let state = ObservedState { health: Health::Down, ramp: Some(3) };
        let bytes = Record::read(&declared).unwrap().with_state(state);
        assert_eq!(bytes[..], encode(&key(), &Attributes { state, ..attributes.clone() })[..]);
        let record = Record::read(&bytes).unwrap();
        assert_eq!(record.declared(), &declared[..]);
        assert_eq!(record.with_state(ObservedState::default()), declared[..]);
        assert_eq!(record.attributes(), Ok(Attributes { state, ..attributes }));
        let Standing { weight, tier, ramp, health, drained } = record.standing();
        assert_eq!((weight, tier, ramp, health, drained), (300, 2, 3, Health::Down, false));
        assert_eq!(
            Record::read(&encode(&key(), &Attributes::default())).unwrap().standing(),
            Standing::default()
        );
    }

    #[test]
    fn attributes_of_a_later_release_are_kept() {
        let mut bytes = encode(&key(), &Attributes::with_ttl_s(5)).to_vec();
        bytes.extend_from_slice(b"\x1f\x03new");
        let record = Record::read(&bytes).unwrap();
        assert_eq!(encode(&record.to_key(), &record.attributes().unwrap()), bytes.into());
    }

    #[test]
    fn no_bytes_are_read_that_could_not_be_written() {
        let bytes = encode(&key(), &Attributes::with_ttl_s(300));
        let key_len = Record::read(&bytes).unwrap().key.len();
        for len in (0..bytes.len()).filter(|&len| len != key_len) {
            assert_eq!(Record::read(&bytes[..len]), Err(Malformed), "{len}");
        }
        let mut rng = fastrand::Rng::with_seed(5);
        for _ in 0..100_000 {
            let mut changed = bytes.to_vec();
            for _ in 0..rng.usize(1..4) {
                let at = rng.usize(..changed.len());
                changed[at] = rng.u8(..);
            }
            if let Ok(record) = Record::read(&changed) {
                assert_eq!(encode(&record.to_key(), &Attributes::default())[..], *record.key);
            }
        }
        let long = Key { instance: "x".repeat(65).into(), ..key() };
        assert_eq!(long.check(), Err(TooLong::Instance(65)));
        assert_eq!(Record::read(&encode(&long, &Attributes::default())), Err(Malformed));
    }
}
