/* Connects to a name as programs do: getaddrinfo(3), then the addresses in its order until one takes the connection. So many
 * times; then a line for each address with the connections that it got, one for those that nobody took, and one with the
 * addresses that were found in all. Built with musl and with glibc by scripts/load-balancing. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MOST = 64 };

int main(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "usage: %s NAME PORT TIMES 4|6\n", argv[0]);
        return 2;
    }
    int family = strcmp(argv[4], "6") ? AF_INET : AF_INET6;
    char taken[MOST][INET6_ADDRSTRLEN] = { { 0 } };
    long counts[MOST] = { 0 }, failed = 0, found = 0;
    for (long i = 0; i < atol(argv[3]); i++) {
        struct addrinfo hints = { .ai_family = family, .ai_socktype = SOCK_STREAM }, *list = NULL;
        int error = getaddrinfo(argv[1], argv[2], &hints, &list);
        if (error) {
            fprintf(stderr, "%s: %s\n", argv[1], gai_strerror(error));
            return 1;
        }
        int connected = 0;
        for (struct addrinfo *next = list; next; next = next->ai_next) {
            found++;
            if (connected)
                continue;
            int fd = socket(next->ai_family, next->ai_socktype, 0);
            if (fd >= 0 && connect(fd, next->ai_addr, next->ai_addrlen) == 0) {
                connected = 1;
                char text[INET6_ADDRSTRLEN];
                const void *address = family == AF_INET
                    ? (void *)&((struct sockaddr_in *)next->ai_addr)->sin_addr
                    : (void *)&((struct sockaddr_in6 *)next->ai_addr)->sin6_addr;
                inet_ntop(family, address, text, sizeof text);
                int at = 0;
                while (at < MOST - 1 && taken[at][0] && strcmp(taken[at], text))
                    at++;
                strcpy(taken[at], text);
                counts[at]++;
                /* Reset rather than closed: no port is left waiting. */
                struct linger now = { .l_onoff = 1, .l_linger = 0 };
                setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
            }
            if (fd >= 0)
                close(fd);
        }
        failed += !connected;
        freeaddrinfo(list);
    }
    for (int at = 0; at < MOST && taken[at][0]; at++)
        printf("%s %ld\n", taken[at], counts[at]);
    printf("failed %ld\nfound %ld\n", failed, found);
    return 0;
}
