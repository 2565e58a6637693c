// The event loop and the dispatch of frames. It never blocks on a command: it sleeps in epoll_wait,
// or, while there is neither command nor child, in recv itself, which saves the epoll's share of
// every wake-up. A frozen agent always sleeps in recv, so the first frame of a clone comes cheap.
#include "loop.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/reboot.h>
#include <unistd.h>

#include "command.h"
#include "console.h"
#include "container.h"
#include "events.h"
#include "files.h"
#include "flow.h"
#include "forkpoint.h"
#include "hello.h"
#include "identity.h"
#include "link.h"
#include "readahead.h"
#include "rootfs.h"
#include "streams.h"
#include "tunnel.h"

enum { kLogError = 3, kLazyMs = 10, kLazyRounds = 4 };

static bool quiesced;
static bool has_identity;
static bool init_process;

_Noreturn static void protocol_error(const char* text) {
  struct frame frame = {.length = (uint32_t)strlen(text), .type = kLog, .value = kLogError};
  if (link_room() >= kSmallFrameBytes) link_send(&frame, text);
  link_flush();
  fatal(text, 0);
}

_Noreturn static void shut_down(void) {
  if (!init_process) _exit(0);
  kill(-1, SIGKILL);
  sync();
  reboot(RB_AUTOBOOT);
  fatal("reboot failed", errno);
}

static void answer_ping(const struct frame* ping, const uint8_t* payload) {
  struct frame pong = {.length = ping->length, .type = kPong, .value = ping->value};
  link_send(&pong, payload);
}

// The last frame before the machine is frozen. Afterwards only the connection is read.
static void quiesce(const struct frame* frame) {
  identity_prepare();
  if (has_identity) readahead_at_rest();  // else it rests to be given one, not to be frozen
  events_forget_link();
  quiesced = true;
  link_send_small(kQuiesced, 0, 0, frame->value);
  link_drain();
}

static void resume(const struct frame* frame, uint8_t* payload) {
  if (!(frame->aux & kResumeThawOnly)) {
    if (!identity_apply(payload, frame->length)) {
      link_drain();
      return;
    }
    has_identity = true;
    container_rename();
    if (!(frame->aux & kResumeSameMachine)) streams_detach();
  }
  quiesced = false;
  resumed_send(frame->value);
}

static void serve_connection(const struct frame* frame, uint8_t* payload) {
  switch (frame->type) {
    case kPing:
      answer_ping(frame, payload);
      break;
    case kQuiesce:
      quiesce(frame);
      break;
    case kShutdown:
      shut_down();
    default:
      protocol_error("RESUME without QUIESCE");
  }
}

static void open_new(const struct frame* frame, uint8_t* payload) {
  if (stream_find(frame->stream)) protocol_error("stream number in use");
  switch (frame->type) {
    case kExec:
      command_start(frame, payload);
      break;
    case kFileRead:
      file_read_start(frame, payload);
      break;
    case kDial:
      tunnel_dial(frame, payload);
      break;
    case kRelease:
      forkpoint_release(frame, payload);
      break;
    case kMountRootfs:
      rootfs_mount_start(frame, payload);
      break;
    case kUnmountRootfs:
      rootfs_unmount(frame);
      break;
    case kPrepare:
      rootfs_prepare(frame);
      break;
    case kAdoptMain:
      command_adopt_main(frame);
      break;
    default:
      file_write_start(frame, payload);
  }
}

static void serve_command(struct stream* stream, const struct frame* frame,
                          const uint8_t* payload) {
  switch (frame->type) {
    case kData:
      if (!stdin_take(stream, payload, frame->length)) protocol_error("DATA without credit");
      break;
    case kEof:
      stdin_end(stream);
      break;
    case kResize:
      command_resize(stream, frame->value);
      break;
    case kSignal:
      command_signal(stream, frame);
      break;
    default:
      break;
  }
}

static void serve_file(struct stream* stream, const struct frame* frame, const uint8_t* payload) {
  if (frame->type == kSignal && frame->value == SIGKILL) {
    file_give_up(stream);
  } else if (stream->kind == kWritingFile && frame->type == kData) {
    if (!file_take(stream, payload, frame->length)) protocol_error("DATA without credit");
  } else if (stream->kind == kWritingFile && frame->type == kEof) {
    file_end(stream);
  }
}

static void serve_tunnel(struct stream* stream, const struct frame* frame, const uint8_t* payload) {
  if (frame->type == kSignal && frame->value == SIGKILL) {
    tunnel_reset(stream);
  } else if (frame->type == kData) {
    if (!stdin_take(stream, payload, frame->length)) protocol_error("DATA without credit");
  } else if (frame->type == kEof) {
    stdin_end(stream);
  }
}

static void add_credit(struct stream* stream, const struct frame* frame) {
  struct output* output = &stream->outputs[frame->aux - kAuxStdout];
  if (frame->value > INT32_MAX - output->credit) protocol_error("credit out of range");
  output->credit += frame->value;
}

// A frame for a stream that just ended has crossed its end on the way: it is dropped.
static void serve_stream(const struct frame* frame, const uint8_t* payload) {
  struct stream* stream = stream_find(frame->stream);
  if (!stream) return;
  if (frame->type == kWindow) {
    add_credit(stream, frame);
  } else if (stream->kind == kCommand) {
    serve_command(stream, frame, payload);
  } else if (stream->kind == kTunnel) {
    serve_tunnel(stream, frame, payload);
  } else if (stream->kind == kMounting) {
    if (frame->type == kSignal && frame->value == SIGKILL) rootfs_give_up(stream);
  } else {
    serve_file(stream, frame, payload);
  }
}

static bool opens_stream(uint8_t type) {
  return type == kExec || type == kFileRead || type == kFileWrite || type == kDial ||
         type == kRelease || type == kMountRootfs || type == kUnmountRootfs || type == kAdoptMain ||
         type == kPrepare;
}

static void serve(const struct frame* frame, uint8_t* payload) {
  if (quiesced) {
    if (frame->type == kShutdown) shut_down();
    if (frame->type != kResume) protocol_error("only RESUME may follow QUIESCE");
    resume(frame, payload);
  } else if (!frame_known(frame->type)) {
    link_send_error(frame->stream, ENOSYS, NULL, "unknown frame type");
  } else if (frame->stream == 0) {
    serve_connection(frame, payload);
  } else if (opens_stream(frame->type)) {
    open_new(frame, payload);
  } else {
    serve_stream(frame, payload);
  }
}

// Serves what has come, as long as every answer has room. True: frames are left for later.
static bool serve_all(void) {
  struct frame frame;
  uint8_t* payload;
  const char* problem;
  while (link_room() >= kOutReserveBytes) {
    enum link_result result = link_next(&frame, &payload, &problem);
    if (result == kLinkBroken) protocol_error(problem);
    if (result == kLinkNothing) return false;
    serve(&frame, payload);
  }
  return true;
}

// One piece from each stream, starting with another one each time, so that none starves.
static bool pump_all(void) {
  static uint32_t first;
  bool more = false;
  uint32_t end = streams_end();
  for (uint32_t i = 0; i < end; i++) {
    struct stream* stream = stream_at((first + i) % end);
    if (stream->kind == kCommand) {
      more |= command_pump(stream);
    } else if (stream->kind == kTunnel) {
      more |= tunnel_pump(stream);
    } else if (stream->kind == kMounting) {
      rootfs_pump(stream);
    } else if (stream->kind != kFree) {
      more |= file_pump(stream);
    }
  }
  first++;
  command_report_oom();
  return forkpoint_pump() || more;
}

// STARTED and the EOFs wait a moment for what mostly follows them at once, output or EXIT: on an
// interpreted guest kernel each frame sent by itself costs about a millisecond.
static bool worth_waiting(void) {
  static int rounds;
  rounds = link_lazy() ? rounds + 1 : 0;
  if (rounds > kLazyRounds) rounds = 0;
  return rounds > 0;
}

static int shorter(int a_ms, int b_ms) { return a_ms < 0 || b_ms < a_ms ? b_ms : a_ms; }

// Returns false when nothing came in the time that lazy frames may wait.
static bool wait_for_work(bool more, bool lazy) {
  bool alone = streams_count() == 0 && !command_children();
  if (quiesced || (alone && !more && link_idle())) return link_fill(true);
  bool room = link_room() >= kOutReserveBytes + kFrameHeaderBytes;
  bool at_once = room && (more || link_readable());
  int timeout_ms = at_once ? 0 : command_grace_ms();
  bool child_ended;
  bool came = events_wait(lazy ? shorter(timeout_ms, kLazyMs) : timeout_ms, &child_ended);
  if (child_ended) command_reap();
  if (link_readable() && room) link_fill(false);
  return came;
}

void loop_run(bool is_init) {
  init_process = is_init;
  hello_send();
  link_flush();
  bool more = false;
  for (bool lazy = false;;) {
    bool came = wait_for_work(more, lazy);
    more = serve_all();
    if (quiesced) continue;
    more |= pump_all();
    lazy = came && worth_waiting();
    if (!lazy) link_flush();
  }
}
