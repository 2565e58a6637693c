// Files move a piece at a time from the event loop, under the same credit as commands' streams.
#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "link.h"

struct request {
  char path[PATH_MAX];
  uint64_t offset;
  uint64_t limit;
  uint32_t mode;
};

static void fail(uint32_t stream, int error, const char* stage) {
  link_send_error(stream, error, stage, strerror(error));
}

static void fail_and_close(struct stream* stream, int error, const char* stage) {
  fail(stream->id, error, stage);
  stream_close(stream);
}

static bool take_path(const struct tlv* tlv, char* path) {
  if (tlv->length == 0 || tlv->length >= PATH_MAX || tlv->value[0] != '/') return false;
  if (memchr(tlv->value, 0, tlv->length)) return false;
  memcpy(path, tlv->value, tlv->length);
  path[tlv->length] = 0;
  return true;
}

static bool parse_one(const struct tlv* tlv, struct request* request) {
  switch (tlv->tag) {
    case kTagPath:
      return take_path(tlv, request->path);
    case kTagOffset:
      return tlv_u64(tlv, &request->offset) && request->offset <= INT64_MAX;
    case kTagLimit:
      return tlv_u64(tlv, &request->limit);
    case kTagMode:
      return tlv_u32(tlv, &request->mode) && request->mode <= 07777;
    default:
      return true;
  }
}

static bool parse(uint8_t* payload, uint32_t length, struct request* request) {
  struct tlv_reader reader = {.next = payload, .end = payload + length};
  struct tlv tlv;
  enum tlv_result result;
  request->path[0] = 0;
  request->offset = 0;
  request->limit = UINT64_MAX;
  request->mode = 0644;
  while ((result = tlv_next(&reader, &tlv)) == kTlvGot) {
    if (!parse_one(&tlv, request)) return false;
  }
  return result == kTlvEnd && request->path[0] != 0;
}

// A pipe or socket could make the agent wait for somebody else.
static int refuse_kind(int fd) {
  struct stat status;
  if (fstat(fd, &status) < 0) return errno;
  if (S_ISDIR(status.st_mode)) return EISDIR;
  return S_ISREG(status.st_mode) || S_ISCHR(status.st_mode) || S_ISBLK(status.st_mode) ? 0 : EINVAL;
}

// Takes over `fd`; on failure answers and closes it.
static struct stream* adopt(uint32_t id, int fd, enum stream_kind kind) {
  int error = fd < 0 ? errno : refuse_kind(fd);
  struct stream* stream = error == 0 ? stream_open(id, kind) : NULL;
  if (stream) {
    stream->file_fd = fd;
    return stream;
  }
  if (error != 0) {
    fail(id, error, "open");
  } else {
    fail(id, EAGAIN, "limit");
  }
  if (fd >= 0) close(fd);
  return NULL;
}

void file_read_start(const struct frame* frame, uint8_t* payload) {
  struct request request;
  if (!parse(payload, frame->length, &request)) {
    fail(frame->stream, EINVAL, "decode");
    return;
  }
  int fd = open(request.path, O_RDONLY | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
  struct stream* stream = adopt(frame->stream, fd, kReadingFile);
  if (!stream) return;
  stream->file_limit = request.limit;
  if (request.offset > 0 && lseek(fd, (off_t)request.offset, SEEK_SET) < 0) {
    fail_and_close(stream, errno, "open");
  }
}

static void make_parents(char* path) {
  for (char* slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
    *slash = 0;
    // What goes wrong here shows when the file is opened.
    mkdir(path, 0755);
    *slash = '/';
  }
}

void file_write_start(const struct frame* frame, uint8_t* payload) {
  struct request request;
  if (!parse(payload, frame->length, &request)) {
    fail(frame->stream, EINVAL, "decode");
    return;
  }
  if (frame->aux & kWriteParents) make_parents(request.path);
  int flags = O_WRONLY | O_CREAT | O_NOCTTY | O_NONBLOCK | O_CLOEXEC;
  flags |= frame->aux & kWriteAppend ? O_APPEND : O_TRUNC;
  if (frame->aux & kWriteExclusive) flags |= O_EXCL;
  // MODE is meant as it stands; commands keep the usual mask.
  mode_t mask = umask(0);
  int fd = open(request.path, flags, (mode_t)request.mode);
  int error = errno;
  umask(mask);
  errno = error;
  adopt(frame->stream, fd, kWritingFile);
}

static void send_done(const struct stream* stream) {
  uint8_t payload[32];
  struct tlv_writer writer;
  tlv_begin(&writer, payload, sizeof payload);
  tlv_put_u64(&writer, kTagSize, stream->file_bytes);
  struct frame frame = {.length = tlv_size(&writer), .type = kFileDone, .stream = stream->id};
  link_send(&frame, payload);
}

bool file_take(struct stream* stream, const uint8_t* bytes, uint32_t length) {
  struct input* input = &stream->input;
  if (length > input->credit) return false;
  uint32_t done = 0;
  while (done < length) {
    ssize_t count = write(stream->file_fd, bytes + done, length - done);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      fail_and_close(stream, count < 0 ? errno : EIO, "write");
      return true;
    }
    done += (uint32_t)count;
  }
  stream->file_bytes += length;
  input->credit -= length;
  input->owed += length;
  if (input->owed >= kDataMaxBytes) {
    link_send_small(kWindow, stream->id, kAuxStdin, input->owed);
    input->credit += input->owed;
    input->owed = 0;
  }
  return true;
}

void file_end(struct stream* stream) {
  int fd = stream->file_fd;
  stream->file_fd = -1;
  if (close(fd) < 0) {
    fail_and_close(stream, errno, "write");
    return;
  }
  send_done(stream);
  stream_close(stream);
}

void file_give_up(struct stream* stream) { fail_and_close(stream, EINTR, NULL); }

static uint64_t min_u64(uint64_t a, uint64_t b) { return a < b ? a : b; }

bool file_pump(struct stream* stream) {
  if (stream->kind != kReadingFile) return false;
  struct output* output = &stream->outputs[0];
  size_t room = link_room();
  if (room < kOutReserveBytes + kFrameHeaderBytes) return false;
  uint64_t asked = min_u64(stream->file_limit - stream->file_bytes, kDataMaxBytes);
  if (asked > 0 && output->credit == 0) return false;
  asked = min_u64(min_u64(asked, output->credit), room - kOutReserveBytes);
  uint8_t* place = link_reserve_data((size_t)asked);
  ssize_t count = asked > 0 ? read(stream->file_fd, place, (size_t)asked) : 0;
  if (count < 0 && errno == EINTR) return true;
  if (count < 0) {
    fail_and_close(stream, errno, "read");
    return false;
  }
  if (count == 0) {
    send_done(stream);
    stream_close(stream);
    return false;
  }
  link_commit_data(stream->id, kAuxStdout, (uint32_t)count);
  output->credit -= (uint32_t)count;
  stream->file_bytes += (uint64_t)count;
  return true;
}
