// Who this machine is: the identity files, and what RESUME changes after a fork.
#ifndef VMFORK_AGENT_IDENTITY_H
#define VMFORK_AGENT_IDENTITY_H

#include <stdbool.h>
#include <stdint.h>

#include "frames.h"

enum { kNonceBytes = 16 };

// Makes and maps the identity files below the directory `root_fd`. With `kernel` clear only the
// files are kept and the kernel's own state (entropy, clock, host name) is left alone.
void identity_init(int root_fd, bool kernel);
// Both kNonceBytes long.
const uint8_t* identity_boot_nonce(void);
const uint8_t* identity_generation(void);
// Before a freeze: does what applying an identity would begin with. Lets go of files that were
// changed, writes to every page that will be written to, so that it is mapped in the clones, and
// has the kernel's pool of randomness ready for more.
void identity_prepare(void);
// Applies the payload of RESUME; answers ERROR itself and returns false when a step fails.
bool identity_apply(uint8_t* payload, uint32_t length);
// Keeps hostname, hosts and machine-id in another directory, too, in place of an earlier one.
bool identity_share(int directory);
// Lines that follow the machine's own in the hosts file; false when they do not fit its page.
bool identity_extra_hosts(const char* text, uint32_t length);
// The context id the kernel knows, 0 without vsock.
uint32_t identity_cid(void);

#endif
