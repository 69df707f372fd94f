/* SPDX-License-Identifier: GPL-2.0-only */
/* Writes where nothing is. Who mends its pointer in a debugger sees it end well. */
#include <stdio.h>

static int number = 42;
static int *volatile pointer;

static void crashes(void)
{
	*pointer = number;
}

int main(void)
{
	puts("ready");
	fflush(stdout);
	crashes();
	printf("mended %d\n", *pointer);
	return 0;
}
