// Names and texts of errors.
#include "base/result.h"

#include <cstring>

namespace vmfork {

std::string_view ErrorCodeName(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInternal:
      return "VMF_INTERNAL";
    case ErrorCode::kSystem:
      return "VMF_SYSTEM";
    case ErrorCode::kKvmMissing:
      return "VMF_KVM_MISSING";
    case ErrorCode::kKvmDenied:
      return "VMF_KVM_DENIED";
    case ErrorCode::kKvmCapability:
      return "VMF_KVM_CAPABILITY";
    case ErrorCode::kKernelNotFound:
      return "VMF_KERNEL_NOT_FOUND";
    case ErrorCode::kKernelInvalid:
      return "VMF_KERNEL_INVALID";
    case ErrorCode::kKernelArch:
      return "VMF_KERNEL_ARCH";
    case ErrorCode::kMemorySize:
      return "VMF_MEMORY_SIZE";
    case ErrorCode::kTooManyFiles:
      return "VMF_TOO_MANY_FILES";
    case ErrorCode::kTooManyMaps:
      return "VMF_TOO_MANY_MAPS";
    case ErrorCode::kNoMemory:
      return "VMF_NO_MEMORY";
    case ErrorCode::kSnapshotInvalid:
      return "VMF_SNAPSHOT_INVALID";
    case ErrorCode::kSnapshotIncompatible:
      return "VMF_SNAPSHOT_INCOMPATIBLE";
    case ErrorCode::kState:
      return "VMF_STATE";
    case ErrorCode::kGone:
      return "VMF_GONE";
    case ErrorCode::kGuestCrash:
      return "VMF_GUEST_CRASH";
    case ErrorCode::kGuestPanic:
      return "VMF_GUEST_PANIC";
    case ErrorCode::kGuestReset:
      return "VMF_GUEST_RESET";
    case ErrorCode::kEmulation:
      return "VMF_EMULATION";
    case ErrorCode::kGuestIo:
      return "VMF_GUEST_IO";
    case ErrorCode::kConnectionRefused:
      return "VMF_CONNECTION_REFUSED";
    case ErrorCode::kDisk:
      return "VMF_DISK";
    case ErrorCode::kTimeout:
      return "VMF_TIMEOUT";
  }
  return "VMF_INTERNAL";
}

std::string Error::ToString() const {
  std::string text = operation;
  if (!detail.empty()) text += ": " + detail;
  if (error_number != 0) text += std::string(": ") + std::strerror(error_number);
  return text;
}

std::unexpected<Error> FailErrno(std::string operation, std::string detail) {
  return FailErrno(errno, std::move(operation), std::move(detail));
}

std::unexpected<Error> FailErrno(int error_number, std::string operation, std::string detail) {
  ErrorCode code = ErrorCode::kSystem;
  if (error_number == EMFILE || error_number == ENFILE) code = ErrorCode::kTooManyFiles;
  if (error_number == ENOMEM) code = ErrorCode::kNoMemory;
  return Fail(code, std::move(operation), std::move(detail), error_number);
}

}  // namespace vmfork
