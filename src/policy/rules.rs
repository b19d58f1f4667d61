//! Which policy a name has.
//!
//! Kept by the thread `tables`, and looked at when a name's answers are laid out.

use std::collections::HashMap;

use super::Policy;

/// What a policy is said of.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// All names that nothing else is said of.
    Default,
    /// A name and all that are below it, in wire form and lower case.
    Domain(Box<[u8]>),
    /// One name, in wire form and lower case.
    Name(Box<[u8]>),
}

/// The policies of all names. What is said of a name goes before what is said of a domain that it is in, of several
/// domains the longest counts, and both go before the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    default: Policy,
    names: HashMap<Box<[u8]>, Policy>,
    domains: HashMap<Box<[u8]>, Policy>,
}

impl Rules {
    /// Says that names in `scope` have this policy, whatever was said of it before.
    pub fn set(&mut self, scope: &Scope, policy: Policy) {
        match scope {
            Scope::Default => self.default = policy,
            Scope::Domain(domain) => drop(self.domains.insert(domain.clone(), policy)),
            Scope::Name(name) => drop(self.names.insert(name.clone(), policy)),
        }
    }

    /// The policy of `name`, in wire form and lower case.
    #[must_use]
    pub fn of(&self, name: &[u8]) -> Policy {
        if let Some(policy) = self.names.get(name) {
            return *policy;
        }
        if self.domains.is_empty() {
            return self.default;
        }
        let mut at = name;
        loop {
            if let Some(policy) = self.domains.get(at) {
                return *policy;
            }
            match at.split_first() {
                Some((&len, rest)) if len > 0 => at = rest.get(usize::from(len)..).unwrap_or_default(),
                _ => return self.default,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_word_on_a_name_counts() {
        let mut rules = Rules::default();
        let policy = |text: &str| text.parse::<Policy>().unwrap();
        let (web, below) = (&b"\x03web\x07example\0"[..], &b"\x01a\x03web\x07example\0"[..]);
        assert_eq!(rules.of(web), Policy::default());
        rules.set(&Scope::Default, policy("rotate"));
        assert_eq!(rules.of(web), policy("rotate"));
        rules.set(&Scope::Domain((*b"\x07example\0").into()), policy("near"));
        rules.set(&Scope::Domain(web.into()), policy("hash"));
        rules.set(&Scope::Name(web.into()), policy("fixed"));
        assert_eq!(rules.of(web), policy("fixed"));
        assert_eq!(rules.of(below), policy("hash"));
        assert_eq!(rules.of(b"\x02db\x07example\0"), policy("near"));
        assert_eq!(rules.of(b"\x02db\x05other\0"), policy("rotate"));
        assert_eq!(rules.of(b"\0"), policy("rotate"));
    }
}
