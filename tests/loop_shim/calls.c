/* Event waits, and what came of them in words that do not depend on the moment: run with and without
 * the shim, the words are the same. What to do is the first argument. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { EPOLL_WAIT, EPOLL_PWAIT, EPOLL_PWAIT2, POLL, PPOLL, SELECT, PSELECT, POLL_CHK, PPOLL_CHK, KINDS };
static const char *const NAMES[] = {"epoll_wait", "epoll_pwait", "epoll_pwait2", "poll", "ppoll",
                                    "select", "pselect", "__poll_chk", "__ppoll_chk"};
int __poll_chk(struct pollfd *, nfds_t, int, size_t);
int __ppoll_chk(struct pollfd *, nfds_t, const struct timespec *, const sigset_t *, size_t);

static uint64_t seed;
static unsigned below(unsigned limit) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(seed >> 33) % limit;
}

static int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static volatile sig_atomic_t handled, in_handler_blocked;
static void on_signal(int number) {
    (void)number;
    sigset_t mask;
    sigprocmask(SIG_SETMASK, NULL, &mask);
    in_handler_blocked = sigismember(&mask, SIGUSR2);
    handled++;
}

/* A timer that fires once. */
static void alarm_in(unsigned ms) {
    struct itimerval timer = {{0, 0}, {ms / 1000, ms % 1000 * 1000}};
    setitimer(ITIMER_REAL, &timer, NULL);
}

static int epoll = -1, event = -1;

/* One wait, of so many microseconds or for ever (negative), on `event`; how much a select left. */
static int waited(int kind, long us, const sigset_t *mask, long *left) {
    struct epoll_event events[2];
    struct pollfd file = {event, POLLIN, 0};
    struct timespec time = {us / 1000000, us % 1000000 * 1000}, *timeout = us < 0 ? NULL : &time;
    struct timeval interval = {us / 1000000, us % 1000000};
    int ms = us < 0 ? -1 : (int)(us / 1000), result;
    fd_set reads, writes;
    FD_ZERO(&reads);
    FD_ZERO(&writes);
    if (event >= 0) FD_SET(event, &reads);
    switch (kind) {
    case EPOLL_WAIT: return epoll_wait(epoll, events, 2, ms);
    case EPOLL_PWAIT: return epoll_pwait(epoll, events, 2, ms, mask);
    case EPOLL_PWAIT2: return epoll_pwait2(epoll, events, 2, timeout, mask);
    case POLL: return poll(&file, 1, ms);
    case PPOLL: return ppoll(&file, 1, timeout, mask);
    case POLL_CHK: return __poll_chk(&file, 1, ms, sizeof file);
    case PPOLL_CHK: return __ppoll_chk(&file, 1, timeout, mask, sizeof file);
    case SELECT:
        result = select(event + 1, &reads, &writes, NULL, us < 0 ? NULL : &interval);
        *left = interval.tv_sec * 1000000 + interval.tv_usec;
        break;
    default: result = pselect(event + 1, &reads, &writes, NULL, timeout, mask);
    }
    if (result >= 0 && event >= 0 && FD_ISSET(event, &reads) != (result > 0)) printf("wrong set\n");
    return result;
}

static void open_event(int ready) {
    struct epoll_event wanted = {EPOLLIN, {0}};
    event = eventfd((unsigned)ready, EFD_NONBLOCK);
    epoll = epoll_create1(0);
    epoll_ctl(epoll, EPOLL_CTL_ADD, event, &wanted);
}

static void close_event(void) {
    close(event);
    close(epoll);
}

static int same_mask(const sigset_t *before) {
    sigset_t after;
    sigprocmask(SIG_SETMASK, NULL, &after);
    for (int number = 1; number < 65; number++)
        if (sigismember(before, number) != sigismember(&after, number)) return 0;
    return 1;
}

/* Waits of every kind: nothing, something at once, something later, a signal, a closed descriptor. */
static void random_waits(int turns) {
    for (int turn = 0; turn < turns; turn++) {
        int kind = (int)below(KINDS), what = (int)below(5), error;
        long us = (long)below(40) * 1000, left = 0;
        int whole_ms = kind <= EPOLL_PWAIT || kind == POLL || kind == POLL_CHK;
        if (!whole_ms) us += (long)below(1000);
        sigset_t before, empty;
        sigprocmask(SIG_SETMASK, NULL, &before);
        sigemptyset(&empty);
        open_event(what == 1);
        pid_t child = 0;
        int late = 5 + (int)below(30);
        if (what == 2) { /* ready in the midst of it */
            us = 10000000;
            child = fork();
            if (child == 0) {
                usleep((useconds_t)late * 1000);
                uint64_t one = 1;
                _exit(write(event, &one, 8) != 8);
            }
        }
        if (what == 3) { /* a signal in the midst of it */
            us = below(2) ? -1 : 10000000;
            alarm_in((unsigned)late);
        }
        if (what == 4) close_event();
        errno = 77;
        int64_t begun = now();
        int result = waited(kind, us, below(2) ? &empty : NULL, &left);
        error = errno;
        int64_t took = now() - begun;
        printf("%d %s %d: %d %s", turn, NAMES[kind], what, result,
               result < 0 ? strerror(error) : error == 77 ? "" : "errno changed");
        if (result == 0 && took < (int64_t)us * 1000) printf(" short by %ld us", us - (long)(took / 1000));
        if (took > 8000000000) printf(" too long");
        if ((what == 2 || what == 3) && took < (int64_t)(late - 4) * 1000000) printf(" early");
        if (!same_mask(&before)) printf(" mask changed");
        if (kind == SELECT && us >= 0 && what != 4) {
            long rest = us - (long)(took / 1000);
            if (rest < 0) rest = 0;
            if (left < rest - 1000 || left > rest + 500000 || left > us) printf(" left %ld of %ld", left, rest);
        }
        printf("\n");
        if (what != 4) close_event();
        if (child > 0) waitpid(child, NULL, 0);
        alarm_in(0);
    }
    printf("signals well handled: %d\n", handled > 0);
}

/* Blocked outside, let in inside: no signal may be lost, wherever it falls. */
static void exact_signals(int turns) {
    sigset_t blocked, inside, empty;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGALRM);
    sigaddset(&blocked, SIGUSR2);
    sigprocmask(SIG_BLOCK, &blocked, NULL);
    sigemptyset(&empty);
    sigemptyset(&inside);
    sigaddset(&inside, SIGUSR2);
    static const int KIND[] = {EPOLL_PWAIT, EPOLL_PWAIT2, PPOLL, PSELECT, PPOLL_CHK};
    int wrong = 0;
    open_event(0);
    for (int turn = 0; turn < turns; turn++) {
        int before = handled;
        long left;
        raise(SIGUSR2); /* stays out */
        alarm_in(below(12));
        if (below(3) == 0) usleep(below(13000));
        if (!below(20)) alarm_in(1 + below(3));
        int64_t begun = now();
        struct itimerval pending;
        getitimer(ITIMER_REAL, &pending);
        sigset_t waiting;
        sigpending(&waiting);
        int due = sigismember(&waiting, SIGALRM) || pending.it_value.tv_sec || pending.it_value.tv_usec;
        if (!due) alarm_in(2);
        int result = waited(KIND[below(5)], below(2) ? -1 : 10000000, &inside, &left);
        if (result != -1 || errno != EINTR || handled != before + 1 || !in_handler_blocked ||
            now() - begun > 8000000000)
            wrong++;
        sigpending(&waiting);
        if (!sigismember(&waiting, SIGUSR2)) wrong++;
        struct timespec none = {0, 0};
        sigtimedwait(&blocked, NULL, &none);
    }
    printf("wrong: %d\n", wrong);
    (void)empty;
}

/* The same answers to what is senseless. */
static void senseless(void) {
    struct timespec bad[] = {{-1, 0}, {0, -1}, {0, 1000000000}, {5, 2000000000}};
    struct epoll_event events[2];
    struct pollfd file = {0, 0, 0};
    fd_set set;
    FD_ZERO(&set);
    open_event(1);
    for (int at = 0; at < 4; at++) {
        int result = ppoll(&file, 0, &bad[at], NULL);
        printf("ppoll %d %d\n", result, errno);
        result = pselect(0, NULL, NULL, NULL, &bad[at], NULL);
        printf("pselect %d %d\n", result, errno);
        result = epoll_pwait2(epoll, events, 2, &bad[at], NULL);
        printf("epoll_pwait2 %d %d\n", result, errno);
    }
    struct timeval odd[] = {{-1, 0}, {0, -1}, {0, 1500000 / 100}, {0, 0}};
    for (int at = 0; at < 4; at++) {
        int result = select(0, NULL, NULL, NULL, &odd[at]);
        printf("select %d %d\n", result, result < 0 ? errno : 0);
    }
    struct { int epoll, most; void *events; } wrong[] = {
        {-1, 2, events}, {0, 2, events}, {9999, 2, events}, {epoll, 0, events}, {epoll, -1, events}, {epoll, 2, (void *)8}};
    for (int at = 0; at < 6; at++) {
        int result = epoll_wait(wrong[at].epoll, wrong[at].events, wrong[at].most, 10);
        printf("epoll_wait %d %d\n", result, result < 0 ? errno : 0);
        result = epoll_pwait(wrong[at].epoll, wrong[at].events, wrong[at].most, 10, NULL);
        printf("epoll_pwait %d %d\n", result, result < 0 ? errno : 0);
    }
    void *volatile nowhere = (void *)8;
    struct pollfd *volatile one = &file;
    printf("poll %d", poll(nowhere, 1, 10));
    printf(" %d\n", errno);
    printf("poll %d", poll(one, 1u << 31, 10));
    printf(" %d\n", errno);
    printf("select %d", select(-1, &set, NULL, NULL, NULL));
    printf(" %d\n", errno);
    FD_SET(60, &set);
    printf("select %d", select(61, &set, NULL, NULL, NULL));
    printf(" %d\n", errno);
    printf("poll %d\n", poll(NULL, 0, 30));
    printf("close %d", close(-1));
    printf(" %d\n", errno);
    printf("dup2 %d %d\n", dup2(epoll, 50), dup2(50, 50));
    printf("dup3 %d", dup3(50, 50, 0));
    printf(" %d\n", errno);
    printf("close_range %d\n", close_range(50, 60, 0));
    printf("syscall %d\n", syscall(SYS_getppid) > 0);
    printf("syscall %ld", syscall(-5));
    printf(" %d\n", errno);
}

static void turn_over(int turns, int kind, long us) {
    long left;
    for (int turn = 0; turn < turns; turn++) waited(kind, us, NULL, &left);
}

/* A filter that forbids nothing, for all threads. */
static void *shuts_in(void *unused) {
    struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {1, &allow};
    usleep(300000);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    printf("filtered %ld\n", syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program));
    return unused;
}

/* As small as a stack may be. */
static void *selects(void *unused) {
    for (int turn = 0; turn < 5; turn++) {
        struct timeval time = {0, 1000};
        select(0, NULL, NULL, NULL, &time);
    }
    printf("small\n");
    return unused;
}

/* Waits on another descriptor from deep below. */
static void __attribute__((noinline)) turn_deep(int turns, long us) {
    volatile char room[8192];
    memset((void *)room, 1, sizeof room);
    turn_over(turns, EPOLL_WAIT, us);
    room[0] = 2;
}

static void *polls(void *unused) {
    struct pollfd file = {-1, 0, 0};
    for (;;) poll(&file, 1, 5);
    return unused;
}

/* Waits for a while as its own process would; then whether it has beaten is looked at. */
static int child_waits(void *unused) {
    turn_over(30, POLL, 10000);
    return unused != NULL;
}

int main(int count, char **words) {
    const char *what = count > 1 ? words[1] : "";
    seed = count > 2 ? strtoull(words[2], NULL, 10) : 1;
    setvbuf(stdout, NULL, _IOLBF, 0);
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGALRM, &action, NULL);
    if (!strcmp(what, "random")) {
        random_waits(120);
    } else if (!strcmp(what, "signals")) {
        exact_signals(300);
    } else if (!strcmp(what, "senseless")) {
        senseless();
    } else if (!strcmp(what, "kind")) { /* one kind, again and again */
        open_event(0);
        for (;;) turn_over(1, atoi(words[2]), -1 * (atoi(words[2]) == SELECT ? 1 : 1));
    } else if (!strcmp(what, "turns")) { /* so many waits that return at once, then silence */
        open_event(1);
        turn_over(atoi(words[3]), atoi(words[2]), 10000);
        printf("done\n");
        for (;;) pause();
    } else if (!strcmp(what, "longer")) { /* by how many us the median of such waits is too long */
        open_event(0);
        int64_t took[31];
        for (int turn = 0; turn < 31; turn++) {
            int64_t begun = now();
            turn_over(1, atoi(words[2]), 23000);
            took[turn] = (now() - begun) / 1000 - 23000;
            for (int at = turn; at > 0 && took[at] < took[at - 1]; at--) {
                int64_t swap = took[at];
                took[at] = took[at - 1], took[at - 1] = swap;
            }
        }
        printf("%ld\n", (long)took[15]);
    } else if (!strcmp(what, "threads")) { /* the main thread is stuck, another one polls */
        pthread_t thread;
        turn_over(3, POLL, 1000);
        pthread_create(&thread, NULL, polls, NULL);
        printf("done\n");
        for (;;) pause();
    } else if (!strcmp(what, "nested")) { /* poll after epoll, then epoll on another descriptor, deep below */
        open_event(1);
        turn_over(5, EPOLL_WAIT, 1000);
        printf("done\n");
        for (;;) {
            turn_over(1, POLL, 1000);
            turn_over(1, SELECT, 1000);
        }
    } else if (!strcmp(what, "fork") || !strcmp(what, "_Fork") || !strcmp(what, "clone") || !strcmp(what, "vfork")) {
        turn_over(3, POLL, 1000); /* claimed */
        pid_t child;
        if (*what == 'v') {
            printf("done\n");
            child = vfork();
        } else if (*what == 'c') {
            child = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
        } else if (*what == '_') {
            child = _Fork();
        } else {
            child = fork();
        }
        if (child == 0) {
            if (*what != 'v') printf("done\n");
            for (;;) child_waits(NULL);
        }
        for (;;) pause();
    } else if (!strcmp(what, "close")) { /* all descriptors closed before the first wait */
        close_range(3, ~0u, 0);
        printf("done\n");
        for (;;) turn_over(1, POLL, 5000);
    } else if (!strcmp(what, "user")) { /* another user in another root directory */
        if (chroot("/var/empty") && chroot("/proc/self/fdinfo")) printf("no chroot\n");
        if (chdir("/") || setgid(65534) || setuid(65534)) printf("not another user\n");
        printf("done\n");
        for (;;) turn_over(1, POLL, 5000);
    } else if (!strcmp(what, "strict")) { /* nothing but read, write and exit */
        turn_over(5, POLL, 1000);
        printf("done\n");
        syscall(SYS_seccomp, 0, 0, NULL);
        char byte;
        for (;;)
            if (read(0, &byte, 1) <= 0) syscall(SYS_exit, 0);
    } else if (!strcmp(what, "loops")) { /* two epoll descriptors: one waits, one is closed on request */
        open_event(1);
        int first = epoll;
        turn_over(5, EPOLL_WAIT, 1000);
        open_event(1);
        turn_over(5, EPOLL_WAIT, 1000);
        printf("two\n");
        getchar();
        close(epoll);
        printf("one\n");
        getchar();
        close(first);
        printf("none\n");
        getchar();
    } else if (!strcmp(what, "accepts")) { /* so many clients that it never waits; then silence */
        struct sockaddr_un address = {AF_UNIX, ""};
        int server = socket(AF_UNIX, SOCK_STREAM, 0);
        open_event(0);
        turn_over(3, POLL, 1000);
        snprintf(address.sun_path + 1, 64, "osps-test-%d", getpid());
        if (bind(server, (void *)&address, sizeof address) || listen(server, 8)) return 3;
        for (int turn = 0; turn < 500; turn++) {
            int client = socket(AF_UNIX, SOCK_STREAM, 0);
            if (connect(client, (void *)&address, sizeof address)) return 4;
            close(accept(server, NULL, NULL));
            close(client);
            usleep(1000);
        }
        printf("done\n");
        for (;;) pause();
    } else if (!strcmp(what, "looks")) { /* never waits: a look, and work */
        open_event(0);
        printf("done\n");
        for (;;) {
            turn_over(100, POLL, 0);
            turn_over(100, EPOLL_WAIT, 0);
        }
    } else if (!strcmp(what, "filter")) { /* by another thread, while the main one waits */
        pthread_t thread;
        open_event(0);
        pthread_create(&thread, NULL, shuts_in, NULL);
        for (;;) turn_over(1, EPOLL_WAIT, -1);
    } else if (!strcmp(what, "deeper")) { /* one loop ends, its number is reused, the next runs deep */
        open_event(0);
        turn_over(5, EPOLL_WAIT, 1000);
        int old = epoll;
        close(epoll);
        int other = dup(1);
        printf("%d\n", other == old);
        open_event(0);
        for (;;) turn_deep(1, 5000);
    } else if (!strcmp(what, "callback")) { /* a loop's callback waits in a loop of its own */
        open_event(0);
        turn_over(5, EPOLL_WAIT, 1000);
        printf("done\n");
        open_event(0);
        for (;;) turn_deep(1, 5000);
    } else if (!strcmp(what, "again")) { /* another program after two loops: itself, once */
        if (getenv("AGAIN")) {
            printf("again\n");
            for (;;) pause();
        }
        open_event(0);
        turn_over(5, EPOLL_WAIT, 1000);
        open_event(0);
        turn_over(5, EPOLL_WAIT, 1000);
        printf("two\n");
        getchar();
        setenv("AGAIN", "1", 1);
        execv("/proc/self/exe", words);
    } else if (!strcmp(what, "small")) {
        pthread_attr_t small;
        pthread_t thread;
        pthread_attr_init(&small);
        pthread_attr_setstacksize(&small, 16384);
        if (pthread_create(&thread, &small, selects, NULL)) return 3;
        pthread_join(thread, NULL);
    } else if (!strcmp(what, "many")) { /* the sum of what a select with more than there are does */
        struct rlimit limit = {4096, 4096};
        setrlimit(RLIMIT_NOFILE, &limit);
        struct {
            fd_set set;
            char behind[512];
        } room;
        for (int turn = 0; turn < 20; turn++) {
            memset(&room, 0, sizeof room);
            memset(room.behind, 42, sizeof room.behind);
            struct timeval time = {0, 5000};
            int result = select(getdtablesize(), &room.set, NULL, NULL, &time), wrong = 0;
            for (size_t at = 0; at < sizeof room.behind; at++) wrong += room.behind[at] != 42;
            printf("%d %d\n", result, wrong);
        }
    } else if (!strcmp(what, "cost")) { /* ns of a wait that returns at once */
        struct epoll_event events[2];
        open_event(1);
        for (int turn = 0; turn < 10000; turn++) epoll_wait(epoll, events, 2, -1);
        int64_t begun = now();
        for (int turn = 0; turn < 200000; turn++) epoll_wait(epoll, events, 2, -1);
        printf("%ld\n", (long)((now() - begun) / 200000));
    } else {
        return 2;
    }
    return 0;
}
