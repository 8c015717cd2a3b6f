/* Sleep in each fsync and fdatasync, 5 ms if nothing else is defined, then do the real one: a slow disk, for LD_PRELOAD. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>

#ifdef DELAY_SECONDS
static const struct timespec delay = {DELAY_SECONDS, 0};
#else
static const struct timespec delay = {0, 5000000};
#endif

static int delayed(const char *name, int descriptor)
{
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    nanosleep(&delay, NULL);
    return real(descriptor);
}

int fsync(int descriptor)
{
    return delayed("fsync", descriptor);
}

int fdatasync(int descriptor)
{
    return delayed("fdatasync", descriptor);
}
