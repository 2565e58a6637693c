// Pipes or a terminal, the process, its streams, its end.
#include "command.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "console.h"
#include "events.h"
#include "exec_request.h"
#include "flow.h"
#include "link.h"
#include "oom.h"
#include "pty.h"
#include "spawn.h"

enum { kSlowStartMs = 10 };

static bool children;

// The command's ends of its pipes or terminal; closed in the agent once it runs.
struct far_ends {
  int fds[3];
  int count;
};

static int null_fd(void) {
  static int fd = -1;
  if (fd < 0) fd = open("/dev/null", O_RDWR | O_CLOEXEC);
  return fd;
}

// Our end does not block, the program's does: they are two open file descriptions.
static bool make_pipe(int* ours, int* theirs, bool we_read) {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) < 0) return false;
  *ours = fds[we_read ? 0 : 1];
  *theirs = fds[we_read ? 1 : 0];
  return fcntl(*ours, F_SETFL, O_NONBLOCK | (we_read ? O_RDONLY : O_WRONLY)) == 0;
}

static bool add_pipe(int* ours, struct far_ends* far, int* slot, bool we_read) {
  int theirs = -1;
  bool made = make_pipe(ours, &theirs, we_read);
  if (theirs >= 0) far->fds[far->count++] = theirs;
  *slot = theirs;
  return made;
}

static bool open_pipes(struct stream* stream, uint16_t aux, struct spawn* spawn,
                       struct far_ends* far) {
  spawn->fds[0] = null_fd();
  if (!(aux & kExecNoStdin) && !add_pipe(&stream->input.fd, far, &spawn->fds[0], false)) {
    return false;
  }
  if (!add_pipe(&stream->outputs[0].fd, far, &spawn->fds[1], true)) return false;
  spawn->fds[2] = spawn->fds[1];
  if (!(aux & kExecMergeStderr) && !add_pipe(&stream->outputs[1].fd, far, &spawn->fds[2], true)) {
    return false;
  }
  return spawn->fds[0] >= 0 && events_watch(stream->outputs[0].fd, stream, kWatchStdout) &&
         (stream->outputs[1].fd < 0 || events_watch(stream->outputs[1].fd, stream, kWatchStderr));
}

static bool open_terminal(struct stream* stream, uint32_t size, struct spawn* spawn,
                          struct far_ends* far) {
  struct pty pty;
  // A program finds its terminal by name below its own /dev/pts.
  bool inside = spawn->container && container_mounted();
  int error = inside ? pty_open(&pty, container_pts_fd(), "ptmx", size)
                     : pty_open(&pty, AT_FDCWD, "/dev/ptmx", size);
  if (error != 0) {
    errno = error;
    return false;
  }
  stream->pty = true;
  stream->input.fd = stream->outputs[0].fd = pty.master;
  far->fds[far->count++] = pty.slave;
  spawn->fds[0] = spawn->fds[1] = spawn->fds[2] = pty.slave;
  spawn->terminal = true;
  return events_watch(pty.master, stream, kWatchPty);
}

static bool start(struct stream* stream, const struct frame* frame, uint32_t pty_size,
                  struct spawn* spawn) {
  struct far_ends far = {.count = 0};
  bool terminal = frame->aux & kExecPty;
  spawn->text = NULL;
  stream->contained = spawn->container != NULL;
  stream->oom_kills = stream->contained ? oom_kills_before() : 0;
  bool opened = terminal ? open_terminal(stream, pty_size, spawn, &far)
                         : open_pipes(stream, frame->aux, spawn, &far);
  if (opened) {
    stream->pid = spawn_start(spawn);
  } else {
    spawn->stage = terminal ? "pty" : "pipe";
    spawn->error = errno;
  }
  for (int i = 0; i < far.count; i++) close(far.fds[i]);
  return opened && stream->pid > 0;
}

void command_start(const struct frame* frame, uint8_t* payload) {
  struct spawn spawn;
  uint32_t pty_size;
  uint64_t begin_ns = now_ns();
  const char* problem = exec_request_parse(payload, frame->length, &spawn, &pty_size);
  if (problem) {
    link_send_error(frame->stream, EINVAL, "decode", problem);
    return;
  }
  struct stream* stream = stream_open(frame->stream, kCommand);
  if (!stream) {
    link_send_error(frame->stream, EAGAIN, "limit", "256 streams are open");
    return;
  }
  if (!start(stream, frame, pty_size, &spawn)) {
    stream->pid = 0;
    const char* text = spawn.text ? spawn.text : strerror(spawn.error);
    link_send_error(frame->stream, spawn.error, spawn.stage, text);
    stream_close(stream);
    return;
  }
  children = true;
  // Where starting takes this long, the program's end is further away than a frame may wait.
  bool slow = now_ns() - begin_ns > kSlowStartMs * UINT64_C(1000000);
  if (slow) {
    link_send_small(kStarted, frame->stream, 0, (uint32_t)stream->pid);
  } else {
    link_send_lazy(kStarted, frame->stream, 0, (uint32_t)stream->pid);
  }
}

static struct stream* main_stream(void) {
  return container_main() > 0 ? stream_find_pid(container_main()) : NULL;
}

// What it wrote since the fork was dropped; what it writes from now on is the host's.
void command_adopt_main(const struct frame* frame) {
  struct stream* stream = main_stream();
  if (!stream || !stream->detached) {
    int error = stream ? EBUSY : ESRCH;
    link_send_error(frame->stream, error, "container", strerror(error));
    return;
  }
  stream->id = frame->stream;
  stream->detached = false;
  stream->input.credit = kWindowBytes - stream->input.buffered;
  stream->input.owed = 0;
  for (int i = 0; i < 2; i++) stream->outputs[i].credit = kWindowBytes;
  link_send_lazy(kStarted, stream->id, 0, (uint32_t)stream->pid);
}

void command_report_oom(void) {
  if (!oom_take_change()) return;
  struct stream* stream = main_stream();
  // The memory events also count what is no kill, such as meeting the limit.
  uint32_t kills = stream ? oom_kills() - stream->oom_kills : 0;
  if (kills == 0 || kills == stream->oom_told || stream->detached) return;
  if (link_room() < kSmallFrameBytes) return;
  link_send_small(kOom, stream->id, 0, kills);
  stream->oom_told = kills;
}

void command_resize(struct stream* stream, uint32_t size) {
  if (stream->pty && stream->outputs[0].fd >= 0) pty_resize(stream->outputs[0].fd, size);
}

// Only until the process is reaped: its number may belong to another one afterwards.
void command_signal(struct stream* stream, const struct frame* frame) {
  if (stream->pid == 0 || frame->value == 0 || frame->value > kSignalMax) return;
  pid_t target = frame->aux & kSignalGroup ? -stream->pid : stream->pid;
  kill(target, (int)frame->value);
}

static void note_end(struct stream* stream, int status, const struct rusage* usage) {
  stream->pid = 0;
  stream->exited = true;
  stream->exit_code = WIFEXITED(status) ? (uint8_t)WEXITSTATUS(status) : 0;
  stream->exit_signal = WIFSIGNALED(status) ? (uint16_t)WTERMSIG(status) : 0;
  stream->max_rss_kib = (uint64_t)usage->ru_maxrss;
  if (stream->contained) stream->oom_kills = oom_kills() - stream->oom_kills;
  // Most programs were their outputs' only writers: look for the end without another wake-up.
  stream->outputs[0].ready = stream->outputs[1].ready = true;
}

void command_reap(void) {
  int status;
  struct rusage usage;
  pid_t pid;
  while ((pid = wait4(-1, &status, WNOHANG, &usage)) > 0) {
    struct stream* stream = stream_find_pid(pid);
    container_reaped(pid);
    if (stream) note_end(stream, status, &usage);
  }
  children = pid == 0;
}

bool command_children(void) { return children; }

static void send_exit(const struct stream* stream) {
  uint8_t payload[32];
  struct tlv_writer writer;
  tlv_begin(&writer, payload, sizeof payload);
  tlv_put_u64(&writer, kTagMaxRssKib, stream->max_rss_kib);
  if (stream->oom_kills > 0) tlv_put_u32(&writer, kTagOomKills, stream->oom_kills);
  struct frame frame = {.length = tlv_size(&writer),
                        .type = kExit,
                        .stream = stream->id,
                        .aux = stream->exit_signal,
                        .value = stream->exit_code};
  link_send(&frame, payload);
}

// True once the grace is over and the rest is on its way.
static bool grace_over(const struct stream* stream) {
  for (int i = 0; i < 2; i++) {
    if (stream->outputs[i].fd >= 0 && stream->outputs[i].final) return true;
  }
  return false;
}

// True when the grace ended just now.
static bool check_grace(struct stream* stream) {
  if (grace_over(stream)) return false;
  if (stream->grace_end_ns == 0) {
    stream->grace_end_ns = now_ns() + (uint64_t)kExitGraceMs * 1000000u;
    return false;
  }
  if (now_ns() < stream->grace_end_ns) return false;
  outputs_finish(stream);
  return true;
}

bool command_pump(struct stream* stream) {
  stdin_pump(stream);
  bool more = outputs_pump(stream);
  if (!stream->exited) return more;
  if (outputs_open(stream)) return check_grace(stream) || more;
  if (link_room() < kSmallFrameBytes) return false;
  if (!stream->detached) send_exit(stream);
  stream_close(stream);
  return false;
}

int command_grace_ms(void) {
  uint64_t first = UINT64_MAX;
  for (uint32_t slot = 0; slot < streams_end(); slot++) {
    const struct stream* stream = stream_at(slot);
    if (stream->kind != kCommand || stream->grace_end_ns == 0 || grace_over(stream)) continue;
    if (stream->grace_end_ns < first) first = stream->grace_end_ns;
  }
  if (first == UINT64_MAX) return -1;
  uint64_t now = now_ns();
  return now >= first ? 0 : (int)((first - now) / 1000000u) + 1;
}
