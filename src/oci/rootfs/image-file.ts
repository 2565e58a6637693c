// The image while it is written: appended to from memory without waiting, written behind in big pieces.

import { constants, type FileHandle, open } from 'node:fs/promises';
import { systemFailure } from './system-failure.js';

/** Block size of the image, bytes: the page size, so that its files can be mapped. */
export const IMAGE_BLOCK_BYTES = 4096;

const BUFFER_BYTES = 1 << 20;
const MOST_IN_FLIGHT = 2;
const WRITE_ZEROS_BELOW = 64 * 1024;

export class ImageFile {
  readonly #path: string;
  readonly #file: FileHandle;
  readonly #free: Buffer[] = [];
  #buffer: Buffer = Buffer.allocUnsafe(BUFFER_BYTES);
  #filled = 0;
  #bufferStart = 0;
  #inFlight = 0;
  #writes: Promise<void> = Promise.resolve();
  #failure: unknown;

  private constructor(path: string, file: FileHandle) {
    this.#path = path;
    this.#file = file;
  }

  /** Creates the file; it must not exist yet. */
  static async create(path: string): Promise<ImageFile> {
    const flags = constants.O_CREAT | constants.O_EXCL | constants.O_RDWR;
    const file = await open(path, flags, 0o644).catch((cause) => {
      throw systemFailure('open', path, cause);
    });
    return new ImageFile(path, file);
  }

  /** Where the next byte goes. */
  get position(): number {
    return this.#bufferStart + this.#filled;
  }

  /** Enough waits to be written: call `settle` before appending more. */
  get congested(): boolean {
    return this.#inFlight > MOST_IN_FLIGHT;
  }

  append(bytes: Buffer): void {
    let at = 0;
    while (at < bytes.length) {
      const used = bytes.copy(this.#buffer, this.#filled, at);
      at += used;
      this.#filled += used;
      if (this.#filled === BUFFER_BYTES) this.#flush();
    }
  }

  /** Appends zeros; many of them as a hole in the file. */
  appendZeros(count: number): void {
    if (count >= WRITE_ZEROS_BELOW) {
      this.#flush();
      this.#bufferStart += count;
      return;
    }
    let left = count;
    while (left > 0) {
      const length = Math.min(left, BUFFER_BYTES - this.#filled);
      this.#buffer.fill(0, this.#filled, this.#filled + length);
      this.#filled += length;
      left -= length;
      if (this.#filled === BUFFER_BYTES) this.#flush();
    }
  }

  /** Appends zeros up to a multiple of `bytes`. */
  align(bytes = IMAGE_BLOCK_BYTES): void {
    const past = this.position % bytes;
    if (past > 0) this.appendZeros(bytes - past);
  }

  /** Waits until everything that is in full buffers has been written. Throws what writing failed with. */
  async settle(): Promise<void> {
    await this.#writes;
    if (this.#failure !== undefined) {
      throw systemFailure('write', this.#path, this.#failure);
    }
  }

  /** Writes what is still in memory. */
  async flush(): Promise<void> {
    this.#flush();
    await this.settle();
  }

  /** Overwrites what has been flushed before. */
  async overwrite(bytes: Buffer, position: number): Promise<void> {
    await this.#attempt('write', () => writeAll(this.#file, bytes, position));
  }

  /** Reads back into `target`; returns how many bytes came. */
  async read(target: Buffer, position: number): Promise<number> {
    const { bytesRead } = await this.#attempt('read', () =>
      this.#file.read(target, 0, target.length, position),
    );
    return bytesRead;
  }

  /** Gives the file its length, since a hole at the end has not, and brings it to the disk. */
  async finish(sizeBytes: number): Promise<void> {
    await this.#attempt('ftruncate', () => this.#file.truncate(sizeBytes));
    await this.#attempt('fsync', () => this.#file.sync());
  }

  /** Waits for what is being written, whatever becomes of it, and closes. */
  async close(): Promise<void> {
    await this.#writes;
    await this.#file.close();
  }

  #flush(): void {
    if (this.#filled === 0) return;
    const [buffer, length, position] = [this.#buffer, this.#filled, this.#bufferStart];
    this.#bufferStart += length;
    this.#filled = 0;
    this.#buffer = this.#free.pop() ?? Buffer.allocUnsafe(BUFFER_BYTES);
    this.#inFlight++;
    this.#writes = this.#writes.then(async () => {
      try {
        if (this.#failure === undefined) {
          await writeAll(this.#file, buffer.subarray(0, length), position);
        }
      } catch (failure) {
        this.#failure = failure;
      }
      this.#inFlight--;
      this.#free.push(buffer);
    });
  }

  async #attempt<T>(operation: string, action: () => Promise<T>): Promise<T> {
    try {
      return await action();
    } catch (cause) {
      throw systemFailure(operation, this.#path, cause);
    }
  }
}

async function writeAll(file: FileHandle, bytes: Buffer, position: number): Promise<void> {
  let at = 0;
  while (at < bytes.length) {
    const { bytesWritten } = await file.write(bytes, at, bytes.length - at, position + at);
    at += bytesWritten;
  }
}
