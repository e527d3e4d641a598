/* A program with a heart:  osps run -- ./beat [--hang-after SECONDS]
 *
 *     cc -O2 -Wall -Wextra -I heart/c -o beat docs/examples/beat.c
 *
 * It beats once per turn of its main loop and leaves when it is asked to. With --hang-after it
 * stops turning after that time, so that one can watch osps notice and replace it. */

#include "osps.h"

int main(int argc, char **argv) {
    double hang_after = argc == 3 && strcmp(argv[1], "--hang-after") == 0 ? atof(argv[2]) : 1e18;
    osps_heart heart;
    if (osps_open(&heart) != 0) {
        fprintf(stderr, "%s\n", heart.error);
        return 2;
    }
    /* Half the interval leaves the other half for waking up late. */
    uint64_t pause = osps_beat_interval_ns(&heart) / 2;
    struct timespec nap = {(time_t)(pause / 1000000000u), (long)(pause % 1000000000u)};
    for (double worked = 0; !osps_should_stop(&heart); worked += (double)pause / 1e9) {
        while (worked >= hang_after) continue;
        nanosleep(&nap, NULL); /* The work of one turn; if it takes long, beat within it, too. */
        osps_beat(&heart);
    }
    puts("asked to stop");
    return 0;
}
