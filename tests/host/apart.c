// SPDX-License-Identifier: GPL-2.0-only
// For `ld.so --preload` of a CRIU that is to read images from before CRIU 3.0. Where there is no files.img, it looks for
// an image of each kind of file, memfd too, for whose name it has a null pointer, and dies. Here that is the name of an
// image that nobody has.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <stddef.h>

int vsnprintf(char *to, size_t size, const char *format, va_list words)
{
	int (*real)(char *, size_t, const char *, va_list) = dlsym(RTLD_NEXT, "vsnprintf");

	return real(to, size, format ? format : "nobody-has.img", words);
}
