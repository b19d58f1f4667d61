#!/bin/sh
# dig 9.18 asks a server on the same host and may get its own question back.
#
# dig opens its UDP sockets with SO_REUSEPORT. Where the server has its port so, too, and that port is one of those that the kernel gives to
# clients (net.ipv4.ip_local_port_range), bind(2) with port 0 may give dig the server's very port. Its datagram to the server then comes
# to itself: dig prints "query response not set" and an answer that is its own question, NOERROR without records, and exits with 0. With the
# usual 28,000 ports that is one question in 28,000: enough for a test suite to fail now and then, and for a script to believe that a name
# has no address. A server whose port is outside the range is never met so.
#
# Seen: bind9-dnsutils 1:9.18.49-1~deb12u3 (Debian 12) on Linux 6.18; with two ports to choose from in a network namespace of its own 4 to 8
# of 12 questions came back, and none where the server does not share its port. Needs root (unshare --net), apt, python3. Ends with 1 when
# no question comes back any more.
set -eu
version=1:9.18.49-1~deb12u3
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
chmod 755 .
apt-get download -qq "bind9-dnsutils=$version" "bind9-libs=$version" libuv1 libjson-c5 libmaxminddb0 liblmdb0 libnghttp2-14 libfstrm0 \
    libprotobuf-c1 libedit2 libxml2 >apt.log 2>&1 || { cat apt.log; exit 2; }
for package in *.deb; do dpkg -x "$package" .; done
export LD_LIBRARY_PATH="$folder/usr/lib/$(dpkg-architecture -qDEB_HOST_MULTIARCH 2>/dev/null || echo x86_64-linux-gnu)"
export DIG="$folder/usr/bin/dig"
"$DIG" -v
unshare --net sh -eu <<'INSIDE'
ip link set lo up
sysctl -qw net.ipv4.ip_local_port_range="40000 40001"
python3 -c '
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
server.bind(("127.0.0.1", 40000))
while True:
    query, client = server.recvfrom(4096)
    server.sendto(query[:2] + bytes([query[2] | 0x80]) + query[3:], client)
' &
server=$!
trap 'kill $server' EXIT
sleep 1
count=0
for _ in 1 2 3 4 5 6 7 8 9 10 11 12; do
    if "$DIG" @127.0.0.1 -p 40000 +tries=1 +time=1 example. 2>&1 | grep -q "query response not set"; then count=$((count + 1)); fi
done
echo "$count of 12 questions came back to dig itself"
[ "$count" -gt 0 ]
INSIDE
