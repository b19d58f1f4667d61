//! Parsing a query in place.
