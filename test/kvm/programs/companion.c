// Lives in the template and answers over vsock in every clone, so that asking costs no new process.
//   companion PORT PAGES: requests are lines, answered by lines:
//   fill SEED | check SEED | random | time | boottime | cid
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

enum { kPageBytes = 4096, kWordsPerPage = kPageBytes / 8, kRandomBytes = 32 };

static uint64_t *memory;
static size_t pages;

static uint64_t word_of(uint64_t seed, size_t index) {
  uint64_t x = seed * 0x9e3779b97f4a7c15u + index;
  x ^= x >> 29;
  return x * 0xbf58476d1ce4e5b9u;
}

static void fill(uint64_t seed) {
  for (size_t i = 0; i < pages * kWordsPerPage; i++) memory[i] = word_of(seed, i);
}

static void check(uint64_t seed, FILE *out) {
  for (size_t i = 0; i < pages * kWordsPerPage; i++) {
    if (memory[i] != word_of(seed, i)) {
      fprintf(out, "page %zu differs\n", i / kWordsPerPage);
      return;
    }
  }
  fprintf(out, "same\n");
}

static void random_bytes(FILE *out) {
  unsigned char bytes[kRandomBytes];
  int fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
  if (fd < 0 || read(fd, bytes, sizeof bytes) != sizeof bytes) exit(1);
  close(fd);
  for (size_t i = 0; i < sizeof bytes; i++) fprintf(out, "%02x", bytes[i]);
  fprintf(out, "\n");
}

static uint64_t now_ns(clockid_t clock) {
  struct timespec time;
  clock_gettime(clock, &time);
  return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void print_cid(FILE *out) {
  unsigned cid = 0;
  int fd = open("/dev/vsock", O_RDONLY | O_CLOEXEC);
  if (fd < 0 || ioctl(fd, IOCTL_VM_SOCKETS_GET_LOCAL_CID, &cid) < 0) cid = 0;
  close(fd);
  fprintf(out, "%u\n", cid);
}

static void answer(const char *line, FILE *out) {
  uint64_t number = 0;
  if (sscanf(line, "fill %lu", &number) == 1) {
    fill(number);
    fprintf(out, "filled\n");
  } else if (sscanf(line, "check %lu", &number) == 1) {
    check(number, out);
  } else if (strcmp(line, "random\n") == 0) {
    random_bytes(out);
  } else if (strcmp(line, "time\n") == 0) {
    fprintf(out, "%lu\n", now_ns(CLOCK_REALTIME));
  } else if (strcmp(line, "boottime\n") == 0) {
    fprintf(out, "%lu\n", now_ns(CLOCK_BOOTTIME));
  } else if (strcmp(line, "cid\n") == 0) {
    print_cid(out);
  } else {
    fprintf(out, "unknown request\n");
  }
}

static void serve(int fd) {
  FILE *in = fdopen(fd, "r");
  FILE *out = fdopen(dup(fd), "w");
  char line[128];
  if (!in || !out) exit(1);
  while (fgets(line, sizeof line, in)) {
    answer(line, out);
    if (fflush(out) != 0) break;
  }
  fclose(in);
  fclose(out);
}

int main(int count, char **arguments) {
  if (count != 3) return 2;
  struct sockaddr_vm address = {.svm_family = AF_VSOCK,
                                .svm_port = (unsigned)atoi(arguments[1]),
                                .svm_cid = VMADDR_CID_ANY};
  pages = (size_t)atoi(arguments[2]);
  memory = aligned_alloc(kPageBytes, pages * kPageBytes);
  int listener = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (!memory || listener < 0 || bind(listener, (void *)&address, sizeof address) < 0 ||
      listen(listener, 8) < 0) {
    perror("companion");
    return 1;
  }
  fill(0);
  printf("ready\n");
  fflush(stdout);
  for (;;) {
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd >= 0) serve(fd);
  }
}
