// Scratch disks: a sparse file with an empty ext4, made for one VM and gone with it.

import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { unlinkSync } from 'node:fs';
import { type FileHandle, mkdir, open } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { VmforkError } from '../errors.js';
import { cacheDirectory } from '../kvm/guest.js';

const run = promisify(execFile);
const MIB = 1024 * 1024;
// No journal: the disk does not outlive a crash. Tables are left for the guest's kernel to fill when it needs them, so that
// the file stays small.
const MKFS_OPTIONS = ['-q', '-F', '-t', 'ext4', '-O', '^has_journal', '-m', '0'];
const LAZY = ['-E', 'lazy_itable_init=1,nodiscard,root_owner=0:0'];

/** A scratch disk. Its file has no name, so that no end of this process can leave it behind: whoever opens the path has it. */
export interface Scratch extends AsyncDisposable {
  readonly path: string;
}

/** Makes one of so many MiB. Rejects with `VMF_DISK`. */
export async function makeScratch(diskMiB: number, signal?: AbortSignal): Promise<Scratch> {
  let file: FileHandle | undefined;
  try {
    file = await openNameless(join(cacheDirectory(), 'scratch'));
    const path = `/proc/${process.pid}/fd/${file.fd}`;
    await file.truncate(diskMiB * MIB);
    await run('mkfs.ext4', [...MKFS_OPTIONS, ...LAZY, path], { signal: signal ?? undefined });
    const made = file;
    return { path, [Symbol.asyncDispose]: () => made.close() };
  } catch (cause) {
    await file?.close();
    if (signal?.aborted) throw new VmforkError('VMF_ABORTED', 'attach', { cause: signal.reason });
    throw new VmforkError('VMF_DISK', `cannot make a scratch disk of ${diskMiB} MiB`, {
      operation: 'mkfs.ext4',
      cause,
    });
  }
}

async function openNameless(directory: string): Promise<FileHandle> {
  await mkdir(directory, { recursive: true });
  const path = join(directory, `${randomUUID()}.ext4`);
  const file = await open(path, 'wx+', 0o600);
  // At once and without a turn of the event loop between: not every file system has O_TMPFILE.
  unlinkSync(path);
  return file;
}
