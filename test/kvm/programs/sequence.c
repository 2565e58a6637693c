// Writes one number after the other: first to memory (argv[1], a file in a memory filesystem,
// mapped), then to a sector of its own on the disk argv[2], past every cache, over the oldest. With
// "read": stops the writer, prints the number in memory, the largest on disk, and how many of those
// that the disk should still have up to there are missing. With "go": lets the writer go on.
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { kSector = 512, kSectors = 256 };

// What writer and reader share.
struct progress {
  uint64_t number;
  int64_t writer;  // its process
};

static int read_back(volatile const struct progress* progress, int disk) {
  // Process 0 would be our own group.
  if (progress->writer == 0 || kill((pid_t)progress->writer, SIGSTOP) != 0) return 7;
  const uint64_t in_memory = progress->number;
  char* sectors = aligned_alloc(4096, kSector * kSectors);
  if (sectors == NULL || pread(disk, sectors, kSector * kSectors, 0) != kSector * kSectors)
    return 5;
  uint64_t largest = 0, missing = 0;
  for (int at = 0; at < kSectors; ++at) {
    uint64_t number;
    memcpy(&number, sectors + at * kSector, sizeof number);
    if (number > largest) largest = number;
  }
  for (uint64_t i = largest > kSectors ? largest - kSectors + 1 : 1; i <= largest; ++i) {
    uint64_t number;
    memcpy(&number, sectors + i % kSectors * kSector, sizeof number);
    if (number != i) ++missing;
  }
  printf("%llu %llu %llu\n", (unsigned long long)in_memory, (unsigned long long)largest,
         (unsigned long long)missing);
  return 0;
}

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  const int memory = open(argv[1], O_RDWR | O_CREAT, 0600);
  const int disk = open(argv[2], O_RDWR | O_DIRECT);
  if (memory < 0 || disk < 0 || ftruncate(memory, sizeof(struct progress)) != 0) return 3;
  volatile struct progress* progress =
      mmap(NULL, sizeof *progress, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
  uint64_t* sector = aligned_alloc(4096, 4096);
  if (progress == MAP_FAILED || sector == NULL) return 4;
  if (argc > 3 && strcmp(argv[3], "read") == 0) return read_back(progress, disk);
  if (argc > 3 && strcmp(argv[3], "go") == 0) return kill((pid_t)progress->writer, SIGCONT);
  nice(19);  // Whatever the guest's agent has to do goes first.
  progress->writer = getpid();
  puts("ready");
  fflush(stdout);
  memset(sector, 0, kSector);
  for (uint64_t i = 1;; ++i) {
    progress->number = i;
    *sector = i;
    if (pwrite(disk, sector, kSector, i % kSectors * kSector) != kSector) return 6;
  }
}
