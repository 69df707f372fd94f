/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * libsavefds.so: a program that is about to dump core lists its descriptors first.
 *
 *	LD_PRELOAD=libsavefds.so PROGRAM
 *
 * For systems where core_pattern cannot be changed. On each signal that ends a program with a core, unless the program
 * has a handler of its own, the file `filedescriptors` in its directory (or $SAVEFDS_FILE) gets a line for each
 * descriptor that has a path:
 *
 *	FD : NAME : OFFSET : FLAGS
 *
 * FLAGS are those of open(2), octal; what a line cannot hold of NAME is written as \012 and the like. Then the signal
 * does what it would have done. `restart -f PROGRAM CORE` reads it.
 *
 * A handler may make no calls but a few (signal-safety(7)); there is no stdio here, and no memory is allocated.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NAME_ROOM 4096
#define LINE_ROOM (4 * NAME_ROOM + 96)

struct entry { /* struct linux_dirent64 */
	unsigned long long inode;
	long long offset;
	unsigned short length;
	unsigned char type;
	char name[];
};

static const int signals[] = { SIGQUIT, SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGSEGV, SIGXCPU, SIGXFSZ, SIGSYS };
static char file[NAME_ROOM] = "filedescriptors";

static char *number(char *out, unsigned long long value, unsigned base)
{
	char digits[24];
	int count = 0;

	do
		digits[count++] = (char)('0' + value % base);
	while (value /= base);
	while (count)
		*out++ = digits[--count];
	return out;
}

static char *text(char *out, const char *words)
{
	while (*words)
		*out++ = *words++;
	return out;
}

/* A name, in which what would end it too early, or make it another one, is an octal number. */
static char *escaped(char *out, const char *name)
{
	for (; *name; name++) {
		int last = !name[1] && (*name == ' ' || *name == '\t');

		if (*name != '\n' && *name != '\\' && !last) {
			*out++ = *name;
			continue;
		}
		*out++ = '\\';
		*out++ = (char)('0' + *name / 64);
		*out++ = (char)('0' + *name / 8 % 8);
		*out++ = (char)('0' + *name % 8);
	}
	return out;
}

static void write_all(int fd, const char *data, size_t size)
{
	while (size) {
		ssize_t done = write(fd, data, size);

		if (done < 0 && errno != EINTR)
			return;
		if (done > 0) {
			data += done;
			size -= (size_t)done;
		}
	}
}

static void list_one(int out, int fd)
{
	static char name[NAME_ROOM], line[LINE_ROOM];
	char link[48], *end = text(link, "/proc/self/fd/");
	int flags = fcntl(fd, F_GETFL);
	off_t offset = lseek(fd, 0, SEEK_CUR);
	ssize_t length;

	*number(end, (unsigned)fd, 10) = '\0';
	length = readlink(link, name, sizeof(name) - 1);
	if (length <= 0 || name[0] != '/' || flags < 0)
		return;
	name[length] = '\0';
	end = text(number(line, (unsigned)fd, 10), " : ");
	end = text(escaped(end, name), " : ");
	end = text(number(end, offset < 0 ? 0 : (unsigned long long)offset, 10), " : 0");
	end = number(end, (unsigned)flags, 8);
	*end++ = '\n';
	write_all(out, line, (size_t)(end - line));
}

static void list_all(void)
{
	static char room[1 << 14] __attribute__((aligned(8)));
	int out = open(file, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	int folder = open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	long size;

	while (out >= 0 && folder >= 0 && (size = syscall(SYS_getdents64, folder, room, sizeof(room))) > 0) {
		for (long at = 0; at < size;) {
			const struct entry *entry = (const struct entry *)(room + at);
			int fd = 0;

			for (const char *digit = entry->name; *digit >= '0' && *digit <= '9'; digit++)
				fd = fd * 10 + (*digit - '0');
			if (entry->name[0] != '.' && fd != out && fd != folder)
				list_one(out, fd);
			at += entry->length;
		}
	}
	if (folder >= 0)
		close(folder);
	if (out >= 0)
		close(out);
}

/*
 * Of threads that crash at the same time one lists, and the others wait for it: it would end the process while they are
 * at it, with half a list. Both are PIDs, so that a child that is forked meanwhile waits for nobody.
 */
static pid_t lister, listed;

static void list_once(void)
{
	const pid_t ours = getpid();
	pid_t before = __atomic_load_n(&lister, __ATOMIC_ACQUIRE);

	if (before != ours &&
	    __atomic_compare_exchange_n(&lister, &before, ours, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
		list_all();
		__atomic_store_n(&listed, ours, __ATOMIC_RELEASE);
	}
	while (__atomic_load_n(&listed, __ATOMIC_ACQUIRE) != ours)
		poll(NULL, 0, 1);
}

/* Whether the program does again what the signal is for, when its handler returns. */
static int comes_again(int signal_number, const siginfo_t *info)
{
	switch (signal_number) {
	case SIGILL:
	case SIGFPE:
	case SIGSEGV:
	case SIGBUS:
		return info->si_code > 0;
	default: /* sent by somebody, a key of the terminal, or a limit; a trap is behind its instruction */
		return 0;
	}
}

static void about_to_end(int signal_number, siginfo_t *info, void *context)
{
	const struct sigaction by_default = { .sa_handler = SIG_DFL };
	int before = errno;

	(void)context;
	list_once();
	sigaction(signal_number, &by_default, NULL);
	if (!comes_again(signal_number, info))
		syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), signal_number);
	errno = before;
}

__attribute__((constructor)) static void begin(void)
{
	struct sigaction ours = { .sa_sigaction = about_to_end, .sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK }, before;
	const char *wanted = getenv("SAVEFDS_FILE");

	if (wanted && *wanted && strlen(wanted) < sizeof(file))
		strcpy(file, wanted);
	sigfillset(&ours.sa_mask);
	for (size_t i = 0; i < sizeof(signals) / sizeof(*signals); i++)
		if (sigaction(signals[i], NULL, &before) == 0 && before.sa_handler == SIG_DFL)
			sigaction(signals[i], &ours, NULL);
}
