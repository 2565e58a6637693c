// The identity files lie on memory-backed filesystems and are mapped shared, so a new identity is a
// few stores (identity_file.h). System calls of a RESUME: two ioctls for entropy, clock_settime,
// sethostname, one ioctl for the context id.
#include "identity.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <linux/random.h>
#include <linux/vm_sockets.h>

#include "console.h"
#include "identity_file.h"
#include "link.h"

#ifndef GRND_INSECURE
#define GRND_INSECURE 4
#endif

enum {
  kIdBytes = 16,
  kMachineIdBytes = 32,
  kBootIdBytes = 36,
  kHostnameMaxBytes = 64,
  kEntropyMinBytes = 32,
  kEntropyMaxBytes = 256,
  kExtraHostsMaxBytes = 3 << 10,
};

enum { kMachineIdFile, kBootIdFile, kGenerationFile, kHostnameFile, kHostsFile, kFileCount };

static struct identity_file files[kFileCount] = {
    [kMachineIdFile] = {.path = "etc/machine-id"},
    [kBootIdFile] = {.path = "run/vmfork/boot_id"},
    [kGenerationFile] = {.path = "run/vmfork/generation"},
    [kHostnameFile] = {.path = "etc/hostname"},
    [kHostsFile] = {.path = "etc/hosts"},
};

// The same files in the upper layer of a container, where they are names of the image's.
static struct identity_file twins[kFileCount] = {
    [kMachineIdFile] = {.path = "machine-id"},
    [kHostnameFile] = {.path = "hostname"},
    [kHostsFile] = {.path = "hosts"},
};

struct identity {
  const uint8_t* generation;
  const uint8_t* entropy;
  const char* hostname;
  const char* machine_id;
  const char* boot_id;
  uint32_t entropy_length;
  uint32_t hostname_length;
  uint32_t cid;
  uint64_t realtime_ns;
  uint32_t seen;  // bit (tag - kTagGenerationId)
};

static bool with_kernel;
static int random_fd = -1;
static int vsock_fd = -1;
static uint8_t boot_nonce[kNonceBytes];
static uint8_t generation_now[kIdBytes];
// What later files are to say: those of the machine may be changed by then.
static char machine_id_now[kMachineIdBytes];
static char hostname_now[kHostnameMaxBytes];
static uint32_t hostname_now_length;
static char extra_hosts[kExtraHostsMaxBytes];
static uint32_t extra_hosts_length;

static const char kHexDigits[] = "0123456789abcdef";

static void put_hex(char* to, const uint8_t* bytes, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) {
    to[2 * i] = kHexDigits[bytes[i] >> 4];
    to[2 * i + 1] = kHexDigits[bytes[i] & 15];
  }
}

static bool store(int file, const char* text, uint32_t length) {
  return identity_file_store(&files[file], text, length) &&
         identity_file_store(&twins[file], text, length);
}

static bool store_line(int file, const char* text, uint32_t length) {
  char line[kHostnameMaxBytes + 1];
  memcpy(line, text, length);
  line[length] = '\n';
  return store(file, line, length + 1);
}

static bool store_generation(const uint8_t* generation) {
  char text[2 * kIdBytes];
  put_hex(text, generation, kIdBytes);
  memcpy(generation_now, generation, kIdBytes);
  return store_line(kGenerationFile, text, sizeof text);
}

static bool store_hosts(void) {
  const uint32_t length = hostname_now_length;
  static const char kHosts[] = "127.0.0.1 localhost\n::1 localhost ip6-localhost\n127.0.1.1 ";
  char text[sizeof kHosts + kHostnameMaxBytes + 1 + sizeof extra_hosts];
  memcpy(text, kHosts, sizeof kHosts - 1);
  memcpy(text + sizeof kHosts - 1, hostname_now, length);
  text[sizeof kHosts - 1 + length] = '\n';
  memcpy(text + sizeof kHosts + length, extra_hosts, extra_hosts_length);
  return store(kHostsFile, text, (uint32_t)(sizeof kHosts + length + extra_hosts_length));
}

bool identity_extra_hosts(const char* text, uint32_t length) {
  if (length > sizeof extra_hosts) return false;
  memcpy(extra_hosts, text, length);
  extra_hosts_length = length;
  return store_hosts();
}

static bool store_names(void) {
  return store_line(kMachineIdFile, machine_id_now, kMachineIdBytes) &&
         store_line(kHostnameFile, hostname_now, hostname_now_length) && store_hosts();
}

static bool store_files(const struct identity* identity) {
  memcpy(machine_id_now, identity->machine_id, kMachineIdBytes);
  memcpy(hostname_now, identity->hostname, identity->hostname_length);
  hostname_now_length = identity->hostname_length;
  return store_names() && store_line(kBootIdFile, identity->boot_id, kBootIdBytes) &&
         store_generation(identity->generation);
}

// RFC 4122 version 4, in the kernel's spelling.
static void put_uuid(char* to, uint8_t* bytes) {
  bytes[6] = (uint8_t)((bytes[6] & 0x0f) | 0x40);
  bytes[8] = (uint8_t)((bytes[8] & 0x3f) | 0x80);
  static const uint8_t kGroups[] = {4, 2, 2, 2, 6};
  for (uint32_t i = 0; i < sizeof kGroups; i++) {
    if (i > 0) *to++ = '-';
    put_hex(to, bytes, kGroups[i]);
    to += 2 * kGroups[i];
    bytes += kGroups[i];
  }
}

// The template's own identity. Its host name is as long as the library's names for clones, so that
// the usual RESUME changes no file's size.
static void first_identity(void) {
  static const char kHostname[] = "vmfork-00000000";
  uint8_t random[3 * kIdBytes];
  char machine_id[kMachineIdBytes];
  char boot_id[kBootIdBytes];
  // Boot must not wait for the pool to fill: a clone gets its ids from the host.
  if (getrandom(random, sizeof random, GRND_INSECURE) != (ssize_t)sizeof random) {
    fatal("cannot draw random bytes", errno);
  }
  memcpy(boot_nonce, random, kNonceBytes);
  put_hex(machine_id, random + kIdBytes, kIdBytes);
  put_uuid(boot_id, random + 2 * kIdBytes);
  struct identity identity = {.generation = (const uint8_t[kIdBytes]){0},
                              .hostname = kHostname,
                              .hostname_length = sizeof kHostname - 1,
                              .machine_id = machine_id,
                              .boot_id = boot_id};
  if (!store_files(&identity)) fatal("cannot write the identity files", errno);
  if (with_kernel) sethostname(kHostname, sizeof kHostname - 1);
}

void identity_init(int root_fd, bool kernel) {
  with_kernel = kernel;
  if (kernel) {
    random_fd = open("/dev/urandom", O_RDWR | O_CLOEXEC);
    if (random_fd < 0) fatal("/dev/urandom", errno);
    vsock_fd = open("/dev/vsock", O_RDONLY | O_CLOEXEC);
  }
  identity_file_init();
  mkdirat(root_fd, "run/vmfork", 0755);
  for (int i = 0; i < kFileCount; i++) {
    if (!identity_file_make(&files[i], root_fd)) fatal(files[i].path, errno);
  }
  first_identity();
}

bool identity_share(int directory) {
  for (int i = 0; i < kFileCount; i++) {
    if (twins[i].path && !identity_file_make(&twins[i], directory)) return false;
  }
  return store_names();
}

const uint8_t* identity_boot_nonce(void) { return boot_nonce; }
const uint8_t* identity_generation(void) { return generation_now; }

// After a reseed the kernel's pool begins with a block of key, which is hashed when the next byte
// comes (extract_entropy() in drivers/char/random.c): 1,500 instructions, here instead of in each
// clone, where the new identity would be that byte.
static void stir(void) {
  if (write(random_fd, "", 1) < 0) console_say("/dev/urandom", errno);
}

void identity_prepare(void) {
  if (with_kernel) stir();
  for (int i = 0; i < kFileCount; i++) {
    identity_file_touch(&files[i]);
    identity_file_touch(&twins[i]);
  }
}

uint32_t identity_cid(void) {
  uint32_t cid = 0;
  if (vsock_fd < 0 || ioctl(vsock_fd, IOCTL_VM_SOCKETS_GET_LOCAL_CID, &cid) < 0) return 0;
  return cid == VMADDR_CID_ANY ? 0 : cid;
}

static bool only(const char* text, uint32_t length, const char* allowed) {
  for (uint32_t i = 0; i < length; i++) {
    if (text[i] == 0 || !strchr(allowed, text[i])) return false;
  }
  return true;
}

static bool valid_hostname(const struct tlv* tlv) {
  static const char kAllowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-";
  return tlv->length >= 1 && tlv->length <= kHostnameMaxBytes &&
         only((const char*)tlv->value, tlv->length, kAllowed);
}

static bool valid_boot_id(const struct tlv* tlv) {
  return tlv->length == kBootIdBytes &&
         only((const char*)tlv->value, kBootIdBytes, "0123456789abcdef-");
}

static bool parse_one(const struct tlv* tlv, struct identity* identity) {
  switch (tlv->tag) {
    case kTagGenerationId:
      identity->generation = tlv->value;
      return tlv->length == kIdBytes;
    case kTagEntropy:
      identity->entropy = tlv->value;
      identity->entropy_length = tlv->length;
      return tlv->length >= kEntropyMinBytes && tlv->length <= kEntropyMaxBytes;
    case kTagRealtimeNs:
      return tlv_u64(tlv, &identity->realtime_ns);
    case kTagHostname:
      identity->hostname = (const char*)tlv->value;
      identity->hostname_length = tlv->length;
      return valid_hostname(tlv);
    case kTagMachineId:
      identity->machine_id = (const char*)tlv->value;
      return tlv->length == kMachineIdBytes && only(identity->machine_id, tlv->length, kHexDigits);
    case kTagCid:
      return tlv_u32(tlv, &identity->cid);
    case kTagBootId:
      identity->boot_id = (const char*)tlv->value;
      return valid_boot_id(tlv);
    default:
      return true;
  }
}

// A clone without a complete identity of its own is no clone: everything must be there.
static bool parse(uint8_t* payload, uint32_t length, struct identity* identity) {
  struct tlv_reader reader = {.next = payload, .end = payload + length};
  struct tlv tlv;
  enum tlv_result result;
  *identity = (struct identity){.seen = 0};
  while ((result = tlv_next(&reader, &tlv)) == kTlvGot) {
    if (!parse_one(&tlv, identity)) return false;
    if (tlv.tag >= kTagGenerationId && tlv.tag <= kTagBootId) {
      identity->seen |= 1u << (tlv.tag - kTagGenerationId);
    }
  }
  return result == kTlvEnd && identity->seen == (1u << (kTagBootId - kTagGenerationId + 1)) - 1;
}

// RNDADDENTROPY credits, but a pool that is already ready goes on with its old key until a reseed
// (drivers/char/random.c), so one is forced.
static bool apply_entropy(const struct identity* identity) {
  struct {
    struct rand_pool_info info;
    uint8_t bytes[kEntropyMaxBytes];
  } pool = {.info = {.entropy_count = (int)identity->entropy_length * 8,
                     .buf_size = (int)identity->entropy_length}};
  memcpy(pool.bytes, identity->entropy, identity->entropy_length);
  return ioctl(random_fd, RNDADDENTROPY, &pool) == 0 && ioctl(random_fd, RNDRESEEDCRNG) == 0;
}

static bool apply_clock(const struct identity* identity) {
  struct timespec time = {.tv_sec = (time_t)(identity->realtime_ns / 1000000000u),
                          .tv_nsec = (long)(identity->realtime_ns % 1000000000u)};
  return clock_settime(CLOCK_REALTIME, &time) == 0;
}

// Returns the stage that failed, or NULL. Entropy comes last: clock and host name are mixed into
// the kernel's pool as well (add_device_randomness()), and before a reseed that costs one hash
// block less than after it.
static const char* apply(const struct identity* identity) {
  if (with_kernel && !apply_clock(identity)) return "clock";
  if (!store_files(identity)) return "identity";
  if (with_kernel && sethostname(identity->hostname, identity->hostname_length) < 0) {
    return "hostname";
  }
  if (with_kernel && !apply_entropy(identity)) return "entropy";
  return NULL;
}

bool identity_apply(uint8_t* payload, uint32_t length) {
  struct identity identity;
  if (!parse(payload, length, &identity)) {
    link_send_error(0, EINVAL, "decode", "RESUME is malformed or incomplete");
    return false;
  }
  const char* stage = apply(&identity);
  if (!stage) return true;
  link_send_error(0, errno, stage, strerror(errno));
  return false;
}
