//! Telling that names have more records than answers can.
//!
//! Runs on the thread `tables`.

use std::time::{Duration, Instant};

use tracing::warn;

use crate::limits::{MAX_RECORD_SETS, MAX_SET_LEN};
use crate::table::Crowded;
use crate::wire::name::Name;

/// How often it is told.
const TELLING_PERIOD: Duration = Duration::from_secs(60);

/// Names that are told of each time.
const TOLD_NAMES: usize = 5;

/// What has been told.
#[derive(Default)]
pub(super) struct LeftOut {
    next: Option<Instant>,
    told: (usize, usize),
}

impl LeftOut {
    /// Tells what is left out of answers, if more than was told, once a minute.
    pub(super) fn tell(&mut self, crowded: &Crowded, now: Instant) {
        if crowded.is_empty() && crowded.left_out_names() == 0 {
            self.told = (0, 0);
            return;
        }
        let now_left_out = (crowded.records(), crowded.left_out_names());
        if self.next.is_some_and(|next| now < next)
            || now_left_out.0 <= self.told.0 && now_left_out.1 <= self.told.1
        {
            return;
        }
        warn!("{}", describe(crowded));
        (self.next, self.told) = (Some(now + TELLING_PERIOD), now_left_out);
    }
}

fn describe(crowded: &Crowded) -> String {
    let shown = |(name, records): (&[u8], usize)| {
        let name = Name::from_wire(name).map(|name| name.to_string()).unwrap_or_default();
        format!("{name} ({records})")
    };
    let names: Vec<_> = crowded.names().take(TOLD_NAMES).map(shown).collect();
    let more = crowded.len().saturating_sub(TOLD_NAMES);
    let names = names.join(", ");
    let names = if more > 0 { format!("{names} and {more} more names") } else { names };
    let mut told = format!(
        "{} records are in no answer, since their names have more than one can: {names}. A name has up to \
         {MAX_RECORD_SETS} types of records, and up to {MAX_SET_LEN} bytes of each; the lowest types and the shortest \
         records stay. Take some of them away, at the nodes that `redbreast explain NAME` tells",
        crowded.records()
    );
    if crowded.left_out_names() > 0 {
        told += &format!("; and {} names did not fit in the table", crowded.left_out_names());
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Attributes, Key, NodeId, Store};
    use crate::table::{Publisher, ZoneSettings};

    #[test]
    fn what_is_left_out_is_told_by_name_and_number() {
        let domain = Name::from_text("example").unwrap();
        let settings = ZoneSettings { ttl_s: 1, negative_ttl_s: 1 };
        let mut publisher = Publisher::new(std::slice::from_ref(&domain), settings);
        let mut store = Store::new(NodeId([1; 16]), 1);
        for name in 0..7 {
            let name = Name::from_text(&format!("n{name}.example")).unwrap();
            for rtype in 0..256 {
                let rdata = Box::from([0]);
                let key = Key { instance: "i".into(), name: name.clone(), rtype: 1_000 + rtype, rdata };
                store.register(&key, &Attributes::default()).unwrap();
            }
        }
        publisher.note(store.take_changed());
        publisher.publish(&store, usize::MAX);
        let told = describe(publisher.crowded());
        assert!(
            told.starts_with(
                "14 records are in no answer, since their names have more than one can: n0.example. (2), "
            ),
            "{told}"
        );
        assert!(told.contains("n4.example. (2) and 2 more names. A name has up to 254 types"), "{told}");
        let (mut left_out, now) = (LeftOut::default(), Instant::now());
        left_out.tell(publisher.crowded(), now);
        assert_eq!((left_out.told, left_out.next), ((14, 0), Some(now + TELLING_PERIOD)));
        left_out.tell(publisher.crowded(), now + 2 * TELLING_PERIOD);
        assert_eq!(left_out.next, Some(now + TELLING_PERIOD), "it is no more than was told");
        left_out.tell(&Crowded::default(), now);
        assert_eq!(left_out.told, (0, 0));
    }
}
