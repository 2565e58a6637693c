// vmfork against QEMU's template restore: same kernel, initramfs, command line and memory, samples taken in turn in one run.
// Both give the guest the same identity frame, both wait for the same ping; QEMU starts a process and is told nothing late.

import type { Snapshot } from '#src/index.js';
import { commandLine, findGuest } from '#src/kvm/guest.js';
import { forkedMs } from '#src/kvm/stage-clock.js';
import type { BenchCase, CaseRun } from '../harness/case.js';
import { msSince, now } from '../harness/clock.js';
import { QemuTemplate } from '../peers/qemu/template.js';
import { guestParameters, MEMORY_MIB, openSnapshot, repeat } from './default-guest.js';

export const peerQemu: BenchCase = {
  name: 'peer-qemu',
  summary: 'against QEMU microvm template restore, interleaved in one run',
  defaultN: 30,
  async measure(run) {
    await using snapshot = await openSnapshot(run);
    run.progress('QEMU: booting its template');
    const qemu = await createPeer(snapshot);
    try {
      await repeat(run, (counts) => measurePair(run, snapshot, qemu, counts));
    } finally {
      qemu.close();
    }
    const { samples } = run;
    const ratio = (theirs: string, ours: string) => samples.median(theirs) / samples.median(ours);
    samples.add('restore_ratio', 'x', ratio('qemu_restore_ms', 'fork_ms'));
    samples.add('response_ratio', 'x', ratio('qemu_response_ms', 'response_ms'));
    return {
      ...guestParameters(snapshot),
      peer: 'QEMU microvm, share=on template, x-ignore-shared',
    };
  },
};

function createPeer(snapshot: Snapshot): Promise<QemuTemplate> {
  const guest = findGuest();
  const { hostKind } = snapshot.info;
  const cmdline = commandLine(guest, hostKind);
  const { kernelPath, initrdPath } = guest;
  return QemuTemplate.create({ kernelPath, initrdPath, cmdline, memoryMiB: MEMORY_MIB, hostKind });
}

async function measurePair(
  run: CaseRun,
  snapshot: Snapshot,
  qemu: QemuTemplate,
  counts: boolean,
): Promise<void> {
  const start = now();
  const clone = await snapshot.fork();
  await clone.ping();
  const responseMs = msSince(start);
  await clone.destroy();
  const theirs = await qemu.sample();
  if (!counts) return;
  run.samples.addMs('fork_ms', forkedMs(clone.timings()));
  run.samples.addMs('qemu_restore_ms', theirs.restoreMs);
  run.samples.addMs('response_ms', responseMs);
  run.samples.addMs('qemu_response_ms', theirs.responseMs);
}
