// The calls that can be made to fail, and how each fails.
#include "tests/faults.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <new>
#include <thread>

namespace vmfork::faults {

namespace {

std::atomic<size_t> calls_left = 0;  // 0: not armed
std::atomic<unsigned long> ioctl_wanted = 0;
std::atomic<int> ioctl_error = 0;

// What was given; `given` is set last.
Fault last{};
std::atomic<bool> given = false;
std::thread::id armed_by;

thread_local size_t allocations_left = 0;  // 0: not armed

bool Give(const char* call, unsigned long request, int error_number) {
  last = {call, request, error_number, std::this_thread::get_id() != armed_by};
  given = true;
  errno = error_number;
  return true;
}

// Whether this call is the one; sets errno.
bool Fails(const char* call, int error_number, unsigned long request = 0) {
  size_t left = calls_left;
  while (left > 0) {
    if (calls_left.compare_exchange_weak(left, left - 1))
      return left == 1 && Give(call, request, error_number);
  }
  return false;
}

bool IoctlFails(unsigned long request) {
  unsigned long wanted = request;
  if (request != 0 && ioctl_wanted.compare_exchange_strong(wanted, 0))
    return Give("ioctl", request, ioctl_error);
  const bool counted = request != KVM_RUN && request != KVM_IRQ_LINE;
  return counted && Fails("ioctl", ENOMEM, request);
}

}  // namespace

void Arm(size_t nth) {
  given = false;
  armed_by = std::this_thread::get_id();
  calls_left = nth;
}

void ArmIoctl(unsigned long request, int error_number) {
  given = false;
  armed_by = std::this_thread::get_id();
  ioctl_error = error_number;
  ioctl_wanted = request;
}

void ArmHeap(size_t nth) {
  given = false;
  armed_by = std::this_thread::get_id();
  allocations_left = nth;
}

bool Given() { return given; }

std::optional<Fault> Disarm() {
  calls_left = 0;
  ioctl_wanted = 0;
  allocations_left = 0;
  if (!given) return std::nullopt;
  return last;
}

void* Allocate(size_t size) {
  if (allocations_left > 0 && --allocations_left == 0) {
    Give("operator new", 0, ENOMEM);
    throw std::bad_alloc();
  }
  if (void* memory = ::malloc(std::max<size_t>(size, 1))) return memory;
  throw std::bad_alloc();
}

}  // namespace vmfork::faults

// The others of the library come here.
void* operator new(size_t size) { return vmfork::faults::Allocate(size); }
void operator delete(void* memory) noexcept { ::free(memory); }
void operator delete(void* memory, size_t) noexcept { ::free(memory); }

// ld(1), --wrap: what calls NAME gets __wrap_NAME, and __real_NAME is the function itself. Those
// names are reserved in C++, hence the labels.
#define FAULTS_WRAP(result, name, parameters, arguments, failed, error_number)            \
  extern "C" result Real_##name parameters __asm__("__real_" #name);                      \
  extern "C" result Wrap_##name parameters __asm__("__wrap_" #name);                      \
  extern "C" result Wrap_##name parameters {                                              \
    return vmfork::faults::Fails(#name, error_number) ? (failed) : Real_##name arguments; \
  }

FAULTS_WRAP(void*, mmap,
            (void* address, size_t size, int protection, int flags, int fd, off_t offset),
            (address, size, protection, flags, fd, offset), MAP_FAILED, ENOMEM)
FAULTS_WRAP(int, madvise, (void* address, size_t size, int advice), (address, size, advice), -1,
            ENOMEM)
FAULTS_WRAP(int, memfd_create, (const char* name, unsigned flags), (name, flags), -1, EMFILE)
FAULTS_WRAP(int, ftruncate, (int fd, off_t size), (fd, size), -1, ENOSPC)
FAULTS_WRAP(int, fallocate, (int fd, int mode, off_t offset, off_t size), (fd, mode, offset, size),
            -1, ENOSPC)
FAULTS_WRAP(ssize_t, pwrite, (int fd, const void* bytes, size_t size, off_t offset),
            (fd, bytes, size, offset), -1, ENOSPC)
FAULTS_WRAP(ssize_t, pread, (int fd, void* bytes, size_t size, off_t offset),
            (fd, bytes, size, offset), -1, EIO)
FAULTS_WRAP(ssize_t, preadv2,
            (int fd, const struct iovec* parts, int count, off_t offset, int flags),
            (fd, parts, count, offset, flags), -1, EIO)
FAULTS_WRAP(int, fstat, (int fd, struct stat* status), (fd, status), -1, EIO)
FAULTS_WRAP(off_t, lseek, (int fd, off_t offset, int whence), (fd, offset, whence), -1, EIO)
FAULTS_WRAP(ssize_t, copy_file_range,
            (int from, off64_t* from_offset, int to, off64_t* to_offset, size_t size,
             unsigned flags),
            (from, from_offset, to, to_offset, size, flags), -1, ENOSPC)
FAULTS_WRAP(int, fsync, (int fd), (fd), -1, EIO)
FAULTS_WRAP(int, rename, (const char* from, const char* to), (from, to), -1, EIO)
FAULTS_WRAP(char*, mkdtemp, (char* path), (path), nullptr, ENOSPC)
FAULTS_WRAP(int, mkostemp, (char* path, int flags), (path, flags), -1, ENOSPC)
FAULTS_WRAP(int, posix_fadvise, (int fd, off_t offset, off_t size, int advice),
            (fd, offset, size, advice), EIO, EIO)
FAULTS_WRAP(int, socketpair, (int domain, int type, int protocol, int* pair),
            (domain, type, protocol, pair), -1, EMFILE)
FAULTS_WRAP(ssize_t, send, (int fd, const void* bytes, size_t size, int flags),
            (fd, bytes, size, flags), -1, ENOBUFS)
FAULTS_WRAP(int, eventfd, (unsigned count, int flags), (count, flags), -1, EMFILE)
FAULTS_WRAP(int, pthread_create,
            (pthread_t * thread, const pthread_attr_t* attributes, void* (*main)(void*),
             void* argument),
            (thread, attributes, main, argument), EAGAIN, EAGAIN)

extern "C" int RealEpollCtl(int epoll, int operation, int fd,
                            struct epoll_event* event) __asm__("__real_epoll_ctl");
extern "C" int WrapEpollCtl(int epoll, int operation, int fd,
                            struct epoll_event* event) __asm__("__wrap_epoll_ctl");
extern "C" int WrapEpollCtl(int epoll, int operation, int fd, struct epoll_event* event) {
  const bool counted = operation != EPOLL_CTL_DEL;
  return counted && vmfork::faults::Fails("epoll_ctl", ENOSPC)
             ? -1
             : RealEpollCtl(epoll, operation, fd, event);
}

// Those with an optional argument, which is a word at most.
extern "C" int RealIoctl(int fd, unsigned long request, ...) __asm__("__real_ioctl");
extern "C" int WrapIoctl(int fd, unsigned long request, ...) __asm__("__wrap_ioctl");
extern "C" int WrapIoctl(int fd, unsigned long request, ...) {
  va_list list;
  va_start(list, request);
  void* argument = va_arg(list, void*);
  va_end(list);
  return vmfork::faults::IoctlFails(request) ? -1 : RealIoctl(fd, request, argument);
}

extern "C" int RealFcntl(int fd, int command, ...) __asm__("__real_fcntl");
extern "C" int WrapFcntl(int fd, int command, ...) __asm__("__wrap_fcntl");
extern "C" int WrapFcntl(int fd, int command, ...) {
  va_list list;
  va_start(list, command);
  const unsigned long argument = va_arg(list, unsigned long);
  va_end(list);
  return vmfork::faults::Fails("fcntl", EMFILE) ? -1 : RealFcntl(fd, command, argument);
}

extern "C" int RealOpen(const char* path, int flags, ...) __asm__("__real_open");
extern "C" int WrapOpen(const char* path, int flags, ...) __asm__("__wrap_open");
extern "C" int WrapOpen(const char* path, int flags, ...) {
  va_list list;
  va_start(list, flags);
  const unsigned mode = va_arg(list, unsigned);
  va_end(list);
  return vmfork::faults::Fails("open", EMFILE) ? -1 : RealOpen(path, flags, mode);
}
