//! A server over HTTPS that does what the first label of a name says: errors, pages, floods, half of what it should.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

const PREFACE_LEN: usize = 24;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
/// What HPACK has for `:status: 200` and for names of headers (RFC 7541, appendix A), and what answers are.
const OK: &[u8] = &[0x88];
const DNS: &[u8] = b"\x0f\x10\x17application/dns-message";

type Tls = StreamOwned<ServerConnection, TcpStream>;

/// Starts it with the certificate in this directory. It runs as long as the tests do. `alpn` is what it agrees to
/// speak.
pub(crate) fn start(certificates: &Path, alpn: &[&str]) -> SocketAddr {
    let read = |name| BufReader::new(File::open(certificates.join(name)).unwrap());
    let certificate = CertificateDer::from_pem_reader(read("certificate.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_reader(read("key.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|it| it.as_bytes().to_vec()).collect();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for tcp in listener.incoming().map_while(Result::ok) {
            let tls = ServerConnection::new(Arc::clone(&config)).unwrap();
            // The client may end it at any time.
            thread::spawn(move || serve(StreamOwned::new(tls, tcp)).err());
        }
    });
    address
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn response(stream: u32, headers: &[u8], content: &[u8]) -> Vec<u8> {
    let data: Vec<_> = content.chunks(16 << 10).map(|part| frame(DATA, 0, stream, part)).collect();
    [frame(HEADERS, END_HEADERS, stream, headers), data.concat(), frame(DATA, END_STREAM, stream, b"")]
        .concat()
}

fn serve(mut tls: Tls) -> std::io::Result<()> {
    tls.read_exact(&mut [0; PREFACE_LEN])?;
    // Its own settings, and that it has ours: only then do they count (RFC 9113 §6.5.3).
    tls.write_all(&[frame(SETTINGS, 0, 0, b""), frame(SETTINGS, ACK, 0, b"")].concat())?;
    loop {
        let mut head = [0; 9];
        tls.read_exact(&mut head)?;
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        tls.read_exact(&mut payload)?;
        let stream = u32::from_be_bytes(*head[5..].first_chunk().unwrap());
        if head[3] == DATA && head[4] & END_STREAM != 0 {
            answer(&mut tls, stream, &payload)?;
        }
    }
}

/// An answer to `query` with an address.
fn address(query: &[u8]) -> Vec<u8> {
    let name_len = query[12..].iter().position(|byte| *byte == 0).unwrap();
    let question = &query[12..12 + name_len + 5];
    let record = b"\xc0\x0c\0\x01\0\x01\0\0\x01\x2c\0\x04\x0a\0\0\x01";
    [b"\0\0\x81\x80\0\x01\0\x01\0\0\0\0", question, record].concat()
}

/// Says what the name in `query` wants said.
fn answer(tls: &mut Tls, stream: u32, query: &[u8]) -> std::io::Result<()> {
    let label = String::from_utf8_lossy(&query[13..13 + usize::from(query[12])]).to_lowercase();
    let good = || response(stream, &[OK, DNS].concat(), &address(query));
    let headers = frame(HEADERS, 0, stream, OK);
    let said = match label.split('-').next().unwrap_or_default() {
        "error" => response(stream, &[0x8e], b""),
        "page" => response(stream, &[OK, b"\x0f\x10\x09text/html"].concat(), b"<html>log in here</html>"),
        "redirect" => response(stream, b"\x08\x03302\x0f\x1f\x06/other", b""),
        "long" => response(stream, &[OK, DNS].concat(), &vec![7; 65_536]),
        "old" => response(stream, &[OK, DNS, b"\x0f\x06\x03100"].concat(), &address(query)),
        "goodbye" => frame(GOAWAY, 0, 0, &[0; 8]),
        "garbage" => b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        "half" => {
            tls.sock.write_all(b"\x17\x03\x03\x40\x00half of a record")?;
            return Ok(());
        }
        "continuation" => {
            tls.write_all(&headers)?;
            return flood(tls, &frame(CONTINUATION, 0, stream, b"\0\x01a\x01b").repeat(100));
        }
        "pings" => return flood(tls, &frame(PING, 0, 0, &[7; 8]).repeat(100)),
        "settings" => return flood(tls, &frame(SETTINGS, 0, 0, b"").repeat(100)),
        "interim" => return flood(tls, &frame(HEADERS, END_HEADERS, stream, b"\x08\x03103").repeat(100)),
        _ => good(),
    };
    tls.write_all(&said)
}

/// Says the same until nobody listens, and reads nothing.
fn flood(tls: &mut Tls, bytes: &[u8]) -> std::io::Result<()> {
    loop {
        tls.write_all(bytes).map_err(|_| ErrorKind::BrokenPipe)?;
    }
}
