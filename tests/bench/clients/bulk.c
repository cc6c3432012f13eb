/* Bulk transfer by two event loops, as servers do it: epoll, non-blocking sockets, one thread.
 *
 * bulk serve PORT                          read all connections to their ends, answer each with the number of its bytes
 * bulk send HOST PORT STREAMS SECONDS      send on STREAMS connections for SECONDS; prints a JSON report
 *
 * A stream counts only if the server's number is the sender's. The report's time goes from the first send to the last
 * answer, so what was still on its way when the sender stopped is in it, bytes and time. Addresses are IPv4.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    CHUNK = 128 * 1024, /* bytes a call, as iperf3's */
    TURNS = 16,         /* calls on one connection before the others have their turn */
    MAX_STREAMS = 64,
    MAX_EVENTS = 64,
    BACKLOG = 128,
    PATIENCE_MS = 20000, /* without any progress */
};

static char chunk[CHUNK];

struct stream {
    int fd;
    uint64_t octets;
    uint64_t answer; /* network order */
    size_t answered; /* bytes of it */
    int shut;
};

static void fail(const char *what)
{
    printf("{\"error\": \"%s: %s\"}\n", what, strerror(errno));
    fflush(stdout);
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (uint64_t)at.tv_sec * 1000000000u + (uint64_t)at.tv_nsec;
}

static void watch(int epoll, int operation, int fd, uint32_t events, void *owner)
{
    struct epoll_event event = {.events = events, .data.ptr = owner};
    if (epoll_ctl(epoll, operation, fd, &event))
        fail("epoll_ctl");
}

static struct sockaddr_in address_of(const char *host, const char *port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    if (inet_pton(AF_INET, host, &address.sin_addr) != 1) {
        errno = EINVAL;
        fail(host);
    }
    return address;
}

/* Read what is there. Returns 0 when the connection is over; then the answer was given, if it ended in order. */
static int take(struct stream *stream)
{
    for (int turn = 0; turn < TURNS; turn++) {
        ssize_t got = recv(stream->fd, chunk, sizeof(chunk), 0);
        if (got > 0) {
            stream->octets += (uint64_t)got;
            continue;
        }
        if (got < 0)
            return errno == EAGAIN || errno == EINTR;
        uint64_t answer = htobe64(stream->octets);
        (void)!send(stream->fd, &answer, sizeof(answer), MSG_NOSIGNAL);
        return 0;
    }
    return 1;
}

static void serve(const char *port)
{
    int epoll = epoll_create1(EPOLL_CLOEXEC), one = 1;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = address_of("0.0.0.0", port);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(listener, (struct sockaddr *)&address, sizeof(address)) || listen(listener, BACKLOG))
        fail("listen");
    watch(epoll, EPOLL_CTL_ADD, listener, EPOLLIN, NULL);
    for (;;) {
        struct epoll_event events[MAX_EVENTS];
        int ready = epoll_wait(epoll, events, MAX_EVENTS, -1);
        for (int each = 0; each < ready; each++) {
            struct stream *stream = events[each].data.ptr;
            if (stream) {
                if (take(stream))
                    continue;
                close(stream->fd);
                free(stream);
                continue;
            }
            int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
            if (fd < 0)
                continue;
            stream = calloc(1, sizeof(*stream));
            if (!stream)
                fail("calloc");
            stream->fd = fd;
            watch(epoll, EPOLL_CTL_ADD, fd, EPOLLIN, stream);
        }
    }
}

/* Send while there is room; after the deadline end the stream and wait for the answer. */
static void give(int epoll, struct stream *stream, uint64_t deadline)
{
    for (int turn = 0; turn < TURNS; turn++) {
        if (now_ns() >= deadline) {
            if (shutdown(stream->fd, SHUT_WR))
                fail("shutdown");
            stream->shut = 1;
            watch(epoll, EPOLL_CTL_MOD, stream->fd, EPOLLIN, stream);
            return;
        }
        ssize_t sent = send(stream->fd, chunk, sizeof(chunk), MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN)
            return;
        if (sent < 0 && errno != EINTR)
            fail("send");
        if (sent > 0)
            stream->octets += (uint64_t)sent;
    }
}

/* Returns 1 when the whole answer is there and right. */
static int hear(struct stream *stream)
{
    ssize_t got = recv(stream->fd, (char *)&stream->answer + stream->answered,
                       sizeof(stream->answer) - stream->answered, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (got <= 0) {
        errno = got ? errno : ECONNRESET;
        fail("the server's count");
    }
    stream->answered += (size_t)got;
    if (stream->answered < sizeof(stream->answer))
        return 0;
    if (be64toh(stream->answer) != stream->octets) {
        errno = EBADMSG;
        fail("the server counts other bytes than were sent");
    }
    return 1;
}

static void open_streams(const char *host, const char *port, struct stream *streams, int count)
{
    struct sockaddr_in address = address_of(host, port);
    for (int each = 0; each < count; each++) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)))
            fail("connect");
        if (fcntl(fd, F_SETFL, O_NONBLOCK))
            fail("fcntl");
        streams[each] = (struct stream){.fd = fd};
    }
}

static void report(const struct stream *streams, int count, uint64_t ns)
{
    printf("{\"seconds\": %.6f, \"streams\": [", (double)ns / 1e9);
    for (int each = 0; each < count; each++)
        printf("%s%llu", each ? ", " : "", (unsigned long long)streams[each].octets);
    printf("]}\n");
}

static void send_all(const char *host, const char *port, int count, double seconds)
{
    static struct stream streams[MAX_STREAMS];
    open_streams(host, port, streams, count);
    int epoll = epoll_create1(EPOLL_CLOEXEC), left = count;
    for (int each = 0; each < count; each++)
        watch(epoll, EPOLL_CTL_ADD, streams[each].fd, EPOLLOUT, &streams[each]);
    uint64_t began = now_ns(), deadline = began + (uint64_t)(seconds * 1e9);
    while (left) {
        struct epoll_event events[MAX_EVENTS];
        int ready = epoll_wait(epoll, events, MAX_EVENTS, PATIENCE_MS);
        if (ready == 0) {
            errno = ETIMEDOUT;
            fail("nothing moves");
        }
        for (int each = 0; each < ready; each++) {
            struct stream *stream = events[each].data.ptr;
            if (!stream->shut) {
                give(epoll, stream, deadline);
            } else if (hear(stream)) {
                watch(epoll, EPOLL_CTL_DEL, stream->fd, 0, NULL);
                left--;
            }
        }
    }
    report(streams, count, now_ns() - began);
}

int main(int argc, char **argv)
{
    if (argc == 3 && !strcmp(argv[1], "serve"))
        serve(argv[2]);
    int count = argc == 6 && !strcmp(argv[1], "send") ? atoi(argv[4]) : 0;
    if (count < 1 || count > MAX_STREAMS) {
        fprintf(stderr, "usage: bulk serve PORT | bulk send HOST PORT STREAMS SECONDS (at most %d streams)\n", MAX_STREAMS);
        return 2;
    }
    send_all(argv[2], argv[3], count, atof(argv[5]));
    return 0;
}
