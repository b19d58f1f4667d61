//! What the servers of the world do: each time that they are told to, or always.

use std::collections::BTreeSet;
use std::time::Duration;

use redbreast::resolver::in_flight::{STREAM, StreamEnd, TransactionKey};
use redbreast::wire::edns::PASSED_BY;
use redbreast::wire::header::{self, u16_at};
use redbreast::wire::message::expand_name;

use super::{Arriving, Coming, Sent, World, number_of};
use crate::message::{Message, name_at};
use crate::script::{Lie, Question, Whose};

/// What servers do without being told each time.
#[derive(Default)]
pub(super) struct Habit {
    answer: Option<(Duration, Message)>,
    /// That is for what the crowd asks alone, or for one type of questions.
    crowd: bool,
    only: Option<String>,
    loses_percent: u8,
    /// Its host says each time that nobody is there.
    refuses: bool,
    /// It ends each connection with its first answer.
    closes: bool,
    /// What it says to a question with our option instead of an answer; or nothing.
    dislikes_option: Option<Option<Message>>,
}

impl World {
    /// Takes what would go over the network to an upstream.
    pub(super) fn take_sent(&mut self, sent: Sent) {
        let Sent { place, query } = &sent;
        let server = self.name_of(place.server);
        let name = name_at(query, header::LEN);
        // Beside a crowd nobody counts the checks.
        let is_check = name == "." && type_of(query) == "NS" && !self.crowd_names.is_empty();
        let by_crowd = self.crowd_names.contains(&name) || is_check;
        let stream = self.stream_of(*place);
        let opt_len = opt_of(query).map_or(0, <[u8]>::len);
        self.note(|| format!("to {server} {name} {place:?} with {opt_len} bytes of OPT"));
        if !by_crowd {
            let opt = opt_of(query);
            let edns = if opt.is_some() { "" } else { " without EDNS" };
            let signed = if opt.is_some_and(|opt| opt[7] & 0x80 != 0) { " with DO" } else { "" };
            let option = if opt.is_some_and(has_our_option) { " with the option" } else { "" };
            let qtype = type_of(query);
            self.outputs.push(format!("sent to {server} {name} {qtype}{stream}{edns}{signed}{option}"));
        }
        let habit = self.habits.get(&server).filter(|habit| by_crowd || !habit.crowd);
        let habit = habit.filter(|habit| habit.only.as_ref().is_none_or(|only| *only == type_of(query)));
        if habit.is_some_and(|habit| habit.refuses) {
            self.push(self.now, Coming::Refusal { server: place.server, slot: place.slot });
        } else if let Some(Habit { answer: Some((after, message)), loses_percent, .. }) = habit {
            // Either way may lose it, if it is a datagram.
            let is_silent = self.silent_streams.contains(&(place.server, place.slot));
            let is_unreached = self.unreached.contains(&place.server) && !place.is_stream();
            let lost = is_silent
                || is_unreached
                || !place.is_stream() && (0..2).any(|_| self.rng.u8(..100) < *loses_percent);
            let option = opt_of(query).is_some_and(has_our_option);
            let disliked = habit.and_then(|habit| habit.dislikes_option.as_ref()).filter(|_| option);
            let (lost, message) = match disliked {
                Some(None) => (true, message),
                Some(Some(instead)) => (lost, instead),
                None => (lost, message),
            };
            let bytes = message.to_bytes(query, has_opt(query));
            let at = self.now + *after;
            if !lost {
                self.push(at, Coming::Answer { server: place.server, slot: place.slot, bytes });
            }
        } else if !by_crowd {
            self.sent.push(sent);
        }
    }

    /// How it is said over which of the connections something goes.
    fn stream_of(&mut self, place: TransactionKey) -> &'static str {
        let TransactionKey { server, slot, .. } = place;
        if !place.is_stream() {
            return "";
        }
        let is_new = self.streams.insert((server, slot));
        if is_new {
            self.silent_streams.remove(&(server, slot));
        }
        let is_another = self.streamed.insert(server, slot).is_some() && is_new;
        if is_another { " over another stream" } else { " over a stream" }
    }

    /// An answer has come, if the connection is still there on which it would.
    pub(super) fn arrive(&mut self, server: u16, slot: u8, bytes: Vec<u8>) {
        let stream = slot >= STREAM;
        self.note(|| format!("from {server} for slot {slot}: {}", Message::read(&bytes)));
        if stream && !self.streams.contains(&(server, slot)) {
            return;
        }
        self.line.waiting.push_back(Arriving::Message { server, slot, bytes });
        if stream && self.habits.get(&self.name_of(server)).is_some_and(|habit| habit.closes) {
            self.streams.remove(&(server, slot));
            self.line.waiting.push_back(Arriving::StreamBroken { server, slot, end: StreamEnd::Worked });
        }
    }

    /// Nobody is there for what was sent from this slot.
    pub(super) fn refuse(&mut self, server: u16, slot: u8) {
        self.note(|| format!("from {server} for slot {slot}: nobody is there"));
        self.line.waiting.push_back(if slot >= STREAM {
            self.streams.remove(&(server, slot));
            Arriving::StreamBroken { server, slot, end: StreamEnd::Useless }
        } else {
            Arriving::Refused { server, slot }
        });
    }

    /// What `server` says to what it was asked.
    pub(crate) fn server_answers(
        &mut self,
        server: &str,
        question: &Question,
        lies: &[Lie],
        message: &Message,
    ) -> Result<(), String> {
        let fits = |sent: &Sent| {
            self.name_of(sent.place.server) == server
                && name_at(&sent.query, header::LEN) == question.name
                && type_of(&sent.query) == question.qtype
        };
        let at = if lies.contains(&Lie::Late) {
            self.sent.iter().position(fits)
        } else {
            self.sent.iter().rposition(fits)
        };
        let at = at.ok_or_else(|| format!("{server} has not been asked that, or has said it"))?;
        let Sent { place, query } = &self.sent[at];
        let edns = has_opt(query) && !lies.contains(&Lie::NoEdns);
        let (mut slot, mut bytes) = (place.slot, message.to_bytes(query, edns));
        let name_len = expand_name(query, header::LEN).expect("we write names").len();
        let mut is_believed = true;
        for lie in lies {
            is_believed &=
                matches!(lie, Lie::Late | Lie::NoEdns | Lie::TrailingBytes | Lie::Broken | Lie::NoRecursion);
            match lie {
                Lie::WrongId => bytes[1] ^= 1,
                Lie::WrongPort => slot = (slot + 1) % 16,
                Lie::WrongName => bytes[header::LEN + 1] ^= 1,
                Lie::WrongType => bytes[header::LEN + name_len + 1] ^= 1,
                Lie::OtherCase => {
                    let letters = &mut bytes[header::LEN..header::LEN + name_len];
                    letters.iter_mut().filter(|it| it.is_ascii_alphabetic()).for_each(|it| *it ^= 0x20);
                }
                Lie::Broken => bytes.truncate(header::LEN + name_len + 4 + 3),
                Lie::TrailingBytes => bytes.extend(b"and more"),
                Lie::NoRecursion => bytes[3] &= !header::RA,
                Lie::NoEdns | Lie::Late => {}
            }
        }
        let server = place.server;
        if is_believed {
            self.sent.remove(at);
        }
        self.line.waiting.push_back(Arriving::Message { server, slot, bytes });
        self.turn();
        Ok(())
    }

    pub(crate) fn server_refuses(&mut self, server: &str) -> Result<(), String> {
        let server = self.number_of(server)?;
        let slots = self.sent.iter().filter(|sent| sent.place.server == server && !sent.place.is_stream());
        let slots: BTreeSet<_> = slots.map(|sent| sent.place.slot).collect();
        slots.into_iter().for_each(|slot| self.refuse(server, slot));
        self.turn();
        Ok(())
    }

    pub(crate) fn stream_breaks(&mut self, server: &str, worked: bool) -> Result<(), String> {
        let number = self.number_of(server)?;
        let slot = *self.streamed.get(&number).ok_or_else(|| format!("there is no stream to {server}"))?;
        self.streams.remove(&(number, slot));
        let end = if worked { StreamEnd::Worked } else { StreamEnd::Useless };
        self.sent.retain(|sent| (sent.place.server, sent.place.slot) != (number, slot));
        self.line.waiting.push_back(Arriving::StreamBroken { server: number, slot, end });
        self.turn();
        Ok(())
    }

    pub(crate) fn stream_falls_silent(&mut self, server: &str) -> Result<(), String> {
        let number = self.number_of(server)?;
        let slot = *self.streamed.get(&number).ok_or_else(|| format!("there is no stream to {server}"))?;
        self.silent_streams.insert((number, slot));
        Ok(())
    }

    pub(crate) fn always(&mut self, server: String, whose: Whose, after: Duration, message: Message) {
        let habit = self.habits.entry(server).or_default();
        (habit.answer, habit.refuses) = (Some((after, message)), false);
        habit.crowd = matches!(whose, Whose::Crowd);
        habit.only = if let Whose::Type(only) = whose { Some(only) } else { None };
    }

    pub(crate) fn always_refuses(&mut self, server: String) {
        let habit = self.habits.entry(server).or_default();
        (habit.refuses, habit.crowd, habit.only) = (true, false, None);
    }

    pub(crate) fn always_closes(&mut self, server: String) {
        self.habits.entry(server).or_default().closes = true;
    }

    pub(crate) fn dislikes_option(&mut self, server: String, instead: Option<Message>) {
        self.habits.entry(server).or_default().dislikes_option = Some(instead);
    }

    pub(crate) fn loses(&mut self, server: String, percent: u8) {
        self.habits.entry(server).or_default().loses_percent = percent;
    }

    /// It answers nothing, and stays what it is.
    pub(crate) fn goes_silent(&mut self, server: &str) {
        let habit = self.habits.entry(server.to_owned()).or_default();
        (habit.answer, habit.refuses) = (None, false);
    }

    pub(crate) fn falls_silent(&mut self, server: &str) {
        self.habits.remove(server);
    }
}

/// Whether an OPT record has the option that tells who has passed a question on. What is encrypted has padding, too.
fn has_our_option(opt: &[u8]) -> bool {
    let mut options = opt.get(11..).unwrap_or_default();
    while let Some((head, rest)) = options.split_first_chunk::<4>() {
        if u16_at(head, 0) == PASSED_BY {
            return true;
        }
        options = rest.get(usize::from(u16_at(head, 2))..).unwrap_or_default();
    }
    false
}

/// The OPT record of a query of ours, if there is one.
fn opt_of(query: &[u8]) -> Option<&[u8]> {
    let name_len = expand_name(query, header::LEN).expect("we write names").len();
    has_opt(query).then(|| &query[header::LEN + name_len + 4..])
}

fn has_opt(query: &[u8]) -> bool {
    u16_at(query, header::ARCOUNT) == 1
}

fn type_of(query: &[u8]) -> String {
    let name_len = expand_name(query, header::LEN).expect("we write names").len();
    let number = u16_at(query, header::LEN + name_len);
    ["A", "AAAA", "CNAME", "NS", "SOA", "TXT", "MX", "HTTPS", "DS", "DNSKEY"]
        .into_iter()
        .find(|text| number_of(text) == number)
        .map_or_else(|| format!("TYPE{number}"), str::to_owned)
}
