// What tests of failing calls share: an operation that fails at its first call to the kernel, at
// its second, and so on, until it gets by.
#pragma once

#include <malloc.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "base/result.h"
#include "tests/faults.h"
#include "tests/held.h"
#include "tests/test.h"

namespace vmfork {

// An error that says what failed and why.
inline void ExpectTyped(const Error& error, const faults::Fault& fault) {
  const bool typed = error.code != ErrorCode::kInternal && !error.operation.empty() &&
                     error.error_number == fault.error_number;
  if (typed) return;
  std::fprintf(stderr, "  %s (0x%lx) failed with %d: %s %s\n", fault.call, fault.request,
               fault.error_number, std::string(ErrorCodeName(error.code)).c_str(),
               error.ToString().c_str());
  EXPECT_TRUE(typed);
}

// Calls `attempt`, which gives a Result, with its first, second, … call failing, until all succeed;
// returns how many failed. `arm` has the nth fail. `prepare` makes the ground the same before each;
// `check` is to find all as it was, and that the next attempt works. Then nothing more may be held
// than before. A call whose failure an attempt may survive satisfies `tolerated`.
template <typename Prepare, typename Attempt, typename Check, typename Tolerated>
size_t FailAtEachCall(Prepare prepare, Attempt attempt, Check check, Tolerated tolerated,
                      void (*arm)(size_t) = faults::Arm) {
  constexpr size_t kMostCalls = 2000;
  for (size_t nth = 1; nth < kMostCalls; ++nth) {
    prepare();
    const Held before = HeldNow();
    arm(nth);
    auto result = attempt();
    const auto fault = faults::Disarm();
    if (!fault) {
      EXPECT_TRUE(result.has_value());
      return nth - 1;
    }
    if (result) {
      if (!tolerated(*fault)) std::fprintf(stderr, "  %s (0x%lx)\n", fault->call, fault->request);
      EXPECT_TRUE(tolerated(*fault));
    } else {
      ExpectTyped(result.error(), *fault);
    }
    result = Fail(ErrorCode::kGone, "let go of");
    check();
    prepare();
    ExpectNoMoreThan(before, fault->call);
    if (!testing::CurrentFailed()) continue;
    std::fprintf(stderr, "  at call %zu: %s (0x%lx)\n", nth, fault->call, fault->request);
    return nth;
  }
  EXPECT_TRUE(false);
  return 0;
}

}  // namespace vmfork
