// SPDX-License-Identifier: GPL-2.0-only
// A program whose only thread works on a small stack of its own making, with something else right below it.
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

static ucontext_t back, own;
static unsigned char *area;
enum { SIZE = 1 << 16, BELOW = SIZE - (1 << 13) };

static void work(void)
{
	long turns = 0, wrong = 0;
	while (access("go", F_OK)) {
		usleep(2000);
		for (int at = 0; at < BELOW; at++)
			wrong += area[at] != (unsigned char)(at * 7);
		if (++turns % 5 == 0)
			dprintf(1, "turn %ld\n", turns);
	}
	dprintf(1, "wrong %ld\n", wrong);
}

int main(void)
{
	area = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (int at = 0; at < BELOW; at++)
		area[at] = at * 7;
	getcontext(&own);
	own.uc_stack.ss_sp = area + BELOW;
	own.uc_stack.ss_size = SIZE - BELOW;
	own.uc_link = &back;
	makecontext(&own, work, 0);
	dprintf(1, "ready\n");
	swapcontext(&back, &own);
	return 0;
}
