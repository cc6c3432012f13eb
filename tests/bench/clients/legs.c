/* One end of a connection that is open already, as an event loop: epoll, non-blocking, one thread.
 *
 * legs ask FD COUNT       send 100 bytes, wait for 100, so many times
 * legs answer FD COUNT    the other end of it
 * legs send FD OCTETS     in calls of 128 KiB
 * legs read FD OCTETS
 *
 * Prints the CPU time that it took, user and system, and the time from begin to end, in nanoseconds.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MESSAGE = 100, CHUNK = 128 * 1024, PATIENCE_MS = 20000 };

static char chunk[CHUNK];
static int epoll, fd;

static void fail(const char *what)
{
    fprintf(stderr, "legs: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void wait_for(uint32_t events)
{
    static uint32_t watched;
    struct epoll_event event = {.events = events};
    if (events != watched && epoll_ctl(epoll, watched ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &event))
        fail("epoll_ctl");
    watched = events;
    if (epoll_wait(epoll, &event, 1, PATIENCE_MS) != 1)
        fail("no progress");
}

static size_t push(size_t octets)
{
    ssize_t sent = send(fd, chunk, octets, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0)
        return (size_t)sent;
    if (errno != EAGAIN)
        fail("send");
    wait_for(EPOLLOUT);
    return 0;
}

static size_t pull(size_t octets)
{
    ssize_t got = recv(fd, chunk, octets, MSG_DONTWAIT);
    if (got > 0)
        return (size_t)got;
    if (!got || errno != EAGAIN)
        fail("recv");
    wait_for(EPOLLIN);
    return 0;
}

static void all(size_t (*step)(size_t), uint64_t octets)
{
    while (octets)
        octets -= step(octets < CHUNK ? (size_t)octets : CHUNK);
}

static uint64_t cpu_ns(void)
{
    struct timespec at;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &at);
    return (uint64_t)at.tv_sec * 1000000000u + (uint64_t)at.tv_nsec;
}

static uint64_t now_ns(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (uint64_t)at.tv_sec * 1000000000u + (uint64_t)at.tv_nsec;
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    fd = atoi(argv[2]);
    uint64_t count = strtoull(argv[3], NULL, 10);
    epoll = epoll_create1(0);
    if (epoll < 0 || fcntl(fd, F_SETFL, O_NONBLOCK))
        fail("epoll");
    uint64_t cpu = cpu_ns(), began = now_ns();
    if (!strcmp(argv[1], "send"))
        all(push, count);
    else if (!strcmp(argv[1], "read"))
        all(pull, count);
    else
        for (; count; count--) {
            if (!strcmp(argv[1], "ask"))
                all(push, MESSAGE);
            all(pull, MESSAGE);
            if (!strcmp(argv[1], "answer"))
                all(push, MESSAGE);
        }
    printf("%llu %llu\n", (unsigned long long)(cpu_ns() - cpu), (unsigned long long)(now_ns() - began));
    return 0;
}
