// Lists a tree to the last attribute, in the order of its names: `list ROOT [PATH…]` leaves out the
// PATHs, which are relative to ROOT. Mode, owner, time; of anything but directories size, links,
// device; target, extended attributes, sum of the content. Run on a tree of the host and on the
// same tree in a guest, it says the same when they are the same.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

enum { kPathBytes = 4096, kListBytes = 64 << 10, kReadBytes = 256 << 10 };

static char** left_out;

static void fail(const char* what, const char* path) {
  fprintf(stderr, "list: %s %s: %s\n", what, path, strerror(errno));
  exit(1);
}

static void put_escaped(const char* text) {
  for (; *text; text++) {
    unsigned char byte = (unsigned char)*text;
    if (byte > ' ' && byte < 0x7f && byte != '%')
      putchar(byte);
    else
      printf("%%%02x", byte);
  }
}

static int compare(const void* a, const void* b) {
  return strcmp(*(char* const*)a, *(char* const*)b);
}

static void put_attributes(const char* path) {
  static char names[kListBytes], value[kListBytes];
  char* sorted[256];
  size_t count = 0;
  ssize_t length = llistxattr(path, names, sizeof names);
  if (length < 0 && errno != ENOTSUP) fail("llistxattr", path);
  for (char* name = names; length > 0 && name < names + length; name += strlen(name) + 1) {
    if (count < sizeof sorted / sizeof sorted[0]) sorted[count++] = name;
  }
  qsort(sorted, count, sizeof sorted[0], compare);
  for (size_t i = 0; i < count; i++) {
    ssize_t size = lgetxattr(path, sorted[i], value, sizeof value);
    if (size < 0) fail("lgetxattr", path);
    printf(" %s=", sorted[i]);
    for (ssize_t at = 0; at < size; at++) printf("%02x", (unsigned char)value[at]);
  }
}

// Eight bytes a step: a Debian is some hundred megabytes.
static void put_sum(const char* path) {
  static uint64_t words[kReadBytes / 8];
  uint64_t sum = 0xcbf29ce484222325u;
  int fd = open(path, O_RDONLY);
  if (fd < 0) fail("open", path);
  for (;;) {
    size_t filled = 0;
    ssize_t got;
    while ((got = read(fd, (char*)words + filled, sizeof words - filled)) > 0)
      filled += (size_t)got;
    if (got < 0) fail("read", path);
    if (filled == 0) break;
    memset((char*)words + filled, 0, -filled & 7);
    for (size_t i = 0; i < (filled + 7) / 8; i++) {
      sum = (sum ^ words[i]) * 0x100000001b3u;
      sum ^= sum >> 29;
    }
  }
  close(fd);
  printf(" sum=%016llx", (unsigned long long)sum);
}

// A file of several names says which came first.
static void put_first_name(const char* path, const struct stat* status) {
  static struct name {
    dev_t device;
    ino_t inode;
    char* path;
    struct name* next;
  }* first;
  struct name* name = first;
  while (name && (name->device != status->st_dev || name->inode != status->st_ino)) {
    name = name->next;
  }
  if (name) {
    printf(" same=");
    put_escaped(name->path);
    return;
  }
  name = malloc(sizeof *name);
  if (!name || !(name->path = strdup(path))) fail("malloc", path);
  name->device = status->st_dev;
  name->inode = status->st_ino;
  name->next = first;
  first = name;
}

static void put_target(const char* path) {
  char target[kPathBytes];
  ssize_t length = readlink(path, target, sizeof target - 1);
  if (length < 0) fail("readlink", path);
  target[length] = 0;
  printf(" to=");
  put_escaped(target);
}

static bool is_left_out(const char* path) {
  for (char** one = left_out; *one; one++) {
    if (strcmp(*one, path) == 0) return true;
  }
  return false;
}

static void list(const char* path);

static void list_directory(const char* path) {
  size_t count = 0, room = 0;
  char** names = NULL;
  DIR* directory = opendir(path);
  if (!directory) fail("opendir", path);
  for (struct dirent* entry; (entry = readdir(directory));) {
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    if (count == room) names = realloc(names, (room = 2 * room + 16) * sizeof *names);
    if (!names || !(names[count++] = strdup(entry->d_name))) fail("malloc", path);
  }
  closedir(directory);
  if (count > 0) qsort(names, count, sizeof *names, compare);
  for (size_t i = 0; i < count; i++) {
    char below[kPathBytes];
    const char* before = strcmp(path, ".") == 0 ? "" : path;
    snprintf(below, sizeof below, "%s%s%s", before, *before ? "/" : "", names[i]);
    list(below);
    free(names[i]);
  }
  free(names);
}

static void list(const char* path) {
  struct stat status;
  if (is_left_out(path)) return;
  if (lstat(path, &status) < 0) fail("lstat", path);
  put_escaped(path);
  printf(" mode=%o owner=%u:%u time=%lld.%09ld", status.st_mode, status.st_uid, status.st_gid,
         (long long)status.st_mtim.tv_sec, status.st_mtim.tv_nsec);
  bool is_directory = S_ISDIR(status.st_mode);
  if (!is_directory)
    printf(" size=%lld links=%lu", (long long)status.st_size, (unsigned long)status.st_nlink);
  if (S_ISCHR(status.st_mode) || S_ISBLK(status.st_mode)) {
    printf(" device=%u:%u", major(status.st_rdev), minor(status.st_rdev));
  }
  if (!is_directory && status.st_nlink > 1) put_first_name(path, &status);
  if (S_ISLNK(status.st_mode)) put_target(path);
  put_attributes(path);
  if (S_ISREG(status.st_mode)) put_sum(path);
  putchar('\n');
  if (is_directory) list_directory(path);
}

int main(int count, char** arguments) {
  if (count < 2 || chdir(arguments[1]) < 0) return 2;
  left_out = arguments + 2;
  list(".");
  return fflush(stdout) == 0 ? 0 : 1;
}
