/* Freezes a server in its own code: preloaded, it stops for ever in the next accept once the file
 * $FREEZE is there. It waits in a signal that never comes, and in no event call. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static char file[4096];

/* Kept, since nginx writes its title over its environment. */
__attribute__((constructor)) static void start(void) {
    const char *name = getenv("FREEZE");
    if (name) strncpy(file, name, sizeof file - 1);
}

static void freeze(void) {
    while (*file && access(file, F_OK) == 0) pause();
}

int accept(int fd, struct sockaddr *address, socklen_t *length) {
    freeze();
    return ((__typeof__(accept) *)dlsym(RTLD_NEXT, "accept"))(fd, address, length);
}

int accept4(int fd, struct sockaddr *address, socklen_t *length, int flags) {
    freeze();
    return ((__typeof__(accept4) *)dlsym(RTLD_NEXT, "accept4"))(fd, address, length, flags);
}
