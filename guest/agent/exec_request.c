// Parses EXEC without copying: each string moves one byte down, over the end of its own TLV header,
// which makes room for the NUL that C wants behind it.
#include "exec_request.h"

#include <stddef.h>
#include <string.h>

#include "container_request.h"
#include "frames.h"

// A payload holds at most this many TLVs; two NULLs end the two lists, and HOME may be added.
enum { kMaxStrings = kFrameMaxPayloadBytes / 8 + 3 + kSpareArguments };

static char* strings[kMaxStrings];
static struct container_spec container;

static char* terminate(const struct tlv* tlv) {
  if (memchr(tlv->value, 0, tlv->length)) return NULL;
  char* text = (char*)tlv->value - 1;
  memmove(text, tlv->value, tlv->length);
  text[tlv->length] = 0;
  return text;
}

static const char* parse_number(const struct tlv* tlv, uint32_t* value) {
  return tlv_u32(tlv, value) ? NULL : "a number of EXEC is not 4 bytes long";
}

static const char* parse_cwd(const struct tlv* tlv, const char** cwd) {
  *cwd = terminate(tlv);
  return *cwd && **cwd ? NULL : "CWD is empty or holds a NUL";
}

// The user id -1 means "leave it" to the kernel: the command would stay root.
static const char* parse_user(const struct tlv* tlv, uint32_t* id) {
  const char* problem = parse_number(tlv, id);
  return problem || *id != UINT32_MAX ? problem : "a UID or GID is out of range";
}

struct lists {
  char** arg;
  char** env;
};

static const char* parse_one(const struct tlv* tlv, struct spawn* spawn, uint32_t* pty_size,
                             struct lists* lists) {
  switch (tlv->tag) {
    case kTagArg:
      *lists->arg = terminate(tlv);
      return *lists->arg++ ? NULL : "an ARG holds a NUL";
    case kTagEnv: {
      const uint8_t* sign = memchr(tlv->value, '=', tlv->length);
      if (!sign || sign == tlv->value) return "an ENV is not NAME=value";
      *lists->env = terminate(tlv);
      return *lists->env++ ? NULL : "an ENV holds a NUL";
    }
    case kTagCwd:
      return parse_cwd(tlv, &spawn->cwd);
    case kTagUid:
      return parse_user(tlv, &spawn->uid);
    case kTagGid:
      return parse_user(tlv, &spawn->gid);
    case kTagPtySize:
      return parse_number(tlv, pty_size);
    default:
      return container_request_take(tlv, &container);
  }
}

static bool count_args(struct tlv_reader reader, uint32_t* args) {
  struct tlv tlv;
  enum tlv_result result;
  *args = 0;
  while ((result = tlv_next(&reader, &tlv)) == kTlvGot) *args += tlv.tag == kTagArg;
  return result == kTlvEnd;
}

const char* exec_request_parse(uint8_t* payload, uint32_t length, struct spawn* spawn,
                               uint32_t* pty_size) {
  struct tlv_reader reader = {.next = payload, .end = payload + length};
  uint32_t args;
  if (!count_args(reader, &args)) return "malformed TLV in EXEC";
  if (args == 0) return "EXEC without an argument";
  char** argv = strings + kSpareArguments;
  *spawn = (struct spawn){.argv = argv, .envp = argv + args + 1};
  memset(&container, 0, sizeof container);
  *pty_size = kDefaultPtySize;
  struct lists lists = {.arg = spawn->argv, .env = spawn->envp};
  struct tlv tlv;
  while (tlv_next(&reader, &tlv) == kTlvGot) {
    const char* problem = parse_one(&tlv, spawn, pty_size, &lists);
    if (problem) return problem;
  }
  *lists.arg = NULL;
  *lists.env = NULL;
  if (container.present) spawn->container = &container;
  return container_request_check(&container);
}
