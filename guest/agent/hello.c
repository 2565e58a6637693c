// Times come from the vDSO where the machine has one, so a RESUMED costs one system call for the
// context id besides its sending.
#include "hello.h"

#include <sched.h>
#include <sys/utsname.h>
#include <time.h>

#include "identity.h"
#include "link.h"

#ifndef VMFORK_AGENT_BUILD
#define VMFORK_AGENT_BUILD "dev"
#endif

static uint64_t clock_ns(clockid_t clock) {
  struct timespec time = {0};
  clock_gettime(clock, &time);
  return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static uint32_t online_cpus(void) {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) < 0) return 1;
  return (uint32_t)CPU_COUNT(&set);
}

void hello_send(void) {
  uint8_t payload[512];
  struct tlv_writer writer;
  struct utsname names = {.release = ""};
  uname(&names);
  tlv_begin(&writer, payload, sizeof payload);
  tlv_put_u32(&writer, kTagGenerationMin, kProtocolGenerationMin);
  tlv_put_text(&writer, kTagBuild, VMFORK_AGENT_BUILD);
  tlv_put_u64(&writer, kTagBootNs, clock_ns(CLOCK_BOOTTIME));
  tlv_put_text(&writer, kTagKernel, names.release);
  tlv_put_u32(&writer, kTagCpus, online_cpus());
  tlv_put(&writer, kTagBootNonce, identity_boot_nonce(), kNonceBytes);
  struct frame frame = {.length = tlv_size(&writer), .type = kHello, .value = kProtocolGeneration};
  link_send(&frame, payload);
}

void resumed_send(uint32_t value) {
  uint8_t payload[128];
  struct tlv_writer writer;
  tlv_begin(&writer, payload, sizeof payload);
  tlv_put(&writer, kTagGenerationId, identity_generation(), kNonceBytes);
  tlv_put_u64(&writer, kTagRealtimeNs, clock_ns(CLOCK_REALTIME));
  tlv_put_u32(&writer, kTagCid, identity_cid());
  tlv_put_u64(&writer, kTagBoottimeNs, clock_ns(CLOCK_BOOTTIME));
  struct frame frame = {.length = tlv_size(&writer), .type = kResumed, .value = value};
  link_send(&frame, payload);
}
