// Runs all tests of the agent. Last line: "N passed, N failed".
#include <stdio.h>
#include <stdlib.h>

#include "check.h"
#include "reaper.h"

static int passed;
static int failed;
static bool test_failed;

void check_failed(const char* file, int line, const char* text) {
  test_failed = true;
  printf("  %s:%d: %s\n", file, line, text);
}

void run_test(const char* name, void (*test)(void)) {
  test_failed = false;
  test();
  printf("%s %s\n", test_failed ? "FAIL" : "ok  ", name);
  fflush(stdout);
  if (test_failed) {
    failed++;
  } else {
    passed++;
  }
}

int main(int count, char** arguments) {
  // Containers with an init process execute this program under its name.
  if (reaper_called(arguments)) reaper_run(arguments);
  golden_tests(count > 1 ? arguments[1] : "../../test/golden/frames.txt");
  tlv_tests();
  command_tests();
  flow_tests();
  file_tests();
  lifecycle_tests();
  tunnel_tests();
  forkpoint_tests();
  users_tests();
  container_tests();
  printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
