// `vmfork doctor`: looks at everything a fork depends on and says what to fix. Each check is a finding; none stops the next.

import { readFileSync, statSync } from 'node:fs';
import { release } from 'node:os';
import { VmforkError } from '../errors.js';
import { probeHost } from '../kvm/engine.js';
import { cacheDirectory, findGuest } from '../kvm/guest.js';
import { processLimits } from '../memshare/limits.js';
import { loadNative, type NativeHostInfo } from '../native.js';
import { VERSION } from '../version.js';
import { EXIT } from './exit-codes.js';
import { formatBytes, formatTable, printJson, printLines } from './output.js';

/** `problem`: forks will not work. `advice`: they will, but less well. */
type Verdict = 'ok' | 'advice' | 'problem';

interface Finding {
  check: string;
  verdict: Verdict;
  detail: string;
  /** What to do about it. */
  fix?: string;
}

const LEAST_NODE_MAJOR = 20;
const FEW_CLONES = 100;
// A clone after its first command, kernel memory included.
const CLONE_BYTES = 1.5 * 2 ** 20;
const KIB = 1024;
const HOST_KINDS = {
  hardware: 'hardware virtualization',
  pvm: 'PVM: KVM without hardware virtualization; the guest kernel is interpreted and slow',
} as const;

/** Prints the findings; returns the exit code. */
export async function doctor(options: { json?: boolean }): Promise<number> {
  const findings = await examine();
  const healthy = findings.every(({ verdict }) => verdict !== 'problem');
  if (options.json) printJson({ healthy, findings });
  else printLines(describe(findings, healthy));
  return healthy ? EXIT.ok : EXIT.failed;
}

async function examine(): Promise<Finding[]> {
  const addon = attempt('addon', checkAddon);
  if (addon.verdict === 'problem') return [checkPlatform(), addon, ...(await checkRest())];
  return [checkPlatform(), addon, ...checkKvm(), ...(await checkRest())];
}

async function checkRest(): Promise<Finding[]> {
  return [...(await checkLimits()), checkMemory(), attempt('guest', checkGuest)];
}

function checkPlatform(): Finding {
  const detail = `vmfork ${VERSION}, Node ${process.version}, Linux ${release()}, ${process.arch}`;
  const major = Number(process.versions.node.split('.')[0]);
  if (process.platform !== 'linux' || process.arch !== 'x64') {
    const fix = 'run it on Linux on x86-64';
    return { check: 'platform', verdict: 'problem', detail, fix };
  }
  if (major < LEAST_NODE_MAJOR) {
    const fix = `use Node ${LEAST_NODE_MAJOR} or newer`;
    return { check: 'platform', verdict: 'problem', detail, fix };
  }
  return { check: 'platform', verdict: 'ok', detail };
}

function checkAddon(): Finding {
  return { check: 'addon', verdict: 'ok', detail: `version ${loadNative().version()}` };
}

function checkKvm(): Finding[] {
  let host: NativeHostInfo;
  try {
    host = probeHost();
  } catch (error) {
    return [problem('kvm', error)];
  }
  const detail = `${HOST_KINDS[host.kind]}; API ${host.apiVersion}, ${host.cpuVendor}, at most ${host.maxVcpus} vCPUs`;
  return [{ check: 'kvm', verdict: 'ok', detail }, checkCapabilities(host)];
}

function checkCapabilities({ capabilities, missing }: NativeHostInfo): Finding {
  const check = 'capabilities';
  const names = Object.keys(capabilities);
  const absent = names.filter((name) => !capabilities[name] && !missing.includes(name));
  const present = names.length - absent.length - missing.length;
  const optional = absent.length > 0 ? `; optional ones absent: ${absent.join(', ')}` : '';
  if (missing.length === 0)
    return { check, verdict: 'ok', detail: `${present} present${optional}` };
  return {
    check,
    verdict: 'problem',
    detail: `required ones missing: ${missing.join(', ')}`,
    fix: 'use a newer host kernel',
  };
}

async function checkLimits(): Promise<Finding[]> {
  const { files, maps, clonesThatFit } = await processLimits();
  const few = clonesThatFit < FEW_CLONES;
  return [
    {
      check: 'limits',
      verdict: few ? 'advice' : 'ok',
      detail: `${clonesThatFit} clones fit: ${files.most} open files (ulimit -n), ${maps.most} mappings (vm.max_map_count)`,
      ...(few && { fix: 'raise the lower one: ulimit -n 20000, sysctl vm.max_map_count=262144' }),
    },
  ];
}

function checkMemory(): Finding {
  const text = readFileSync('/proc/meminfo', 'utf8');
  const bytes = Number(/^MemAvailable:\s+(\d+) kB$/m.exec(text)?.[1] ?? 0) * KIB;
  const clones = Math.floor(bytes / CLONE_BYTES);
  const few = clones < FEW_CLONES;
  return {
    check: 'memory',
    verdict: few ? 'advice' : 'ok',
    detail: `${formatBytes(bytes)} available, enough for about ${clones} clones that do little`,
    ...(few && { fix: 'free memory, or fork fewer clones' }),
  };
}

function checkGuest(): Finding {
  const { id, kernelPath, initrdPath, userlandPath, kernelRelease } = findGuest();
  const sizeOf = (path: string) => formatBytes(statSync(path).size);
  const parts = `kernel ${sizeOf(kernelPath)}, initramfs ${sizeOf(initrdPath)}, userland ${sizeOf(userlandPath)}`;
  const detail = `Linux ${kernelRelease} (${id.slice(0, 12)}): ${parts}; in ${cacheDirectory()}`;
  return { check: 'guest', verdict: 'ok', detail };
}

function attempt(check: string, examineIt: () => Finding): Finding {
  try {
    return examineIt();
  } catch (error) {
    return problem(check, error);
  }
}

function problem(check: string, error: unknown): Finding {
  if (!VmforkError.is(error)) throw error;
  return { check, verdict: 'problem', detail: error.message, fix: error.hint };
}

function describe(findings: readonly Finding[], healthy: boolean): string[] {
  const marks: Record<Verdict, string> = { ok: 'ok', advice: 'advice', problem: 'PROBLEM' };
  const rows = findings.flatMap(({ check, verdict, detail, fix }) => [
    [check, marks[verdict], detail],
    ...(fix ? [['', '', `-> ${fix}`]] : []),
  ]);
  return [
    ...formatTable(rows),
    '',
    healthy ? 'Ready to fork.' : 'Not ready: fix the problems above.',
  ];
}
