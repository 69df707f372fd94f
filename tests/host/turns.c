/* SPDX-License-Identifier: GPL-2.0-only */
/* Threads that take turns, 50 each, and wait in the middle until there is a file `go`; they are joined, and say so. */
#include <pthread.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#define THREADS 4
#define ROUNDS 50

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turned = PTHREAD_COND_INITIALIZER;
static int turn;
static __thread long mine;

static void *take_turns(void *which)
{
	const struct timespec little = { 0, 2000000 };

	for (int round = 0; round < ROUNDS; round++) {
		pthread_mutex_lock(&lock);
		while (turn % THREADS != (int)(long)which)
			pthread_cond_wait(&turned, &lock);
		while (turn == THREADS * ROUNDS / 2 && access("go", F_OK))
			nanosleep(&little, NULL);
		mine += round;
		turn++;
		pthread_cond_broadcast(&turned);
		pthread_mutex_unlock(&lock);
	}
	return (void *)mine;
}

int main(void)
{
	pthread_t threads[THREADS];
	long sum = 0;
	void *got;

	for (long i = 0; i < THREADS; i++)
		if (pthread_create(&threads[i], NULL, take_turns, (void *)i))
			return 1;
	puts("ready");
	fflush(stdout);
	for (int i = 0; i < THREADS; i++) {
		if (pthread_join(threads[i], &got))
			return 2;
		sum += (long)got;
	}
	printf("sum %ld after %d turns\n", sum, turn);
	return 7;
}
