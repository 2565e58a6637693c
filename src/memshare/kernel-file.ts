// One small file of /proc or a cgroup that is read again and again: it stays open, and each read is of what it says now.

import { closeSync, openSync, readSync } from 'node:fs';
import { VmforkError } from '../errors.js';

const FIRST_BUFFER_BYTES = 8192;
// The hierarchy, the controller or the file is not there, no more, or not for us.
const ABSENT = new Set(['ENOENT', 'ENOTDIR', 'ENODEV', 'EACCES', 'EPERM']);
/** Texts are made of it at once, so all files of a thread share it. */
let buffer = Buffer.allocUnsafe(FIRST_BUFFER_BYTES);

// An engine need not be closed; its files are, when it is collected.
const finalizer = new FinalizationRegistry<number>((fd) => closeSync(fd));

export class KernelFile {
  readonly path: string;
  #fd: number | undefined;
  #isAbsent = false;

  constructor(path: string) {
    this.path = path;
  }

  /** What it says; null when it is not there, which is remembered. Throws `VMF_TOO_MANY_FILES` and `VMF_SYSTEM`. */
  read(): string | null {
    if (this.#isAbsent) return null;
    try {
      this.#fd ??= this.#open();
      return readFromStart(this.#fd);
    } catch (error) {
      this.close();
      this.#isAbsent = ABSENT.has((error as NodeJS.ErrnoException).code ?? '');
      if (this.#isAbsent) return null;
      throw unreadable(this.path, error as NodeJS.ErrnoException);
    }
  }

  /** If it was not there, it may be there at the next read. */
  lookForAbsent(): void {
    this.#isAbsent = false;
  }

  /** The next read opens it again. Idempotent. */
  close(): void {
    if (this.#fd === undefined) return;
    finalizer.unregister(this);
    closeSync(this.#fd);
    this.#fd = undefined;
  }

  #open(): number {
    const fd = openSync(this.path, 'r');
    finalizer.register(this, fd, this);
    return fd;
  }
}

function unreadable(path: string, error: NodeJS.ErrnoException): VmforkError {
  const { code, errno = 0, syscall: operation = 'read' } = error;
  const isOutOfFiles = code === 'EMFILE' || code === 'ENFILE';
  const context = { operation, errno: Math.abs(errno), cause: error };
  return new VmforkError(isOutOfFiles ? 'VMF_TOO_MANY_FILES' : 'VMF_SYSTEM', path, context);
}

function readFromStart(fd: number): string {
  for (;;) {
    const length = readSync(fd, buffer, 0, buffer.length, 0);
    if (length < buffer.length) return buffer.toString('latin1', 0, length);
    buffer = Buffer.allocUnsafe(2 * buffer.length);
  }
}
