//! Queries from a capture (pcap or pcapng), as they were sent and with the times when they were.
//!
//! Read by the main thread before the run, by the `pcap-parser` and `etherparse` crates. Taken are UDP datagrams to the port
//! asked for that are queries with one question; everything else is passed over and counted.

use std::fs::File;
use std::path::Path;

use etherparse::{LaxSlicedPacket, TransportSlice};
use pcap_parser::{Block, Linktype, PcapBlockOwned, PcapError, create_reader};

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
    pub passed_over: u64,
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
    let mut capture = Capture { queries: QueryFile::begin(None), at_ns: Vec::new(), passed_over: 0 };
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
        let Some(query) = query_in(data, linktype, port) else {
            self.passed_over += 1;
            return Ok(());
        };
        let Some(tail_len) = tail_len(&query) else {
            self.passed_over += 1;
            return Ok(());
        };
        self.queries.push_packet(&query, tail_len)?;
        self.at_ns.push(at_ns);
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

/// The message of a UDP datagram to `port`, if the packet is one.
fn query_in(data: &[u8], linktype: Linktype, port: u16) -> Option<Vec<u8>> {
    let sliced = match linktype {
        Linktype::ETHERNET => LaxSlicedPacket::from_ethernet(data).ok()?,
        Linktype::RAW | Linktype::IPV4 | Linktype::IPV6 => LaxSlicedPacket::from_ip(data).ok()?,
        // A header of four bytes, the family in the byte order of the machine, before the packet.
        Linktype::NULL | Linktype::LOOP => LaxSlicedPacket::from_ip(data.get(4..)?).ok()?,
        Linktype::LINUX_SLL => LaxSlicedPacket::from_ip(data.get(16..)?).ok()?,
        Linktype(276) => LaxSlicedPacket::from_ip(data.get(20..)?).ok()?, // LINUX_SLL2
        _ => return None,
    };
    match sliced.transport? {
        TransportSlice::Udp(udp) if udp.destination_port() == port => Some(udp.payload().to_vec()),
        _ => None,
    }
}

/// Bytes behind the question, if this is a whole query with one.
fn tail_len(message: &[u8]) -> Option<u16> {
    if message.len() < header::LEN
        || message[2] & header::QR != 0
        || header::u16_at(message, header::QDCOUNT) != 1
    {
        return None;
    }
    let mut at = header::LEN;
    while *message.get(at)? != 0 {
        if message[at] > 63 {
            return None; // no query has its name compressed
        }
        at += 1 + usize::from(message[at]);
    }
    u16::try_from(message.len().checked_sub(at + 5)?).ok()
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
        assert_eq!((capture.queries.count(), capture.passed_over), (3, 3));
        assert_eq!(capture.queries.packet(1)[2..], QUERY[2..]);
        assert_eq!(capture.queries.packet(1)[..2], [0, 0], "the id is ours");
        assert_eq!(capture.queries.question(1), b"\x01a\0\0\x01\0\x01");
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
