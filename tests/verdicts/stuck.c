/* A program whose loop turns and beats for a while, and then hangs in a way that it is told:
 *
 *     stuck HEART STATE [ARGUMENT]
 *
 * It says `stuck GENERATION` just before. Two more words make a tool of it: `- trace TID` holds a
 * thread by ptrace until its input ends, `- hogs COUNT` takes all the processors there are. */

#define _GNU_SOURCE
#include "osps.h"
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>

/* Turns of its loop before it hangs, and how long one takes. */
enum { TURNS = 30, TURN_MS = 20 };

static const char *kind, *argument;
static osps_heart heart;
static int notify = -1;

static void need(int done, const char *what) {
    if (done) return;
    perror(what);
    _exit(9);
}

static void nap(long ms) { poll(NULL, 0, ms); }

static uint64_t cpu_ms(void) {
    struct timespec used;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
    return (uint64_t)used.tv_sec * 1000 + (uint64_t)used.tv_nsec / 1000000;
}

static void work(uint64_t ms) {
    for (uint64_t end = cpu_ms() + ms; cpu_ms() < end;) continue;
}

/* ---- Hearts ---- */

static void tell(const char *what) {
    /* The watchdog may be paused, and then its queue is full: waiting is all right. */
    need(send(notify, what, strlen(what), 0) > 0, "send");
}

static void wake(void) {
    if (!strcmp(kind, "memory") && osps_open(&heart)) {
        fprintf(stderr, "%s\n", heart.error);
        exit(2);
    }
    if (strcmp(kind, "notify")) return;
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    strncpy(to.sun_path, getenv("NOTIFY_SOCKET"), sizeof to.sun_path - 1);
    socklen_t length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(to.sun_path));
    if (*to.sun_path == '@') *to.sun_path = 0;
    notify = socket(AF_UNIX, SOCK_DGRAM, 0);
    need(connect(notify, (void *)&to, length) == 0, "connect");
    tell("READY=1");
}

static void turn(void) {
    if (!strcmp(kind, "memory")) {
        osps_beat(&heart);
        if (osps_should_stop(&heart)) exit(0);
    } else if (!strcmp(kind, "notify")) {
        tell("WATCHDOG=1");
    }
    nap(TURN_MS); /* For the third kind this is the beat. */
}

static void turns(void) {
    for (;;) turn();
}

/* ---- Ways to hang ---- */

static void sleeps(void) {
    for (;;) pause();
}

static void *sleeper(void *none) {
    sleeps();
    return none;
}

static void thread(void *(*what)(void *)) {
    pthread_t made;
    need(pthread_create(&made, NULL, what, NULL) == 0, "pthread_create");
}

static pthread_mutex_t first = PTHREAD_MUTEX_INITIALIZER, second = PTHREAD_MUTEX_INITIALIZER;
static pthread_barrier_t both;

static void *other_way_round(void *none) {
    pthread_mutex_lock(&second);
    pthread_barrier_wait(&both);
    pthread_mutex_lock(&first);
    return none;
}

static void deadlock(void) {
    pthread_barrier_init(&both, NULL, 2);
    pthread_mutex_lock(&first);
    thread(other_way_round);
    pthread_barrier_wait(&both);
    pthread_mutex_lock(&second);
}

static void fifo(void) {
    mkfifo(argument, 0600);
    int end = open(argument, O_RDWR);
    char byte;
    need(end >= 0 && read(end, &byte, 1), "fifo");
}

static void full(void) {
    int ends[2];
    need(pipe(ends) == 0, "pipe");
    for (char page[4096] = {0};;) need(write(ends[1], page, sizeof page) > 0, "write");
}

static void answer(void) {
    int ends[2];
    char byte;
    need(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0, "socketpair");
    need(read(ends[0], &byte, 1) > 0, "read");
}

static void child(void) {
    pid_t made = fork();
    if (made == 0) sleeps();
    waitpid(made, NULL, 0);
}

/* Until its child goes or executes something, a parent waits without listening to signals. */
static void vforks(void) {
    if (vfork() == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;) pause();
    }
}

static void *vforker(void *none) {
    vforks();
    return none;
}

static void *spinner(void *none) {
    for (volatile int on = 1; on;) continue;
    return none;
}

static void spins(void) { spinner(NULL); }

/* One call that takes seconds. */
static void kernel(void) {
    static char buffer[1 << 21];
    struct iovec many[1024];
    for (int i = 0; i < 1024; i++) many[i] = (struct iovec){buffer, sizeof buffer};
    int source = open("/dev/urandom", O_RDONLY);
    for (;;) need(readv(source, many, 1024) > 0, "readv");
}

static void naps(void) {
    for (;;) work(15), usleep(1000);
}

/* At work now and then: a look may meet it running. */
static void *ticker(void *none) {
    for (;;) work(1), usleep(49000);
    return none;
}

static void sleeps_beside(void *(*what)(void *), int count) {
    while (count--) thread(what);
    sleeps();
}

static void beside_spinner(void) { sleeps_beside(spinner, 1); }
static void beside_tickers(void) { sleeps_beside(ticker, 8); }
static void beside_vforker(void) { sleeps_beside(vforker, 1); }

static void vforks_beside_spinner(void) {
    thread(spinner);
    vforks();
}

static void leader_leaves(void) {
    thread(sleeper);
    pthread_exit(NULL);
}

static void stops(void) { raise(SIGSTOP); }

/* ---- Other programs ---- */

/* A second heart in a thread of its own, which hangs while the first goes on. */
static void *writer(void *none) {
    osps_heart own;
    need(osps_open_named(&own, "writer", 0) == 0, "osps_open_named");
    for (int i = 0; i < TURNS; i++) osps_beat(&own), nap(TURN_MS);
    printf("stuck %s\n", getenv("OSPS_GENERATION"));
    fflush(stdout);
    sleeps();
    return none;
}

static void writes(void) {
    int out = open(argument, O_WRONLY | O_CREAT | O_APPEND, 0600);
    for (need(out >= 0, "open");; turn()) need(write(out, ".", 1) == 1, "write");
}

static void works(void) {
    for (uint64_t ms = strtoull(argument, NULL, 10);; turn()) work(ms);
}

static int ends[2];

static void *echo(void *none) {
    for (char byte; read(ends[1], &byte, 1) == 1;) need(write(ends[1], &byte, 1) == 1, "echo");
    return none;
}

/* Each turn is passed to a second thread and back. */
static void relays(void) {
    need(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0, "socketpair");
    thread(echo);
    for (char byte = 0;; turn()) {
        need(write(ends[0], &byte, 1) == 1 && read(ends[0], &byte, 1) == 1, "relay");
    }
}

static void traces(void) {
    pid_t tid = atoi(argument);
    char byte;
    need(ptrace(PTRACE_SEIZE, tid, 0, 0) == 0, "seize");
    need(ptrace(PTRACE_INTERRUPT, tid, 0, 0) == 0, "interrupt");
    need(waitpid(tid, NULL, __WALL) == tid, "wait");
    puts("held");
    fflush(stdout);
    while (read(0, &byte, 1) > 0) continue;
    ptrace(PTRACE_DETACH, tid, 0, 0);
}

/* Each in a session of its own: a kernel that shares out by sessions would take them for one. */
static void hogs(void) {
    for (int count = atoi(argument); count--;) {
        if (fork()) continue;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        setsid();
        spins();
    }
    sleeps();
}

static const struct {
    const char *word;
    void (*hang)(void);
} STATES[] = {
    {"sleeps", sleeps},
    {"deadlock", deadlock},
    {"fifo", fifo},
    {"full", full},
    {"answer", answer},
    {"child", child},
    {"vforks", vforks},
    {"spins", spins},
    {"kernel", kernel},
    {"naps", naps},
    {"beside-spinner", beside_spinner},
    {"beside-tickers", beside_tickers},
    {"beside-vforker", beside_vforker},
    {"vforks-beside-spinner", vforks_beside_spinner},
    {"leader-leaves", leader_leaves},
    {"stops", stops},
};

int main(int count, char **words) {
    kind = count > 1 ? words[1] : "";
    const char *state = count > 2 ? words[2] : "";
    argument = count > 3 ? words[3] : "";
    if (!strcmp(state, "trace")) return traces(), 0;
    if (!strcmp(state, "hogs")) return hogs(), 0;
    if (!strcmp(state, "never")) sleeps();
    wake();
    if (!strcmp(state, "turns")) turns();
    if (!strcmp(state, "writes")) writes();
    if (!strcmp(state, "works")) works();
    if (!strcmp(state, "relays")) relays();
    if (!strcmp(state, "writer")) thread(writer), turns();
    for (int i = 0; i < TURNS; i++) turn();
    for (size_t i = 0; i < sizeof STATES / sizeof *STATES; i++) {
        if (strcmp(state, STATES[i].word)) continue;
        printf("stuck %s\n", getenv("OSPS_GENERATION"));
        fflush(stdout);
        STATES[i].hang();
    }
    return fprintf(stderr, "%s: no such state\n", state), 2;
}
