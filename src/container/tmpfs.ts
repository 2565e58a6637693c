// Options of tmpfs mounts, as `docker run --tmpfs PATH:OPTIONS` takes them.

import { VmforkError } from '../errors.js';
import type { TmpfsMount } from './spec.js';

const NOEXEC = 1;
const NOSUID = 2;
const NODEV = 4;
const READ_ONLY = 8;
const SYNC = 16;
const DIRSYNC = 32;
const NOATIME = 64;
const NODIRATIME = 128;
const STRICTATIME = 256;

const ON: Readonly<Record<string, number>> = {
  noexec: NOEXEC,
  nosuid: NOSUID,
  nodev: NODEV,
  ro: READ_ONLY,
  sync: SYNC,
  dirsync: DIRSYNC,
  noatime: NOATIME,
  nodiratime: NODIRATIME,
  strictatime: STRICTATIME,
};
const OFF: Readonly<Record<string, number>> = {
  exec: NOEXEC,
  suid: NOSUID,
  dev: NODEV,
  rw: READ_ONLY,
  async: SYNC,
  atime: NOATIME,
  diratime: NODIRATIME,
  nostrictatime: STRICTATIME,
  // What the kernel does without a word.
  defaults: 0,
  relatime: NOATIME | STRICTATIME,
  norelatime: 0,
  nomand: 0,
};
// tmpfs(5); what else the kernel knows is nothing that a container should set.
const KERNEL = /^((size|nr_blocks|nr_inodes|mode|uid|gid)=[0-9]+[kmg%]?|mpol=[a-z0-9:=-]+)$/i;

/** One mount. Docker's defaults are noexec, nosuid, nodev. Throws `VMF_OPTIONS` for an option that there is not. */
export function tmpfsMount(path: string, text: string): TmpfsMount {
  let flags = NOEXEC | NOSUID | NODEV;
  const options: string[] = [];
  for (const word of text.split(',').filter(Boolean)) {
    if (Object.hasOwn(ON, word)) flags |= ON[word] as number;
    else if (Object.hasOwn(OFF, word)) flags &= ~(OFF[word] as number);
    else if (KERNEL.test(word)) options.push(word);
    else throw new VmforkError('VMF_OPTIONS', `tmpfs of ${path} has no option ${word}`);
  }
  return { path, flags, options: options.join(',') };
}
