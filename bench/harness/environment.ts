// What a number depends on besides the code: recorded with every result, so that nobody compares two machines by mistake.

import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { cpus, loadavg, release, totalmem } from 'node:os';
import { fileURLToPath } from 'node:url';
import { probeHost } from '#src/kvm/engine.js';
import { VERSION } from '#src/version.js';

/** Where and with what a benchmark ran. */
export interface Environment {
  date: string;
  vmfork: string;
  /** Commit of the checkout, with `+` when files differ from it; empty outside a checkout. */
  commit: string;
  hostKind: string;
  hostKernel: string;
  cpuModel: string;
  cpuCount: number;
  memoryMiB: number;
  node: string;
  v8: string;
  qemu: string;
  /** Load average over the minute before the run: above 1, the machine was not ours alone. */
  loadAverage1m: number;
}

const MIB = 2 ** 20;

export function describeEnvironment(): Environment {
  return {
    date: new Date().toISOString(),
    vmfork: VERSION,
    commit: commit(),
    hostKind: probeHost().kind,
    hostKernel: release(),
    cpuModel: cpuModel(),
    cpuCount: cpus().length,
    memoryMiB: Math.floor(totalmem() / MIB),
    node: process.version,
    v8: process.versions.v8,
    qemu: firstLine('qemu-system-x86_64', ['--version']),
    loadAverage1m: Number((loadavg()[0] ?? 0).toFixed(2)),
  };
}

function cpuModel(): string {
  const line = /^model name\s*: (.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'));
  return line?.[1]?.trim() ?? 'unknown';
}

function commit(): string {
  const here = fileURLToPath(new URL('.', import.meta.url));
  const hash = firstLine('git', ['-C', here, 'rev-parse', '--short=12', 'HEAD']);
  if (!hash) return '';
  const changed = firstLine('git', ['-C', here, 'status', '--porcelain', '--untracked-files=no']);
  return changed ? `${hash}+` : hash;
}

/** The first line a program prints; empty when it is not there. */
function firstLine(command: string, args: string[]): string {
  try {
    const stdio: ['ignore', 'pipe', 'ignore'] = ['ignore', 'pipe', 'ignore'];
    return execFileSync(command, args, { encoding: 'utf8', stdio }).split('\n')[0]?.trim() ?? '';
  } catch {
    return '';
  }
}
