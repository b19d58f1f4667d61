#!/bin/sh
# named 9.18 closes an HTTP/2 connection that begins with more than 50 POST requests whose bodies come after all the headers.
#
# named announces SETTINGS_MAX_CONCURRENT_STREAMS 100 (http-streams-per-connection), so a client of DNS over HTTPS expects that it may open
# 100 requests at once, and it may send all HEADERS before the first DATA, as h2load (libnghttp2) does. Where named has read the HEADERS
# of 51 requests and none of them is complete, it closes the connection: no answer, no RST_STREAM, no GOAWAY, only a FIN. Its debug log (-d 1)
# says "Dropping a flooding HTTP/2 peer". The client cannot know what was processed, and should not send a POST again by itself (RFC 9113, on
# request reliability). A higher http-streams-per-connection is announced, but the 50 stay (run with STREAMS=1000).
#
# All 100 are answered where one request is complete before the 51st begins: each HEADERS followed by its DATA, or GET, or one that was
# answered before. named reads in small pieces, so a few more than 50 may pass where all is one write (here 58 do, 59 do not).
#
# A second limit of the same kind: a single POST with long headers is dropped where more than 1536 octets (with preface and SETTINGS) come
# before its body; no SETTINGS_MAX_HEADER_LIST_SIZE is announced. A GET may have them.
#
# Seen: bind9 1:9.18.49-1~deb12u3 (Debian 12), h2 4.3.0, hpack 4.1.0, hyperframe 6.1.0, Linux 6.18, over plain TCP (tls none), each time: of
# 50 requests 50 answered, of 51 none, of 100 none. The same with h2load 1.52.0 (-c 1 -n 100 -m 100 -d) over TCP and TLS. Needs apt, python3
# with pip. Ends with 1 when all are answered.
set -eu
version=1:9.18.49-1~deb12u3
folder=$(mktemp -d)
named=
trap 'kill $named 2>/dev/null && wait $named || :; rm -rf "$folder"' EXIT
cd "$folder"
chmod 755 .
apt-get download -qq "bind9=$version" "bind9-libs=$version" libuv1 libjson-c5 libmaxminddb0 liblmdb0 libnghttp2-14 libfstrm0 \
    libprotobuf-c1 libjemalloc2 libxml2 libicu72 libcap2 libgssapi-krb5-2 libkrb5-3 libk5crypto3 libkrb5support0 >apt.log 2>&1 || {
    cat apt.log
    exit 2
}
python3 -m pip install -q --disable-pip-version-check --no-deps --only-binary :all: --target h2 h2==4.3.0 hpack==4.1.0 hyperframe==6.1.0 \
    >pip.log 2>&1 || { cat pip.log; exit 2; }
for package in *.deb; do dpkg -x "$package" .; done
libraries=$folder/usr/lib/$(dpkg-architecture -qDEB_HOST_MULTIARCH 2>/dev/null || echo x86_64-linux-gnu)
LD_LIBRARY_PATH="$libraries" "$folder/usr/sbin/named" -v
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat >named.conf <<CONF
options {
    directory "$folder";
    pid-file none;
    lock-file none;
    session-keyfile none;
    listen-on port $port tls none http default { 127.0.0.1; };
    listen-on-v6 { none; };
    ${STREAMS:+http-streams-per-connection $STREAMS;}
    recursion no;
    dnssec-validation no;
    notify no;
};
controls { };
zone "example" { type primary; file "example.zone"; };
CONF
cat >example.zone <<'ZONE'
$TTL 300
@ SOA ns hostmaster 1 3600 600 86400 300
@ NS ns
* A 198.51.100.9
ns A 198.51.100.1
ZONE
LD_LIBRARY_PATH="$libraries" "$folder/usr/sbin/named" -g -d 1 -n 2 -c named.conf >named.log 2>&1 &
named=$!
cat >client.py <<'PY'
import base64, socket, sys, time
import h2.config, h2.connection, h2.events

PORT = int(sys.argv[1])
# A character whose HPACK Huffman code has 8 bits, so that the length below is that on the wire.
COOKIE = "X" * 2000

def connect():
    for _ in range(100):
        try:
            return socket.create_connection(("127.0.0.1", PORT), timeout=5)
        except ConnectionRefusedError:
            time.sleep(0.1)
    sys.exit(2)

class Client:
    def __init__(self):
        self.socket = connect()
        self.http = h2.connection.H2Connection(h2.config.H2Configuration())
        self.http.initiate_connection()
        self.answered = self.reset = 0
        self.settings = False
        self.goaway = "no GOAWAY"
        self.end = "open"
        self.read(lambda: self.settings)

    def flush(self):
        try:
            self.socket.sendall(self.http.data_to_send())
        except OSError:
            pass  # closed by named: the next read tells

    def read(self, until):
        self.flush()
        while self.end == "open" and not until():
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                self.end = "ended with RST"
                return
            except TimeoutError:
                self.end = "silent for 5 s"
                return
            if not data:
                self.end = "ended with FIN"
                return
            for event in self.http.receive_data(data):
                if isinstance(event, h2.events.RemoteSettingsChanged):
                    self.settings = True
                elif isinstance(event, h2.events.ResponseReceived):
                    assert dict(event.headers)[b":status"] == b"200", event
                elif isinstance(event, h2.events.StreamEnded):
                    self.answered += 1
                elif isinstance(event, h2.events.StreamReset):
                    self.reset += 1
                elif isinstance(event, h2.events.ConnectionTerminated):
                    self.goaway = f"GOAWAY {event.error_code}"
            self.flush()

    def burst(self, count, method="POST", order="headers first", pause=0, cookie=None):
        before = self.answered
        bodies = []
        for i in range(count):
            query = b"\0\0\1\0\0\1\0\0\0\0\0\0\4n%03d\7example\0\0\1\0\1" % i
            stream = self.http.get_next_available_stream_id()
            path = "/dns-query"
            if method == "GET":
                path += "?dns=" + base64.urlsafe_b64encode(query).rstrip(b"=").decode()
            headers = [(":method", method), (":scheme", "http"), (":authority", "localhost"), (":path", path),
                       ("accept", "application/dns-message")]
            if method == "POST":
                headers += [("content-type", "application/dns-message"), ("content-length", str(len(query)))]
            if cookie:
                headers.append(("cookie", cookie))
            self.http.send_headers(stream, headers, end_stream=method == "GET")
            if method == "POST" and order == "headers first":
                bodies.append((stream, query))
            elif method == "POST":
                self.http.send_data(stream, query, end_stream=True)
        if pause:
            self.flush()
            time.sleep(pause)
        for stream, body in bodies:
            self.http.send_data(stream, body, end_stream=True)
        self.read(lambda: self.answered - before + self.reset == count)
        return self.answered - before

def show(text, count, earlier=0, **options):
    client = Client()
    assert count <= client.http.remote_settings.max_concurrent_streams
    if earlier:
        assert client.burst(earlier) == earlier
    answered = client.burst(count, **options)
    print(f"{text}: {answered} of {count} answered, {client.reset} reset, {client.goaway}, connection {client.end}", flush=True)
    return client.end != "open" and answered < count

print("SETTINGS_MAX_CONCURRENT_STREAMS:", Client().http.remote_settings.max_concurrent_streams)
show("100 GET in one write", 100, method="GET")
show("100 POST in one write, each HEADERS with its DATA", 100, order="one by one")
show("50 POST, DATA 0.3 s after the last HEADERS", 50, pause=0.3)
one = show("51 POST, DATA 0.3 s after the last HEADERS", 51, pause=0.3)
many = show("100 POST in one write, all HEADERS, then all DATA", 100)
show("the same after one answer", 100, earlier=1)
show("1 POST with a cookie of 1000 octets, DATA 0.3 s later", 1, pause=0.3, cookie=COOKIE[:1000])
show("1 POST with a cookie of 2000 octets, DATA 0.3 s later", 1, pause=0.3, cookie=COOKIE)
sys.exit(not (one and many))
PY
status=0
PYTHONPATH="$folder/h2" python3 client.py "$port" || status=$?
[ "$status" -ne 2 ] || cat named.log
sed -n 's/.*\(Dropping a flooding HTTP.2 peer\).* - /named: \1: /p' named.log
exit "$status"
