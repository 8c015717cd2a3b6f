/* Sleep 5 ms in each fsync and fdatasync, then do the real one: a slow disk, preloaded with LD_PRELOAD. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>

static const struct timespec delay = {0, 5000000};

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
