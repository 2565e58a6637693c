// The QEMU machine that vmfork is compared with: microvm with nothing but RAM, a serial port and one virtio-serial port,
// which carries the agent's control protocol. The template and its clones differ in a few arguments only.

import type { HostKind } from '#src/native.js';

/** What both engines boot, so that only the engines differ. */
export interface PeerGuest {
  kernelPath: string;
  initrdPath: string;
  cmdline: string;
  memoryMiB: number;
  hostKind: HostKind;
}

/** Places of one machine. */
export interface MachinePaths {
  /** Guest memory; all clones map the same file. */
  memory: string;
  /** Unix socket where the benchmark waits for the machine's control channel. */
  control: string;
  console: string;
}

export const QEMU = 'qemu-system-x86_64';

// A PVM host interprets the guest's kernel and knows neither CMPXCHG16B nor KVM's hypercalls there.
const PVM_CPU = [
  '-cx16',
  '-arch-capabilities',
  'kvm-pv-ipi=off',
  'kvm-pv-tlb-flush=off',
  'kvm-asyncpf=off',
  'kvm-asyncpf-int=off',
  'kvm-pv-unhalt=off',
  'kvm-steal-time=off',
  'kvm-pv-eoi=off',
];

// No timer, interrupt controller, clock or table that the guest does not use: less to create, restore and emulate.
const MACHINE = [
  'microvm',
  'accel=kvm',
  'kernel-irqchip=on',
  'x-option-roms=off',
  'pit=off',
  'pic=off',
  'rtc=off',
  'acpi=off',
  'isa-serial=on',
  'dump-guest-core=off',
  'mem-merge=off',
  'memory-backend=ram',
].join(',');

/** Arguments that template and clones share; `shared` is how the memory file is mapped. */
export function machineArguments(
  guest: PeerGuest,
  paths: MachinePaths,
  mapping: 'shared' | 'private',
): string[] {
  const cpu = ['host', ...(guest.hostKind === 'pvm' ? PVM_CPU : [])].join(',');
  const share = mapping === 'shared' ? 'on' : 'off';
  const memory = `memory-backend-file,id=ram,size=${guest.memoryMiB}M,mem-path=${paths.memory}`;
  return [
    ...['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot'],
    ...['-object', `${memory},share=${share}`],
    ...['-machine', MACHINE, '-cpu', cpu, '-smp', '1', '-m', `${guest.memoryMiB}M`],
    ...['-chardev', `file,id=console,path=${paths.console}`, '-serial', 'chardev:console'],
    ...['-chardev', 'stdio,id=monitor', '-mon', 'chardev=monitor,mode=control'],
    ...['-chardev', `socket,id=control,path=${paths.control}`],
    ...['-device', 'virtio-serial-device', '-device', 'virtserialport,chardev=control,nr=1'],
  ];
}

/** What only the template needs: a clone's memory has its kernel already. */
export function bootArguments(guest: PeerGuest): string[] {
  // QEMU leaves XSAVE unfinished where ring 0 is interpreted: its guest switches less of the processor's state.
  const without = guest.hostKind === 'pvm' ? ' noxsave' : '';
  const cmdline = `${guest.cmdline}${without} VMFORK_CONTROL=/dev/vport0p1`;
  return ['-kernel', guest.kernelPath, '-initrd', guest.initrdPath, '-append', cmdline];
}
