// The container tags of an EXEC.
#ifndef VMFORK_AGENT_CONTAINER_REQUEST_H
#define VMFORK_AGENT_CONTAINER_REQUEST_H

#include "container.h"
#include "frames.h"

// Takes one TLV; tags that are none of the container's are left alone. Strings are made C strings
// in place, as exec_request.c does. Returns NULL, or a sentence about what is wrong.
const char* container_request_take(const struct tlv* tlv, struct container_spec* spec);
// What only the whole can tell.
const char* container_request_check(const struct container_spec* spec);

#endif
