/* A long line on one machine: two tun devices with a rate and a delay between them.
 *
 *     line NAMESPACE NEAR FAR MBIT DELAY_US
 *
 * NEAR is a new device here, FAR a new one in the network namespace at the path NAMESPACE, such as
 * /run/netns/far. Each direction sends MBIT million bits a second, after a queue that drops what
 * does not fit, and each packet arrives DELAY_US microseconds after it was sent. Prints "ready"
 * when both devices exist, which are gone when it ends: on a signal, or with its parent.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum {
    SLOTS = 1 << 16,       /* packets in one direction, waiting or on their way: a power of two */
    QUEUE_BYTES = 8 << 20, /* bytes in one direction, waiting or on their way */
    BATCH = 64,            /* packets read from one device before the other has its turn */
    LARGEST = 65535,       /* bytes of one packet */
    RETRY_NS = 50000,      /* until a device that is full is tried again */
};
static const int64_t SECOND_NS = 1000000000;
static const int64_t NEVER = INT64_MAX;

struct packet {
    int64_t arrives;
    size_t size;
    unsigned char bytes[];
};

struct direction {
    int source, destination;
    struct packet *queue[SLOTS];
    unsigned head, tail;
    int64_t sent; /* when the last packet has left the sender */
    int64_t bytes;
};

static void fail(const char *what)
{
    perror(what);
    exit(EXIT_FAILURE);
}

static int64_t now(void)
{
    struct timespec time;
    if (clock_gettime(CLOCK_MONOTONIC, &time) < 0)
        fail("clock_gettime");
    return time.tv_sec * SECOND_NS + time.tv_nsec;
}

static int open_file(const char *path, int flags)
{
    int file = open(path, flags | O_CLOEXEC);
    if (file < 0)
        fail(path);
    return file;
}

/* A device belongs to the namespace in which /dev/net/tun is opened. */
static int open_device(const char *name)
{
    struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI};
    if (strlen(name) >= IFNAMSIZ) {
        fprintf(stderr, "%s: a device's name has at most %d bytes\n", name, IFNAMSIZ - 1);
        exit(EXIT_FAILURE);
    }
    strcpy(request.ifr_name, name);
    int device = open_file("/dev/net/tun", O_RDWR | O_NONBLOCK);
    if (ioctl(device, TUNSETIFF, &request) < 0)
        fail(name);
    return device;
}

static int open_device_in(const char *namespace, const char *name)
{
    int here = open_file("/proc/self/ns/net", O_RDONLY);
    int there = open_file(namespace, O_RDONLY);
    if (setns(there, CLONE_NEWNET) < 0)
        fail(namespace);
    int device = open_device(name);
    if (setns(here, CLONE_NEWNET) < 0)
        fail("setns");
    close(there);
    close(here);
    return device;
}

/* Queue what the source has sent; drop what does not fit, as a router does. */
static void take(struct direction *line, double ns_per_byte, int64_t delay)
{
    static unsigned char bytes[LARGEST];
    for (int count = 0; count < BATCH; count++) {
        ssize_t size = read(line->source, bytes, sizeof bytes);
        if (size < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (size <= 0)
            fail("read");
        if (line->bytes + size > QUEUE_BYTES || line->tail - line->head == SLOTS)
            continue;
        struct packet *packet = malloc(sizeof *packet + size);
        if (packet == NULL)
            fail("malloc");
        int64_t time = now();
        int64_t begins = line->sent > time ? line->sent : time;
        line->sent = begins + (int64_t)(size * ns_per_byte);
        packet->arrives = line->sent + delay;
        packet->size = size;
        memcpy(packet->bytes, bytes, size);
        line->queue[line->tail++ % SLOTS] = packet;
        line->bytes += size;
    }
}

/* Hand over what has arrived; return when the next packet does. */
static int64_t deliver(struct direction *line)
{
    int64_t time = now();
    while (line->head != line->tail) {
        struct packet *packet = line->queue[line->head % SLOTS];
        if (packet->arrives > time)
            return packet->arrives;
        ssize_t written = write(line->destination, packet->bytes, packet->size);
        if (written < 0 && (errno == EAGAIN || errno == EINTR))
            return time + RETRY_NS;
        /* Any other error loses the packet: a device that is not up yet takes none. */
        line->bytes -= packet->size;
        line->head++;
        free(packet);
    }
    return NEVER;
}

static double positive(const char *text)
{
    char *end;
    double value = strtod(text, &end);
    if (*end != '\0' || !(value > 0)) {
        fprintf(stderr, "%s: not a positive number\n", text);
        exit(EXIT_FAILURE);
    }
    return value;
}

int main(int count, char **arguments)
{
    static struct direction lines[2];
    if (count != 6) {
        fprintf(stderr, "usage: line NAMESPACE NEAR FAR MBIT DELAY_US\n");
        return EXIT_FAILURE;
    }
    double ns_per_byte = 8000 / positive(arguments[4]);
    int64_t delay = (int64_t)(positive(arguments[5]) * 1000);
    if (prctl(PR_SET_PDEATHSIG, SIGTERM) < 0)
        fail("prctl");
    /* A line does not slow down when the processors are busy. */
    if (prctl(PR_SET_TIMERSLACK, 1) < 0 || setpriority(PRIO_PROCESS, 0, -20) < 0)
        fail("priority");
    int near = open_device(arguments[2]);
    int far = open_device_in(arguments[1], arguments[3]);
    lines[0].source = lines[1].destination = near;
    lines[0].destination = lines[1].source = far;
    if (puts("ready") == EOF || fflush(stdout) == EOF)
        fail("stdout");
    for (;;) {
        int64_t next = NEVER;
        struct pollfd sources[2];
        for (int i = 0; i < 2; i++) {
            int64_t due = deliver(&lines[i]);
            next = due < next ? due : next;
            sources[i] = (struct pollfd){.fd = lines[i].source, .events = POLLIN};
        }
        int64_t wait = next == NEVER ? SECOND_NS : next - now();
        wait = wait < 0 ? 0 : wait;
        struct timespec timeout = {wait / SECOND_NS, wait % SECOND_NS};
        if (ppoll(sources, 2, &timeout, NULL) < 0 && errno != EINTR)
            fail("ppoll");
        for (int i = 0; i < 2; i++)
            if (sources[i].revents)
                take(&lines[i], ns_per_byte, delay);
    }
}
