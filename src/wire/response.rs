//! Writing a response in place.
