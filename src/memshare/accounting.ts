// Memory of the whole process by the kernel's own accounting; per VM there is vm.memory().

import { readFile } from 'node:fs/promises';

const KIB = 1024;

/** Memory of this process, bytes (proc(5), /proc/pid/smaps_rollup). */
export interface ProcessMemory {
  /** Resident set: every page counted in full. */
  rssBytes: number;
  /** Proportional set: pages shared with other mappings or processes counted by their share. */
  pssBytes: number;
  /** Pages only this process has. */
  privateBytes: number;
  /** Pages not backed by a file: also the guest pages that clones have written. */
  anonymousBytes: number;
}

/** Reads /proc/self/smaps_rollup. The kernel walks all page tables for it: some milliseconds with many clones. */
export async function processMemory(): Promise<ProcessMemory> {
  return parseRollup(await readFile('/proc/self/smaps_rollup', 'utf8'));
}

/** @internal */
export function parseRollup(text: string): ProcessMemory {
  const bytes = (name: string) => {
    const match = new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(text);
    return Number(match?.[1] ?? 0) * KIB;
  };
  return {
    rssBytes: bytes('Rss'),
    pssBytes: bytes('Pss'),
    privateBytes: bytes('Private_Clean') + bytes('Private_Dirty'),
    anonymousBytes: bytes('Anonymous'),
  };
}
