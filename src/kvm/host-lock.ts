// One at a time, among all processes that share a folder: a listening socket in it. The kernel closes the socket with its owner,
// however that ends, and whoever waits is connected to it: nobody has to look again and again, or to know who it is.

import { type FileHandle, open, rm } from 'node:fs/promises';
import { createConnection, createServer, type Server, type Socket } from 'node:net';
import { basename, dirname, join } from 'node:path';
import { debug } from '../diagnostics.js';
import { throwIfAborted } from '../waiting.js';

/**
 * A lock that saves work: what it guards must be right without it. Of several that find a dead owner's socket at the same
 * time, two may get in.
 */
export class HostLock implements AsyncDisposable {
  readonly #folder: FileHandle;
  readonly #server: Server;
  readonly #waiting: ReadonlySet<Socket>;

  private constructor(folder: FileHandle, server: Server, waiting: ReadonlySet<Socket>) {
    this.#folder = folder;
    this.#server = server;
    this.#waiting = waiting;
  }

  /**
   * Waits until nobody has the lock `path`, in a folder that exists. Null where the folder takes no sockets: go on without.
   *
   * @throws VmforkError `VMF_ABORTED`, named after `operation`.
   */
  static async take(
    path: string,
    operation: string,
    signal?: AbortSignal,
  ): Promise<HostLock | null> {
    const folder = await open(dirname(path));
    // Addresses hold 107 bytes (unix(7)), paths thousands; the folder's own descriptor is a short way there.
    const address = join('/proc/self/fd', String(folder.fd), basename(path));
    try {
      const waiting = new Set<Socket>();
      while (!signal?.aborted) {
        const server = await listen(address, waiting);
        if (server) return new HostLock(folder, server, waiting);
        await untilReleased(address, signal);
      }
    } catch (error) {
      debug('cannot lock %s: %s', path, error);
    }
    await folder.close();
    throwIfAborted(operation, signal);
    return null;
  }

  /** Lets the next one in. */
  async [Symbol.asyncDispose](): Promise<void> {
    const closed = new Promise((resolve) => this.#server.close(resolve));
    for (const socket of this.#waiting) socket.destroy();
    await closed;
    await this.#folder.close();
  }
}

/** Null when somebody else listens there, or did and died. */
function listen(address: string, waiting: Set<Socket>): Promise<Server | null> {
  const server = createServer((socket) => {
    waiting.add(socket);
    socket.on('close', () => waiting.delete(socket)).on('error', () => {});
    // Only so does it notice that the other end is gone.
    socket.unref().resume();
  });
  return new Promise((resolve, reject) => {
    server.on('error', (error: NodeJS.ErrnoException) =>
      error.code === 'EADDRINUSE' ? resolve(null) : reject(error),
    );
    server.listen(address, () => resolve(server.unref()));
  });
}

async function untilReleased(address: string, signal: AbortSignal | undefined): Promise<void> {
  const socket = createConnection(address).resume();
  const giveUp = () => socket.destroy();
  signal?.addEventListener('abort', giveUp);
  try {
    const failure = await new Promise<NodeJS.ErrnoException | undefined>((resolve) => {
      let cause: NodeJS.ErrnoException | undefined;
      socket.on('error', (error) => {
        cause = error;
      });
      socket.on('close', () => resolve(cause));
    });
    // Nobody listens on it any more: its owner died.
    if (failure?.code === 'ECONNREFUSED') await rm(address, { force: true });
    else if (failure && !RELEASED.includes(failure.code)) throw failure;
  } finally {
    signal?.removeEventListener('abort', giveUp);
  }
}

/** What a connection ends with when the lock was let go of just then. */
const RELEASED: readonly (string | undefined)[] = ['ENOENT', 'ECONNRESET', 'EPIPE'];
