/* SPDX-License-Identifier: GPL-2.0-only */
/* Reads a number from the user, makes a list of that many nodes on the heap, and prints what is in it. */
#include <stdio.h>
#include <stdlib.h>

struct node {
	int number;
	struct node *next;
};

static struct node *append(struct node *last, int number)
{
	struct node *new = malloc(sizeof(*new));

	new->number = number;
	new->next = NULL;
	if (last)
		last->next = new;
	return new;
}

int main(void)
{
	struct node *first = NULL, *last = NULL;
	int count;

	printf("How many? ");
	if (scanf("%d", &count) != 1)
		return 1;
	for (int i = 0; i <= count; i++) {
		last = append(last, i);
		if (!first)
			first = last;
	}
	for (; first; first = first->next)
		printf("%d\n", first->number);
	return 0;
}
