// Why a guest has ended.
#include "vm/end_reporter.h"

#include <string>

#include "vm/machine.h"

namespace vmfork {

namespace {

// A panicking kernel says why and then resets; the reset alone would say nothing.
Error Explain(Error reason, const std::string& console) {
  constexpr std::string_view kPanic = "Kernel panic - not syncing: ";
  const size_t at = console.rfind(kPanic);
  const bool ended_itself =
      reason.code == ErrorCode::kGuestReset || reason.code == ErrorCode::kGuestCrash;
  if (!ended_itself || at == std::string::npos) return reason;
  const size_t start = at + kPanic.size();
  return {ErrorCode::kGuestPanic, "guest panic", 0,
          console.substr(start, console.find_first_of("\r\n", start) - start)};
}

}  // namespace

void EndReporter::Report(Error reason) {
  if (reported_.exchange(true)) return;
  machine_->RequestStop();
  observer_->OnExit(number_, Explain(std::move(reason), machine_->Console().Tail()));
}

}  // namespace vmfork
