// Streams and the connection are edge-triggered: readiness is remembered in the stream until a
// short read or EAGAIN clears it, so waiting for credit or room needs no epoll_ctl calls.
#include "events.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "console.h"
#include "forkpoint.h"
#include "link.h"
#include "oom.h"
#include "rootfs.h"

enum { kBatch = 64 };

// What an event is about: a slot and a `enum watch`, or one of these.
enum { kLinkToken = 0xffff0001, kChildToken = 0xffff0002, kForkPointToken = 0xffff0100 };
enum { kDevicesToken = 0xffff0003, kOomToken = 0xffff0004 };

static int epoll_fd;
static int child_fd;
static bool link_watched;
static uint32_t link_events;

static bool control(int operation, int fd, uint32_t events, uint32_t token) {
  struct epoll_event event = {.events = events, .data.u32 = token};
  return epoll_ctl(epoll_fd, operation, fd, &event) == 0;
}

static bool add(int fd, uint32_t events, uint32_t token) {
  return control(EPOLL_CTL_ADD, fd, events, token);
}

void events_init(void) {
  sigset_t all, child;
  sigfillset(&all);
  sigdelset(&all, SIGBUS);  // identity_file.c handles it: a blocked one would end the agent
  sigprocmask(SIG_SETMASK, &all, NULL);
  sigemptyset(&child);
  sigaddset(&child, SIGCHLD);
  epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  child_fd = signalfd(-1, &child, SFD_NONBLOCK | SFD_CLOEXEC);
  if (epoll_fd < 0 || child_fd < 0 || !add(child_fd, EPOLLIN, kChildToken)) {
    fatal("cannot set up the event loop", errno);
  }
}

static bool watch(int operation, int fd, const struct stream* stream, enum watch what) {
  static const uint32_t kEvents[] = {
      [kWatchStdout] = EPOLLIN | EPOLLET,
      [kWatchStderr] = EPOLLIN | EPOLLET,
      [kWatchStdin] = EPOLLOUT | EPOLLET,
      [kWatchPty] = EPOLLIN | EPOLLOUT | EPOLLET,
  };
  return control(operation, fd, kEvents[what], stream_slot(stream) << 2 | (uint32_t)what);
}

bool events_watch(int fd, const struct stream* stream, enum watch what) {
  return watch(EPOLL_CTL_ADD, fd, stream, what);
}

bool events_rewatch(int fd, const struct stream* stream, enum watch what) {
  return watch(EPOLL_CTL_MOD, fd, stream, what);
}

bool events_watch_fork_point(int fd, uint32_t number) {
  return add(fd, EPOLLIN, kForkPointToken + number);
}

// The kernel's log wakes its readers for every new line, whether or not the earlier ones were read.
bool events_watch_devices(int fd) { return add(fd, EPOLLIN | EPOLLET, kDevicesToken); }

bool events_watch_oom(int fd) { return add(fd, EPOLLPRI | EPOLLET, kOomToken); }

void events_forget_link(void) {
  if (link_watched) epoll_ctl(epoll_fd, EPOLL_CTL_DEL, link_fd(), NULL);
  link_watched = false;
}

// An event of a stream closed earlier in the batch may reach the slot's next owner: that is a
// read which finds nothing.
static void mark_stream(const struct epoll_event* event) {
  uint32_t slot = event->data.u32 >> 2;
  if (slot >= kMaxStreams) return;
  struct stream* stream = stream_at(slot);
  bool readable = event->events & (EPOLLIN | EPOLLHUP | EPOLLERR);
  bool writable = event->events & (EPOLLOUT | EPOLLHUP | EPOLLERR);
  enum watch what = event->data.u32 & 3;
  if (readable && (what == kWatchStdout || what == kWatchPty)) stream->outputs[0].ready = true;
  if (readable && what == kWatchStderr) stream->outputs[1].ready = true;
  if (writable && (what == kWatchStdin || what == kWatchPty)) stream->input.writable = true;
}

// A SIGCHLD that stayed pending would hide the next one. There is at most one: it does not queue.
static void take_child_signal(void) {
  struct signalfd_siginfo info;
  if (read(child_fd, &info, sizeof info) < 0 && errno != EAGAIN) {
    fatal("cannot read the signal descriptor", errno);
  }
}

// Writability is watched once the host has been slow: else each frame sent would wake the loop.
static void watch_link(void) {
  uint32_t wanted = EPOLLIN | EPOLLET;
  if (!link_writable()) wanted |= EPOLLOUT;
  if (link_watched && (wanted & ~link_events) == 0) return;
  struct epoll_event event = {.events = wanted, .data.u32 = kLinkToken};
  int operation = link_watched ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
  if (epoll_ctl(epoll_fd, operation, link_fd(), &event) < 0) {
    fatal("cannot watch the control connection", errno);
  }
  link_watched = true;
  link_events = wanted;
}

bool events_wait(int timeout_ms, bool* child_ended) {
  watch_link();
  struct epoll_event events[kBatch];
  int count = epoll_wait(epoll_fd, events, kBatch, timeout_ms);
  if (count < 0 && errno != EINTR) fatal("cannot wait for events", errno);
  *child_ended = false;
  for (int i = 0; i < count; i++) {
    if (events[i].data.u32 == kChildToken) {
      take_child_signal();
      *child_ended = true;
    } else if (events[i].data.u32 == kLinkToken) {
      if (events[i].events & ~(uint32_t)EPOLLOUT) link_set_readable();
      if (events[i].events & EPOLLOUT) link_set_writable();
    } else if (events[i].data.u32 >= kForkPointToken) {
      forkpoint_ready(events[i].data.u32 - kForkPointToken);
    } else if (events[i].data.u32 == kDevicesToken) {
      rootfs_devices_changed();
    } else if (events[i].data.u32 == kOomToken) {
      oom_changed();
    } else {
      mark_stream(&events[i]);
    }
  }
  return count > 0;
}

uint64_t now_ns(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}
