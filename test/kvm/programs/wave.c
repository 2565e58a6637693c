// Sends waves of numbers through memory as fast as it can: memory of more than one moment shows.
//   wave STATE PAGES: the leader writes the number of its round into one page after the other, so
//   that at any moment some first pages hold it and the others the one before. The follower, on
//   another processor if there is one, copies page by page what the leader wrote, so that it never
//   has more than the leader. Each checks that before it writes. STATE is a file of four numbers:
//   the rounds of either, and what either found wrong.
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { kPageBytes = 4096, kPageWords = kPageBytes / 8 };

struct state {
  uint64_t led, followed, led_wrong, followed_wrong;
};

static volatile uint64_t* shared(int fd, size_t bytes) {
  const int flags = MAP_SHARED | (fd < 0 ? MAP_ANONYMOUS : 0);
  void* at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
  if (at == MAP_FAILED) exit(3);
  return at;
}

static void stay_on(int processor) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(processor, &set);
  sched_setaffinity(0, sizeof set, &set);  // Where there is one processor only they share it.
}

_Noreturn static void lead(volatile struct state* state, volatile uint64_t* front, size_t pages) {
  for (uint64_t round = 1;; round++) {
    for (size_t i = 0; i < pages; i++) {
      if (front[i * kPageWords] != round - 1) state->led_wrong++;
      front[i * kPageWords] = round;
    }
    state->led = round;
  }
}

_Noreturn static void follow(volatile struct state* state, volatile uint64_t* front,
                             volatile uint64_t* back, size_t pages) {
  for (uint64_t round = 1;; round++) {
    for (size_t i = 0; i < pages; i++) {
      const uint64_t number = front[i * kPageWords];
      if (number < back[i * kPageWords]) state->followed_wrong++;
      back[i * kPageWords] = number;
    }
    state->followed = round;
  }
}

int main(int count, char** arguments) {
  if (count != 3) return 2;
  const size_t pages = (size_t)atoi(arguments[2]);
  const int fd = open(arguments[1], O_RDWR | O_CREAT | O_TRUNC, 0644);
  if (fd < 0 || ftruncate(fd, sizeof(struct state)) != 0) return 3;
  volatile struct state* state = (volatile struct state*)shared(fd, sizeof *state);
  volatile uint64_t* front = shared(-1, pages * kPageBytes);
  volatile uint64_t* back = shared(-1, pages * kPageBytes);
  nice(19);  // Whatever the guest's agent has to do goes first.
  printf("ready\n");
  fflush(stdout);
  const pid_t follower = fork();
  if (follower < 0) return 4;
  stay_on(follower == 0 ? 1 : 0);
  if (follower == 0) follow(state, front, back, pages);
  lead(state, front, pages);
}
