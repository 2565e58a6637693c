// The rules are those of Docker (moby/sys/user, GetExecUser): a name is looked up before it is
// taken for a number; a number needs no entry; a group that is given replaces the supplementary
// ones. The primary group is always one of them: a process that could leave it by setgid(2) would
// escape permissions that are denied to that group (CVE-2022-36109).
#include "users.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// Longer files are cut: entries behind the end do not exist for us.
enum { kFileBytes = 128 << 10, kMaxFields = 7 };

struct text {
  const char* at;
  size_t length;
};

struct line {
  struct text fields[kMaxFields];
  int count;
};

static struct text text_of(const char* string) {
  return (struct text){.at = string, .length = strlen(string)};
}

static bool same(struct text a, struct text b) {
  return a.length == b.length && memcmp(a.at, b.at, a.length) == 0;
}

// Cuts at the first `sign`; the rest goes to `tail`.
static struct text cut(struct text whole, char sign, struct text* tail) {
  const char* found = whole.length > 0 ? memchr(whole.at, sign, whole.length) : NULL;
  struct text head = {.at = whole.at, .length = found ? (size_t)(found - whole.at) : whole.length};
  size_t skip = head.length + (found ? 1 : 0);
  *tail = (struct text){.at = whole.at + skip, .length = whole.length - skip};
  return head;
}

static bool parse_id(struct text text, uint32_t* id) {
  uint64_t value = 0;
  if (text.length == 0 || text.length > 10) return false;
  for (size_t i = 0; i < text.length; i++) {
    if (text.at[i] < '0' || text.at[i] > '9') return false;
    value = value * 10 + (uint64_t)(text.at[i] - '0');
  }
  // The id -1 means "leave it" to the kernel.
  if (value >= UINT32_MAX) return false;
  *id = (uint32_t)value;
  return true;
}

static bool next_line(struct text* rest, struct line* line) {
  if (rest->length == 0) return false;
  struct text whole = cut(*rest, '\n', rest);
  line->count = 0;
  while (line->count < kMaxFields) {
    line->fields[line->count++] = cut(whole, ':', &whole);
    if (whole.length == 0) break;
  }
  return true;
}

// name:password:uid:gid:comment:home:shell
static bool find_user(struct text passwd, struct text name, const uint32_t* uid,
                      struct account* account, struct text* found_name) {
  struct line line;
  while (next_line(&passwd, &line)) {
    uint32_t line_uid, gid;
    if (line.count < 4 || line.fields[0].length == 0) continue;
    if (!parse_id(line.fields[2], &line_uid) || !parse_id(line.fields[3], &gid)) continue;
    if (!same(line.fields[0], name) && !(uid && line_uid == *uid)) continue;
    account->uid = line_uid;
    account->gid = gid;
    *found_name = line.fields[0];
    struct text home = line.count > 5 ? line.fields[5] : text_of("");
    if (home.length > 0 && home.length < sizeof account->home) {
      memcpy(account->home, home.at, home.length);
      account->home[home.length] = 0;
    }
    return true;
  }
  return false;
}

// name:password:gid:member,member
static bool find_group(struct text group, struct text name, gid_t* gid) {
  struct line line;
  while (next_line(&group, &line)) {
    if (line.count < 3 || !same(line.fields[0], name)) continue;
    if (parse_id(line.fields[2], gid)) return true;
  }
  return false;
}

static bool lists(struct text members, struct text name) {
  while (members.length > 0) {
    if (same(cut(members, ',', &members), name)) return true;
  }
  return false;
}

static void add_groups(struct text group, struct text name, struct account* account) {
  struct line line;
  while (account->group_count < kMaxGroups && next_line(&group, &line)) {
    uint32_t gid;
    if (line.count < 4 || !lists(line.fields[3], name) || !parse_id(line.fields[2], &gid)) continue;
    if (gid == account->gid) continue;
    account->groups[account->group_count++] = gid;
  }
}

static void add_primary_group(struct account* account) {
  account->groups[account->group_count++] = account->gid;
}

const char* users_find(const char* spec, const struct user_files* files, struct account* account) {
  struct text passwd = {.at = files->passwd, .length = files->passwd_length};
  struct text group = {.at = files->group, .length = files->group_length};
  struct text group_name, found_name = {.at = "", .length = 0};
  struct text user = cut(text_of(spec ? spec : ""), ':', &group_name);
  bool has_group = spec && strchr(spec, ':') && group_name.length > 0;
  uint32_t uid = 0;
  bool numeric = user.length == 0 || parse_id(user, &uid);
  *account = (struct account){.uid = uid, .home = "/"};
  bool found = (user.length > 0 && find_user(passwd, user, NULL, account, &found_name)) ||
               (numeric && find_user(passwd, text_of(""), &uid, account, &found_name));
  if (!found && !numeric) return "the user is not in the container's /etc/passwd";
  if (has_group) {
    bool known =
        find_group(group, group_name, &account->gid) || parse_id(group_name, &account->gid);
    add_primary_group(account);
    return known ? NULL : "the group is not in the container's /etc/group";
  }
  add_primary_group(account);
  if (found) add_groups(group, found_name, account);
  return NULL;
}

// Only regular files are read: a fifo would make the agent wait.
static size_t read_file(const char* path, char* bytes) {
  struct stat status;
  size_t length = 0;
  int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  if (fd < 0) return 0;
  if (fstat(fd, &status) == 0 && S_ISREG(status.st_mode)) {
    ssize_t count;
    while (length < kFileBytes && (count = read(fd, bytes + length, kFileBytes - length)) > 0) {
      length += (size_t)count;
    }
  }
  close(fd);
  return length;
}

const char* users_resolve(const char* spec, struct account* account) {
  static char passwd[kFileBytes];
  static char group[kFileBytes];
  struct user_files files = {.passwd = passwd, .group = group};
  files.passwd_length = read_file("/etc/passwd", passwd);
  files.group_length = read_file("/etc/group", group);
  return users_find(spec, &files, account);
}
