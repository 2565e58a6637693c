// A very small test runner: CHECK counts and reports, run.c prints the totals.
#ifndef VMFORK_AGENT_TESTS_CHECK_H
#define VMFORK_AGENT_TESTS_CHECK_H

#include <stdbool.h>

// Fails the running test (once is enough) and says where.
void check_failed(const char* file, int line, const char* text);
void run_test(const char* name, void (*test)(void));

#define CHECK(condition)                                            \
  do {                                                              \
    if (!(condition)) check_failed(__FILE__, __LINE__, #condition); \
  } while (0)
#define TEST(function) run_test(#function, function)

void golden_tests(const char* path);
void tlv_tests(void);
void command_tests(void);
void flow_tests(void);
void file_tests(void);
void container_tests(void);
void forkpoint_tests(void);
void lifecycle_tests(void);
void tunnel_tests(void);
void users_tests(void);

#endif
