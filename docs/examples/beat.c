/* A program with a heart:  osps run -- ./beat [--hang-after SECONDS]
 *
 *     cc -O2 -Wall -Wextra -o beat docs/examples/beat.c
 *
 * It beats once per turn of its main loop and leaves when it is asked to. With --hang-after it
 * stops turning after that time, so that one can watch osps notice and replace it. */

#define _GNU_SOURCE /* madvise */
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* Offsets in bytes, from the tables in docs/segment.md. */
enum {
    HEADER_MAGIC = 0,
    HEADER_VERSION = 8,
    HEADER_HEARTS_OFFSET = 24,
    HEADER_SLOTS_OFFSET = 40,
    HEADER_SLOTS_COUNT = 48,
    HEADER_BEAT_INTERVAL_NS = 240,
    HEART_COUNT = 0,
    HEART_STAMP_NS = 8,
    HEART_CLAIM = 24,
    SERVER_GENERATION = 64,
    SERVER_DESIRED = 72,
    ACTIVITY_HEEDS = 2048 + 144, /* from the start of the slot page */
    PAGE = 4096,
    STOP = 1
};

typedef _Atomic uint64_t word;
_Static_assert(sizeof(word) == 8 && ATOMIC_LLONG_LOCK_FREE == 2, "a word is a plain 8-byte word");

static char *shared;

static word *at(uint64_t offset) { return (word *)(shared + offset); }

static uint64_t load(uint64_t offset) {
    return atomic_load_explicit(at(offset), memory_order_relaxed);
}

static void refuse(const char *reason, const char *what) {
    fprintf(stderr, "beat: %s %s\n", reason, what);
    exit(2);
}

static const char *variable(const char *name) {
    const char *value = getenv(name);
    if (!value) refuse("not started by osps (try: osps run -- ./beat), not set:", name);
    return value;
}

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t start_time(void) {
    char line[1024] = "";
    FILE *stat = fopen("/proc/self/stat", "r");
    if (stat) line[fread(line, 1, sizeof line - 1, stat)] = 0;
    if (stat) fclose(stat);
    /* The name stands in parentheses and may hold anything. Field 22; the space before field 3. */
    char *field = strrchr(line, ')');
    for (int number = 2; field && number < 22; number++) field = strchr(field + 1, ' ');
    return field ? strtoull(field, NULL, 10) : 0;
}

/* The first process of a generation owns the heart: a child that runs this program must not beat in
 * its parent's name. Slot + 1, generation, pid and start time, see docs/segment.md. */
static void claim(uint64_t heart, uint64_t slot, uint64_t generation) {
    uint64_t mine = (slot + 1) | (generation & 0xffff) << 8 | (uint64_t)getpid() << 24 |
                    (start_time() & 0x3ffff) << 46;
    uint64_t found = load(heart + HEART_CLAIM);
    do {
        uint64_t pid = found >> 24 & 0x3fffff;
        if (found == mine) return;
        if (pid && (found >> 8 & 0xffff) == (generation & 0xffff)) {
            fprintf(stderr, "beat: this heart is taken by pid %" PRIu64 "\n", pid);
            exit(2);
        }
    } while (!atomic_compare_exchange_weak_explicit(at(heart + HEART_CLAIM), &found, mine,
                                                    memory_order_relaxed, memory_order_relaxed));
}

int main(int argc, char **argv) {
    uint64_t hang_ns = UINT64_MAX;
    if (argc == 3 && strcmp(argv[1], "--hang-after") == 0)
        hang_ns = (uint64_t)(atof(argv[2]) * 1e9);
    else if (argc != 1)
        refuse("usage:", "beat [--hang-after SECONDS]");

    const char *run_dir = variable("OSPS_RUN_DIR");
    uint64_t slot = strtoull(variable("OSPS_SLOT"), NULL, 10);
    uint64_t generation = strtoull(variable("OSPS_GENERATION"), NULL, 10);
    char path[4096];
    snprintf(path, sizeof path, "%s/segment", run_dir);
    int file = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    struct stat status;
    if (file < 0 || fstat(file, &status) != 0) refuse("cannot open", path);
    uint64_t size = (uint64_t)status.st_size;
    if (size < PAGE) refuse("too short for a segment:", path);
    shared = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (shared == MAP_FAILED) refuse("cannot map", path);
    close(file);
    /* osps confirms the death of this process only, so no child of it may keep the memory. */
    madvise(shared, size, MADV_DONTFORK);

    uint64_t magic = load(HEADER_MAGIC);
    if (memcmp(&magic, "OSPSSEG1", 8) != 0) refuse("not a segment of osps:", path);
    /* Acquire: the version is stored last, so what follows sees the whole header. */
    if (atomic_load_explicit(at(HEADER_VERSION), memory_order_acquire) != 3)
        refuse("not of layout version 3:", path);
    if (slot >= load(HEADER_SLOTS_COUNT)) refuse("no such slot in", path);
    uint64_t heart = load(HEADER_HEARTS_OFFSET) + 64 * slot;
    uint64_t server = load(HEADER_SLOTS_OFFSET) + PAGE * slot;
    if (heart > size - 64 || server > size - PAGE) refuse("damaged:", path);
    if (load(server + SERVER_GENERATION) != generation)
        refuse("the slot belongs to another process in", path);
    claim(heart, slot, generation);
    /* It looks at its desired word, so a stop need not begin with a signal. */
    atomic_store_explicit(at(server + ACTIVITY_HEEDS), generation, memory_order_relaxed);
    uint64_t interval = load(HEADER_BEAT_INTERVAL_NS);

    printf("beating in slot %" PRIu64 ", at least every %" PRIu64 " ms\n", slot,
           interval / 1000000);
    fflush(stdout);
    uint64_t started = now_ns();
    while (load(server + SERVER_DESIRED) != STOP) {
        if (load(server + SERVER_GENERATION) != generation)
            refuse("replaced: another process runs in this slot of", path);
        /* Release: whoever sees the new count shall find its stamp. One writer, so no add. */
        atomic_store_explicit(at(heart + HEART_STAMP_NS), now_ns(), memory_order_relaxed);
        uint64_t count = load(heart + HEART_COUNT) + 1;
        atomic_store_explicit(at(heart + HEART_COUNT), count, memory_order_release);
        /* The work of one turn comes here; if it takes long, beat in between. Half the interval
         * leaves the other half for waking up late. */
        uint64_t pause = interval / 2;
        struct timespec nap = {(time_t)(pause / 1000000000u), (long)(pause % 1000000000u)};
        nanosleep(&nap, NULL);
        while (now_ns() - started >= hang_ns) continue;
    }
    puts("asked to stop");
    return 0;
}
