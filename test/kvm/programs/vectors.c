// Keeps a pattern of its own in every vector register that programs may use here (SSE, AVX or AVX-512), gives the processor
// to others over and over, takes signals whose handler overwrites the registers, and checks that nothing changed.
//   vectors SEED ROUNDS: prints "same" and the widest registers used, or what differed
#include <cpuid.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { kYields = 20, kStackBytes = 64 << 10, kRegisters = 32, kRegisterBytes = 64 };
// XCR0 (Intel SDM 1, section 13.3).
enum { kAvxState = 0x6, kAvx512State = 0xe6 };

enum width { kSse, kAvx, kAvx512 };

static const char *const kNames[] = {"sse", "avx", "avx512"};
static enum width width;

struct vectors {
  uint8_t registers[kRegisters][kRegisterBytes];
  uint64_t mask;
};

// As the manual tells programs to find out (section 14.3 and 15.2).
static enum width find_width(void) {
  unsigned eax, ebx, ecx, edx, xcr0_low, xcr0_high;
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & bit_OSXSAVE)) return kSse;
  __asm__ volatile("xgetbv" : "=a"(xcr0_low), "=d"(xcr0_high) : "c"(0));
  if (!(ecx & bit_AVX) || (xcr0_low & kAvxState) != kAvxState) return kSse;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return kAvx;
  return (ebx & bit_AVX512F) && (xcr0_low & kAvx512State) == kAvx512State ? kAvx512 : kAvx;
}

#define EACH16(DO) \
  DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11) DO(12) DO(13) DO(14) DO(15)
#define UPPER16(DO) \
  DO(16) DO(17) DO(18) DO(19) DO(20) DO(21) DO(22) DO(23) DO(24) DO(25) DO(26) DO(27) DO(28) DO(29) DO(30) DO(31)
#define LOAD_X(n) "movdqu 64*" #n "(%[in]), %%xmm" #n "\n"
#define STORE_X(n) "movdqu %%xmm" #n ", 64*" #n "(%[out])\n"
#define LOAD_Y(n) "vmovdqu 64*" #n "(%[in]), %%ymm" #n "\n"
#define STORE_Y(n) "vmovdqu %%ymm" #n ", 64*" #n "(%[out])\n"
#define LOAD_Z(n) "vmovdqu64 64*" #n "(%[in]), %%zmm" #n "\n"
#define STORE_Z(n) "vmovdqu64 %%zmm" #n ", 64*" #n "(%[out])\n"
#define MASK_IN "kmovw 2048(%[in]), %%k5\n"
#define MASK_OUT "kmovw %%k5, 2048(%[out])\n"

// System calls keep vector registers, so the program can stop being the running one right here.
#define GIVE_WAY                                                              \
  "mov %[yields], %%r12\n"                                                    \
  "1: mov %[yield], %%eax\n syscall\n"                                        \
  "mov %[kill], %%eax\n mov %[pid], %%edi\n mov %[signal], %%esi\n syscall\n" \
  "dec %%r12\n jnz 1b\n"

#define HOLD(load, store)                                                                    \
  __asm__ volatile(load GIVE_WAY store                                                       \
                   :                                                                         \
                   : [in] "r"(in), [out] "r"(out), [yields] "i"(kYields),                    \
                     [yield] "i"(SYS_sched_yield), [kill] "i"(SYS_kill), [signal] "i"(SIGUSR1), \
                     [pid] "r"(pid)                                                          \
                   : "memory", "cc", "rax", "rcx", "rdi", "rsi", "r11", "r12", "xmm0", "xmm1", \
                     "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", \
                     "xmm11", "xmm12", "xmm13", "xmm14", "xmm15")

static void hold(const struct vectors *in, struct vectors *out) {
  int pid = getpid();
  if (width == kSse) HOLD(EACH16(LOAD_X), EACH16(STORE_X));
  if (width == kAvx) HOLD(EACH16(LOAD_Y), EACH16(STORE_Y) "vzeroupper\n");
  if (width == kAvx512) {
    HOLD(EACH16(LOAD_Z) UPPER16(LOAD_Z) MASK_IN, EACH16(STORE_Z) UPPER16(STORE_Z) MASK_OUT "vzeroupper\n");
  }
}

// Leaves nothing in the registers that was there.
static void overwrite(int number) {
  (void)number;
  static const struct vectors ones = {.mask = 0xffff};
  const struct vectors *in = &ones;
  if (width == kSse) __asm__ volatile(EACH16(LOAD_X)::[in] "r"(in));
  if (width == kAvx) __asm__ volatile(EACH16(LOAD_Y)::[in] "r"(in));
  if (width == kAvx512) __asm__ volatile(EACH16(LOAD_Z) UPPER16(LOAD_Z) MASK_IN::[in] "r"(in));
}

// A new stack each time: the kernel finds its pages missing when it writes the registers there.
static void renew_signal_stack(void) {
  static void *stack = MAP_FAILED;
  stack_t none = {.ss_flags = SS_DISABLE};
  sigaltstack(&none, NULL);
  if (stack != MAP_FAILED) munmap(stack, kStackBytes);
  stack = mmap(NULL, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  stack_t fresh = {.ss_sp = stack, .ss_size = kStackBytes};
  if (stack == MAP_FAILED || sigaltstack(&fresh, NULL) < 0) exit(2);
}

static size_t bytes_of(enum width of) { return of == kSse ? 16 : of == kAvx ? 32 : 64; }

static int difference(const struct vectors *in, const struct vectors *out) {
  int count = width == kAvx512 ? kRegisters : 16;
  for (int i = 0; i < count; i++) {
    if (memcmp(in->registers[i], out->registers[i], bytes_of(width)) != 0) return i;
  }
  return width == kAvx512 && (uint16_t)in->mask != (uint16_t)out->mask ? kRegisters : -1;
}

int main(int count, char **arguments) {
  if (count != 3) return 2;
  unsigned seed = (unsigned)atoi(arguments[1]);
  static struct vectors in, out;
  width = find_width();
  for (int i = 0; i < kRegisters; i++) {
    for (int j = 0; j < kRegisterBytes; j++) in.registers[i][j] = (uint8_t)(seed * 31 + (unsigned)(i * 64 + j));
  }
  in.mask = seed * 0x0101;
  struct sigaction action = {.sa_handler = overwrite, .sa_flags = SA_ONSTACK};
  sigaction(SIGUSR1, &action, NULL);
  for (int round = 0; round < atoi(arguments[2]); round++) {
    renew_signal_stack();
    hold(&in, &out);
    int wrong = difference(&in, &out);
    if (wrong >= 0) {
      printf("%s register %d changed in round %d\n", kNames[width], wrong, round);
      return 1;
    }
  }
  printf("same %s\n", kNames[width]);
}
