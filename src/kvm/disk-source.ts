// What a drive of a machine can be given.

import type { NativeDiskOptions } from '../native.js';

/** A file or block device, or a scratch disk of so many bytes (a multiple of 512), which is thrown away with the VM. */
export interface DiskSource {
  path?: string;
  /** Of `path`; true unless given. */
  readOnly?: boolean;
  /** Whether the file is what a scratch disk holds at first: nobody else may use it from then on, and branches copy nothing of it. */
  isScratch?: boolean;
  scratchBytes?: number;
  /** What the guest reads in /sys/block/NAME/serial; at most 20 bytes. */
  serial?: string;
}

export function kindOf({ path, readOnly, isScratch }: DiskSource): NativeDiskOptions['kind'] {
  if (path === undefined || isScratch) return 'scratch';
  return readOnly === false ? 'file' : 'image';
}
