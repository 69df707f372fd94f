// SPDX-License-Identifier: GPL-2.0-only
/* Every vector and mask register of this CPU filled with a pattern, held in a busy loop without a system call, and
 * looked at when the word in the file `go` (mapped, so that looking costs no call) changes. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static uint8_t in[32][64] __attribute__((aligned(64))), out[32][64] __attribute__((aligned(64)));
static uint64_t masks_in[8], masks_out[8];

int main(void)
{
	for (int r = 0; r < 32; r++)
		for (int b = 0; b < 64; b++)
			in[r][b] = r * 7 + b * 3 + 1;
	for (int r = 0; r < 8; r++)
		masks_in[r] = 0x0123456789abcdefull * (r + 3);
	int fd = open("word", O_RDWR);
	volatile int *go = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	write(1, "ready\n", 6);
	int wide = __builtin_cpu_supports("avx512bw"), ymm = __builtin_cpu_supports("avx");
	if (wide) {
#define L(n) "vmovdqa64 " #n "*64(%[in]), %%zmm" #n "\n"
#define S(n) "vmovdqa64 %%zmm" #n ", " #n "*64(%[out])\n"
#define KL(n) "kmovq " #n "*8(%[min]), %%k" #n "\n"
#define KS(n) "kmovq %%k" #n ", " #n "*8(%[mout])\n"
		asm volatile(
			L(0) L(1) L(2) L(3) L(4) L(5) L(6) L(7) L(8) L(9) L(10) L(11) L(12) L(13) L(14) L(15)
			L(16) L(17) L(18) L(19) L(20) L(21) L(22) L(23) L(24) L(25) L(26) L(27) L(28) L(29) L(30) L(31)
			KL(0) KL(1) KL(2) KL(3) KL(4) KL(5) KL(6) KL(7)
			"1: cmpl $0, (%[go])\n jz 1b\n"
			S(0) S(1) S(2) S(3) S(4) S(5) S(6) S(7) S(8) S(9) S(10) S(11) S(12) S(13) S(14) S(15)
			S(16) S(17) S(18) S(19) S(20) S(21) S(22) S(23) S(24) S(25) S(26) S(27) S(28) S(29) S(30) S(31)
			KS(0) KS(1) KS(2) KS(3) KS(4) KS(5) KS(6) KS(7)
			"vzeroupper\n"
			:: [in] "r"(in), [out] "r"(out), [min] "r"(masks_in), [mout] "r"(masks_out), [go] "r"(go) : "memory");
	} else if (ymm) {
#define YL(n) "vmovdqa " #n "*64(%[in]), %%ymm" #n "\n"
#define YS(n) "vmovdqa %%ymm" #n ", " #n "*64(%[out])\n"
		asm volatile(
			YL(0) YL(1) YL(2) YL(3) YL(4) YL(5) YL(6) YL(7) YL(8) YL(9) YL(10) YL(11) YL(12) YL(13) YL(14) YL(15)
			"1: cmpl $0, (%[go])\n jz 1b\n"
			YS(0) YS(1) YS(2) YS(3) YS(4) YS(5) YS(6) YS(7) YS(8) YS(9) YS(10) YS(11) YS(12) YS(13) YS(14) YS(15)
			"vzeroupper\n"
			:: [in] "r"(in), [out] "r"(out), [go] "r"(go) : "memory");
	} else {
		while (!*go)
			;
	}
	int bad = 0;
	for (int r = 0; r < (wide ? 32 : ymm ? 16 : 0); r++)
		bad += memcmp(in[r], out[r], wide ? 64 : 32) != 0;
	if (wide)
		bad += memcmp(masks_in, masks_out, sizeof masks_in) != 0;
	dprintf(1, "%d registers differ\n", bad);
	return 0;
}
