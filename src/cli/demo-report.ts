// The demo's result in plain words: a line per machine, what it cost with a bar for each, and what it proves.

import type { DemoMachine, DemoReport } from './demo.js';
import { formatBar, formatBytes, formatMs, formatTable } from './output.js';

const BAR_WIDTH = 32;
const ID_DIGITS = 12;
const KIB = 1024;
const MIB = 1024 * KIB;

export function describeDemo(report: DemoReport): string[] {
  return [
    ...describeSetting(report),
    '',
    ...describeMachines(report.machines),
    '',
    ...describeTimes(report),
    '',
    ...describeMemory(report),
    '',
    ...describeProof(report),
    '',
    `Whole demo: ${formatMs(report.wallMs)}.`,
  ];
}

function describeSetting({ host, template, machines }: DemoReport): string[] {
  const kind = host.kind === 'pvm' ? 'PVM, guest kernel interpreted' : 'hardware virtualization';
  const origin = template.booted
    ? `booted and frozen in ${formatMs(template.readyMs)}; from now on it is cached`
    : `frozen earlier, loaded from the cache in ${formatMs(template.readyMs)}`;
  return [
    `${machines.length} machines from one frozen Linux`,
    `  host:      ${host.cpuModel} x${host.cpuCount}, Linux ${host.kernel}, ${kind}`,
    `  template:  Linux ${template.kernel}, ${template.memoryMiB} MiB, ${origin}`,
  ];
}

function describeMachines(machines: readonly DemoMachine[]): string[] {
  const header = [
    'machine',
    'generation id',
    'random bytes',
    'wrote',
    'fork',
    'is itself',
    'command',
    'own memory',
  ];
  const rows = machines.map((machine) => [
    machine.hostname,
    `${machine.generationId.slice(0, ID_DIGITS)}…`,
    machine.entropy,
    machine.output[2] ?? '',
    formatMs(machine.forkMs),
    formatMs(machine.readyMs),
    formatMs(machine.commandMs),
    formatBytes(machine.privateKiB * KIB),
  ]);
  return formatTable([header, ...rows], [3, 4, 5, 6, 7]);
}

function describeTimes({ summary }: DemoReport): string[] {
  const times = [
    ['fork: a new machine runs', summary.forkMs],
    ['... and has answered with an identity of its own', summary.readyMs],
    ['a command in it, start to exit code', summary.commandMs],
  ] as const;
  const most = Math.max(...times.map(([, { p50 }]) => p50));
  const rows = times.map(([name, { p50, p99 }]) => [
    name,
    formatMs(p50),
    formatMs(p99),
    formatBar(p50, most, BAR_WIDTH),
  ]);
  return formatTable([['time', 'p50', 'p99', ''], ...rows], [1, 2]);
}

function describeMemory({ machines, template, summary }: DemoReport): string[] {
  const configured = machines.length * template.memoryMiB * MIB;
  const own = machines.reduce((sum, { privateKiB }) => sum + privateKiB, 0) * KIB;
  const shared = summary.sharedKiB.p50 * KIB;
  const separate = own + machines.length * shared;
  const most = Math.max(separate, own);
  const rows = [
    [
      'as separate machines, the pages they use',
      formatBytes(separate),
      formatBar(separate, most, BAR_WIDTH),
    ],
    [
      'as forks: pages of their own, all together',
      formatBytes(own),
      formatBar(own, most, BAR_WIDTH),
    ],
    [
      'as forks: one frozen copy that all of them share',
      formatBytes(shared),
      formatBar(shared, most, BAR_WIDTH),
    ],
  ];
  return [
    ...formatTable([['memory', '', ''], ...rows], [1]),
    `Each machine has ${template.memoryMiB} MiB (${formatBytes(configured)} together); own pages p50 ${formatBytes(summary.privateKiB.p50 * KIB)}, p99 ${formatBytes(summary.privateKiB.p99 * KIB)}.`,
  ];
}

function describeProof({ proof, machines, template }: DemoReport): string[] {
  const mark = (good: boolean) => (good ? 'yes' : 'NO ');
  return [
    `${mark(proof.ownIds)}  ${machines.length} different generation ids`,
    `${mark(proof.ownEntropy)}  ${machines.length} different draws from /dev/urandom`,
    `${mark(proof.saidByTheGuest)}  each guest says the name and id that it was given`,
    `${mark(proof.ownFiles)}  all wrote /tmp/who, each reads back only its own`,
    `${mark(proof.memoryShared)}  all share the memory of one boot (nonce ${template.bootNonce.slice(0, ID_DIGITS)}…)`,
  ];
}
