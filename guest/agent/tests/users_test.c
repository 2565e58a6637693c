// Users and groups of an image, by its own files.
#include <string.h>

#include "check.h"
#include "users.h"

static struct account found;

static const char* find(const char* spec, const char* passwd, const char* group) {
  struct user_files files = {.passwd = passwd,
                             .passwd_length = strlen(passwd),
                             .group = group,
                             .group_length = strlen(group)};
  return users_find(spec, &files, &found);
}

static void odd_account_files_are_read_with_care(void) {
  CHECK(!find("", "", "") && found.uid == 0 && strcmp(found.home, "/") == 0);
  CHECK(find("a", "a", "") && find("a", "a:x:1", "") && find("a", "a:x:-1:2:::", ""));
  CHECK(find("a", "a:x:4294967295:2:::", "") && find("4294967295", "", ""));
  CHECK(!find("4294967294", "", "") && found.uid == 4294967294u);
  CHECK(!find("a", "b:x:1:1\na:x:7:8", "") && found.uid == 7 && found.gid == 8);
  CHECK(!find("7", "7:x:9:9::/h:\nb:x:7:1::/g:", "") && found.uid == 9);
  CHECK(!find("a:", "a:x:1:2::/:", "g:x:3:a") && found.group_count == 2 && found.groups[1] == 3);
  CHECK(find("a:b", "a:x:1:2::/:", "c:x:3:a") && !find("a:9", "a:x:1:2::/:", ""));
  CHECK(found.gid == 9 && found.group_count == 1 && found.groups[0] == 9);
  CHECK(!find("0:9", "", "9:x:12:") && found.gid == 12);
  CHECK(find(":::", "", "") && find("\n", "\n\n:\n", "\n"));
}

static void the_primary_group_is_also_a_supplementary_one(void) {
  static const char kGroup[] = "own:x:2:a\nother:x:3:a\n";
  CHECK(!find("a", "a:x:1:2::/:", kGroup) && found.group_count == 2);
  CHECK(found.groups[0] == 2 && found.groups[1] == 3);
  CHECK(!find("77", "", kGroup) && found.group_count == 1 && found.groups[0] == 0);
  CHECK(!find("77:88", "", kGroup) && found.group_count == 1 && found.groups[0] == 88);
  CHECK(!find("", "", "") && found.group_count == 1 && found.groups[0] == 0);
}

void users_tests(void) {
  TEST(the_primary_group_is_also_a_supplementary_one);
  TEST(odd_account_files_are_read_with_care);
}
