/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Prints all numbers from 1 to the second argument into the file of the first, and sleeps after each, in milliseconds
 * as the third says. Before the number of the fourth it waits until there is a file `go`. stdio writes when its buffer
 * is full, or at the end.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	long count = argc > 2 ? atol(argv[2]) : 0, pause = argc > 3 ? atol(argv[3]) : 2000;
	long hold = argc > 4 ? atol(argv[4]) : 0;
	struct timespec time = { pause / 1000, pause % 1000 * 1000000 };
	FILE *out = argc > 1 ? fopen(argv[1], "w") : NULL;

	if (!out)
		return 1;
	puts("ready");
	fflush(stdout);
	for (long number = 1; number <= count; number++) {
		while (number == hold && access("go", F_OK))
			nanosleep(&time, NULL);
		fprintf(out, "%ld\n", number);
		nanosleep(&time, NULL);
	}
	return fclose(out) ? 2 : 0;
}
