// ioctls of /dev/kvm.
#include "kvm/kvm_fd.h"

#include <fcntl.h>

#include <cstring>

#include "kvm/ioctl.h"

namespace vmfork {

Result<Kvm> Kvm::Open() {
  UniqueFd fd(::open("/dev/kvm", O_RDWR | O_CLOEXEC));
  if (fd.IsValid()) return Kvm(std::move(fd));
  const int error_number = errno;
  if (error_number == ENOENT || error_number == ENXIO || error_number == ENODEV) {
    return Fail(ErrorCode::kKvmMissing, "open", "/dev/kvm", error_number);
  }
  if (error_number == EACCES || error_number == EPERM) {
    return Fail(ErrorCode::kKvmDenied, "open", "/dev/kvm", error_number);
  }
  return FailErrno(error_number, "open", "/dev/kvm");
}

Result<int> Kvm::ApiVersion() const {
  return kvm_ioctl::Call(fd_.Get(), KVM_GET_API_VERSION, 0, "KVM_GET_API_VERSION");
}

int Kvm::CheckExtension(uint32_t capability) const {
  auto value = kvm_ioctl::Call(fd_.Get(), KVM_CHECK_EXTENSION,
                               static_cast<unsigned long>(capability), "KVM_CHECK_EXTENSION");
  return value ? *value : 0;
}

Result<VmFd> Kvm::CreateVm() const {
  for (;;) {
    auto fd = kvm_ioctl::Call(fd_.Get(), KVM_CREATE_VM, 0UL, "KVM_CREATE_VM");
    if (fd) return VmFd(UniqueFd(*fd));
    // A signal during the registration of the mmu notifier ends the call with EINTR; nothing was
    // made.
    if (fd.error().error_number != EINTR) return std::unexpected(std::move(fd).error());
  }
}

Result<size_t> Kvm::VcpuMappingSize() const {
  VMFORK_TRY(size, kvm_ioctl::Call(fd_.Get(), KVM_GET_VCPU_MMAP_SIZE, 0, "KVM_GET_VCPU_MMAP_SIZE"));
  return static_cast<size_t>(size);
}

Result<std::vector<kvm_cpuid_entry2>> Kvm::SupportedCpuid() const {
  // The kernel's own limit (KVM_MAX_CPUID_ENTRIES).
  constexpr uint32_t kMaxEntries = 256;
  std::vector<std::byte> buffer(8 + kMaxEntries * sizeof(kvm_cpuid_entry2));
  std::memcpy(buffer.data(), &kMaxEntries, sizeof kMaxEntries);
  VMFORK_CHECK(kvm_ioctl::Call(fd_.Get(), kvm_ioctl::kGetSupportedCpuid, buffer.data(),
                               "KVM_GET_SUPPORTED_CPUID"));
  uint32_t count = 0;
  std::memcpy(&count, buffer.data(), sizeof count);
  std::vector<kvm_cpuid_entry2> entries(count);
  std::memcpy(entries.data(), buffer.data() + 8, count * sizeof(kvm_cpuid_entry2));
  return entries;
}

Result<std::vector<uint32_t>> Kvm::MsrIndexList() const {
  constexpr uint32_t kMaxIndices = 1024;
  std::vector<uint32_t> buffer(1 + kMaxIndices);
  buffer[0] = kMaxIndices;
  VMFORK_CHECK(kvm_ioctl::Call(fd_.Get(), kvm_ioctl::kGetMsrIndexList, buffer.data(),
                               "KVM_GET_MSR_INDEX_LIST"));
  return std::vector<uint32_t>(buffer.begin() + 1, buffer.begin() + 1 + buffer[0]);
}

}  // namespace vmfork
