// `vmfork demo`: forks twenty machines from one frozen Linux, lets each run a command, and shows that they are twenty.

import { cpus, release } from 'node:os';
import { mapLimited } from '../concurrency.js';
import type { Clone } from '../kvm/clone.js';
import { probeHost } from '../kvm/engine.js';
import type { Snapshot } from '../kvm/snapshot.js';
import { forkedMs } from '../kvm/stage-clock.js';
import { describeDemo } from './demo-report.js';
import { type ReadySnapshot, readySnapshot, withEngine } from './engine.js';
import { EXIT } from './exit-codes.js';
import { note, printJson, printLines } from './output.js';
import { type Summary, summarize } from './statistics.js';

const CLONES = 20;
// As many at a time as keeps a small machine busy without making them wait for each other.
const AT_ONCE = 2;
const MEMORY_MIB = 128;
const COMMAND = ['cat', '/etc/hostname', '/run/vmfork/generation', '/tmp/who'];
const WHO_PATH = '/tmp/who';
const ENTROPY_BYTES = 8;
const KIB = 1024;

/** One machine of the demo. */
export interface DemoMachine {
  hostname: string;
  generationId: string;
  cid: number;
  /** What the guest's kernel drew from /dev/urandom, hex. */
  entropy: string;
  /** What its command wrote. */
  output: string[];
  /** Call to restored state and running vCPU. */
  forkMs: number;
  /** Call to acknowledged identity. */
  readyMs: number;
  commandMs: number;
  privateKiB: number;
  sharedKiB: number;
}

export interface DemoReport {
  host: { kind: string; cpuModel: string; cpuCount: number; kernel: string };
  template: {
    booted: boolean;
    readyMs: number;
    memoryMiB: number;
    kernel: string;
    bootNonce: string;
  };
  machines: DemoMachine[];
  /** Each true, or the demo fails. */
  proof: {
    ownIds: boolean;
    ownEntropy: boolean;
    ownFiles: boolean;
    saidByTheGuest: boolean;
    memoryShared: boolean;
  };
  summary: {
    forkMs: Summary;
    readyMs: Summary;
    commandMs: Summary;
    privateKiB: Summary;
    sharedKiB: Summary;
  };
  wallMs: number;
}

/** Returns the exit code: 1 when any proof fails. */
export async function demo(options: { json?: boolean }): Promise<number> {
  const started = performance.now();
  const report = await withEngine(async (engine): Promise<DemoReport> => {
    const ready = await readySnapshot(engine, { memoryMiB: MEMORY_MIB });
    const machines = await runMachines(ready.snapshot);
    return {
      host: describeHost(),
      template: describeTemplate(ready),
      machines,
      proof: prove(machines),
      summary: summarizeAll(machines),
      wallMs: performance.now() - started,
    };
  });
  if (options.json) printJson(report);
  else printLines(describeDemo(report));
  return Object.values(report.proof).every(Boolean) ? EXIT.ok : EXIT.failed;
}

/** Each step is done by all machines before the next begins: what one writes is there before another reads. */
async function runMachines(snapshot: Snapshot): Promise<DemoMachine[]> {
  const clones: ForkedClone[] = [];
  try {
    note(`forking ${CLONES} machines, one after the other`);
    for (let i = 0; i < CLONES; i++) clones.push(await forkOne(snapshot));
    await Promise.all(clones.map(({ clone }, number) => clone.writeFile(WHO_PATH, `${number}\n`)));
    note(`running \`${COMMAND.join(' ')}\` in each`);
    return await mapLimited(clones, AT_ONCE, runMachine);
  } finally {
    await Promise.all(clones.map(({ clone }) => clone.destroy()));
  }
}

interface ForkedClone {
  clone: Clone;
  readyMs: number;
}

async function forkOne(snapshot: Snapshot): Promise<ForkedClone> {
  const started = performance.now();
  const clone = await snapshot.fork();
  return { clone, readyMs: performance.now() - started };
}

async function runMachine({ clone, readyMs }: ForkedClone): Promise<DemoMachine> {
  const { stdout, durationMs } = await clone.exec(COMMAND);
  const entropy = await clone.readFile('/dev/urandom', { limitBytes: ENTROPY_BYTES });
  const { privateBytes, sharedBytes } = await clone.memory();
  const { hostname, generationId, cid } = clone.identity;
  return {
    hostname,
    generationId,
    cid,
    entropy: entropy.toString('hex'),
    output: stdout.trimEnd().split('\n'),
    forkMs: forkedMs(clone.timings()),
    readyMs,
    commandMs: durationMs,
    privateKiB: privateBytes / KIB,
    sharedKiB: sharedBytes / KIB,
  };
}

function prove(machines: readonly DemoMachine[]): DemoReport['proof'] {
  const distinct = (values: string[]) => new Set(values).size === machines.length;
  return {
    ownIds: distinct(machines.map(({ generationId }) => generationId)),
    ownEntropy: distinct(machines.map(({ entropy }) => entropy)),
    ownFiles: machines.every(({ output }, number) => output[2] === String(number)),
    saidByTheGuest: machines.every(
      ({ output, hostname, generationId }) => output[0] === hostname && output[1] === generationId,
    ),
    memoryShared: machines.every(({ privateKiB, sharedKiB }) => sharedKiB > privateKiB),
  };
}

function summarizeAll(machines: readonly DemoMachine[]): DemoReport['summary'] {
  const of = (pick: (machine: DemoMachine) => number) => summarize(machines.map(pick));
  return {
    forkMs: of((machine) => machine.forkMs),
    readyMs: of((machine) => machine.readyMs),
    commandMs: of((machine) => machine.commandMs),
    privateKiB: of((machine) => machine.privateKiB),
    sharedKiB: of((machine) => machine.sharedKiB),
  };
}

function describeHost(): DemoReport['host'] {
  const processors = cpus();
  return {
    kind: probeHost().kind,
    cpuModel: processors[0]?.model ?? 'unknown',
    cpuCount: processors.length,
    kernel: release(),
  };
}

function describeTemplate({ snapshot, booted, readyMs }: ReadySnapshot): DemoReport['template'] {
  const { kernel, bootNonce } = snapshot.metadata.agent;
  return { booted, readyMs, memoryMiB: MEMORY_MIB, kernel, bootNonce };
}
