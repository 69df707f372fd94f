/* SPDX-License-Identifier: GPL-2.0-only */
/* Eight threads, with 200 descriptors, that crash at the same time. */
#include <fcntl.h>
#include <pthread.h>

static pthread_barrier_t all;

static void *crash(void *nothing)
{
	pthread_barrier_wait(&all);
	*(volatile int *)nothing = 1;
	return nothing;
}

int main(void)
{
	pthread_t thread;

	for (int i = 0; i < 200; i++)
		if (open("/dev/null", O_RDONLY) < 0)
			return 1;
	pthread_barrier_init(&all, NULL, 8);
	for (int i = 0; i < 7; i++)
		pthread_create(&thread, NULL, crash, NULL);
	crash(NULL);
	return 1;
}
