/*
 * The least that a load generator can do: the queries of a file over one connected UDP socket, a closed loop of so many
 * outstanding, with recvmmsg and sendmmsg of up to 64. It looks at no answer; it only counts them.
 *
 * bare_loop PORT FILE SECONDS OUTSTANDING
 *
 * FILE has queries ready to be sent, each behind its length in two bytes. Prints how many were sent and answered, and
 * the seconds that took. Should an answer be lost, the loop is that much shorter; after a second without any it ends.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 64, LONGEST = 1600 };

static unsigned char *queries;
static size_t *starts;
static size_t count;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void read_queries(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END)) {
        perror(path);
        exit(2);
    }
    size_t len = ftell(file);
    rewind(file);
    queries = malloc(len);
    starts = malloc((len / 2 + 1) * sizeof *starts);
    if (!queries || !starts || fread(queries, 1, len, file) != len) {
        perror(path);
        exit(2);
    }
    for (size_t at = 0; at + 2 <= len; at += 2 + (queries[at] << 8 | queries[at + 1]))
        starts[count++] = at;
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "usage: bare_loop PORT FILE SECONDS OUTSTANDING\n");
        return 2;
    }
    read_queries(argv[2]);
    double seconds = atof(argv[3]);
    long outstanding = atol(argv[4]), in_flight = 0;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0), buffer = 4 << 20;
    struct sockaddr_in server = { .sin_family = AF_INET, .sin_port = htons(atoi(argv[1])) };
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof buffer);
    if (connect(fd, (struct sockaddr *)&server, sizeof server)) {
        perror("connect");
        return 1;
    }
    static unsigned char in[BATCH][LONGEST], out[BATCH][LONGEST];
    static struct mmsghdr received[BATCH], sending[BATCH];
    static struct iovec in_parts[BATCH], out_parts[BATCH];
    for (int i = 0; i < BATCH; i++) {
        in_parts[i] = (struct iovec){ in[i], LONGEST };
        received[i].msg_hdr = (struct msghdr){ .msg_iov = &in_parts[i], .msg_iovlen = 1 };
        sending[i].msg_hdr = (struct msghdr){ .msg_iov = &out_parts[i], .msg_iovlen = 1 };
    }
    unsigned long sent = 0, answered = 0;
    unsigned short id = 0;
    double start = now(), at = start, last = start;
    while (at - start < seconds || in_flight > 0) {
        int got = recvmmsg(fd, received, BATCH, 0, NULL);
        at = now();
        if (got > 0) {
            answered += got;
            in_flight -= got;
            last = at;
        }
        int want = 0;
        while (at - start < seconds && want < BATCH && in_flight + want < outstanding) {
            unsigned char *query = queries + starts[(sent + want) % count];
            size_t len = query[0] << 8 | query[1];
            memcpy(out[want], query + 2, len);
            out[want][0] = id >> 8;
            out[want][1] = id++;
            out_parts[want] = (struct iovec){ out[want], len };
            want++;
        }
        int taken = want ? sendmmsg(fd, sending, want, 0) : 0;
        if (taken > 0) {
            sent += taken;
            in_flight += taken;
        } else if (got <= 0) {
            if (at - last > 1)
                break;
            struct pollfd ready = { .fd = fd, .events = POLLIN };
            poll(&ready, 1, 10);
        }
    }
    printf("%lu %lu %.6f\n", sent, answered, last - start);
    return 0;
}
