//! Queries from a capture (pcap or pcapng), as they were sent and with the times when they were.
//!
//! Read by the main thread before the run, by the `pcap-parser` crate. Taken are UDP datagrams to the port asked for
//! that are queries with one question; everything else is passed over and counted by reason. Where queries were sent
//! with `UDP_SEGMENT`, a capture on the sender's side has many of them as one datagram: these are taken apart.

use std::fs::File;
use std::path::Path;

use pcap_parser::{Block, Linktype, PcapBlockOwned, PcapError, create_reader};

use super::packet::{Skip, Skipped, udp_payload};
use super::query_file::{QueryFile, QueryFileError};
use crate::wire::header;

/// Room for what is read at a time: the longest packet that a capture may have, and more.
const BUFFER_LEN: usize = 1 << 20;

/// What a capture has.
pub struct Capture {
    /// The queries.
    pub queries: QueryFile,
    /// When each was sent, in nanoseconds after the first.
    pub at_ns: Vec<u64>,
    /// Packets that are no queries over UDP to that port.
    pub skipped: Skipped,
    /// Datagrams that were many queries, sent with `UDP_SEGMENT`.
    pub segmented: u64,
}

/// An interface of a pcapng file, or all of a pcap file.
struct Interface {
    linktype: Linktype,
    /// Units in a second, and seconds before the times of this interface.
    units_per_s: u64,
    offset_s: i64,
}

/// Reads the queries to `port` of a capture.
///
/// # Errors
/// [`QueryFileError`]: it cannot be read, it is no capture, or has no query.
pub fn open(path: &Path, port: u16) -> Result<Capture, QueryFileError> {
    let file = path.display().to_string();
    let unreadable = |error: std::io::Error| QueryFileError::Unreadable { file: file.clone(), error };
    let source = File::open(path).map_err(unreadable)?;
    let mut reader = create_reader(BUFFER_LEN, source).map_err(|error| unreadable(other(&error)))?;
    let mut capture = Capture {
        queries: QueryFile::begin(None),
        at_ns: Vec::new(),
        skipped: Skipped::default(),
        segmented: 0,
    };
    let mut interfaces = Vec::new();
    loop {
        let exhausted = reader.reader_exhausted();
        match reader.next() {
            Ok((len, block)) => {
                capture
                    .take(block, &mut interfaces, port)
                    .map_err(|fault| unreadable(std::io::Error::other(fault)))?;
                reader.consume(len);
            }
            Err(PcapError::Eof) => break,
            Err(PcapError::Incomplete(_)) if !exhausted => {
                reader.refill().map_err(|error| unreadable(other(&error)))?;
            }
            // A capture that was cut off while it was written is good up to there.
            Err(PcapError::Incomplete(_) | PcapError::UnexpectedEof) => break,
            Err(error) => return Err(unreadable(other(&error))),
        }
    }
    capture.end(&file)
}

fn other(error: &impl std::fmt::Debug) -> std::io::Error {
    std::io::Error::other(format!("not a capture in pcap or pcapng form: {error:?}"))
}

impl Capture {
    fn take(
        &mut self,
        block: PcapBlockOwned<'_>,
        interfaces: &mut Vec<Interface>,
        port: u16,
    ) -> Result<(), String> {
        match block {
            PcapBlockOwned::LegacyHeader(header) => {
                let units_per_s = if header.is_nanosecond_precision() { 1_000_000_000 } else { 1_000_000 };
                interfaces.push(Interface { linktype: header.network, units_per_s, offset_s: 0 });
            }
            PcapBlockOwned::Legacy(block) => {
                let Some(interface) = interfaces.first() else { return Ok(()) };
                let ns_per_unit = 1_000_000_000 / interface.units_per_s;
                let at_ns = u64::from(block.ts_sec) * 1_000_000_000 + u64::from(block.ts_usec) * ns_per_unit;
                return self.packet(block.data, interface.linktype, at_ns, port);
            }
            // Each section numbers its interfaces anew.
            PcapBlockOwned::NG(Block::SectionHeader(_)) => interfaces.clear(),
            PcapBlockOwned::NG(Block::InterfaceDescription(description)) => interfaces.push(Interface {
                linktype: description.linktype,
                units_per_s: description.ts_resolution().unwrap_or(1_000_000).max(1),
                offset_s: description.ts_offset(),
            }),
            PcapBlockOwned::NG(Block::EnhancedPacket(block)) => {
                let Some(interface) = interfaces.get(block.if_id as usize) else { return Ok(()) };
                let units = u64::from(block.ts_high) << 32 | u64::from(block.ts_low);
                let at_ns = u128::from(units) * 1_000_000_000 / u128::from(interface.units_per_s);
                let at_ns = u64::try_from(at_ns).unwrap_or(u64::MAX);
                let offset_ns = interface.offset_s.saturating_mul(1_000_000_000);
                let data = block.data.get(..block.caplen as usize).unwrap_or(block.data);
                return self.packet(data, interface.linktype, at_ns.saturating_add_signed(offset_ns), port);
            }
            PcapBlockOwned::NG(_) => {}
        }
        Ok(())
    }

    fn packet(&mut self, data: &[u8], linktype: Linktype, at_ns: u64, port: u16) -> Result<(), String> {
        match udp_payload(data, linktype, port) {
            Ok(payload) => self.payload(payload, at_ns),
            Err(why) => {
                self.skipped.add(why);
                Ok(())
            }
        }
    }

    /// Takes the query, or the queries, of one datagram.
    fn payload(&mut self, payload: &[u8], at_ns: u64) -> Result<(), String> {
        let segment_len = segment_len(payload);
        self.segmented += u64::from(segment_len.is_some());
        for query in payload.chunks(segment_len.unwrap_or(payload.len()).max(1)) {
            match tail_len(query) {
                Ok(tail_len) => {
                    self.queries.push_packet(query, tail_len)?;
                    self.at_ns.push(at_ns);
                }
                Err(why) => self.skipped.add(why),
            }
        }
        if payload.is_empty() {
            self.skipped.add(Skip::NotAQuery);
        }
        Ok(())
    }

    fn end(mut self, file: &str) -> Result<Self, QueryFileError> {
        self.queries = self.queries.end(file)?;
        // Packets of several processors may stand in a capture a little out of order.
        let first_ns = self.at_ns.iter().copied().min().unwrap_or(0);
        let mut latest_ns = 0;
        for at_ns in &mut self.at_ns {
            latest_ns = latest_ns.max(*at_ns - first_ns);
            *at_ns = latest_ns;
        }
        Ok(self)
    }
}

/// Bytes of each query, if these are many of one length, but for the last that may be shorter. A query with something
/// behind its last record is one all the same, and sent as it is: what follows has to be queries as well.
fn segment_len(payload: &[u8]) -> Option<usize> {
    let len = message_len(payload).filter(|&len| len < payload.len())?;
    let are_queries = payload
        .chunks(len)
        .all(|segment| message_len(segment) == Some(segment.len()) && segment[2] & header::QR == 0);
    are_queries.then_some(len)
}

/// Bytes of the message that `bytes` begin with, as its counts say.
fn message_len(bytes: &[u8]) -> Option<usize> {
    let head = bytes.get(..header::LEN)?;
    let counts = [header::QDCOUNT, header::ANCOUNT, header::NSCOUNT, header::ARCOUNT];
    let [questions, records @ ..] = counts.map(|at| u32::from(header::u16_at(head, at)));
    let mut at = header::LEN;
    for _ in 0..questions {
        at = name_end(bytes, at)? + 4;
    }
    for _ in 0..records.iter().sum() {
        at = name_end(bytes, at)? + 10;
        at += usize::from(header::u16_at(bytes.get(..at)?, at - 2));
    }
    (at <= bytes.len()).then_some(at)
}

/// Where the name at `at` ends.
fn name_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *bytes.get(at)? {
            0 => return Some(at + 1),
            len @ 1..64 => at += 1 + usize::from(len),
            192.. => return Some(at + 2),
            _ => return None,
        }
    }
}

/// Bytes behind the question, if this is a whole query with one.
pub(super) fn tail_len(message: &[u8]) -> Result<u16, Skip> {
    if message.len() < header::LEN {
        return Err(Skip::NotAQuery);
    }
    if message[2] & header::QR != 0 {
        return Err(Skip::Response);
    }
    let end = name_end(message, header::LEN).filter(|_| header::u16_at(message, header::QDCOUNT) == 1);
    // No query has its name compressed: it has nothing before it to point to.
    let is_compressed = end.is_some_and(|end| message[end - 1] != 0);
    let tail_len = end.filter(|_| !is_compressed).and_then(|end| message.len().checked_sub(end + 4));
    tail_len.and_then(|len| u16::try_from(len).ok()).ok_or(Skip::NotAQuery)
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;
    use std::io::Write;

    const QUERY: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\x01\x01a\0\0\x01\0\x01\0\0\x29\x04\xd0\0\0\0\0\0\0";

    fn packet(port: u16, payload: &[u8]) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2([1; 6], [2; 6])
            .ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64)
            .udp(40_000, port);
        let mut packet = Vec::new();
        builder.write(&mut packet, payload).unwrap();
        packet
    }

    /// A pcap file of packets with their times in microseconds.
    fn pcap(packets: &[(u32, Vec<u8>)]) -> Vec<u8> {
        let mut file = Vec::new();
        file.extend(0xa1b2_c3d4u32.to_le_bytes());
        file.extend([2, 0, 4, 0].into_iter().chain([0; 8]));
        file.extend(65_535u32.to_le_bytes());
        file.extend(1u32.to_le_bytes());
        for (at_us, packet) in packets {
            let len = u32::try_from(packet.len()).unwrap();
            for field in [7 + at_us / 1_000_000, at_us % 1_000_000, len, len] {
                file.extend(field.to_le_bytes());
            }
            file.extend(packet);
        }
        file
    }

    fn read(bytes: &[u8]) -> Result<Capture, QueryFileError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        open(file.path(), 53)
    }

    #[test]
    fn queries_keep_their_bytes_and_their_times() {
        let mut answer = QUERY.to_vec();
        answer[2] |= header::QR;
        let packets = [
            (10, packet(53, QUERY)),
            (500, packet(5353, QUERY)),
            (900, packet(53, &answer)),
            (999_995, packet(53, QUERY)),
            (1_500_010, packet(53, QUERY)),
            (1_500_020, packet(53, b"short")),
        ];
        let capture = read(&pcap(&packets)).unwrap();
        assert_eq!(capture.at_ns, [0, 999_985_000, 1_500_000_000]);
        assert_eq!((capture.queries.count(), capture.skipped.total(), capture.segmented), (3, 3, 0));
        let text = capture.skipped.to_string();
        assert!(text.ends_with("1 to another port, 1 responses, 1 not a query with one question"), "{text}");
        assert_eq!(capture.queries.packet(1)[2..], QUERY[2..]);
        assert_eq!(capture.queries.packet(1)[..2], [0, 0], "the id is ours");
        assert_eq!(capture.queries.question(1), b"\x01a\0\0\x01\0\x01");
    }

    #[test]
    fn queries_that_were_sent_as_one_datagram_are_taken_apart() {
        let short = &QUERY[..QUERY.len() - 11];
        let mut short = short.to_vec();
        short[header::ARCOUNT + 1] = 0;
        let packets = [
            (10, packet(53, &[QUERY, QUERY, QUERY].concat())),
            (20, packet(53, &[QUERY, QUERY, &short].concat())),
            // Not queries of one length, and so one query with something behind it.
            (30, packet(53, &[&short, QUERY].concat())),
            (40, packet(53, &[QUERY, b"behind"].concat())),
        ];
        let capture = read(&pcap(&packets)).unwrap();
        assert_eq!((capture.queries.count(), capture.segmented, capture.skipped.total()), (8, 2, 0));
        assert_eq!(capture.at_ns, [0, 0, 0, 10_000, 10_000, 10_000, 20_000, 30_000]);
        assert_eq!(capture.queries.packet(5)[2..], short[2..]);
        assert_eq!(capture.queries.packet(7).len(), QUERY.len() + 6);
    }

    #[test]
    fn a_capture_that_was_cut_off_is_good_up_to_there() {
        let whole = pcap(&[(0, packet(53, QUERY)), (5, packet(53, QUERY))]);
        assert_eq!(read(&whole[..whole.len() - 7]).unwrap().queries.count(), 1);
    }

    #[test]
    fn what_is_no_capture_is_refused() {
        for bytes in [&b"www.example.com A\n"[..], b"", &pcap(&[])] {
            assert!(read(bytes).is_err());
        }
    }
}
