// A disk that the host attached a moment ago may still be without capacity: the driver reads it in
// a work item. The kernel sends no uevent when a disk's size changes from nothing (block/genhd.c,
// set_capacity_and_notify), but it logs it, so the wait is for its log.
#include "rootfs.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <linux/fs.h>

#include "container.h"
#include "events.h"
#include "identity.h"
#include "link.h"
#include "mounts.h"

enum { kNameBytes = 32, kResolvMaxBytes = 4096, kYields = 2 };

// One mount at a time: there is one container.
static struct {
  char device[kNameBytes];
  char scratch[kNameBytes];
  char type[kNameBytes];
  uint32_t writable;
  uint64_t upper_bytes;
  bool has_resolv_conf;
  uint32_t resolv_conf_length;
  char resolv_conf[kResolvMaxBytes];
} request;

static int log_fd = -1;
static bool devices_changed;

static void fail(uint32_t stream, int error, const char* stage) {
  link_send_error(stream, error, stage, strerror(error));
}

// Names of devices and file systems: they become part of a path.
static bool take_name(const struct tlv* tlv, const char* before, char* name) {
  size_t start = strlen(before);
  if (tlv->length == 0 || tlv->length >= kNameBytes - start) return false;
  for (uint32_t i = 0; i < tlv->length; i++) {
    uint8_t byte = tlv->value[i];
    if (!(byte >= 'a' && byte <= 'z') && !(byte >= '0' && byte <= '9')) return false;
  }
  memcpy(name, before, start);
  memcpy(name + start, tlv->value, tlv->length);
  name[start + tlv->length] = 0;
  return true;
}

static bool take_resolv_conf(const struct tlv* tlv) {
  if (tlv->length > sizeof request.resolv_conf) return false;
  memcpy(request.resolv_conf, tlv->value, tlv->length);
  request.resolv_conf_length = tlv->length;
  request.has_resolv_conf = true;
  return true;
}

static bool parse_one(const struct tlv* tlv) {
  switch (tlv->tag) {
    case kTagDevice:
      return take_name(tlv, "/dev/", request.device);
    case kTagScratch:
      return take_name(tlv, "/dev/", request.scratch);
    case kTagFsType:
      return take_name(tlv, "", request.type);
    case kTagWritable:
      return tlv_u32(tlv, &request.writable) && request.writable <= kWritableDisk;
    case kTagUpperBytes:
      return tlv_u64(tlv, &request.upper_bytes);
    case kTagHostsExtra:
      return identity_extra_hosts((const char*)tlv->value, tlv->length);
    case kTagResolvConf:
      return take_resolv_conf(tlv);
    default:
      return true;
  }
}

static bool parse(uint8_t* payload, uint32_t length) {
  struct tlv_reader reader = {.next = payload, .end = payload + length};
  struct tlv tlv;
  enum tlv_result result;
  memset(&request, 0, sizeof request);
  request.writable = kWritableMemory;
  while ((result = tlv_next(&reader, &tlv)) == kTlvGot) {
    if (!parse_one(&tlv)) return false;
  }
  bool scratch = request.writable != kWritableDisk || request.scratch[0];
  return result == kTlvEnd && request.device[0] && scratch;
}

// Returns 0, EAGAIN while the disk is empty, or why it cannot be used.
static int check_disk(const char* path) {
  uint64_t bytes = 0;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return errno == ENXIO || errno == ENOMEDIUM ? EAGAIN : errno;
  int error = ioctl(fd, BLKGETSIZE64, &bytes) < 0 ? errno : 0;
  close(fd);
  if (error != 0) return error;
  return bytes == 0 ? EAGAIN : 0;
}

static int check_disks(void) {
  int error = check_disk(request.device);
  if (error == 0 && request.writable == kWritableDisk) error = check_disk(request.scratch);
  return error;
}

static bool watch_devices(void) {
  if (log_fd >= 0) return true;
  log_fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  if (log_fd < 0) return false;
  return lseek(log_fd, 0, SEEK_END) >= 0 && events_watch_devices(log_fd);
}

static void stop_watching(void) {
  if (log_fd >= 0) close(log_fd);
  log_fd = -1;
  devices_changed = false;
}

static void mount_now(struct stream* stream) {
  const char* resolv_conf = request.has_resolv_conf ? request.resolv_conf : NULL;
  const struct rootfs_plan plan = {.device = request.device,
                                   .type = request.type[0] ? request.type : NULL,
                                   .writable = request.writable,
                                   .scratch = request.scratch,
                                   .upper_bytes = request.upper_bytes,
                                   .resolv_conf = resolv_conf,
                                   .resolv_conf_length = request.resolv_conf_length};
  const char* stage = container_attach(&plan);
  if (stage) {
    fail(stream->id, errno, stage);
  } else {
    link_send_small(kRootfsReady, stream->id, 0, 0);
  }
  stream_close(stream);
}

// The driver's work item may be due since before this process was woken: it comes first then. Its
// log would wake us as well, but not before the next tick (kernel/printk/printk.c, wake_up_klogd).
static int check_disks_at_rest(void) {
  int error = check_disks();
  for (int i = 0; error == EAGAIN && i < kYields; i++) {
    sched_yield();
    error = check_disks();
  }
  return error;
}

// Asks once more after the watch began: the disk may have come in between.
static void mount_when_ready(struct stream* stream) {
  int error = check_disks_at_rest();
  if (error == EAGAIN && log_fd < 0) {
    error = watch_devices() ? check_disks() : errno;
  }
  if (error == EAGAIN) return;
  stop_watching();
  if (error == 0) {
    mount_now(stream);
  } else {
    fail(stream->id, error, "mount:device");
    stream_close(stream);
  }
}

static bool busy(void) {
  for (uint32_t slot = 0; slot < streams_end(); slot++) {
    if (stream_at(slot)->kind == kMounting) return true;
  }
  return container_mounted();
}

void rootfs_mount_start(const struct frame* frame, uint8_t* payload) {
  if (busy()) {
    fail(frame->stream, EBUSY, "mount:busy");
    return;
  }
  if (!parse(payload, frame->length)) {
    fail(frame->stream, EINVAL, "decode");
    return;
  }
  struct stream* stream = stream_open(frame->stream, kMounting);
  if (!stream) {
    fail(frame->stream, EAGAIN, "limit");
    return;
  }
  stop_watching();
  link_flush();  // The host may wait for what was said before; mounting takes its time.
  mount_when_ready(stream);
}

void rootfs_pump(struct stream* stream) {
  if (!devices_changed) return;
  devices_changed = false;
  mount_when_ready(stream);
}

void rootfs_give_up(struct stream* stream) {
  stop_watching();
  fail(stream->id, EINTR, NULL);
  stream_close(stream);
}

void rootfs_prepare(const struct frame* frame) {
  const char* stage = container_prepare();
  if (stage) {
    fail(frame->stream, errno, stage);
  } else {
    link_send_small(kPrepared, frame->stream, 0, 0);
  }
}

void rootfs_unmount(const struct frame* frame) {
  if (!container_mounted()) {
    fail(frame->stream, ENXIO, "unmount");
  } else if (!container_close()) {
    fail(frame->stream, EBUSY, "unmount");
  } else {
    link_send_small(kRootfsGone, frame->stream, 0, 0);
  }
}

void rootfs_devices_changed(void) { devices_changed = true; }
