// Capability names and the sets that containers get.

import { VmforkError } from '../errors.js';

// In the order of their numbers, from linux/include/uapi/linux/capability.h.
const NAMES = [
  'CHOWN',
  'DAC_OVERRIDE',
  'DAC_READ_SEARCH',
  'FOWNER',
  'FSETID',
  'KILL',
  'SETGID',
  'SETUID',
  'SETPCAP',
  'LINUX_IMMUTABLE',
  'NET_BIND_SERVICE',
  'NET_BROADCAST',
  'NET_ADMIN',
  'NET_RAW',
  'IPC_LOCK',
  'IPC_OWNER',
  'SYS_MODULE',
  'SYS_RAWIO',
  'SYS_CHROOT',
  'SYS_PTRACE',
  'SYS_PACCT',
  'SYS_ADMIN',
  'SYS_BOOT',
  'SYS_NICE',
  'SYS_RESOURCE',
  'SYS_TIME',
  'SYS_TTY_CONFIG',
  'MKNOD',
  'LEASE',
  'AUDIT_WRITE',
  'AUDIT_CONTROL',
  'SETFCAP',
  'MAC_OVERRIDE',
  'MAC_ADMIN',
  'SYSLOG',
  'WAKE_ALARM',
  'BLOCK_SUSPEND',
  'AUDIT_READ',
  'PERFMON',
  'BPF',
  'CHECKPOINT_RESTORE',
];

const bitOf = (name: string): bigint => 1n << BigInt(NAMES.indexOf(name));

/** Every capability. */
export const ALL_CAPABILITIES = (1n << BigInt(NAMES.length)) - 1n;

/** What a container has unless it asks for more or less: Docker's documented default. */
export const DEFAULT_CAPABILITIES = [
  'CHOWN',
  'DAC_OVERRIDE',
  'FSETID',
  'FOWNER',
  'MKNOD',
  'NET_RAW',
  'SETGID',
  'SETUID',
  'SETFCAP',
  'SETPCAP',
  'NET_BIND_SERVICE',
  'SYS_CHROOT',
  'KILL',
  'AUDIT_WRITE',
].reduce((set, name) => set | bitOf(name), 0n);

function setOf(option: string, names: readonly string[]): bigint {
  let set = 0n;
  for (const given of names) {
    const name = given.toUpperCase().replace(/^CAP_/, '');
    if (name === 'ALL') set = ALL_CAPABILITIES;
    else if (NAMES.includes(name)) set |= bitOf(name);
    else throw new VmforkError('VMF_OPTIONS', `${option} has no capability ${given}`);
  }
  return set;
}

const hasAll = (names: readonly string[]): boolean =>
  names.some((name) => /^(cap_)?all$/i.test(name));

/**
 * The capabilities after additions and removals, by Docker's rules: ALL on one side is the set that the other side's
 * names are then taken from or added to. Throws `VMF_OPTIONS` for a name that there is not.
 */
export function capabilitySet(add: readonly string[], drop: readonly string[]): bigint {
  const added = setOf('capAdd', add);
  const dropped = setOf('capDrop', drop);
  if (hasAll(drop)) return hasAll(add) ? ALL_CAPABILITIES : added;
  return (DEFAULT_CAPABILITIES | added) & ~dropped;
}
