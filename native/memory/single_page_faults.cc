// By registering memory for write protection that nobody ever asks for: registered memory has no
// fault-around (uffd_disable_fault_around() in include/linux/userfaultfd_k.h).
#include "memory/single_page_faults.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <tuple>

namespace vmfork {

namespace {
// <linux/userfaultfd.h> of 5.11, 5.19 and 6.7; older headers lack them.
constexpr int kUserModeOnly = 1;  // allowed to everyone: no event comes from the kernel's accesses
constexpr uint64_t kWriteProtection = 1 << 0, kOfMemoryFiles = 1 << 12, kOfAllFiles = 1 << 15;
constexpr std::array kFeatures = {kWriteProtection | kOfMemoryFiles | kOfAllFiles,
                                  kWriteProtection | kOfMemoryFiles};
}  // namespace

SinglePageFaults SinglePageFaults::Open() {
  SinglePageFaults faults;
  UniqueFd fd(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | kUserModeOnly)));
  if (!fd.IsValid()) return faults;
  for (const uint64_t features : kFeatures) {
    uffdio_api api{};
    api.api = UFFD_API;
    api.features = features;
    if (::ioctl(fd.Get(), UFFDIO_API, &api) != 0) continue;
    faults.fd_ = std::move(fd);
    break;
  }
  return faults;
}

void SinglePageFaults::Apply(std::byte* start, uint64_t size) const {
  if (!fd_.IsValid()) return;
  uffdio_register range{};
  range.range = {.start = reinterpret_cast<uint64_t>(start), .len = size};
  range.mode = UFFDIO_REGISTER_MODE_WP;
  // Where the kernel cannot, it maps the neighbours as well: slower, and right.
  std::ignore = ::ioctl(fd_.Get(), UFFDIO_REGISTER, &range);
}

}  // namespace vmfork
