// Signals and our threads: the embedding program's signals stay with its own threads, and one
// real-time signal gets a vCPU thread out of KVM_RUN.
#pragma once

namespace vmfork {

// Blocks, on this thread, all signals but the kick and those that report a fault.
void BlockSignals();

// The signal that interrupts KVM_RUN. Its handler does nothing; it is installed once per process,
// on first use.
int KickSignal();

}  // namespace vmfork
