// A test runner in one header: TEST(Name) { EXPECT_EQ(actual, wanted); }, then TEST_MAIN().
// No test framework is packaged for every machine we build on. A failed expectation is recorded and
// the test goes on. Prints `N passed, N failed`.
#ifndef VMFORK_TESTS_TEST_H_
#define VMFORK_TESTS_TEST_H_

#include <cstdio>
#include <cstring>
#include <iostream>
#include <sstream>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace vmfork::testing {

struct Test {
  const char* name;
  void (*run)();
};

// All tests of this executable, in the order of their definition.
inline std::vector<Test>& Registry() {
  static std::vector<Test> tests;
  return tests;
}

inline bool& CurrentFailed() {
  static bool failed = false;
  return failed;
}

struct Registrar {
  Registrar(const char* name, void (*run)()) { Registry().push_back({name, run}); }
};

template <typename T>
std::string Show(const T& value) {
  std::ostringstream out;
  if constexpr (std::is_enum_v<T>) {
    out << static_cast<long long>(value);
  } else if constexpr (sizeof(T) == 1 && std::is_integral_v<T>) {
    out << static_cast<int>(value);
  } else if constexpr (requires { out << value; }) {
    out << value;
  } else {
    out << "<" << sizeof(T) << "-byte value>";
  }
  return out.str();
}

inline void Fail(const char* file, int line, const std::string& what) {
  CurrentFailed() = true;
  std::fprintf(stderr, "  %s:%d: %s\n", file, line, what.c_str());
}

template <typename A, typename B>
void Compare(bool holds, const A& a, const B& b, const char* text, const char* file, int line) {
  if (holds) return;
  Fail(file, line, std::string(text) + ": " + Show(a) + " against " + Show(b));
}

// Runs the tests whose name contains the first argument (all without one).
inline int RunAll(int argc, char** argv) {
  const char* filter = argc > 1 ? argv[1] : "";
  int passed = 0;
  int failed = 0;
  for (const Test& test : Registry()) {
    if (std::strstr(test.name, filter) == nullptr) continue;
    CurrentFailed() = false;
    test.run();
    ++(CurrentFailed() ? failed : passed);
    if (CurrentFailed()) std::fprintf(stderr, "FAILED %s\n", test.name);
  }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 && passed > 0 ? 0 : 1;
}

}  // namespace vmfork::testing

#define TEST(name)                                                                \
  static void Test##name();                                                       \
  static const ::vmfork::testing::Registrar kRegistrar##name(#name, &Test##name); \
  static void Test##name()

// Operands are evaluated once and copied, for they may be parts of temporaries; a comparison of
// different integer types is the caller's to avoid.
#define VMFORK_COMPARE_(a, op, b)                                                           \
  do {                                                                                      \
    const auto vmfork_a = (a);                                                              \
    const auto vmfork_b = (b);                                                              \
    ::vmfork::testing::Compare(vmfork_a op vmfork_b, vmfork_a, vmfork_b, #a " " #op " " #b, \
                               __FILE__, __LINE__);                                         \
  } while (false)

#define EXPECT_EQ(a, b) VMFORK_COMPARE_(a, ==, b)
#define EXPECT_NE(a, b) VMFORK_COMPARE_(a, !=, b)
#define EXPECT_LT(a, b) VMFORK_COMPARE_(a, <, b)
#define EXPECT_LE(a, b) VMFORK_COMPARE_(a, <=, b)
#define EXPECT_GT(a, b) VMFORK_COMPARE_(a, >, b)
#define EXPECT_GE(a, b) VMFORK_COMPARE_(a, >=, b)

#define EXPECT_TRUE(condition)                                                              \
  do {                                                                                      \
    if (!(condition)) ::vmfork::testing::Fail(__FILE__, __LINE__, "not true: " #condition); \
  } while (false)

#define EXPECT_FALSE(condition) EXPECT_TRUE(!(condition))

// Ends the test when what follows would make no sense, e.g. after a failed open.
#define ASSERT_TRUE(condition)                                              \
  do {                                                                      \
    if (!(condition)) {                                                     \
      ::vmfork::testing::Fail(__FILE__, __LINE__, "not true: " #condition); \
      return;                                                               \
    }                                                                       \
  } while (false)

#define TEST_MAIN() \
  int main(int argc, char** argv) { return ::vmfork::testing::RunAll(argc, argv); }

#endif  // VMFORK_TESTS_TEST_H_
