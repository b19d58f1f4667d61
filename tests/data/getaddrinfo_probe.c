/* Looks names up as any program does: each argument by getaddrinfo(3), for IPv4 and IPv6 at once. A line each: the name,
 * then its addresses, or what went wrong. Built with musl and with glibc by tests/black_box/stub_resolvers.rs. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        struct addrinfo hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM }, *found = NULL;
        int failed = getaddrinfo(argv[i], NULL, &hints, &found);
        printf("%s", argv[i]);
        if (failed)
            printf(" %s", failed == EAI_NONAME ? "EAI_NONAME" : gai_strerror(failed));
        for (struct addrinfo *next = found; !failed && next; next = next->ai_next) {
            char text[INET6_ADDRSTRLEN];
            const void *address = next->ai_family == AF_INET
                ? (void *)&((struct sockaddr_in *)next->ai_addr)->sin_addr
                : (void *)&((struct sockaddr_in6 *)next->ai_addr)->sin6_addr;
            printf(" %s", inet_ntop(next->ai_family, address, text, sizeof text));
        }
        printf("\n");
        if (!failed)
            freeaddrinfo(found);
    }
    return 0;
}
