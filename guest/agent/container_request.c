// Every number is checked here; what the kernel checks itself (sizes of limits, options of a tmpfs)
// is left to it and fails with its errno.
#include "container_request.h"

#include <string.h>

enum { kMaxUmask = 0777, kMaxOomScore = 1000, kMaxCpuWeight = 10000, kRlimitBytes = 20 };

// Moves the value over the end of its own header, which makes room for a NUL behind it.
static char* move_down(const struct tlv* tlv) {
  char* text = (char*)tlv->value - 1;
  memmove(text, tlv->value, tlv->length);
  text[tlv->length] = 0;
  return text;
}

static const char* take_text(const struct tlv* tlv, const char** text) {
  if (memchr(tlv->value, 0, tlv->length)) return "a text of the container holds a NUL";
  *text = move_down(tlv);
  return NULL;
}

static const char* take_flags(const struct tlv* tlv, struct container_spec* spec) {
  spec->present = true;
  if (!tlv_u32(tlv, &spec->flags) || spec->flags & ~(uint32_t)kContainerFlags) {
    return "CONTAINER is no set of known flags";
  }
  return NULL;
}

static const char* take_rlimit(const struct tlv* tlv, struct container_spec* spec) {
  if (tlv->length != kRlimitBytes) return "a RLIMIT is not 20 bytes long";
  if (spec->rlimit_count == kMaxRlimits) return "too many RLIMITs";
  struct container_rlimit* rlimit = &spec->rlimits[spec->rlimit_count++];
  uint64_t soft, hard;
  memcpy(&rlimit->resource, tlv->value, 4);
  memcpy(&soft, tlv->value + 4, 8);
  memcpy(&hard, tlv->value + 12, 8);
  if (rlimit->resource >= RLIM_NLIMITS) return "a RLIMIT has no such resource";
  rlimit->limit = (struct rlimit){.rlim_cur = soft, .rlim_max = hard};
  return NULL;
}

static const char* take_tmpfs(const struct tlv* tlv, struct container_spec* spec) {
  if (spec->tmpfs_count == kMaxContainerMounts) return "too many TMPFSs";
  struct container_tmpfs* tmpfs = &spec->tmpfs[spec->tmpfs_count++];
  if (tlv->length < sizeof tmpfs->flags) return "a TMPFS is too short";
  memcpy(&tmpfs->flags, tlv->value, sizeof tmpfs->flags);
  uint32_t length = tlv->length - (uint32_t)sizeof tmpfs->flags;
  char* path = move_down(tlv) + sizeof tmpfs->flags;
  const char* end = memchr(path, 0, length);
  if (!end || memchr(end + 1, 0, (size_t)(path + length - end) - 1)) {
    return "a TMPFS is not path, NUL, options";
  }
  if (tmpfs->flags & ~(uint32_t)kTmpfsFlags) return "a TMPFS has unknown flags";
  tmpfs->path = path;
  tmpfs->options = end + 1;
  return path[0] == '/' ? NULL : "the path of a TMPFS is not absolute";
}

static const char* take_volume(const struct tlv* tlv, struct container_spec* spec) {
  if (spec->volume_count == kMaxContainerMounts) return "too many VOLUMEs";
  const char** volume = &spec->volumes[spec->volume_count++];
  const char* problem = take_text(tlv, volume);
  if (problem) return problem;
  return **volume == '/' ? NULL : "the path of a VOLUME is not absolute";
}

static const char* take_umask(const struct tlv* tlv, struct container_spec* spec) {
  spec->has_umask = true;
  return tlv_u32(tlv, &spec->umask) && spec->umask <= kMaxUmask ? NULL : "UMASK is out of range";
}

static const char* take_oom_score(const struct tlv* tlv, struct container_spec* spec) {
  uint32_t bits = 0;
  spec->has_oom_score_adj = true;
  bool whole = tlv_u32(tlv, &bits);
  spec->oom_score_adj = (int32_t)bits;
  bool fits = spec->oom_score_adj >= -kMaxOomScore && spec->oom_score_adj <= kMaxOomScore;
  return whole && fits ? NULL : "OOM_SCORE_ADJ is out of range";
}

static const char* take_cpu_weight(const struct tlv* tlv, struct container_spec* spec) {
  bool good = tlv_u32(tlv, &spec->cpu_weight) && spec->cpu_weight <= kMaxCpuWeight;
  return good ? NULL : "CPU_WEIGHT is out of range";
}

static const char* take_u64(const struct tlv* tlv, uint64_t* value) {
  return tlv_u64(tlv, value) ? NULL : "a number of the container is not 8 bytes long";
}

const char* container_request_take(const struct tlv* tlv, struct container_spec* spec) {
  switch (tlv->tag) {
    case kTagContainer:
      return take_flags(tlv, spec);
    case kTagUser:
      return take_text(tlv, &spec->user);
    case kTagCapabilities:
      spec->has_capabilities = true;
      return take_u64(tlv, &spec->capabilities);
    case kTagRlimit:
      return take_rlimit(tlv, spec);
    case kTagUmask:
      return take_umask(tlv, spec);
    case kTagOomScoreAdj:
      return take_oom_score(tlv, spec);
    case kTagTmpfs:
      return take_tmpfs(tlv, spec);
    case kTagVolume:
      return take_volume(tlv, spec);
    case kTagMemoryMax:
      return take_u64(tlv, &spec->memory_max);
    case kTagPidsMax:
      return take_u64(tlv, &spec->pids_max);
    case kTagCpuWeight:
      return take_cpu_weight(tlv, spec);
    default:
      return NULL;
  }
}

const char* container_request_check(const struct container_spec* spec) {
  uint32_t kinds = spec->flags & (kContainerMain | kContainerTool);
  if (kinds == (kContainerMain | kContainerTool)) return "a tool is no main process";
  if (spec->flags & kContainerInit && kinds != kContainerMain)
    return "only a main process has INIT";
  return NULL;
}
