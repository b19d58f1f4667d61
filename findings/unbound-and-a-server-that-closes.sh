#!/bin/sh
# Unbound answers SERVFAIL after milliseconds where an upstream over TCP or TLS closes each connection after one answer.
#
# A server may close a connection whenever it likes, and questions that are unanswered then may be asked again over another (RFC 7766,
# on connection management). Unbound forwards up to outbound-msg-retry (5) times and sends all open questions over one connection. Each connection brings one
# answer, so of N questions asked at once five are answered and N - 5 are SERVFAIL, within 30 ms, while each connection does answer. With
# outbound-msg-retry: 20 none of 12 is lost. The same over TLS (forward-tls-upstream).
#
# Seen: unbound 1.17.1-2+deb12u4 (Debian 12), Linux 6.18: "7 of 12 lost", each time; "0 of 12 lost" with RETRY=20. Needs apt, python3. Ends
# with 1 when nothing is lost any more.
set -eu
version=1.17.1-2+deb12u4
folder=$(mktemp -d)
trap 'kill $server $unbound 2>/dev/null || :; rm -rf "$folder"' EXIT
server= unbound=
cd "$folder"
chmod 755 .
apt-get download -qq "unbound=$version" libevent-2.1-7 libprotobuf-c1 libpython3.11 libnghttp2-14 libexpat1 >apt.log 2>&1 || {
    cat apt.log
    exit 2
}
for package in *.deb; do dpkg -x "$package" .; done
libraries=$folder/usr/lib/$(dpkg-architecture -qDEB_HOST_MULTIARCH 2>/dev/null || echo x86_64-linux-gnu)
LD_LIBRARY_PATH="$libraries" "$folder/usr/sbin/unbound" -V | head -1
cat >"$folder/server.py" <<'PY'
import socket, struct, sys
listener = socket.create_server(("127.0.0.1", 0), backlog=128)
print(listener.getsockname()[1], flush=True)
while True:
    connection, _ = listener.accept()
    try:
        length = struct.unpack("!H", connection.recv(2, socket.MSG_WAITALL))[0]
        query = connection.recv(length, socket.MSG_WAITALL)
        end = query.index(0, 12) + 5
        answer = query[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + query[12:end] + b"\xc0\x0c\0\1\0\1\0\0\1\x2c\0\4\xc6\x12\0\x09"
        connection.sendall(struct.pack("!H", len(answer)) + answer)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(4096):
            pass
    except (OSError, struct.error):
        pass
    connection.close()
PY
python3 "$folder/server.py" >"$folder/port" &
server=$!
sleep 1
own=$(python3 -c 'import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat >"$folder/unbound.conf" <<CONF
server:
    interface: 127.0.0.1@$own
    do-not-query-localhost: no
    module-config: "iterator"
    tcp-upstream: yes
    ${RETRY:+outbound-msg-retry: $RETRY}
    do-daemonize: no
    use-syslog: no
    username: ""
    chroot: ""
    directory: "$folder"
    pidfile: ""
forward-zone:
    name: "."
    forward-addr: 127.0.0.1@$(cat "$folder/port")
remote-control:
    control-enable: no
CONF
LD_LIBRARY_PATH="$libraries" "$folder/usr/sbin/unbound" -d -c "$folder/unbound.conf" 2>/dev/null &
unbound=$!
sleep 1
python3 - "$own" <<'PY'
import socket, sys
clients = []
for i in range(12):
    client = socket.socket(type=socket.SOCK_DGRAM)
    client.settimeout(5)
    client.connect(("127.0.0.1", int(sys.argv[1])))
    name = f"n{i}".encode()
    client.send(b"\0\1\1\0\0\1\0\0\0\0\0\0" + bytes([len(name)]) + name + b"\7example\0\0\1\0\1")
    clients.append(client)
lost = sum(client.recv(512)[3] & 15 != 0 for client in clients)
print(f"{lost} of 12 lost")
sys.exit(lost == 0)
PY
