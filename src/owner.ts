// Who owns a file that is being written: names that say it, and whether the owner still lives.
// Several processes share a store without a lock: each writes only files that carry its own name, and takes over a file
// of another one by renaming it, when that process is gone.

import { randomBytes } from 'node:crypto';
import { readFileSync, readlinkSync } from 'node:fs';

/** After so long, an owner that cannot be asked (another boot, container or machine) is taken for dead. */
const FOREIGN_MS = 24 * 60 * 60 * 1000;

interface Owner {
  /** Boot and pid namespace: where the pid means something. */
  readonly place: string;
  readonly pid: string;
  /** When the process started, in ticks after boot: pids are used again. */
  readonly started: string;
}

let own: Owner | undefined;

/** Names a file after this process, with something unique: `PLACE-PID-START-RANDOM[-SUFFIX]`. */
export function ownedName(suffix = ''): string {
  own ??= { place: readPlace(), pid: String(process.pid), started: startOf('self') ?? '0' };
  const parts = [own.place, own.pid, own.started, randomBytes(8).toString('hex')];
  return [...parts, ...(suffix ? [suffix] : [])].join('-');
}

/** What {@link ownedName} was given, or undefined when the name is none of ours. */
export function suffixOf(name: string): string | undefined {
  return /^[0-9a-f]{16}-[0-9]+-[0-9]+-[0-9a-f]{16}(?:-(.*))?$/.exec(name)?.[1];
}

/** Whether the owner of a file may still be writing it. `modifiedMs` is the file's. */
export function isOwnerAlive(name: string, modifiedMs: number): boolean {
  const [place, pid, started] = name.split('-');
  if (place !== readPlace()) return Date.now() - modifiedMs < FOREIGN_MS;
  return pid !== undefined && startOf(pid) === started;
}

let place: string | undefined;

function readPlace(): string {
  place ??= [
    readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').slice(0, 8),
    Number(/[0-9]+/.exec(readlinkSync('/proc/self/ns/pid'))?.[0])
      .toString(16)
      .padStart(8, '0'),
  ].join('');
  return place.slice(0, 16);
}

/** Field 22 of /proc/PID/stat (proc(5)); the second field is a name that may hold anything. */
function startOf(pid: string): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19];
  } catch {
    return undefined;
  }
}
