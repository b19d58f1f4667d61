//! Queries from a file of whole messages, each behind its length in two bytes, as they go over TCP: dnsperf's `-B`.
//!
//! Read by the main thread before the run. Messages with more than a question in them are sent as they are, dynamic
//! updates too, whose first section is laid out as a question is (RFC 2136 §2.3).

use std::fs;
use std::path::Path;

use super::capture::tail_len;
use super::query_file::{QueryFile, QueryFileError, Reading};

/// Reads the file at `path`.
///
/// # Errors
/// A [`QueryFileError`].
pub fn open(path: &Path, reading: &Reading) -> Result<QueryFile, QueryFileError> {
    let file = path.display().to_string();
    match fs::read(path) {
        Ok(bytes) => read(&bytes, &file, reading),
        Err(error) => Err(QueryFileError::Unreadable { file, error }),
    }
}

fn read(bytes: &[u8], file: &str, reading: &Reading) -> Result<QueryFile, QueryFileError> {
    let mut queries = QueryFile::begin_as(reading);
    let (mut rest, mut number) = (bytes, 0);
    while !rest.is_empty() {
        number += 1;
        let len = rest.first_chunk().map(|&len| usize::from(u16::from_be_bytes(len)));
        let message = len.and_then(|len| rest.get(2..2 + len));
        let added = match message {
            Some(message) => {
                rest = &rest[2 + message.len()..];
                match tail_len(message) {
                    Ok(tail_len) => queries.push_packet(message, tail_len),
                    Err(why) => Err(format!("it is {}", why.text())),
                }
            }
            None => {
                rest = &[];
                Err("the file ends within it".into())
            }
        };
        if let Err(fault) = added {
            let good = queries.count().into();
            let fault = format!(
                "message {number}: {fault}; expected queries with one question, each behind its length"
            );
            queries.leave_out(
                QueryFileError::BadLine { file: file.into(), line: number, good, fault },
                reading,
            )?;
        }
    }
    queries.end(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_sent_as_they_are() {
        let query = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01";
        // An update of the zone `a`, with something in its last section.
        let update = b"\x56\x78\x28\0\0\x01\0\0\0\0\0\x01\x01a\0\0\x06\0\x01rest";
        let framed =
            |message: &[u8]| [&u16::try_from(message.len()).unwrap().to_be_bytes()[..], message].concat();
        let bytes = [framed(query), framed(update), framed(b"short"), framed(query)].concat();
        let queries = read(&bytes, "q", &Reading::default()).unwrap();
        assert_eq!((queries.count(), queries.bad_lines().count), (3, 1));
        assert_eq!(
            (queries.packet(1)[2..].to_vec(), queries.question(1)),
            (update[2..].to_vec(), &update[12..19])
        );
        let strict = Reading { strict: true, ..Reading::default() };
        let error = read(&bytes, "q", &strict).err().unwrap().to_string();
        assert!(error.contains("message 3: it is not a query with one question"), "{error}");
        let cut = read(&bytes[..bytes.len() - 3], "q", &Reading::default()).unwrap();
        assert!(cut.count() == 2 && cut.bad_lines().examples[1].contains("ends within it"));
    }
}
