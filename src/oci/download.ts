// One blob from a registry into the store: resumed where it was cut off, checked as it comes.

import { VmforkError } from '../errors.js';
import { throwIfAborted } from '../waiting.js';
import type { BlobStore, PendingBlob } from './blobs.js';
import { DigestCheck } from './digest.js';
import { storing } from './failure.js';
import { type HttpResponse, httpFailure } from './http.js';
import type { RegistryClient } from './registry.js';
import type { Descriptor } from './schemas.js';

const READ_BYTES = 1024 * 1024;
/** A connection that brings less than this within the longest silence is as good as dead. */
const LEAST_PROGRESS_BYTES = 16 * 1024;
/** As much makes up for the failures before it. */
const FORGIVING_BYTES = 1024 * 1024;

export interface DownloadOptions {
  readonly repository: string;
  readonly signal?: AbortSignal | undefined;
  /** How much of the blob is there. */
  readonly onBytes: (doneBytes: number) => void;
}

/** Downloads a blob that the store does not have. What came before a failure is kept for the next call. */
export async function downloadBlob(
  blobs: BlobStore,
  registry: RegistryClient,
  descriptor: Descriptor,
  options: DownloadOptions,
): Promise<void> {
  const pending = await blobs.begin(descriptor.digest);
  try {
    await new Download(pending, registry, descriptor, options).run();
    await blobs.commit(pending);
  } catch (error) {
    // Bytes that proved wrong would fail every later attempt too.
    const isWrong = VmforkError.is(error) && error.code === 'VMF_IMAGE_DIGEST';
    await (isWrong ? blobs.discard(pending) : blobs.keep(pending));
    throw error;
  }
}

class Download {
  readonly #pending: PendingBlob;
  readonly #registry: RegistryClient;
  readonly #descriptor: Descriptor;
  readonly #options: DownloadOptions;
  #check: DigestCheck;
  /** Whether some of the bytes came from an earlier download, which may have been damaged since. */
  #resumed = false;

  constructor(
    pending: PendingBlob,
    registry: RegistryClient,
    descriptor: Descriptor,
    options: DownloadOptions,
  ) {
    this.#pending = pending;
    this.#registry = registry;
    this.#descriptor = descriptor;
    this.#options = options;
    this.#check = new DigestCheck(descriptor.digest);
  }

  async run(): Promise<void> {
    await this.#takePartial();
    try {
      await this.#fetchAll();
    } catch (error) {
      const isWrong = VmforkError.is(error) && error.code === 'VMF_IMAGE_DIGEST';
      if (!isWrong || !this.#resumed) throw error;
      await this.#restart();
      await this.#fetchAll();
    }
  }

  /** Hashes what an earlier download left. */
  async #takePartial(): Promise<void> {
    const { handle, path } = this.#pending;
    await storing(`read ${path}`, async () => {
      const { size } = await handle.stat();
      if (size > this.#descriptor.size) return this.#restart();
      this.#resumed = size > 0;
      const buffer = Buffer.allocUnsafe(Math.min(size, READ_BYTES));
      while (this.#check.sizeBytes < size) {
        const position = this.#check.sizeBytes;
        const { bytesRead } = await handle.read(buffer, 0, buffer.length, position);
        if (bytesRead === 0) break;
        this.#check.update(buffer.subarray(0, bytesRead));
      }
    });
  }

  async #restart(): Promise<void> {
    await storing(`truncate ${this.#pending.path}`, () => this.#pending.handle.truncate(0));
    this.#check = new DigestCheck(this.#descriptor.digest);
    this.#resumed = false;
  }

  async #fetchAll(): Promise<void> {
    const { size, digest } = this.#descriptor;
    let farthest = this.#check.sizeBytes;
    for (let failures = 0; this.#check.sizeBytes < size; ) {
      try {
        await this.#fetchRest();
      } catch (error) {
        const gained = this.#check.sizeBytes - farthest;
        farthest = Math.max(farthest, this.#check.sizeBytes);
        failures = gained >= FORGIVING_BYTES ? 1 : failures + 1;
        await this.#registry.waitAfter(error, failures);
      }
    }
    this.#check.finish(`blob of ${this.#options.repository}`);
    this.#options.onBytes(size);
    throwIfAborted(`pull ${digest}`, this.#options.signal);
  }

  /** One request for what is missing. Returns when the answer ends, which may be too early. */
  async #fetchRest(): Promise<void> {
    const { repository, signal } = this.#options;
    const { digest } = this.#descriptor;
    const offset = this.#check.sizeBytes;
    const response = await this.#registry.blob(repository, digest, offset);
    try {
      if (offset > 0 && !continuesAt(response, offset, this.#descriptor.size)) {
        await this.#restart();
        if (response.status !== 200) return;
      }
      await this.#receive(response, signal);
    } finally {
      response.body.destroy();
    }
  }

  async #receive(response: HttpResponse, signal: AbortSignal | undefined): Promise<void> {
    const stop = this.#watchProgress(response);
    try {
      for await (const chunk of response.body) await this.#take(chunk as Buffer);
    } catch (error) {
      throw httpFailure(response.host, error, signal);
    } finally {
      stop();
    }
    if (this.#check.sizeBytes < this.#descriptor.size) throw cutOff(response.host);
  }

  async #take(chunk: Buffer): Promise<void> {
    const { digest, size } = this.#descriptor;
    const position = this.#check.sizeBytes;
    if (position + chunk.length > size) {
      const detail = `${digest} has more than the ${size} bytes that its manifest says`;
      throw new VmforkError('VMF_IMAGE_DIGEST', detail);
    }
    this.#check.update(chunk);
    await storing(`write ${this.#pending.path}`, async () => {
      for (let done = 0; done < chunk.length; ) {
        const rest = chunk.length - done;
        const written = await this.#pending.handle.write(chunk, done, rest, position + done);
        done += written.bytesWritten;
      }
    });
    this.#options.onBytes(this.#check.sizeBytes);
  }

  /** Breaks a connection that only drips. */
  #watchProgress(response: HttpResponse): () => void {
    let before = this.#check.sizeBytes;
    const timer = setInterval(() => {
      const now = this.#check.sizeBytes;
      if (now - before < LEAST_PROGRESS_BYTES) response.body.destroy(cutOff(response.host).cause);
      before = now;
    }, this.#registry.retry.silenceMs);
    return () => clearInterval(timer);
  }
}

function cutOff(host: string): VmforkError & { cause: Error } {
  const cause = Object.assign(new Error('the connection ended early'), { code: 'ECONNRESET' });
  return httpFailure(host, cause) as VmforkError & { cause: Error };
}

/** Whether an answer goes on where we stopped: 206 with the Content-Range that was asked for (RFC 9110, 14.4). */
function continuesAt({ status, headers }: HttpResponse, offset: number, size: number): boolean {
  const range = /^bytes ([0-9]+)-([0-9]+)\/([0-9]+|\*)$/.exec(String(headers['content-range']));
  if (status !== 206 || !range || Number(range[1]) !== offset) return false;
  return range[3] === '*' || Number(range[3]) === size;
}
