// Who a command of the container runs as: /etc/passwd and /etc/group, read as they lie below the
// caller's own root.
#ifndef VMFORK_AGENT_USERS_H
#define VMFORK_AGENT_USERS_H

#include <limits.h>
#include <stddef.h>
#include <sys/types.h>

enum { kMaxGroups = 256 };

struct account {
  uid_t uid;
  gid_t gid;
  size_t group_count;
  gid_t groups[kMaxGroups];  // supplementary, the primary one first
  char home[PATH_MAX];
};

// `spec` is name, uid, name:group or uid:gid; NULL or empty means 0. Returns NULL, or a sentence
// about what is wrong.
const char* users_resolve(const char* spec, struct account* account);

// The same on the bytes of the two files.
struct user_files {
  const char* passwd;
  size_t passwd_length;
  const char* group;
  size_t group_length;
};
const char* users_find(const char* spec, const struct user_files* files, struct account* account);

#endif
