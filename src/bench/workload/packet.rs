//! The UDP payload of a captured packet: Ethernet with VLAN tags, Linux "cooked" and raw captures; IPv4, and IPv6 with
//! extension headers.
//!
//! Pure.

use std::fmt;

use pcap_parser::Linktype;

use crate::wire::header;

/// `LINUX_SLL2`, which `pcap-parser` has no name for.
const LINUX_SLL2: Linktype = Linktype(276);

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Why a packet holds no query for the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Skip {
    /// Of a link type that is not read.
    LinkType,
    /// Neither IPv4 nor IPv6.
    NotIp,
    /// A fragment of a datagram.
    Fragment,
    /// TCP to the port.
    Tcp,
    /// Another protocol.
    NotUdp,
    /// UDP to another port.
    OtherPort,
    /// The capture kept only its beginning.
    CutOff,
    /// A response.
    Response,
    /// Not a query with one question.
    NotAQuery,
}

/// Packets that were passed over, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped([u64; Skip::ALL.len()]);

impl Skip {
    const ALL: [(Self, &str); 9] = [
        (Self::LinkType, "of another link type"),
        (Self::NotIp, "not IP"),
        (Self::Fragment, "fragments"),
        (Self::Tcp, "TCP"),
        (Self::NotUdp, "neither UDP nor TCP"),
        (Self::OtherPort, "to another port"),
        (Self::CutOff, "cut off by the capture"),
        (Self::Response, "responses"),
        (Self::NotAQuery, "not a query with one question"),
    ];
}

impl Skip {
    /// What such a packet is.
    pub(super) fn text(self) -> &'static str {
        Self::ALL.into_iter().find(|(why, _)| *why == self).map_or("", |(_, text)| text)
    }
}

impl Skipped {
    /// One more.
    pub(super) fn add(&mut self, why: Skip) {
        for (count, (reason, _)) in self.0.iter_mut().zip(Skip::ALL) {
            *count += u64::from(reason == why);
        }
    }

    /// All together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} other packets were passed over", self.total())?;
        let parts = self.0.iter().zip(Skip::ALL).filter(|(count, _)| **count > 0);
        for (index, (count, (_, name))) in parts.enumerate() {
            write!(f, "{}{count} {name}", if index == 0 { ": " } else { ", " })?;
        }
        Ok(())
    }
}

/// The payload of a UDP datagram to `port`.
pub(super) fn udp_payload(data: &[u8], linktype: Linktype, port: u16) -> Result<&[u8], Skip> {
    let ip = match linktype {
        Linktype::ETHERNET => behind_ethernet(data)?,
        Linktype::RAW | Linktype::IPV4 | Linktype::IPV6 => data,
        // Four bytes, the family in the byte order of the machine, stand before the packet.
        Linktype::NULL | Linktype::LOOP => data.get(4..).ok_or(Skip::CutOff)?,
        Linktype::LINUX_SLL => data.get(16..).ok_or(Skip::CutOff)?,
        LINUX_SLL2 => data.get(20..).ok_or(Skip::CutOff)?,
        _ => return Err(Skip::LinkType),
    };
    let (protocol, segment) = behind_ip(ip)?;
    let to = segment.get(2..4).ok_or(Skip::CutOff)?;
    let is_ours = u16::from_be_bytes([to[0], to[1]]) == port;
    match protocol {
        UDP if is_ours => {}
        UDP => return Err(Skip::OtherPort),
        TCP if is_ours => return Err(Skip::Tcp),
        TCP => return Err(Skip::OtherPort),
        _ => return Err(Skip::NotUdp),
    }
    let len = usize::from(header::u16_at(segment.get(..8).ok_or(Skip::CutOff)?, 4));
    match len {
        // A datagram that the kernel still has to cut apart may be longer than the field can say (RFC 2675 §4).
        0 => Ok(&segment[8..]),
        1..8 => Err(Skip::NotAQuery),
        _ => segment.get(8..len).ok_or(Skip::CutOff),
    }
}

/// What follows an Ethernet header, and the VLAN tags behind it.
fn behind_ethernet(data: &[u8]) -> Result<&[u8], Skip> {
    let mut at = 12;
    loop {
        let kind = data.get(at..at + 2).ok_or(Skip::CutOff)?;
        match u16::from_be_bytes([kind[0], kind[1]]) {
            0x8100 | 0x88a8 | 0x9100 => at += 4,
            0x0800 | 0x86dd => return Ok(&data[at + 2..]),
            _ => return Err(Skip::NotIp),
        }
    }
}

/// The protocol of an IP packet, and its segment.
fn behind_ip(data: &[u8]) -> Result<(u8, &[u8]), Skip> {
    match data.first().ok_or(Skip::CutOff)? >> 4 {
        4 => {
            let head = data.get(..20).ok_or(Skip::CutOff)?;
            let head_len = usize::from(head[0] & 15) * 4;
            if header::u16_at(head, 6) & 0x3fff != 0 {
                return Err(Skip::Fragment); // more follow, or some stand before
            }
            Ok((head[9], within(data, head_len, header::u16_at(head, 2).into())?))
        }
        6 => {
            let head = data.get(..40).ok_or(Skip::CutOff)?;
            let payload_len = usize::from(header::u16_at(head, 4));
            let payload = within(data, 40, if payload_len == 0 { 0 } else { 40 + payload_len })?;
            behind_extensions(head[6], payload)
        }
        _ => Err(Skip::NotIp),
    }
}

/// The packet from `begin` to `end`, without the padding of the link; to its end if that is 0, as in packets that are
/// still to be cut apart. One that was cut off in the capture ends there: the length of its datagram tells.
fn within(data: &[u8], begin: usize, end: usize) -> Result<&[u8], Skip> {
    let end = if end == 0 { data.len() } else { end.min(data.len()) };
    data.get(begin..end).ok_or(Skip::NotIp)
}

/// What the extension headers of IPv6 lead to (RFC 8200 §4).
fn behind_extensions(mut protocol: u8, mut payload: &[u8]) -> Result<(u8, &[u8]), Skip> {
    loop {
        let len = match protocol {
            0 | 43 | 60 => 8 * (1 + usize::from(*payload.get(1).ok_or(Skip::CutOff)?)),
            51 => 4 * (2 + usize::from(*payload.get(1).ok_or(Skip::CutOff)?)),
            44 if header::u16_at(payload.get(..8).ok_or(Skip::CutOff)?, 2) & 0xfff9 == 0 => 8,
            44 => return Err(Skip::Fragment),
            _ => return Ok((protocol, payload)),
        };
        (protocol, payload) = (payload[0], payload.get(len..).ok_or(Skip::CutOff)?);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{IpNumber, Ipv6RawExtHeader, PacketBuilder};

    const PAYLOAD: &[u8] = b"payload";

    fn ipv4() -> Vec<u8> {
        let mut packet = Vec::new();
        let builder = PacketBuilder::ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64).udp(40_000, 53);
        builder.write(&mut packet, PAYLOAD).unwrap();
        packet
    }

    fn ipv6() -> Vec<u8> {
        let mut packet = Vec::new();
        let builder = PacketBuilder::ipv6([1; 16], [2; 16], 64).udp(40_000, 53);
        builder.write(&mut packet, PAYLOAD).unwrap();
        packet
    }

    #[test]
    fn payloads_are_found_behind_each_kind_of_header() {
        let before = |len, packet: Vec<u8>| [vec![0; len], packet].concat();
        let mut vlan = Vec::new();
        let builder = PacketBuilder::ethernet2([1; 6], [2; 6])
            .double_vlan(1.try_into().unwrap(), 2.try_into().unwrap());
        builder.ipv6([1; 16], [2; 16], 9).udp(1, 53).write(&mut vlan, PAYLOAD).unwrap();
        let mut padded = before(12, [vec![8, 0], ipv4()].concat());
        padded.extend([0; 14]);
        for (linktype, packet) in [
            (Linktype::RAW, ipv4()),
            (Linktype::IPV6, ipv6()),
            (Linktype::NULL, before(4, ipv4())),
            (Linktype::LINUX_SLL, before(16, ipv6())),
            (LINUX_SLL2, before(20, ipv4())),
            (Linktype::ETHERNET, vlan),
            (Linktype::ETHERNET, padded),
        ] {
            assert_eq!(udp_payload(&packet, linktype, 53), Ok(PAYLOAD), "{linktype:?}");
            assert_eq!(udp_payload(&packet, linktype, 54), Err(Skip::OtherPort));
            for len in 0..packet.len() {
                let _ = udp_payload(&packet[..len], linktype, 53);
            }
        }
    }

    #[test]
    fn extension_headers_are_stepped_over() {
        let plain = ipv6();
        let extension = Ipv6RawExtHeader::new_raw(IpNumber::UDP, &[0; 6]).unwrap().to_bytes();
        let mut packet = [&plain[..40], extension.as_slice(), &plain[40..]].concat();
        packet[5] += 8;
        packet[6] = 60; // destination options
        assert_eq!(udp_payload(&packet, Linktype::RAW, 53), Ok(PAYLOAD));
        packet[6] = 44; // a fragment header, of a datagram in one piece
        packet[40..48].copy_from_slice(&[UDP, 0, 0, 0, 0, 0, 0, 9]);
        assert_eq!(udp_payload(&packet, Linktype::RAW, 53), Ok(PAYLOAD));
        packet[43] = 1;
        assert_eq!(udp_payload(&packet, Linktype::RAW, 53), Err(Skip::Fragment));
    }

    #[test]
    fn each_reason_is_told() {
        let changed = |at: usize, byte: u8| {
            let mut packet = ipv4();
            packet[at] = byte;
            packet
        };
        let mut skipped = Skipped::default();
        for (packet, linktype, why) in [
            (ipv4(), Linktype(147), Skip::LinkType),
            (changed(0, 0x55), Linktype::RAW, Skip::NotIp),
            (changed(6, 0x20), Linktype::RAW, Skip::Fragment),
            (changed(9, TCP), Linktype::RAW, Skip::Tcp),
            (changed(9, 1), Linktype::RAW, Skip::NotUdp),
            (ipv4()[..30].to_vec(), Linktype::RAW, Skip::CutOff),
            (changed(25, 4), Linktype::RAW, Skip::NotAQuery),
        ] {
            assert_eq!(udp_payload(&packet, linktype, 53), Err(why));
            skipped.add(why);
        }
        skipped.add(Skip::Tcp);
        let text = skipped.to_string();
        assert!(
            text.starts_with("8 other packets were passed over: 1 of another link type, 1 not IP"),
            "{text}"
        );
        assert!(text.contains("2 TCP") && !text.contains("responses"), "{text}");
    }
}
