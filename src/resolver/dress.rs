//! How a server is asked: with EDNS(0) or without, and with our own option by which loops are found or without.
//!
//! A server may reject either, or be silent to it. What it says of one question holds for that question; it is
//! remembered of the server only once an answer has come without what it seems to reject, and never of one that has
//! shown that it knows it.

use std::time::{Duration, Instant};

/// How long it is remembered that a server does not speak EDNS.
const WITHOUT_EDNS: Duration = Duration::from_secs(600);

/// After so many questions that were answered only without the option, or without EDNS, the server is taken to be
/// silent to it. One may have been a loss.
const SILENT_TO: u8 = 2;

/// After so many silences one question is sent without EDNS even to a server that has shown that it speaks it.
const SILENT_ANYWAY: usize = 4;

/// How a question is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dress {
    /// With EDNS.
    pub edns: bool,
    /// With the option that says which nodes have passed it on.
    pub option: bool,
}

/// What of a question and of its way so far decides that.
#[derive(Clone, Copy, Debug, Default)]
pub struct Occasion {
    /// Signatures are wanted: without EDNS nobody can be told so, and an answer would be none.
    pub dnssec_ok: bool,
    /// So many nodes have passed it on, this one among them.
    pub nodes: usize,
    /// How often the server has been silent to it.
    pub silent: usize,
    /// The server has rejected it with the option; or with EDNS.
    pub rejected_option: bool,
    /// See [`rejected_option`](Self::rejected_option).
    pub rejected_edns: bool,
}

/// What is known of what a server takes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Taste {
    /// A loop through it is possible.
    pub may_loop: bool,
    /// It has shown an OPT record: it speaks EDNS, whatever it says of a question (RFC 6891 §7).
    shows_opt: bool,
    without_edns_until: Option<Instant>,
    /// Whether it takes the option, once that is known.
    takes_option: Option<bool>,
    silent_to_option: u8,
    silent_to_edns: u8,
}

impl Taste {
    /// Of one of which nothing is known yet, but whether a loop through it is possible.
    #[must_use]
    pub fn new(may_loop: bool) -> Self {
        Self { may_loop, ..Self::default() }
    }

    /// How a question is written for it.
    #[must_use]
    pub fn dress(&self, occasion: Occasion, now: Instant) -> Dress {
        let Occasion { dnssec_ok, nodes, silent, rejected_option, rejected_edns } = occasion;
        let is_off = self.without_edns_until.is_some_and(|until| now < until);
        // What has shown that it takes something may have a firewall in front since.
        let is_silent = silent >= if self.shows_opt { SILENT_ANYWAY } else { SILENT_TO.into() };
        let edns = dnssec_ok || !(rejected_edns || is_off || is_silent);
        let is_wanted = nodes > 0 && (self.may_loop || nodes > 1) && !rejected_option;
        let is_risky = silent >= if self.takes_option == Some(true) { SILENT_TO.into() } else { 1 };
        Dress { edns, option: edns && is_wanted && !is_risky && self.takes_option != Some(false) }
    }

    /// It has said something to what was written so, by a message that `has_opt` record, and perhaps `answers` it.
    pub fn note(&mut self, dress: Dress, occasion: Occasion, has_opt: bool, answers: bool, now: Instant) {
        if dress.edns && has_opt {
            (self.shows_opt, self.silent_to_edns, self.without_edns_until) = (true, 0, None);
        }
        if !answers {
            return;
        }
        if dress.option {
            (self.takes_option, self.silent_to_option) = (Some(true), 0);
        } else if dress.edns && occasion.nodes > 0 && self.may_loop && self.takes_option != Some(false) {
            self.silent_to_option = self.silent_to_option.saturating_add(u8::from(occasion.silent > 0));
            if occasion.rejected_option || self.silent_to_option >= SILENT_TO {
                self.takes_option = Some(false);
            }
        }
        if !dress.edns && !self.shows_opt {
            self.silent_to_edns = self.silent_to_edns.saturating_add(u8::from(occasion.silent > 1));
            if occasion.rejected_edns || self.silent_to_edns >= SILENT_TO {
                self.without_edns_until = Some(now + WITHOUT_EDNS);
            }
        }
    }

    /// Whether it may be the option that it rejects.
    #[must_use]
    pub fn may_reject_option(&self) -> bool {
        self.takes_option != Some(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Occasion =
        Occasion { dnssec_ok: false, nodes: 1, silent: 0, rejected_option: false, rejected_edns: false };
    const FULL: Dress = Dress { edns: true, option: true };
    const EDNS: Dress = Dress { edns: true, option: false };
    const PLAIN: Dress = Dress { edns: false, option: false };

    #[test]
    fn edns_is_tried_again_after_a_while() {
        let (mut taste, now) = (Taste::default(), Instant::now());
        let rejected = Occasion { rejected_edns: true, ..FIRST };
        assert_eq!((taste.dress(FIRST, now), taste.dress(rejected, now)), (EDNS, PLAIN));
        taste.note(PLAIN, rejected, false, true, now);
        assert_eq!(taste.dress(FIRST, now), PLAIN);
        assert_eq!(taste.dress(Occasion { dnssec_ok: true, ..FIRST }, now), EDNS, "or it would be no answer");
        assert_eq!(taste.dress(FIRST, now + WITHOUT_EDNS), EDNS);
    }

    #[test]
    fn one_that_has_shown_edns_is_asked_without_for_one_question_alone() {
        let (mut taste, now) = (Taste::default(), Instant::now());
        taste.note(EDNS, FIRST, true, true, now);
        let rejected = Occasion { rejected_edns: true, ..FIRST };
        assert_eq!(taste.dress(rejected, now), PLAIN);
        taste.note(PLAIN, rejected, false, true, now);
        assert_eq!(taste.dress(FIRST, now), EDNS);
        assert_eq!(taste.dress(Occasion { silent: 3, ..FIRST }, now), EDNS);
        assert_eq!(taste.dress(Occasion { silent: 4, ..FIRST }, now), PLAIN);
    }

    #[test]
    fn the_option_is_there_where_a_loop_may_be_and_left_out_for_who_rejects_it_or_is_silent_to_it() {
        let (mut taste, now) = (Taste::default(), Instant::now());
        assert_eq!(taste.dress(FIRST, now), EDNS);
        assert_eq!(taste.dress(Occasion { nodes: 2, ..FIRST }, now), FULL);
        taste.may_loop = true;
        let (silent, more) = (Occasion { silent: 1, ..FIRST }, Occasion { silent: 2, ..FIRST });
        assert_eq!([FIRST, silent, more].map(|it| taste.dress(it, now)), [FULL, EDNS, PLAIN]);
        let mut rejecting = taste;
        rejecting.note(EDNS, Occasion { rejected_option: true, ..FIRST }, true, true, now);
        assert_eq!(rejecting.dress(FIRST, now), EDNS);
        taste.note(EDNS, silent, true, true, now);
        assert_eq!(taste.dress(FIRST, now), FULL, "once may be a loss");
        let mut silent_to_it = taste;
        silent_to_it.note(EDNS, silent, true, true, now);
        assert_eq!(silent_to_it.dress(FIRST, now), EDNS);
        taste.note(FULL, FIRST, true, true, now);
        assert_eq!(taste.dress(silent, now), FULL, "it is known to take it");
        assert_eq!(taste.dress(more, now), EDNS, "but who knows");
        assert!(!taste.may_reject_option());
        taste.note(EDNS, more, true, true, now);
        taste.note(EDNS, more, true, true, now);
        assert_eq!(taste.dress(FIRST, now), EDNS, "not any more");
        taste.takes_option = None;
        assert_eq!(taste.dress(Occasion { nodes: 0, ..FIRST }, now), EDNS, "there is nobody to tell of");
    }
}
