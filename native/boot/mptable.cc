// The MultiProcessor Specification 1.4 table: how a kernel without ACPI finds its processors and
// the I/O APIC.
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "base/byte_io.h"
#include "boot/boot_params.h"
#include "memory/layout.h"

namespace vmfork {

namespace {
constexpr uint8_t kSpecRevision = 4;
constexpr uint8_t kApicVersion = 0x14;
constexpr uint32_t kLapicAddress = 0xfee0'0000, kIoapicAddress = 0xfec0'0000;
// Entry types (section 4.3).
constexpr uint8_t kProcessor = 0, kBus = 1, kIoapic = 2, kIoInterrupt = 3, kLocalInterrupt = 4;
constexpr uint8_t kProcessorEnabled = 1, kProcessorBoot = 2;
constexpr uint8_t kInt = 0, kNmi = 1, kExtInt = 3;
constexpr uint8_t kIsaBus = 0, kIsaIrqs = 16;
constexpr uint8_t kAllLapics = 0xff;

uint8_t Checksum(std::span<const std::byte> bytes) {
  const auto sum = std::accumulate(bytes.begin(), bytes.end(), 0U, [](unsigned total, std::byte b) {
    return total + std::to_integer<unsigned>(b);
  });
  return static_cast<uint8_t>(0U - sum);
}

void PutText(ByteWriter& out, const char* text, size_t size) {
  for (size_t i = 0; i < size; ++i) out.Put(i < std::strlen(text) ? text[i] : ' ');
}

void PutProcessor(ByteWriter& out, uint8_t apic_id) {
  out.Put(kProcessor);
  out.Put(apic_id);
  out.Put(kApicVersion);
  out.Put(static_cast<uint8_t>(kProcessorEnabled | (apic_id == 0 ? kProcessorBoot : 0)));
  out.Put<uint32_t>(0x600);  // CPU signature: the kernel asks CPUID
  out.Put<uint32_t>(0x201);  // features: FPU and APIC
  out.Put<uint64_t>(0);
}

void PutInterrupt(ByteWriter& out, uint8_t entry, uint8_t type, uint8_t irq, uint8_t target,
                  uint8_t pin) {
  out.Put(entry);
  out.Put(type);
  out.Put<uint16_t>(0);  // polarity and trigger as the bus has them: ISA, edge, active high
  out.Put(kIsaBus);
  out.Put(irq);
  out.Put(target);
  out.Put(pin);
}

std::vector<std::byte> Entries(uint32_t vcpus, uint16_t& count) {
  ByteWriter out;
  const auto ioapic_id = static_cast<uint8_t>(vcpus);
  for (uint32_t cpu = 0; cpu < vcpus; ++cpu) PutProcessor(out, static_cast<uint8_t>(cpu));
  out.Put(kBus);
  out.Put(kIsaBus);
  PutText(out, "ISA", 6);
  out.Put(kIoapic);
  out.Put(ioapic_id);
  out.Put(kApicVersion);
  out.Put<uint8_t>(1);  // enabled
  out.Put(kIoapicAddress);
  for (uint8_t irq = 0; irq < kIsaIrqs; ++irq)
    PutInterrupt(out, kIoInterrupt, kInt, irq, ioapic_id, irq);
  PutInterrupt(out, kLocalInterrupt, kExtInt, 0, 0, 0);
  PutInterrupt(out, kLocalInterrupt, kNmi, 0, kAllLapics, 1);
  count = static_cast<uint16_t>(vcpus + 1 + 1 + kIsaIrqs + 2);
  return out.Take();
}
}  // namespace

Result<void> WriteMpTable(const GuestMemory& memory, uint32_t vcpus) {
  constexpr size_t kPointerSize = 16, kHeaderSize = 44;
  const Gpa header_at{layout::kMpTable.value + kPointerSize};

  ByteWriter pointer;
  pointer.PutBytes(std::as_bytes(std::span("_MP_", 4)));
  pointer.Put(static_cast<uint32_t>(header_at.value));
  pointer.Put<uint8_t>(1);  // length in 16-byte units
  pointer.Put(kSpecRevision);
  pointer.Put<uint8_t>(0);  // checksum
  for (int i = 0; i < 5; ++i) pointer.Put<uint8_t>(0);
  std::vector<std::byte> pointer_bytes = pointer.Take();
  pointer_bytes[10] = std::byte{Checksum(pointer_bytes)};

  uint16_t count = 0;
  const std::vector<std::byte> entries = Entries(vcpus, count);
  ByteWriter table;
  table.PutBytes(std::as_bytes(std::span("PCMP", 4)));
  table.Put(static_cast<uint16_t>(kHeaderSize + entries.size()));
  table.Put(kSpecRevision);
  table.Put<uint8_t>(0);  // checksum
  PutText(table, "VMFORK", 8);
  PutText(table, "VM", 12);
  table.Put<uint32_t>(0);  // no OEM table
  table.Put<uint16_t>(0);
  table.Put(count);
  table.Put(kLapicAddress);
  table.Put<uint32_t>(0);  // no extended table
  table.PutBytes(entries);
  std::vector<std::byte> table_bytes = table.Take();
  table_bytes[7] = std::byte{Checksum(table_bytes)};

  if (!memory.Write(layout::kMpTable, pointer_bytes) || !memory.Write(header_at, table_bytes)) {
    return Fail(ErrorCode::kMemorySize, "processor table", "guest memory is too small");
  }
  return {};
}

}  // namespace vmfork
