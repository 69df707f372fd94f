/* SPDX-License-Identifier: GPL-2.0-only */
/* Three threads, each some calls deep with a known argument in every frame, one of them in a signal handler. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

static volatile double kept = 1.5;
static int arrived[2];

__attribute__((noinline)) static int bottom(int depth)
{
	char here = 0;
	if (write(arrived[1], &here, 1) != 1)
		return -1;
	while (kept > 0)
		pause();
	return depth;
}

__attribute__((noinline)) static int deeper(int depth)
{
	return depth < 5 ? deeper(depth + 1) + 1 : bottom(depth) + 1;
}

static void handler(int number)
{
	bottom(number);
}

__attribute__((noinline)) static void *worker(void *name)
{
	if (name)
		raise(SIGUSR1);
	deeper(0);
	return name;
}

int main(void)
{
	pthread_t threads[2];
	char one;
	if (pipe(arrived))
		return 1;
	signal(SIGUSR1, handler);
	for (int at = 0; at < 2; at++)
		pthread_create(&threads[at], NULL, worker, at ? arrived : NULL);
	for (int at = 0; at < 2; at++)
		if (read(arrived[0], &one, 1) != 1)
			return 1;
	write(1, "ready\n", 6);
	deeper(0);
	return 0;
}
