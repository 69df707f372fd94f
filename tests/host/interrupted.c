// SPDX-License-Identifier: GPL-2.0-only
/* Sit in one system call for good and say what it returned: interrupted NAME. Descriptor 3 and 4 are a pipe.
 * A call that comes back before it should have says so; each ends when `go` appears (a helper child looks for it). */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int ends[2];
static volatile int caught;
static int word;
static char area[1 << 16];

static void on_signal(int n) { caught = n; }

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

/* Wake the parent when `go` is there: a byte in the pipe, then SIGUSR1, until it ends. */
static void helper(const char *name)
{
	struct timespec little = { 0, 3000000 };
	pid_t parent = getppid();
	while (access("go", F_OK))
		nanosleep(&little, NULL);
	if (!strncmp(name, "wait", 4))
		_exit(5);
	if (!strcmp(name, "write")) {
		read(ends[0], area, sizeof area);
	} else {
		write(ends[1], "x", 1);
	}
	if (!strcmp(name, "pause") || !strcmp(name, "sigsuspend") || !strncmp(name, "sigtimedwait", 12) ||
	    !strcmp(name, "futex") || !strcmp(name, "futex_long") || !strncmp(name, "nanosleep_long", 14) || !strcmp(name, "clock_long"))
		kill(parent, SIGUSR1);
	_exit(5);
}

int main(int argc, char **argv)
{
	const char *name = argv[1];
	struct timespec t = { 1, 500000000 }, left = { 0, 0 }, ten = { 1000, 0 };
	struct timeval tv = { 1000, 0 };
	struct pollfd p;
	sigset_t set, old;
	siginfo_t info;
	fd_set in;
	char c = 0;
	long r = -99;
	int status = 0;
	double begin, took;

	(void)argc;
	if (pipe(ends))
		return 1;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	if (strcmp(name, "none"))
		signal(SIGUSR1, on_signal), siginterrupt(SIGUSR1, 1);
	if (!strcmp(name, "sigsuspend") || !strncmp(name, "sigtimedwait", 12))
		sigprocmask(SIG_BLOCK, &set, NULL);
	if (!strcmp(name, "write")) {
		fcntl(ends[1], F_SETFL, O_NONBLOCK);
		while (write(ends[1], area, 4096) > 0)
			;
		fcntl(ends[1], F_SETFL, 0);
	}
	pid_t child = fork();
	if (child == 0)
		helper(name);
	p.fd = ends[0];
	p.events = POLLIN;
	FD_ZERO(&in);
	FD_SET(ends[0], &in);
	write(1, "ready\n", 6);
	begin = now();
	errno = 0;
	if (!strcmp(name, "nanosleep")) {
		r = nanosleep(&t, &left);
	} else if (!strcmp(name, "nanosleep_long")) {
		r = nanosleep(&ten, &left);
	} else if (!strcmp(name, "clock_long")) {
		r = -clock_nanosleep(CLOCK_MONOTONIC, 0, &ten, &left);
		errno = -r;
	} else if (!strcmp(name, "clock_absolute")) {
		clock_gettime(CLOCK_REALTIME, &t);
		t.tv_sec += 2;
		r = -clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &t, NULL);
	} else if (!strcmp(name, "read")) {
		r = read(ends[0], &c, 1);
	} else if (!strcmp(name, "write")) {
		r = write(ends[1], area, 4096);
	} else if (!strcmp(name, "poll")) {
		r = poll(&p, 1, -1);
	} else if (!strcmp(name, "poll_timeout")) {
		r = poll(&p, 1, 100000);
	} else if (!strcmp(name, "poll_short")) {
		r = poll(NULL, 0, 1500);
	} else if (!strcmp(name, "ppoll")) {
		r = ppoll(&p, 1, &ten, &set);
	} else if (!strcmp(name, "select")) {
		r = select(ends[0] + 1, &in, NULL, NULL, NULL);
	} else if (!strcmp(name, "select_timeout")) {
		r = select(ends[0] + 1, &in, NULL, NULL, &tv);
	} else if (!strcmp(name, "wait4")) {
		r = waitpid(child, &status, 0) == child ? WEXITSTATUS(status) : -1;
	} else if (!strcmp(name, "waitid")) {
		r = waitid(P_PID, child, &info, WEXITED) ? -1 : info.si_status;
	} else if (!strcmp(name, "futex")) {
		r = syscall(SYS_futex, &word, FUTEX_WAIT, 0, NULL, NULL, 0);
	} else if (!strcmp(name, "futex_long")) {
		r = syscall(SYS_futex, &word, FUTEX_WAIT, 0, &ten, NULL, 0);
	} else if (!strcmp(name, "futex_short")) {
		r = syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &t, NULL, 0);
	} else if (!strcmp(name, "pause")) {
		r = pause();
	} else if (!strcmp(name, "sigsuspend")) {
		sigprocmask(SIG_SETMASK, NULL, &old);
		sigset_t none;
		sigemptyset(&none);
		r = sigsuspend(&none);
		sigset_t after;
		int e = errno;
		sigprocmask(SIG_SETMASK, NULL, &after);
		errno = e;
		if (sigismember(&after, SIGUSR1) != 1)
			r = -77;
	} else if (!strcmp(name, "sigtimedwait")) {
		r = sigtimedwait(&set, &info, NULL);
	} else if (!strcmp(name, "sigtimedwait_long")) {
		r = sigtimedwait(&set, &info, &ten);
	}
	took = now() - begin;
	dprintf(1, "returned %ld errno %d after %s caught %d\n", r, r == -1 || r < 0 ? errno : 0,
		took < 1.4 ? "too little" : took > 20 ? "too much" : "enough", caught);
	return 0;
}
