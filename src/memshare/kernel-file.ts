// One small file of /proc or a cgroup that is read again and again: it stays open, and each read is of what it says now.

import { closeSync, openSync, readSync } from 'node:fs';
import { constants } from 'node:os';
import { VmforkError } from '../errors.js';

const FIRST_BUFFER_BYTES = 8192;
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

  /** What it says; null when it is not there, which is remembered. Throws `VMF_TOO_MANY_FILES`. */
  read(): string | null {
    if (this.#isAbsent) return null;
    try {
      this.#fd ??= this.#open();
      return readFromStart(this.#fd);
    } catch (error) {
      this.close();
      const { code } = error as NodeJS.ErrnoException;
      if (code === 'EMFILE' || code === 'ENFILE') {
        const context = { operation: 'open', errno: constants.errno[code], cause: error };
        throw new VmforkError('VMF_TOO_MANY_FILES', this.path, context);
      }
      // The hierarchy, the controller or the file is not there, or no more (ENODEV).
      this.#isAbsent = true;
      return null;
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

function readFromStart(fd: number): string {
  for (;;) {
    const length = readSync(fd, buffer, 0, buffer.length, 0);
    if (length < buffer.length) return buffer.toString('latin1', 0, length);
    buffer = Buffer.allocUnsafe(2 * buffer.length);
  }
}
