/* SPDX-License-Identifier: GPL-2.0-only */
/* A thread as glibc's are for a moment at their beginning: its rseq area is not registered yet. It is, after `go`. */
#define _GNU_SOURCE
#include <stdio.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SIZE 32

int main(void)
{
	void *area = (char *)__builtin_thread_pointer() + __rseq_offset;

	if (!__rseq_size || syscall(SYS_rseq, area, SIZE, RSEQ_FLAG_UNREGISTER, RSEQ_SIG)) {
		puts("lacks rseq(2)");
		return 1;
	}
	puts("ready");
	fflush(stdout);
	while (access("go", F_OK))
		usleep(5000);
	printf("registered %ld\n", syscall(SYS_rseq, area, SIZE, 0, RSEQ_SIG));
	return 0;
}
