// Looks names up with Go's own resolver, which asks for A and AAAA at once: `go run lookup.go PORT NAME...`, or
// `resolv.conf` in place of the port for whom that names. A line each: the name, then its addresses in order, or what
// went wrong.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"sort"
)

func main() {
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, "127.0.0.1:"+os.Args[1])
	}
	resolver := &net.Resolver{PreferGo: true}
	if os.Args[1] != "resolv.conf" {
		resolver.Dial = dial
	}
	for _, name := range os.Args[2:] {
		found, err := resolver.LookupHost(context.Background(), name)
		sort.Strings(found)
		if failed, ok := err.(*net.DNSError); ok {
			found = []string{fmt.Sprintf("not found: %v", failed.IsNotFound)}
		}
		fmt.Println(name, found)
	}
}
