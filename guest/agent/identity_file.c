// A look at the page tells that the content is another one, fstat() that the file is longer. The
// latter is asked for at rest only and before the length changes: else what somebody appended just
// stays behind what is stored.
#include "identity_file.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { kPageBytes = 4096 };

static sigjmp_buf missing_page;
static volatile sig_atomic_t guarded;

// The kernel raises this at the very instruction whose page is gone, on the agent's only stack: to
// jump away from there leaves nothing half done. What a process sends means nothing. A child before
// its execve() has a copy of this handler; it never touches the pages.
static void on_missing_page(int number, siginfo_t* info, void* context) {
  (void)context;
  if (info->si_code <= 0) return;
  if (guarded) siglongjmp(missing_page, 1);
  signal(number,
         SIG_DFL);  // The instruction is tried again, and ends the process as it would have.
}

void identity_file_init(void) {
  struct sigaction action = {.sa_sigaction = on_missing_page, .sa_flags = SA_SIGINFO | SA_NODEFER};
  sigaction(SIGBUS, &action, NULL);
}

static uint64_t sum_of(const char* bytes, uint32_t length) {
  uint64_t sum = 0xcbf29ce484222325u;  // FNV-1a
  for (uint32_t i = 0; i < length; i++) sum = (sum ^ (uint8_t)bytes[i]) * 0x100000001b3u;
  return sum;
}

// With a text replaces the content, without one rewrites what is there. False: it is not what was
// stored last, or it ends before its length.
static bool replace(const struct identity_file* file, const char* text, uint32_t length) {
  volatile char* page = file->page;
  bool same = false;
  // Without the signal mask: no system call.
  if (sigsetjmp(missing_page, 0) == 0) {
    guarded = 1;
    atomic_signal_fence(memory_order_seq_cst);
    same = sum_of(file->page, file->length) == file->sum;
    if (same && text) memcpy(file->page, text, length);
    if (same && !text) page[0] = page[0];
    atomic_signal_fence(memory_order_seq_cst);
  } else {
    same = false;
  }
  guarded = 0;
  return same;
}

static bool has_own_length(const struct identity_file* file) {
  struct stat status;
  return fstat(file->fd, &status) == 0 && status.st_size == file->length;
}

static bool map(struct identity_file* file) {
  const int protection = PROT_READ | PROT_WRITE;
  if (ftruncate(file->fd, 1) < 0) return false;
  void* page = mmap(NULL, kPageBytes, protection, MAP_SHARED | MAP_POPULATE, file->fd, 0);
  if (page == MAP_FAILED) return false;
  file->page = page;
  file->length = 1;
  file->sum = sum_of("", 1);
  return true;
}

bool identity_file_make(struct identity_file* file, int directory) {
  identity_file_let_go(file);
  file->fd = openat(directory, file->path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (file->fd < 0) return false;
  if (map(file)) return true;
  int error = errno;
  close(file->fd);
  errno = error;
  return false;
}

// The size changes only with the length of the host name; stores behind the end do not count, so
// the file grows first.
bool identity_file_store(struct identity_file* file, const char* text, uint32_t length) {
  if (!file->page) return true;
  if (length != file->length) {
    if (!has_own_length(file)) {
      identity_file_let_go(file);
      return true;
    }
    if (length > file->length && ftruncate(file->fd, length) < 0) return false;
  }
  if (!replace(file, text, length)) {
    identity_file_let_go(file);
    return true;
  }
  if (length < file->length && ftruncate(file->fd, length) < 0) return false;
  file->length = length;
  file->sum = sum_of(text, length);
  return true;
}

void identity_file_touch(struct identity_file* file) {
  if (!file->page) return;
  if (!has_own_length(file) || !replace(file, NULL, 0)) identity_file_let_go(file);
}

void identity_file_let_go(struct identity_file* file) {
  if (!file->page) return;
  munmap(file->page, kPageBytes);
  close(file->fd);
  file->page = NULL;
}
