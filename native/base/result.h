// Result<T>: a value or an Error that says what was attempted, on what, and why it failed. The core
// throws nothing.
#pragma once

#include <cerrno>
#include <expected>
#include <string>
#include <string_view>
#include <utility>

namespace vmfork {

// One code per way to fail that a caller may want to tell apart. The names, prefixed with VMF_, are
// those of docs/errors.md.
enum class ErrorCode {
  kInternal,              // a defect of vmfork itself
  kSystem,                // an operating system call failed; see errno
  kKvmMissing,            // there is no /dev/kvm
  kKvmDenied,             // /dev/kvm exists but may not be opened
  kKvmCapability,         // KVM lacks something the engine needs
  kKernelNotFound,        // kernel, initramfs or disk file cannot be opened
  kKernelInvalid,         // not an ELF64 or bzImage kernel, or damaged
  kKernelArch,            // a kernel for another processor
  kMemorySize,            // guest memory too small or too large
  kTooManyFiles,          // EMFILE, ENFILE
  kTooManyMaps,           // vm.max_map_count reached
  kNoMemory,              // ENOMEM
  kSnapshotInvalid,       // snapshot damaged or not a snapshot
  kSnapshotIncompatible,  // snapshot made for another host, version or CPU
  kState,                 // operation not legal in this state
  kGone,                  // the VM has ended
  kGuestCrash,            // triple fault or shutdown
  kGuestPanic,            // the guest's kernel panicked
  kGuestReset,            // the guest rebooted itself
  kEmulation,             // an instruction nobody can emulate
  kGuestIo,               // the guest broke a device's rules beyond repair
  kConnectionRefused,     // nobody listens on the guest's port
  kDisk,                  // a disk cannot be attached, detached or copied
  kTimeout,
};

// The name of a code as JavaScript sees it, e.g. "VMF_KVM_MISSING".
std::string_view ErrorCodeName(ErrorCode code);

struct Error {
  ErrorCode code = ErrorCode::kInternal;
  std::string operation;  // what was attempted: a system call, an ioctl's name, a step
  int error_number = 0;   // errno where there is one, else 0
  std::string detail;     // on what, and anything that helps

  std::string ToString() const;
};

template <typename T>
using Result = std::expected<T, Error>;

inline std::unexpected<Error> Fail(ErrorCode code, std::string operation, std::string detail = {},
                                   int error_number = 0) {
  return std::unexpected(Error{code, std::move(operation), error_number, std::move(detail)});
}

// For a system call that has just set errno: picks kTooManyFiles, kNoMemory or kSystem by it.
std::unexpected<Error> FailErrno(std::string operation, std::string detail = {});
std::unexpected<Error> FailErrno(int error_number, std::string operation, std::string detail);

// VMFORK_TRY(name, expression): on failure returns the error from this function, else binds the
// value.
#define VMFORK_CONCAT_INNER(a, b) a##b
#define VMFORK_CONCAT(a, b) VMFORK_CONCAT_INNER(a, b)
#define VMFORK_TRY(name, expression)                                             \
  auto VMFORK_CONCAT(result_, __LINE__) = (expression);                          \
  if (!VMFORK_CONCAT(result_, __LINE__))                                         \
    return std::unexpected(std::move(VMFORK_CONCAT(result_, __LINE__)).error()); \
  auto name = std::move(*VMFORK_CONCAT(result_, __LINE__))
// The same for Result<void>.
#define VMFORK_CHECK(expression)                               \
  do {                                                         \
    if (auto check_result = (expression); !check_result)       \
      return std::unexpected(std::move(check_result).error()); \
  } while (false)

}  // namespace vmfork
