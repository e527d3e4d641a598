/* The loop heart: beats for a program that nobody changed, each time it comes to its event wait.
 *
 * osps preloads this into the program (`osps run --heart loop`, or `loops`). It stands before the
 * event waits of the C library: a beat is stored when the thread enters one and when it returns, and
 * waits are cut into slices of a quarter of the limit, so that an idle program beats and one that is
 * stuck in its own code does not.
 *
 *   loop    the main thread beats in the slot's line. Once it has waited in epoll three times, only
 *           epoll counts: a database call inside a coroutine polls its own socket, and that is no
 *           turn of the loop. Nor is a wait on another epoll descriptor from deep below the loop:
 *           a synchronous child of Node waits in a loop of its own.
 *   loops   each epoll descriptor has a line, beaten by whichever thread waits on it (JVM, workers).
 *
 * A line is claimed when a thread rests in a wait, or at its third wait that is no mere look (a
 * timeout of zero): programs poll once and then compute, Rust's do before `main`.
 *
 * It lives in strangers' programs. So it takes no memory and no lock, never prints, leaves errno
 * alone, needs no library and no symbol version, and is transparent for good after anything odd.
 * System calls of its own go past the C library; the waits go through it, since they are
 * cancellation points, and since another preloaded library may stand behind this one. A thread that
 * is cancelled in a slice runs its cleanup handlers with signals blocked: it is about to end.
 *
 * Writer: the claimant, see docs/segment.md. Reader: the watchdog. Told in docs/your-program.md,
 * tested in tests/loop_shim.rs against the plain calls. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/auxv.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <linux/seccomp.h>

#include "../c/osps.h" /* The layout alone: its functions are not used. */

#define EXPORT __attribute__((visibility("default")))
#define UNLIKELY(what) __builtin_expect(!!(what), 0)

/* Waits after which a thread, or a descriptor, is taken for an event loop. Fewer, and a set-up that
 * polls once is one; more, and a server that is rarely asked goes unwatched for long. */
#define WAITS 3
/* And so long a rest in one, in ns: who sets itself up seldom waits for longer. */
#define REST 100000000u
/* Rest after which a wait in epoll is one of the loop, in nanoseconds: no set-up rests for so long. */
#define SETTLED 1000000000u
/* Descriptors that may be event loops. They are made early, and so have low numbers. */
#define LOOPS_MAX 1024
/* A wait from so many bytes deeper in the stack than the loop's is made by one of its callbacks. Less
 * are a few frames of C: a program that goes from one loop to the next. More is another stack. */
#define NESTED_MIN 1024
#define NESTED_MAX (8u << 20)
#define SECOND 1000000000u
/* Bounds of a limit as in osps_heart::pulse. */
#define LIMIT_MIN 20000000u
#define LIMIT_MAX (30u * 24 * 3600 * (uint64_t)SECOND)
#define FOREVER UINT64_MAX

struct line {
    uint64_t count, stamp, limit, claim, name[4];
};
_Static_assert(sizeof(struct line) == OSPS_HEART_SIZE, "a line as in the segment");
_Static_assert(offsetof(struct line, stamp) == OSPS_HEART_STAMP_NS, "a line as in the segment");
_Static_assert(offsetof(struct line, limit) == OSPS_HEART_LIMIT_NS, "a line as in the segment");
_Static_assert(offsetof(struct line, claim) == OSPS_HEART_CLAIM, "a line as in the segment");
_Static_assert(offsetof(struct line, name) == OSPS_HEART_NAME, "a line as in the segment");

/* What a forked child finds wiped. */
struct mark {
    uint64_t process; /* which process this is; 0 = one that has not looked yet */
    uint64_t own_for; /* loops: one more than the descriptor that beats in the slot's line */
};

/* An epoll descriptor, by its number. Threads race here; whoever loses goes on without a beat. */
struct loop {
    uint64_t process; /* whose descriptor it is */
    struct line *line;
    void *last;       /* the thread that waited last */
    unsigned waits;
};

/* 0 = not looked yet, 1 = the hearts are mapped, -1 = transparent. Children inherit it. */
static int state;
static int by_descriptor; /* loops */
static struct mark *mark;
static struct line *lines, *own_line;
static uint64_t lines_count, slots_count, slot, generation, *running;
static struct loop loops[LOOPS_MAX];
static pthread_key_t at_thread_exit;
/* Of this process, see meet(). */
static uint64_t own_claim;
static int own_pid, may_claim;
static int main_epoll = -1; /* loop: the epoll descriptor of the loop */

/* Of this thread: the process that it was met in (1 = none), and what it is. Initial-exec: the
 * other models may allocate at the first use. */
static __thread __attribute__((tls_model("initial-exec"))) struct {
    uint64_t process;
    unsigned is_main, epolls, waits, leaves;
    char *depth; /* loop: how deep in the stack its loop waits */
} me = {1, 0, 0, 0, 0, NULL};

/* ---- The kernel and the C library ------------------------------------------------------------ */

/* A system call as the kernel answers it, so that errno stays as it is. */
static inline long raw(long number, long a, long b, long c, long d, long e, long f) {
#if defined __x86_64__
    long answer;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(answer)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return answer;
#elif defined __aarch64__
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc 0"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
                     : "memory");
    return x0;
#else
#error "loop.c: for x86-64 and AArch64"
#endif
}

static int pid_now(void) { return (int)raw(SYS_getpid, 0, 0, 0, 0, 0, 0); }

static inline uint64_t get(const uint64_t *word) {
    return __atomic_load_n(word, __ATOMIC_RELAXED);
}

static inline void set(uint64_t *word, uint64_t value) {
    __atomic_store_n(word, value, __ATOMIC_RELAXED);
}

static inline int exchange(uint64_t *word, uint64_t from, uint64_t to) {
    return __atomic_compare_exchange_n(word, &from, to, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

static inline uint64_t clock_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * SECOND + (uint64_t)now.tv_nsec;
}

/* In C libraries before 2.34 it is elsewhere, and may be missing. */
#pragma weak dlsym
/* These, too, and then there are no threads. */
#pragma weak pthread_key_create
#pragma weak pthread_setspecific

int epoll_pwait2(int, struct epoll_event *, int, const struct timespec *, const sigset_t *);
int close_range(unsigned, unsigned, int);
int __poll_chk(struct pollfd *, nfds_t, int, size_t);
int __ppoll_chk(struct pollfd *, nfds_t, const struct timespec *, const sigset_t *, size_t);

/* Whoever stands behind this library: looked up at the start, since a look may take memory. */
#define FOR_ALL(one)                                                                            \
    one(epoll_wait) one(epoll_pwait) one(epoll_pwait2) one(poll) one(ppoll) one(select)         \
        one(pselect) one(__poll_chk) one(__ppoll_chk) one(close) one(dup2) one(dup3)            \
            one(close_range) one(accept) one(accept4)
#define MEMBER(name) __typeof__(name) *name;
#define LOOK_UP(name) real.name = (__typeof__(name) *)dlsym(RTLD_NEXT, #name);
static struct {
    FOR_ALL(MEMBER)
} real;
static int is_looked_up;

static __attribute__((noinline)) void look_up(void) {
    if (dlsym) {
        FOR_ALL(LOOK_UP)
    }
    __atomic_store_n(&is_looked_up, 1, __ATOMIC_RELEASE);
}

/* Calls it; what the C library does not have, `otherwise`: the kernel, as no cancellation point. */
#define REAL(name, otherwise, ...)                                                              \
    ({                                                                                          \
        if (UNLIKELY(!__atomic_load_n(&is_looked_up, __ATOMIC_ACQUIRE))) look_up();              \
        real.name ? real.name(__VA_ARGS__)                                                      \
                  : (__typeof__(real.name(__VA_ARGS__)))(otherwise);                            \
    })

/* What the kernel answers, in the manner of the C library. */
static long told(long answer) {
    if (answer >= 0 || answer < -4095) return answer;
    errno = (int)-answer;
    return -1;
}

#define SIGSET_BYTES 8

static int real_epoll_pwait(int epoll, struct epoll_event *events, int most, int timeout,
                            const sigset_t *mask) {
    return REAL(epoll_pwait,
                told(raw(SYS_epoll_pwait, epoll, (long)events, most, timeout, (long)mask,
                         SIGSET_BYTES)),
                epoll, events, most, timeout, mask);
}

static int real_epoll_wait(int epoll, struct epoll_event *events, int most, int timeout) {
    return REAL(epoll_wait, real_epoll_pwait(epoll, events, most, timeout, NULL), epoll, events,
                most, timeout);
}

#ifndef SYS_epoll_pwait2
#define SYS_epoll_pwait2 441
#endif
static int real_epoll_pwait2(int epoll, struct epoll_event *events, int most,
                             const struct timespec *timeout, const sigset_t *mask) {
    return REAL(epoll_pwait2,
                told(raw(SYS_epoll_pwait2, epoll, (long)events, most, (long)timeout, (long)mask,
                         SIGSET_BYTES)),
                epoll, events, most, timeout, mask);
}

static int real_ppoll(struct pollfd *files, nfds_t count, const struct timespec *timeout,
                      const sigset_t *mask) {
    struct timespec copy = timeout ? *timeout : (struct timespec){0, 0};
    return REAL(ppoll,
                told(raw(SYS_ppoll, (long)files, (long)count, (long)(timeout ? &copy : NULL),
                         (long)mask, SIGSET_BYTES, 0)),
                files, count, timeout, mask);
}

static int real_pselect(int count, fd_set *reads, fd_set *writes, fd_set *excepts,
                        const struct timespec *timeout, const sigset_t *mask) {
    struct timespec copy = timeout ? *timeout : (struct timespec){0, 0};
    const long with_size[2] = {(long)mask, SIGSET_BYTES};
    return REAL(pselect,
                told(raw(SYS_pselect6, count, (long)reads, (long)writes, (long)excepts,
                         (long)(timeout ? &copy : NULL), (long)with_size)),
                count, reads, writes, excepts, timeout, mask);
}

/* ---- Beating --------------------------------------------------------------------------------- */

/* A beat with the stamp of the one before. */
static inline void again(struct line *line) {
    /* Release: whoever sees the new count finds its stamp. */
    __atomic_store_n(&line->count, get(&line->count) + 1, __ATOMIC_RELEASE);
}

/* Lets go of a line: from now on nobody is judged by it. */
static void leave(struct line *line) {
    if (get(&line->claim) != own_claim) return;
    set(&line->stamp, UINT64_MAX); /* parked */
    again(line);
    exchange(&line->claim, own_claim, line == own_line ? slot + 1 : 0);
}

/* Whether the slot's line is another process's, of this generation or a later one. */
static int is_taken(uint64_t found) {
    uint64_t later = (generation - (found >> 8)) & 0xffffu;
    int has_owner = (found >> 24 & 0x3fffffu) != 0 && (found & 0xffu) == slot + 1;
    return found != own_claim && has_owner && !(later >= 1 && later < 0x8000u);
}

/* Claims the slot's line for this process: as osps_heart does. */
static int claim_own(void) {
    uint64_t found = get(&own_line->claim);
    if (!may_claim || is_taken(found)) return 0;
    if (found != own_claim && !exchange(&own_line->claim, found, own_claim)) return 0;
    /* Meanwhile another thread may have hidden: see hide(). */
    if (__atomic_load_n(&state, __ATOMIC_SEQ_CST) == 1) return 1;
    leave(own_line);
    return 0;
}

/* Whether this process beats in this line, and is the one that runs in the slot. */
static inline int is_ours(const struct line *line) {
    return get(&line->claim) == own_claim && get(running) == generation &&
           __atomic_load_n(&state, __ATOMIC_RELAXED) == 1;
}

static inline void beat(struct line *line) {
    set(&line->stamp, clock_ns(CLOCK_MONOTONIC_COARSE));
    again(line);
}

/* loops: a descriptor is gone, or the thread that served it. */
static void forget(struct loop *loop) {
    struct line *line = __atomic_load_n(&loop->line, __ATOMIC_RELAXED);
    if (!line || loop->process != get(&mark->process)) return;
    __atomic_store_n(&loop->line, NULL, __ATOMIC_RELAXED);
    loop->waits = 0;
    leave(line);
    if (line == own_line) set(&mark->own_for, 0);
}

/* Descriptors are closed. A child of vfork shares this memory and closes descriptors of its own. */
static void forget_range(unsigned first, unsigned last) {
    if (state != 1) return;
    if (!by_descriptor) {
        unsigned own = (unsigned)main_epoll;
        if (own >= first && own <= last && pid_now() == own_pid) main_epoll = -1;
        return;
    }
    for (unsigned fd = first; fd <= last && fd < LOOPS_MAX; fd++)
        if (loops[fd].line && pid_now() == own_pid) forget(&loops[fd]);
}

static void thread_exits(void *thread) {
    if (state != 1 || pid_now() != own_pid) return;
    for (unsigned fd = 0; fd < LOOPS_MAX; fd++)
        if (loops[fd].last == thread) forget(&loops[fd]);
}

/* loops: a line for a descriptor. The first one has the slot's, further ones a free one. */
static struct line *line_for(uint64_t fd) {
    if (!may_claim || state != 1) return NULL;
    if (!is_taken(get(&own_line->claim)) && exchange(&mark->own_for, 0, fd + 1)) {
        if (claim_own()) return own_line;
        set(&mark->own_for, 0);
        return NULL;
    }
    for (uint64_t number = slots_count; number < lines_count; number++) {
        struct line *line = &lines[number];
        if (get(&line->claim) != 0 || !exchange(&line->claim, 0, own_claim)) continue;
        char name[OSPS_HEART_NAME_SIZE] = "epoll ";
        size_t end = 6, digits = fd > 999 ? 4 : fd > 99 ? 3 : fd > 9 ? 2 : 1;
        for (size_t at = end + digits; at-- > end; fd /= 10) name[at] = (char)('0' + fd % 10);
        for (size_t word = 0; word < 4; word++) {
            uint64_t part;
            memcpy(&part, name + 8 * word, 8);
            set(&line->name[word], part);
        }
        set(&line->limit, 0); /* as the server's */
        return line;
    }
    return NULL;
}

/* loops: what is known of a descriptor, in this process. */
static struct loop *loop_of(int fd) {
    if (fd < 0 || fd >= LOOPS_MAX) return NULL;
    struct loop *loop = &loops[fd];
    uint64_t process = get(&mark->process), known = get(&loop->process);
    if (UNLIKELY(known != process) && exchange(&loop->process, known, process)) {
        __atomic_store_n(&loop->line, NULL, __ATOMIC_RELAXED);
        loop->waits = 0;
    }
    if (!me.leaves && pthread_setspecific) me.leaves = !pthread_setspecific(at_thread_exit, &me);
    loop->last = &me;
    return loop;
}

/* loops: gives a descriptor its line. */
static struct line *assign(struct loop *loop) {
    struct line *none = NULL, *line = line_for((uint64_t)(loop - loops));
    if (line && !__atomic_compare_exchange_n(&loop->line, &none, line, 0, __ATOMIC_RELAXED,
                                             __ATOMIC_RELAXED)) {
        /* Another thread was first. */
        leave(line);
        if (line == own_line) set(&mark->own_for, 0);
        return none;
    }
    return line;
}

/* ---- Start ----------------------------------------------------------------------------------- */

extern char **environ;

static const char *variable(const char *name) {
    size_t length = 0;
    while (name[length]) length++;
    for (char **entry = environ; entry && *entry; entry++) {
        size_t at = 0;
        while (at < length && (*entry)[at] == name[at]) at++;
        if (at == length && (*entry)[at] == '=') return *entry + at + 1;
    }
    return NULL;
}

/* A decimal number at `*text`, which then stands behind it and the `end`. */
static int number(const char **text, char end, uint64_t *value) {
    const char *at = *text;
    if (!at || *at < '0' || *at > '9') return 0;
    for (*value = 0; *at >= '0' && *at <= '9'; at++) {
        if (*value > (UINT64_MAX - 9) / 10) return 0;
        *value = *value * 10 + (uint64_t)(*at - '0');
    }
    if (*at != end) return 0;
    *text = at + 1;
    return 1;
}

/* The beginning of a file, as a text; its length, 0 = unreadable. */
static size_t contents(const char *path, char *buffer, size_t room) {
    long file = raw(SYS_openat, AT_FDCWD, (long)path, O_RDONLY | O_CLOEXEC, 0, 0, 0);
    if (file < 0) return 0;
    long length = raw(SYS_read, file, (long)buffer, (long)(room - 1), 0, 0, 0);
    raw(SYS_close, file, 0, 0, 0, 0, 0);
    length = length < 0 ? 0 : length;
    buffer[length] = 0;
    return (size_t)length;
}

static int is_named(const char *wanted, const char *name, size_t length) {
    size_t at = 0;
    while (at < length && wanted[at] && wanted[at] == name[at]) at++;
    return at == length && !wanted[at];
}

/* OSPS_HEART_PROCESS, kept: programs that write their title lose their environment. */
static char wanted[256];

/* Whether it is a process that the user named, by its own name or its program's. */
static int is_wanted(const char *name, size_t length) {
    char path[1024]; /* A longer one has no name here. */
    if (!*wanted || is_named(wanted, name, length)) return 1;
    long end = raw(SYS_readlinkat, AT_FDCWD, (long)"/proc/self/exe", (long)path, sizeof path, 0, 0);
    if (end <= 0) return 0;
    long base = end;
    while (base > 0 && path[base - 1] != '/') base--;
    return is_named(wanted, path + base, (size_t)(end - base));
}

/* What a process has to know of itself. Of threads that come at once each stores the same. Not
 * inlined, like whatever needs much of a stack that may be small. */
static __attribute__((noinline)) void learn(int pid) {
    char stat[1024];
    size_t length = contents("/proc/self/stat", stat, sizeof stat), end = length;
    uint64_t start_time = 0;
    /* The name stands in parentheses and may hold anything. */
    size_t name = 0;
    while (name < length && stat[name] != '(') name++;
    while (end > 0 && stat[end] != ')') end--;
    const char *field = stat + end;
    /* Field 22; the space before field 3. Without /proc (a chroot) any start time is right. */
    for (int at = 2; length && at < 22 && *field; at++)
        do field++;
        while (*field && *field != ' ');
    if (length && *field) {
        const char *text = field + 1;
        number(&text, ' ', &start_time);
    }
    own_pid = pid;
    own_claim = (slot + 1) | (generation & 0xffffu) << 8 | ((uint64_t)pid & 0x3fffffu) << 24 |
                (start_time & 0x3ffffu) << 46;
    may_claim = is_wanted(stat + name + 1, end > name ? end - name - 1 : 0);
    main_epoll = -1;
    __atomic_store_n(&mark->process, (uint64_t)1 << 32 | (uint64_t)pid, __ATOMIC_RELEASE);
}

/* Whoever comes here for the first time: a thread, or a process that was forked. That is seen by a
 * page that the kernel wipes in every child, however it was forked, and not by handlers, which
 * `_Fork` and a bare `clone` pass by. */
static __attribute__((noinline)) void meet(void) {
    int pid = pid_now();
    if (get(&mark->process) == 0) learn(pid);
    me.process = __atomic_load_n(&mark->process, __ATOMIC_ACQUIRE);
    me.is_main = raw(SYS_gettid, 0, 0, 0, 0, 0, 0) == pid;
    me.epolls = me.waits = me.leaves = 0;
}

/* Seccomp filters of this process. A filter that osps does not have may kill for a call that the
 * program itself never makes. */
static __attribute__((noinline)) uint64_t filters(void) {
    char status[4096];
    static const char key[] = "\nSeccomp_filters:\t";
    size_t length = contents("/proc/self/status", status, sizeof status);
    uint64_t count = 0;
    for (size_t at = 0; at + sizeof key < length; at++)
        if (is_named(key, status + at, sizeof key - 1)) {
            const char *text = status + at + sizeof key - 1;
            number(&text, '\n', &count);
        }
    return count;
}

/* Opens the segment by the inherited descriptor, or by name if the program closed that. */
static __attribute__((noinline)) long segment(uint64_t inherited, uint64_t device, uint64_t inode) {
    struct stat status;
    char path[4096];
    if (raw(SYS_fstat, (long)inherited, (long)&status, 0, 0, 0, 0) == 0 &&
        status.st_dev == device && status.st_ino == inode)
        return (long)inherited;
    const char *dir = variable(OSPS_ENV_RUN_DIR);
    size_t length = 0;
    for (; dir && dir[length]; length++) {
        if (length + sizeof "/segment" >= sizeof path) return -1;
        path[length] = dir[length];
    }
    memcpy(path + length, "/segment", sizeof "/segment");
    long file =
        raw(SYS_openat, AT_FDCWD, (long)path, O_RDWR | O_CLOEXEC | O_NOFOLLOW, 0, 0, 0);
    if (file < 0) return -1;
    if (raw(SYS_fstat, file, (long)&status, 0, 0, 0, 0) == 0 && status.st_dev == device &&
        status.st_ino == inode)
        return file;
    raw(SYS_close, file, 0, 0, 0, 0, 0);
    return -1;
}

/* Maps a part of the segment; whole pages of this machine. */
static char *mapped(long file, uint64_t offset, uint64_t size, int access) {
    uint64_t before = offset & (getauxval(AT_PAGESZ) - 1);
    long at = raw(SYS_mmap, 0, (long)(size + before), access, MAP_SHARED, file,
                  (long)(offset - before));
    return at < 0 && at >= -4095 ? NULL : (char *)at + before;
}

/* Maps the hearts and the page of the slot. OSPS_LOOP is made by the trampoline
 * (src/instance/exec.rs): DESCRIPTOR:DEVICE:INODE:FILTERS:MODE. */
static int look(void) {
    const char *told = variable("OSPS_LOOP");
    uint64_t inherited, device, inode, known;
    if (!number(&told, ':', &inherited) || !number(&told, ':', &device) ||
        !number(&told, ':', &inode) || !number(&told, ':', &known))
        return -1;
    by_descriptor = is_named("loops", told, 5) && !told[5];
    if (!by_descriptor && (!is_named("loop", told, 4) || told[4])) return -1;
    const char *text = variable(OSPS_ENV_SLOT);
    if (!number(&text, 0, &slot)) return -1;
    text = variable(OSPS_ENV_GENERATION);
    if (!number(&text, 0, &generation)) return -1;
    text = variable("OSPS_HEART_PROCESS");
    for (size_t at = 0; text && text[at]; at++) {
        if (at + 1 >= sizeof wanted) return -1; /* The name of no process. */
        wanted[at] = text[at];
    }
    if (filters() > known) return -1;
    long file = segment(inherited, device, inode);
    if (file < 0) return -1;
    int done = -1;
    uint64_t header[OSPS_HEADER_BEAT_INTERVAL_NS / 8];
    struct stat status;
    if (raw(SYS_fstat, file, (long)&status, 0, 0, 0, 0) != 0 ||
        raw(SYS_pread64, file, (long)header, sizeof header, 0, 0, 0) != sizeof header)
        goto close;
    uint64_t size = (uint64_t)status.st_size, hearts = header[OSPS_HEADER_HEARTS_OFFSET / 8],
             pages = header[OSPS_HEADER_SLOTS_OFFSET / 8];
    lines_count = header[OSPS_HEADER_HEARTS_COUNT / 8];
    slots_count = header[OSPS_HEADER_SLOTS_COUNT / 8];
    if (memcmp(header, OSPS_MAGIC, 8) != 0 || header[OSPS_HEADER_VERSION / 8] != OSPS_VERSION ||
        hearts % OSPS_PAGE || pages % OSPS_PAGE || hearts > size || pages > size ||
        lines_count > (size - hearts) / OSPS_HEART_SIZE || slots_count > lines_count ||
        slots_count > (size - pages) / OSPS_PAGE || slot >= slots_count)
        goto close;
    lines = (struct line *)(void *)mapped(file, hearts, lines_count * OSPS_HEART_SIZE,
                                          PROT_READ | PROT_WRITE);
    char *page = mapped(file, pages + slot * OSPS_PAGE, OSPS_PAGE, PROT_READ);
    long wiped = raw(SYS_mmap, 0, OSPS_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                     -1, 0);
    if (!lines || !page || (wiped < 0 && wiped >= -4095) ||
        raw(SYS_madvise, wiped, OSPS_PAGE, MADV_WIPEONFORK, 0, 0, 0) != 0)
        goto close;
    if (by_descriptor && pthread_key_create && pthread_key_create(&at_thread_exit, thread_exits))
        goto close;
    mark = (struct mark *)wiped;
    own_line = &lines[slot];
    running = (uint64_t *)(void *)(page + OSPS_SERVER_GENERATION);
    if (get(running) != generation) goto close;
    meet();
    /* The program that this one was before its exec may have claimed lines and waited; whether this
     * one does remains to be seen. Not judged until then. */
    leave(own_line);
    for (uint64_t at = slots_count; at < lines_count; at++) leave(&lines[at]);
    /* Until somebody beats, the stamp tells that the shim is there. */
    if ((get(&own_line->claim) >> 24 & 0x3fffffu) == 0 &&
        get(&own_line->count) == get((uint64_t *)(void *)(page + OSPS_SERVER_BASELINE)))
        set(&own_line->stamp, (uint64_t)own_pid);
    done = 1;
close:
    if (file != (long)inherited) raw(SYS_close, file, 0, 0, 0, 0, 0);
    return done;
}

/* The C library may not have an environment yet when constructors run: then the first wait looks. */
__attribute__((constructor)) static void start(void) {
    if (!__atomic_load_n(&is_looked_up, __ATOMIC_ACQUIRE)) look_up();
    if (environ && state == 0) state = look();
}

/* From now on nothing: no system call is made that the program itself would not make. */
static void hide(void) {
    /* A forked child that has not waited yet holds nothing. */
    int holds = state == 1 && get(&mark->process) != 0;
    if (holds && pid_now() != own_pid) return; /* This memory is another process's, too. */
    __atomic_store_n(&state, -1, __ATOMIC_SEQ_CST);
    if (!holds) return;
    for (unsigned fd = 0; by_descriptor && fd < LOOPS_MAX; fd++) forget(&loops[fd]);
    leave(own_line);
}

/* ---- Waiting --------------------------------------------------------------------------------- */

/* An event wait, and how its caller wants it. */
struct wait {
    enum { EPOLL, EPOLL2, POLL, SELECT } kind;
    int count; /* most events, or the number of descriptors behind the highest one */
    int epoll;
    void *events;
    nfds_t files;
    fd_set *sets[3];
    const sigset_t *mask;
    struct line *line; /* where it beats; NULL = that is not known yet */
    struct loop *loop; /* loops: its descriptor */
    char *depth;       /* where on its stack the caller stands */
};

/* loop: whether a wait of the main thread on this epoll descriptor is one of its event loop. */
static inline int is_of_loop(int fd, char *depth) {
    size_t below = (size_t)(me.depth - depth);
    if (fd != main_epoll && main_epoll >= 0 && me.depth > depth && below >= NESTED_MIN &&
        below <= NESTED_MAX)
        return 0;
    main_epoll = fd;
    me.depth = depth;
    return 1;
}

/* Makes the line that a wait beats in this process's. */
static int take(struct wait *wait) {
    if (!wait->loop) return claim_own();
    if (!wait->line) wait->line = assign(wait->loop);
    return wait->line && (wait->line != own_line || claim_own());
}

/* The line is not ours yet: whether this wait may become a beating one. */
static __attribute__((noinline)) int enter_first(struct wait *wait, uint64_t span) {
    unsigned *waits = wait->loop ? &wait->loop->waits : &me.waits;
    if (wait->line && wait->line != own_line) {
        /* A further line that the watchdog freed. */
        __atomic_store_n(&wait->loop->line, NULL, __ATOMIC_RELAXED);
        wait->line = NULL;
    }
    if (span == 0 || !may_claim || get(running) != generation ||
        (!wait->loop && is_taken(get(&own_line->claim))))
        return 0;
    *waits += *waits < WAITS;
    if (*waits < WAITS) return 1;
    if (!take(wait)) return 0;
    beat(wait->line);
    return 1;
}

/* Whether a wait is one of an event loop: then it beats, now and later, and is cut into slices. */
static inline int enter(struct wait *wait, int is_epoll, uint64_t span) {
    if (UNLIKELY(state != 1)) {
        start();
        if (state != 1) return 0;
    }
    if (UNLIKELY(me.process != __atomic_load_n(&mark->process, __ATOMIC_ACQUIRE))) meet();
    if (by_descriptor) {
        wait->loop = is_epoll ? loop_of(wait->epoll) : NULL;
        if (!wait->loop) return 0;
        wait->line = __atomic_load_n(&wait->loop->line, __ATOMIC_RELAXED);
    } else {
        if (!me.is_main) return 0;
        wait->depth = __builtin_frame_address(0);
        if (me.epolls < WAITS)
            me.epolls += is_epoll != 0;
        else if (!is_epoll || !is_of_loop(wait->epoll, wait->depth))
            return 0;
        wait->line = own_line;
    }
    if (UNLIKELY(!wait->line || !is_ours(wait->line))) return enter_first(wait, span);
    beat(wait->line);
    return 1;
}

/* Waits once, for so many nanoseconds. */
static inline int once(const struct wait *wait, uint64_t span, const sigset_t *mask) {
    struct timespec time = {(time_t)(span / SECOND), (long)(span % SECOND)};
    const struct timespec *timeout = span == FOREVER ? NULL : &time;
    /* A part of a millisecond is a whole one: never too short. */
    uint64_t ms = span / 1000000u + (span % 1000000u != 0);
    int timeout_ms;
    switch (wait->kind) {
    case EPOLL:
        timeout_ms = ms > INT32_MAX ? -1 : (int)ms;
        /* Without a mask the call without one is faster. */
        if (!mask) return real_epoll_wait(wait->epoll, wait->events, wait->count, timeout_ms);
        return real_epoll_pwait(wait->epoll, wait->events, wait->count, timeout_ms, mask);
    case EPOLL2:
        return real_epoll_pwait2(wait->epoll, wait->events, wait->count, timeout, mask);
    case POLL:
        return real_ppoll(wait->events, wait->files, timeout, mask);
    case SELECT:
        return real_pselect(wait->count, wait->sets[0], wait->sets[1], wait->sets[2], timeout,
                            mask);
    }
    return -1;
}

/* The sets of a select before it was called: each slice needs fresh ones. */
struct sets {
    unsigned char before[3][sizeof(fd_set)];
};

static void copy_sets(const struct wait *wait, struct sets *sets, int back) {
    size_t bytes = ((size_t)wait->count + 63) / 64 * 8;
    for (int set = 0; set < 3; set++)
        if (wait->sets[set])
            memcpy(back ? (void *)wait->sets[set] : sets->before[set],
                   back ? (void *)sets->before[set] : wait->sets[set], bytes);
}

/* The rest of a wait that found nothing at once: in slices, all signals blocked outside and the
 * caller's mask inside them, so that none falls between two and EINTR is seen as ever. */
static int slices(struct wait *wait, uint64_t span, struct sets *sets) {
    /* A child of vfork, or another process that shares this memory, must not wait as its parent. */
    if (pid_now() != own_pid) {
        if (sets) copy_sets(wait, sets, 1);
        return once(wait, span, wait->mask);
    }
    uint64_t limit = get(&own_line->limit);
    uint64_t slice = limit >= LIMIT_MIN && limit <= LIMIT_MAX ? limit / 4 : LIMIT_MIN;
    uint64_t begun = span == FOREVER ? 0 : clock_ns(CLOCK_MONOTONIC);
    uint64_t left = span, passed, rested = 0;
    int is_beating = wait->line && is_ours(wait->line), is_refused = 0;
    sigset_t all, before;
    memset(&all, 0xff, sizeof all);
    sigprocmask(SIG_SETMASK, &all, &before);
    const sigset_t *mask = wait->mask ? wait->mask : &before;
    int result;
    for (;;) {
        if (sets) copy_sets(wait, sets, 1);
        uint64_t next = is_beating || slice < REST || is_refused ? slice : REST;
        int is_last = left <= next;
        result = once(wait, is_last ? left : next, mask);
        if (result != 0 || is_last) break;
        /* Whoever rests for long in epoll has come to its loop, however few its waits were: its
         * first callback may be the one that blocks. */
        rested += next;
        if (wait->depth && rested >= SETTLED && me.epolls < WAITS && wait->kind <= EPOLL2 &&
            is_of_loop(wait->epoll, wait->depth))
            me.epolls = WAITS;
        /* It rests here: an event loop, if nobody else is the one. */
        if (!is_beating) is_beating = take(wait);
        is_beating = is_beating && is_ours(wait->line);
        if (is_beating)
            beat(wait->line);
        else
            slice = FOREVER, is_refused = 1; /* The rest in one piece, as without the shim. */
        if (span == FOREVER) continue;
        passed = clock_ns(CLOCK_MONOTONIC) - begun;
        left = passed < span ? span - passed : 0;
    }
    int reason = errno;
    /* Here handlers run of what came meanwhile. */
    sigprocmask(SIG_SETMASK, &before, NULL);
    if (result < 0) errno = reason;
    return result;
}

static inline int waited(struct wait *wait, uint64_t span, struct sets *sets) {
    /* Whoever has work waits for nothing, and pays for no slice. */
    int result = once(wait, 0, wait->mask);
    int is_short = result != 0 || span == 0;
    if (!is_short) result = slices(wait, span, sets);
    if (wait->line && is_ours(wait->line)) {
        /* The clock that was read on entering is coarser than a short wait is long. */
        if (is_short)
            again(wait->line);
        else
            beat(wait->line);
    }
    return result;
}

/* Nanoseconds; what does not fit is as good as forever. */
static int is_span(const struct timespec *time, uint64_t *span) {
    *span = FOREVER;
    if (!time) return 1;
    /* The kernel says what is wrong with it. */
    if (time->tv_sec < 0 || time->tv_nsec < 0 || time->tv_nsec >= SECOND) return 0;
    if ((uint64_t)time->tv_sec < UINT64_MAX / SECOND - 1)
        *span = (uint64_t)time->tv_sec * SECOND + (uint64_t)time->tv_nsec;
    return 1;
}

static uint64_t of_ms(int ms) { return ms < 0 ? FOREVER : (uint64_t)ms * 1000000u; }

EXPORT int epoll_pwait(int epoll, struct epoll_event *events, int most, int timeout,
                       const sigset_t *mask) {
    struct wait wait = {.kind = EPOLL, .count = most, .epoll = epoll, .events = events,
                        .mask = mask};
    if (!enter(&wait, 1, of_ms(timeout)))
        return real_epoll_pwait(epoll, events, most, timeout, mask);
    return waited(&wait, of_ms(timeout), NULL);
}

EXPORT int epoll_wait(int epoll, struct epoll_event *events, int most, int timeout) {
    struct wait wait = {.kind = EPOLL, .count = most, .epoll = epoll, .events = events};
    if (!enter(&wait, 1, of_ms(timeout))) return real_epoll_wait(epoll, events, most, timeout);
    return waited(&wait, of_ms(timeout), NULL);
}

EXPORT int epoll_pwait2(int epoll, struct epoll_event *events, int most,
                        const struct timespec *timeout, const sigset_t *mask) {
    uint64_t span;
    struct wait wait = {.kind = EPOLL2, .count = most, .epoll = epoll, .events = events,
                        .mask = mask};
    if (!is_span(timeout, &span) || !enter(&wait, 1, span))
        return real_epoll_pwait2(epoll, events, most, timeout, mask);
    return waited(&wait, span, NULL);
}

EXPORT int ppoll(struct pollfd *files, nfds_t count, const struct timespec *timeout,
                 const sigset_t *mask) {
    uint64_t span;
    struct wait wait = {.kind = POLL, .events = files, .files = count, .mask = mask};
    if (!is_span(timeout, &span) || !enter(&wait, 0, span))
        return real_ppoll(files, count, timeout, mask);
    return waited(&wait, span, NULL);
}

EXPORT int poll(struct pollfd *files, nfds_t count, int timeout) {
    struct timespec time = {timeout / 1000, timeout % 1000 * 1000000};
    struct wait wait = {.kind = POLL, .events = files, .files = count};
    if (!enter(&wait, 0, of_ms(timeout)))
        return REAL(poll, real_ppoll(files, count, timeout < 0 ? NULL : &time, NULL), files, count,
                    timeout);
    return waited(&wait, of_ms(timeout), NULL);
}

/* How programs that were built with -D_FORTIFY_SOURCE call them. The C library's own complain and
 * end the program where the array is too small for the count. */
EXPORT int __poll_chk(struct pollfd *files, nfds_t count, int timeout, size_t bytes) {
    if (bytes / sizeof *files < count)
        return REAL(__poll_chk, -1, files, count, timeout, bytes);
    return poll(files, count, timeout);
}

EXPORT int __ppoll_chk(struct pollfd *files, nfds_t count, const struct timespec *timeout,
                       const sigset_t *mask, size_t bytes) {
    if (bytes / sizeof *files < count)
        return REAL(__ppoll_chk, -1, files, count, timeout, mask, bytes);
    return ppoll(files, count, timeout, mask);
}

static __attribute__((noinline)) int selected(struct wait *wait, uint64_t span) {
    struct sets sets;
    copy_sets(wait, &sets, 0);
    return waited(wait, span, &sets);
}

/* Whether a select may be cut into slices. With more descriptors than a set of the C library has
 * room for nobody knows how large its sets are: the kernel takes no more than there are descriptors.
 * Its program goes unwatched. */
static int enter_select(struct wait *wait, uint64_t span) {
    if (wait->count < 0 || !enter(wait, 0, span)) return 0;
    if (wait->count <= FD_SETSIZE) return 1;
    leave(own_line);
    may_claim = 0;
    return 0;
}

EXPORT int pselect(int count, fd_set *reads, fd_set *writes, fd_set *excepts,
                   const struct timespec *timeout, const sigset_t *mask) {
    uint64_t span;
    struct wait wait = {.kind = SELECT, .count = count, .sets = {reads, writes, excepts},
                        .mask = mask};
    if (!is_span(timeout, &span) || !enter_select(&wait, span))
        return real_pselect(count, reads, writes, excepts, timeout, mask);
    return selected(&wait, span);
}

EXPORT int select(int count, fd_set *reads, fd_set *writes, fd_set *excepts,
                  struct timeval *timeout) {
    struct timespec time = {0, 0};
    uint64_t span = FOREVER;
    int is_valid = !timeout || (timeout->tv_sec >= 0 && timeout->tv_usec >= 0);
    if (timeout && is_valid) {
        /* A million microseconds and more are a second and more. */
        long carry = timeout->tv_usec / 1000000;
        int fits = timeout->tv_sec <= INT64_MAX - carry;
        time.tv_sec = fits ? timeout->tv_sec + carry : INT64_MAX;
        time.tv_nsec = timeout->tv_usec % 1000000 * 1000;
        is_span(&time, &span);
    }
    struct wait wait = {.kind = SELECT, .count = count, .sets = {reads, writes, excepts}};
    if (!is_valid || !enter_select(&wait, span))
        return REAL(select,
                    real_pselect(count, reads, writes, excepts, timeout ? &time : NULL, NULL),
                    count, reads, writes, excepts, timeout);
    uint64_t begun = clock_ns(CLOCK_MONOTONIC);
    int result = selected(&wait, span);
    if (timeout && span != FOREVER) {
        /* Linux says how much was left, whatever the result. */
        uint64_t passed = clock_ns(CLOCK_MONOTONIC) - begun;
        uint64_t left = passed < span ? span - passed : 0;
        timeout->tv_sec = (time_t)(left / SECOND);
        timeout->tv_usec = (suseconds_t)(left % SECOND / 1000);
    }
    return result;
}

/* ---- Taking clients -------------------------------------------------------------------------- */

/* A server with more clients than it can take waits for none of them: gunicorn's workers go from one
 * `accept` to the next, and select only when nobody is there. So a client that was taken is a turn,
 * in a loop that is one already and does not wait in epoll. It claims nothing: to wait here for ever
 * is the way of programs that are no event loops. */
static int taken(int client) {
    int is_turn = client >= 0 && state == 1 && !by_descriptor && me.is_main && me.epolls < WAITS &&
                  me.process == get(&mark->process) && is_ours(own_line);
    if (is_turn) beat(own_line);
    return client;
}

EXPORT int accept(int fd, struct sockaddr *address, socklen_t *length) {
    return taken(REAL(accept, told(raw(SYS_accept, fd, (long)address, (long)length, 0, 0, 0)), fd,
                      address, length));
}

EXPORT int accept4(int fd, struct sockaddr *address, socklen_t *length, int flags) {
    return taken(REAL(accept4, told(raw(SYS_accept4, fd, (long)address, (long)length, flags, 0, 0)),
                      fd, address, length, flags));
}

/* ---- What ends a heart ----------------------------------------------------------------------- */

EXPORT int close(int fd) {
    if (fd >= 0) forget_range((unsigned)fd, (unsigned)fd);
    return REAL(close, told(raw(SYS_close, fd, 0, 0, 0, 0, 0)), fd);
}

EXPORT int dup2(int from, int to) {
    if (from != to && to >= 0) forget_range((unsigned)to, (unsigned)to);
    return REAL(dup2, told(from == to ? to : raw(SYS_dup3, from, to, 0, 0, 0, 0)), from, to);
}

EXPORT int dup3(int from, int to, int flags) {
    if (from != to && to >= 0) forget_range((unsigned)to, (unsigned)to);
    return REAL(dup3, told(raw(SYS_dup3, from, to, flags, 0, 0, 0)), from, to, flags);
}

#ifndef SYS_close_range
#define SYS_close_range 436
#endif

EXPORT int close_range(unsigned first, unsigned last, int flags) {
    /* Any flag leaves them open here: in another table, or until an exec. */
    if (!flags) forget_range(first, last);
    return REAL(close_range, told(raw(SYS_close_range, first, last, flags, 0, 0, 0)), first, last,
                flags);
}

/* A filter that the program gives itself: some kill for what is done here. A question whether the
 * kernel knows filters has no filter behind it. Both go to the kernel as the C library's do: they are
 * called where nothing may be looked up, by allocators for one. */
EXPORT int prctl(int option, ...) {
    va_list rest;
    va_start(rest, option);
    unsigned long a = va_arg(rest, unsigned long), b = va_arg(rest, unsigned long),
                  c = va_arg(rest, unsigned long), d = va_arg(rest, unsigned long);
    va_end(rest);
    if (option == PR_SET_SECCOMP && (a == SECCOMP_MODE_STRICT || b)) hide();
    return (int)told(raw(SYS_prctl, option, (long)a, (long)b, (long)c, (long)d, 0));
}

EXPORT long syscall(long number, ...) {
    va_list rest;
    va_start(rest, number);
    long a = va_arg(rest, long), b = va_arg(rest, long), c = va_arg(rest, long),
         d = va_arg(rest, long), e = va_arg(rest, long), f = va_arg(rest, long);
    va_end(rest);
    if ((number == SYS_seccomp &&
         (a == SECCOMP_SET_MODE_STRICT || (a == SECCOMP_SET_MODE_FILTER && c))) ||
        (number == SYS_prctl && a == PR_SET_SECCOMP && (b == SECCOMP_MODE_STRICT || c)))
        hide();
    return told(raw(number, a, b, c, d, e, f));
}
