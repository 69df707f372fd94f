// SPDX-License-Identifier: GPL-2.0-only
// A stand-in for NVIDIA's libcuda.so.1 that insists on the order in which a process is checkpointed.
//
// In an application (cuInit): a thread of its own, the restore thread, does what is asked; a device is open and mapped.
// In whoever checkpoints: the six calls of CUDA 12.8 write a request and wait for the answer. Both meet in the folder
// $FAKE_CUDA: PID.state has "state thread", PID.ask and PID.answer are renamed into place, so that nobody reads half of
// one. What was done is in the file `log`: "PID action frozen|running", by whether other threads stood still.
// What is to go wrong is in the file `fail`: lines "action code", "action hang", "action die", "checkpoint keep", each
// with a PID behind it if it is for one process only. Beside the four actions there are "state" and "thread".

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { RUNNING, LOCKED, CHECKPOINTED, FAILED };
enum { NOT_INITIALIZED = 3, ILLEGAL_STATE = 401, NOT_READY = 600 };
enum { SIZE = 1 << 16, PROCESSES = 1 << 10 };

static char folder[256];

static void nap(long ms) {
    struct timespec some = {ms / 1000, ms % 1000 * 1000000};
    while (nanosleep(&some, &some) && errno == EINTR) {}
}

static char *path(char *to, int pid, const char *what) {
    const char *known = getenv("FAKE_CUDA");
    snprintf(to, 512, "%s/%.*d%s%s", folder[0] ? folder : known ? known : "/nonexistent", pid ? 1 : 0, pid,
             pid ? "." : "", what);
    return to;
}

static void put(int pid, const char *what, const char *text) {
    char to[512], beside[600];
    snprintf(beside, sizeof beside, "%s.%d", path(to, pid, what), (int)syscall(SYS_gettid));
    int fd = open(beside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, text, strlen(text)) < 0) abort();
    close(fd);
    if (rename(beside, to)) abort();
}

static int get(int pid, const char *what, char *text, int size) {
    char from[512];
    int fd = open(path(from, pid, what), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    int got = read(fd, text, size - 1);
    close(fd);
    text[got > 0 ? got : 0] = 0;
    return got > 0;
}

// What is to go wrong with an action: a code, 0 for nothing, -1 hang, -2 die, -3 keep.
static int fault(const char *action, int pid) {
    char text[512], name[32], how[32];
    if (!get(0, "fail", text, sizeof text)) return 0;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        int only = pid;
        if (sscanf(line, "%31s %31s %d", name, how, &only) >= 2 && !strcmp(name, action) && only == pid)
            return !strcmp(how, "hang") ? -1 : !strcmp(how, "die") ? -2 : !strcmp(how, "keep") ? -3 : atoi(how);
    }
    return 0;
}

// ------------------------------------------------------------------------------------------------- in the application

static int state, device = -1;
static unsigned char *memory, kept[SIZE];
static volatile int ready;

static void attach(void) {
    device = open(getenv("FAKE_CUDA_DEVICE"), O_RDWR | O_CLOEXEC);
    if (device < 0 || ftruncate(device, (off_t)SIZE * PROCESSES)) abort();
    off_t mine = (off_t)SIZE * (getpid() % PROCESSES);
    void *at = mmap(memory, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | (memory ? MAP_FIXED : 0), device, mine);
    if (at == MAP_FAILED) abort();
    memory = at;
}

static void checkpoint(void) {
    memcpy(kept, memory, SIZE);
    if (fault("checkpoint", getpid()) == -3) return;
    memset(memory, 0xee, SIZE);
    if (mmap(memory, SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED) abort();
    close(device);
    device = -1;
}

static void restore(void) {
    if (device < 0) attach();
    memcpy(memory, kept, SIZE);
}

static void publish(void) {
    char text[64];
    snprintf(text, sizeof text, "%d %d", state, (int)syscall(SYS_gettid));
    put(getpid(), "state", text);
}

// Whether all other threads of this process are stopped by a tracer.
static int frozen(void) {
    DIR *threads = opendir("/proc/self/task");
    int stopped = 1;
    for (struct dirent *one; (one = readdir(threads));) {
        char name[600], text[512] = "";
        int tid = atoi(one->d_name);
        if (!tid || tid == (int)syscall(SYS_gettid)) continue;
        snprintf(name, sizeof name, "/proc/self/task/%d/stat", tid);
        FILE *file = fopen(name, "re");
        if (file && fgets(text, sizeof text, file)) stopped &= strrchr(text, ')')[2] == 't';
        if (file) fclose(file);
    }
    closedir(threads);
    return stopped;
}

static int carry_out(const char *action) {
    if (!strcmp(action, "lock")) {
        if (state != RUNNING) return ILLEGAL_STATE;
        state = LOCKED;
    } else if (!strcmp(action, "checkpoint")) {
        if (state != LOCKED) return ILLEGAL_STATE;
        checkpoint();
        state = CHECKPOINTED;
    } else if (!strcmp(action, "restore")) {
        if (state != CHECKPOINTED) return ILLEGAL_STATE;
        restore();
        state = LOCKED;
    } else {
        if (state != LOCKED) return ILLEGAL_STATE;
        state = RUNNING;
    }
    return 0;
}

static void *serve(void *unused) {
    char text[128], action[32], to[512], line[128];
    unsigned number, last = 0;
    (void)unused;
    frozen();  // so that what it needs of memory is there
    publish();
    ready = 1;
    for (;; nap(2)) {
        if (!get(getpid(), "ask", text, sizeof text) || sscanf(text, "%u %31s", &number, action) != 2) continue;
        if (number == last) continue;
        last = number;
        int stands = frozen(), code = carry_out(action);
        publish();
        int log = open(path(to, 0, "log"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        snprintf(line, sizeof line, "%d %s %s%s\n", getpid(), action, stands ? "frozen" : "running", code ? " refused" : "");
        if (log < 0 || write(log, line, strlen(line)) < 0) abort();
        close(log);
        snprintf(text, sizeof text, "%u %d", number, code);
        put(getpid(), "answer", text);
    }
}

int cuInit(unsigned flags) {
    pthread_t thread;
    sigset_t all, before;
    (void)flags;
    snprintf(folder, sizeof folder, "%s", getenv("FAKE_CUDA"));
    attach();
    sigfillset(&all);
    sigdelset(&all, SIGUSR2);  // so that its mask says something
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (pthread_create(&thread, NULL, serve, NULL)) abort();
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    while (!ready) nap(1);
    return 0;
}

// Work on the device: adds 1 to a number there, and gives it. It waits while the process is locked.
int fakeWork(void) {
    while (__atomic_load_n(&state, __ATOMIC_ACQUIRE) != RUNNING) nap(1);
    return ++*(int *)memory;
}

// ---------------------------------------------------------------------------------------------- in who checkpoints it

static int ask(int pid, const char *action, unsigned timeout) {
    char text[128], request[512];
    unsigned number = (unsigned)time(NULL) << 12 ^ (unsigned)getpid() << 4 ^ (unsigned)rand(), got;
    int code, how = fault(action, pid);
    if (kill(pid, 0) || !get(pid, "state", text, sizeof text)) return NOT_INITIALIZED;
    if (how == -2) raise(SIGSEGV);
    if (how == -1) put(0, "hangs", action);
    for (; how == -1 && fault(action, pid) == -1; nap(20)) {}
    if (kill(pid, 0)) return NOT_INITIALIZED;
    if (how > 0) {
        if (how == NOT_READY) {
            snprintf(text, sizeof text, "%u", timeout);
            put(0, "timeout", text);
        }
        return how;
    }
    snprintf(text, sizeof text, "%u %s", number, action);
    put(pid, "ask", text);
    for (code = NOT_INITIALIZED; !kill(pid, 0); nap(1))
        if (get(pid, "answer", text, sizeof text) && sscanf(text, "%u %d", &got, &code) == 2 && got == number) break;
        else code = NOT_INITIALIZED;
    unlink(path(request, pid, "ask"));  // a process that is restored once more must not take it for its own
    return code;
}

static int known(int pid, int *value, int second) {
    char text[64];
    const char *action = second ? "thread" : "state";
    int values[2], how = fault(action, pid);
    if (how > 0) return how;
    if (how == -2) raise(SIGSEGV);
    if (how == -1) put(0, "hangs", action);
    for (; how == -1 && fault(action, pid) == -1; nap(20)) {}
    if (kill(pid, 0) || !get(pid, "state", text, sizeof text)) return NOT_INITIALIZED;
    if (sscanf(text, "%d %d", &values[0], &values[1]) != 2) return NOT_INITIALIZED;
    *value = values[second];
    return 0;
}

static int is_zero(const void *what, int from, int to) {
    for (int at = from; at < to; at++)
        if (((const char *)what)[at]) return 0;
    return 1;
}

int cuCheckpointProcessGetState(int pid, int *value) { return known(pid, value, 0); }
int cuCheckpointProcessGetRestoreThreadId(int pid, int *tid) { return known(pid, tid, 1); }

int cuCheckpointProcessLock(int pid, const void *args) {
    uint32_t timeout;
    memcpy(&timeout, args, 4);  // the first member, as in cuda.h
    return is_zero(args, 4, 64) ? ask(pid, "lock", timeout) : 1;
}

int cuCheckpointProcessCheckpoint(int pid, const void *args) {
    return is_zero(args, 0, 64) ? ask(pid, "checkpoint", 0) : 1;
}

int cuCheckpointProcessRestore(int pid, const void *args) { return is_zero(args, 0, 64) ? ask(pid, "restore", 0) : 1; }
int cuCheckpointProcessUnlock(int pid, const void *args) { return is_zero(args, 0, 64) ? ask(pid, "unlock", 0) : 1; }
