/* A heart for programs in C11 and C++17 that osps supervises. Header only, needs the C library:
 *
 *     osps_heart heart;
 *     if (osps_open(&heart) != 0) fprintf(stderr, "%s\n", heart.error);
 *     while (!osps_should_stop(&heart)) { one_turn_of_work(); osps_beat(&heart); }
 *
 * Beat from the loop that does the work, never from a helper thread: a beat must prove that the
 * loop still turns. A beat is two stores and one reading of the clock, no system call. A heart that
 * could not be opened does nothing and never asks to stop, so that a program runs without osps,
 * too. One thread uses one heart.
 *
 * The rules are those of osps_heart::Heart in Rust. Words are told in docs/segment.md. */
#ifndef OSPS_H
#define OSPS_H

/* For madvise; without effect behind other headers of the C library, and then it is said below. */
#if !defined _DEFAULT_SOURCE && !defined _GNU_SOURCE
#define _DEFAULT_SOURCE 1
#endif
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#if !defined __linux__ || !defined __LP64__ || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "osps.h: for 64-bit little-endian Linux"
#endif
#ifndef MADV_DONTFORK
#error "osps.h: include it first, or compile with -std=gnu11 or -D_GNU_SOURCE"
#endif
#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif

/* generated from heart/src by: OSPS_BLESS=1 cargo test --test docs */
#define OSPS_MAGIC "OSPSSEG1"
#define OSPS_ENV_RUN_DIR "OSPS_RUN_DIR"
#define OSPS_ENV_SLOT "OSPS_SLOT"
#define OSPS_ENV_GENERATION "OSPS_GENERATION"
enum {
    OSPS_VERSION = 5,
    OSPS_PAGE = 4096,
    OSPS_HEART_SIZE = 64,
    OSPS_HEART_NAME_SIZE = 32,
    OSPS_ACTIVITY_TEXT_SIZE = 96,
    OSPS_HEADER_MAGIC = 0,
    OSPS_HEADER_VERSION = 8,
    OSPS_HEADER_HEARTS_OFFSET = 24,
    OSPS_HEADER_HEARTS_COUNT = 32,
    OSPS_HEADER_SLOTS_OFFSET = 40,
    OSPS_HEADER_SLOTS_COUNT = 48,
    OSPS_HEADER_BEAT_INTERVAL_NS = 240,
    OSPS_HEADER_ORPHAN_TIMEOUT_NS = 264,
    OSPS_HEADER_WATCHDOG_HEART = 320,
    OSPS_HEART_COUNT = 0,
    OSPS_HEART_STAMP_NS = 8,
    OSPS_HEART_LIMIT_NS = 16,
    OSPS_HEART_CLAIM = 24,
    OSPS_HEART_NAME = 32,
    OSPS_SERVER_GENERATION = 64,
    OSPS_SERVER_DESIRED = 72,
    OSPS_SERVER_BASELINE = 96,
    OSPS_SLOT_ACTIVITY = 2048,
    OSPS_ACTIVITY_TEXT_GUARD = 24,
    OSPS_ACTIVITY_TEXT = 32,
    OSPS_ACTIVITY_HEEDS = 144,
    OSPS_DESIRED_STOP = 1,
};
/* end of what is generated */

/* Everything in here but `error` is private. */
typedef struct osps_heart {
    char *segment;    /* the mapping; NULL = not open */
    uint64_t *mine;   /* a word that is 1 in this process and 0 in its children */
    uint64_t size;    /* bytes mapped */
    uint64_t slot;    /* number of the slot */
    uint64_t generation;
    uint64_t claim;   /* what this process claims its line with */
    uint64_t line;    /* offset of the heart line */
    uint64_t server;  /* offset of the slot page */
    int further;      /* whether the line is given back */
    /* What is known of the watchdog's heart, see osps__orphaned. */
    uint64_t timeout, looked, last_beat, counted_from, count;
    int renewals;
    char error[256];  /* why it could not be opened */
} osps_heart;

static inline uint64_t *osps__word(const osps_heart *heart, uint64_t offset) {
    return (uint64_t *)(void *)(heart->segment + offset);
}

static inline uint64_t osps__get(const osps_heart *heart, uint64_t offset) {
    return __atomic_load_n(osps__word(heart, offset), __ATOMIC_RELAXED);
}

/* What was stored before this word is seen behind it. */
static inline uint64_t osps__acquire(const osps_heart *heart, uint64_t offset) {
    return __atomic_load_n(osps__word(heart, offset), __ATOMIC_ACQUIRE);
}

static inline void osps__set(const osps_heart *heart, uint64_t offset, uint64_t value) {
    __atomic_store_n(osps__word(heart, offset), value, __ATOMIC_RELAXED);
}

/* Replaces exactly `*found`; if the word is something else, says what. */
static inline int osps__exchange(const osps_heart *heart, uint64_t offset, uint64_t *found,
                                 uint64_t to) {
    return __atomic_compare_exchange_n(osps__word(heart, offset), found, to, 0, __ATOMIC_RELAXED,
                                       __ATOMIC_RELAXED);
}

/* A text in so many bytes of words, cut at a character, filled up with zeros. */
static inline void osps__set_text(const osps_heart *heart, uint64_t offset, uint64_t room,
                                  const char *text) {
    size_t length = strlen(text);
    if (length > room) {
        length = (size_t)room;
        while (length > 0 && ((unsigned char)text[length] & 0xc0u) == 0x80u) length--;
    }
    for (uint64_t at = 0; at < room; at += 8) {
        uint64_t word = 0;
        if (at < length) memcpy(&word, text + at, length - at < 8 ? length - at : 8);
        osps__set(heart, offset + at, word);
    }
}

static inline uint64_t osps__now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* When this process started, in clock ticks since boot; 0 = /proc does not say. */
static inline uint64_t osps__start_time(void) {
    char line[1024];
    int file = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
    ssize_t length = file < 0 ? 0 : read(file, line, sizeof line - 1);
    if (file >= 0) close(file);
    line[length > 0 ? length : 0] = 0;
    /* The name stands in parentheses and may hold anything. Field 22; the space before field 3. */
    char *field = strrchr(line, ')');
    for (int number = 2; field && number < 22; number++) field = strchr(field + 1, ' ');
    return field ? strtoull(field, NULL, 10) : 0;
}

static inline void osps__unmap(osps_heart *heart) {
    if (heart->segment) munmap(heart->segment, (size_t)heart->size);
    if (heart->mine) munmap(heart->mine, OSPS_PAGE);
    heart->segment = NULL;
    heart->mine = NULL;
}

static inline int osps__refuse(osps_heart *heart, const char *what, const char *why) {
    osps__unmap(heart);
    snprintf(heart->error, sizeof heart->error, "osps: %.160s%.80s", what, why);
    return -1;
}

/* A number of the environment; 0 = none, and then the heart says so. */
static inline int osps__number(osps_heart *heart, const char *name, uint64_t *number) {
    const char *text = getenv(name);
    char *end = NULL;
    if (!text) {
        osps__refuse(heart, name,
                     " is not set: not started by osps; start it with: osps run -- COMMAND");
        return 0;
    }
    errno = 0;
    *number = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || errno || *number > UINT32_MAX) {
        osps__refuse(heart, name, " is not a number of osps's");
        return 0;
    }
    return 1;
}

/* Maps and checks the segment, and claims nothing yet. */
static inline int osps__attach(osps_heart *heart) {
    char path[4096];
    struct stat status;
    memset(heart, 0, sizeof *heart);
    const char *run_dir = getenv(OSPS_ENV_RUN_DIR);
    if (!osps__number(heart, OSPS_ENV_SLOT, &heart->slot) ||
        !osps__number(heart, OSPS_ENV_GENERATION, &heart->generation))
        return -1;
    if (!run_dir)
        return osps__refuse(heart, OSPS_ENV_RUN_DIR, " is not set: not started by osps");
    int length = snprintf(path, sizeof path, "%s/segment", run_dir);
    if (length < 0 || (size_t)length >= sizeof path)
        return osps__refuse(heart, OSPS_ENV_RUN_DIR, " is too long");
    int file = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (file < 0 || fstat(file, &status) != 0) {
        int reason = errno;
        if (file >= 0) close(file);
        snprintf(heart->error, sizeof heart->error, "osps: open %.160s: %.80s", path,
                 strerror(reason));
        return -1;
    }
    heart->size = (uint64_t)status.st_size;
    if (heart->size < OSPS_PAGE) {
        close(file);
        return osps__refuse(heart, path, ": too short for a segment");
    }
    void *map = mmap(NULL, (size_t)heart->size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    int reason = errno;
    close(file);
    if (map == MAP_FAILED) return osps__refuse(heart, "map the segment: ", strerror(reason));
    heart->segment = (char *)map;
    /* osps confirms the death of this process only, so no child of it may keep the memory. */
    if (madvise(map, (size_t)heart->size, MADV_DONTFORK) != 0)
        return osps__refuse(heart, "keep the segment from children: ", strerror(errno));
    void *mark = mmap(NULL, OSPS_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mark == MAP_FAILED) return osps__refuse(heart, "map a page: ", strerror(errno));
    heart->mine = (uint64_t *)mark;
    if (madvise(mark, OSPS_PAGE, MADV_WIPEONFORK) != 0)
        return osps__refuse(heart, "tell children from this process: ", strerror(errno));
    *heart->mine = 1;

    if (memcmp(heart->segment + OSPS_HEADER_MAGIC, OSPS_MAGIC, 8) != 0)
        return osps__refuse(heart, path, ": not a segment of osps");
    /* The version is stored last. */
    if (osps__acquire(heart, OSPS_HEADER_VERSION) != OSPS_VERSION)
        return osps__refuse(heart, path, ": of a layout version that this program does not know");
    uint64_t lines = osps__get(heart, OSPS_HEADER_HEARTS_OFFSET);
    uint64_t pages = osps__get(heart, OSPS_HEADER_SLOTS_OFFSET);
    uint64_t hearts = osps__get(heart, OSPS_HEADER_HEARTS_COUNT);
    uint64_t slots = osps__get(heart, OSPS_HEADER_SLOTS_COUNT);
    if (lines % OSPS_PAGE || pages % OSPS_PAGE || lines > heart->size || pages > heart->size ||
        hearts > (heart->size - lines) / OSPS_HEART_SIZE || slots > hearts ||
        slots > (heart->size - pages) / OSPS_PAGE)
        return osps__refuse(heart, path, ": damaged");
    if (heart->slot >= slots) return osps__refuse(heart, path, ": no such slot");
    heart->server = pages + OSPS_PAGE * heart->slot;
    if (osps__get(heart, heart->server + OSPS_SERVER_GENERATION) != heart->generation)
        return osps__refuse(heart, path, ": another process runs in this slot by now");
    heart->claim = (heart->slot + 1) | (heart->generation & 0xffffu) << 8 |
                   ((uint64_t)getpid() & 0x3fffffu) << 24 | (osps__start_time() & 0x3ffffu) << 46;
    heart->timeout = osps__get(heart, OSPS_HEADER_ORPHAN_TIMEOUT_NS);
    heart->looked = heart->last_beat = heart->counted_from = osps__now();
    heart->count = osps__acquire(heart, OSPS_HEADER_WATCHDOG_HEART + OSPS_HEART_COUNT);
    return 0;
}

/* Opens the heart of this program: 0, or -1 and `heart->error` says why. From then on no other
 * process of the program can open it, so that no child beats in its parent's name. */
static inline int osps_open(osps_heart *heart) {
    if (osps__attach(heart) != 0) return -1;
    heart->line = osps__get(heart, OSPS_HEADER_HEARTS_OFFSET) + OSPS_HEART_SIZE * heart->slot;
    uint64_t at = heart->line + OSPS_HEART_CLAIM;
    uint64_t found = osps__get(heart, at);
    do {
        if (found == heart->claim) return 0;
        uint64_t pid = found >> 24 & 0x3fffffu;
        /* A claim under an earlier generation gives way. The 16 bits wrap. */
        uint64_t later = (heart->generation - (found >> 8)) & 0xffffu;
        if (pid && (found & 0xffu) == heart->slot + 1 && !(later >= 1 && later < 0x8000u)) {
            if (later) return osps__refuse(heart, "another process runs in this slot", " by now");
            char why[128];
            snprintf(why, sizeof why,
                     "taken by pid %" PRIu64 ": a heart has one owner, the first process that "
                     "opens it",
                     pid);
            return osps__refuse(heart, why, "");
        }
    } while (!osps__exchange(heart, at, &found, heart->claim));
    return 0;
}

/* Opens a further heart, for a thread with a loop of its own: judged from its first beat on, by its
 * own limit (20 ms to 30 days; 0 = the hang timeout). Verdicts name it, by up to 32 bytes. */
static inline int osps_open_named(osps_heart *heart, const char *name, uint64_t limit_ns) {
    if (osps__attach(heart) != 0) return -1;
    uint64_t lines = osps__get(heart, OSPS_HEADER_HEARTS_OFFSET);
    uint64_t count = osps__get(heart, OSPS_HEADER_HEARTS_COUNT);
    for (uint64_t line = osps__get(heart, OSPS_HEADER_SLOTS_COUNT); line < count; line++) {
        uint64_t at = lines + OSPS_HEART_SIZE * line, nobody = 0;
        if (!osps__exchange(heart, at + OSPS_HEART_CLAIM, &nobody, heart->claim)) continue;
        heart->line = at;
        heart->further = 1;
        /* What a predecessor's line says is not ours. Not judged before the first beat. */
        osps__set(heart, at + OSPS_HEART_LIMIT_NS, limit_ns);
        osps__set_text(heart, at + OSPS_HEART_NAME, OSPS_HEART_NAME_SIZE, name);
        return 0;
    }
    return osps__refuse(heart, "all heart lines are taken: ", "close one that is not needed");
}

/* Whether this is the process that opened it, and the one that runs in its slot. */
static inline int osps__is_current(const osps_heart *heart) {
    /* The word first, since a child does not have the segment. */
    return heart->segment && __atomic_load_n(heart->mine, __ATOMIC_RELAXED) == 1 &&
           osps__get(heart, heart->server + OSPS_SERVER_GENERATION) == heart->generation;
}

static inline void osps__beat(const osps_heart *heart, uint64_t stamp) {
    if (!osps__is_current(heart)) return;
    uint64_t at = heart->line + OSPS_HEART_COUNT;
    osps__set(heart, heart->line + OSPS_HEART_STAMP_NS, stamp);
    /* Release: whoever sees the new count finds its stamp. One writer, so no add. */
    __atomic_store_n(osps__word(heart, at), osps__get(heart, at) + 1, __ATOMIC_RELEASE);
}

/* Beats. Does nothing in a forked child, and once another process runs in the slot. */
static inline void osps_beat(osps_heart *heart) { osps__beat(heart, osps__now()); }

/* Says that this loop waits for work: its silence means nothing until the next beat. */
static inline void osps_park(osps_heart *heart) { osps__beat(heart, UINT64_MAX); }

/* Says what the program does, at most 96 bytes: `osps status` shows it. */
static inline void osps_activity(osps_heart *heart, const char *text) {
    if (!osps__is_current(heart)) return;
    uint64_t activity = heart->server + OSPS_SLOT_ACTIVITY;
    /* A predecessor that died inside left the guard odd: `| 1` enters from both. */
    uint64_t busy = osps__get(heart, activity + OSPS_ACTIVITY_TEXT_GUARD) | 1;
    osps__set(heart, activity + OSPS_ACTIVITY_TEXT_GUARD, busy);
    /* The odd guard before the first new byte, the even one behind the last. */
    __atomic_thread_fence(__ATOMIC_RELEASE);
    osps__set_text(heart, activity + OSPS_ACTIVITY_TEXT, OSPS_ACTIVITY_TEXT_SIZE, text);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    osps__set(heart, activity + OSPS_ACTIVITY_TEXT_GUARD, busy + 1);
}

/* Whether the watchdog has been silent for the orphan timeout, as heart/src/orphan.rs counts it: a
 * look that comes late renews the limit, five times in one silence, since this program may have
 * been stopped itself. */
static inline int osps__orphaned(osps_heart *heart, uint64_t now, uint64_t count, uint64_t stamp) {
    uint64_t slack = heart->timeout / 8;
    slack = slack < 50000000u ? 50000000u : slack > 500000000u ? 500000000u : slack;
    uint64_t previous = heart->looked;
    int late = now > previous + 1000000000u + slack;
    heart->looked = now;
    if (count != heart->count) {
        int trusted = stamp > (previous > slack ? previous - slack : 0) && stamp <= now;
        uint64_t at = trusted ? stamp : now;
        uint64_t span = heart->timeout / 5 * 3;
        uint64_t earliest = now > span ? now - span : 0;
        if (trusted && at < heart->last_beat) at = heart->last_beat;
        heart->count = count;
        heart->last_beat = at;
        heart->renewals = late;
        if (at < earliest) at = earliest;
        if (late)
            heart->counted_from = now;
        else if (heart->counted_from < at)
            heart->counted_from = at;
        return 0;
    }
    if (late && heart->renewals < 5) {
        heart->renewals++;
        heart->counted_from = now;
        return 0;
    }
    return now >= heart->counted_from && now - heart->counted_from >= heart->timeout;
}

/* Whether to finish and exit: osps said so, another process runs in this slot, or osps has been
 * gone for the orphan timeout. Look at it once per turn, like beating. */
static inline int osps_should_stop(osps_heart *heart) {
    if (!heart->segment) return 0;
    if (!osps__is_current(heart)) return 1;
    /* Who looks is not sent a signal at once. */
    uint64_t heeds = heart->server + OSPS_SLOT_ACTIVITY + OSPS_ACTIVITY_HEEDS;
    osps__set(heart, heeds, heart->generation);
    if (osps__get(heart, heart->server + OSPS_SERVER_DESIRED) == OSPS_DESIRED_STOP) return 1;
    uint64_t count = osps__acquire(heart, OSPS_HEADER_WATCHDOG_HEART + OSPS_HEART_COUNT);
    uint64_t stamp = osps__get(heart, OSPS_HEADER_WATCHDOG_HEART + OSPS_HEART_STAMP_NS);
    return osps__orphaned(heart, osps__now(), count, stamp);
}

/* The longest time between two beats that this program promises; 0 = the heart is not open. */
static inline uint64_t osps_beat_interval_ns(const osps_heart *heart) {
    return osps__is_current(heart) ? osps__get(heart, OSPS_HEADER_BEAT_INTERVAL_NS) : 0;
}

/* Gives a further line back, unjudged. The program's own stays taken: osps frees it when this
 * process ends. In a forked child nothing happens: what lies there is not the segment. */
static inline void osps_close(osps_heart *heart) {
    if (!heart->segment || __atomic_load_n(heart->mine, __ATOMIC_RELAXED) != 1) return;
    if (heart->further) {
        uint64_t mine = heart->claim;
        osps_park(heart);
        osps__exchange(heart, heart->line + OSPS_HEART_CLAIM, &mine, 0);
    }
    osps__unmap(heart);
}

#endif
