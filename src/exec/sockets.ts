// vsock connections to and from a guest as Node sockets. The descriptor is one end of a Unix socketpair, so backpressure
// and speed are the kernel's.

import { EventEmitter } from 'node:events';
import { close } from 'node:fs';
import { Socket } from 'node:net';

/** Wraps a descriptor that the addon handed over; the socket owns it from here on. */
export function socketFromFd(fd: number): Socket {
  return new Socket({ fd, readable: true, writable: true, allowHalfOpen: true });
}

/** Closes a descriptor that nobody wants any more. */
export function dropFd(fd: number): void {
  close(fd, () => {}); // A descriptor handed over just now cannot fail to close in a way that matters.
}

// Connections that wait for the iterator; beyond that the newest are refused.
const BACKLOG = 128;
// The longest timer Node has: it holds the event loop open and fires every 24.8 days to no effect.
const HOLD_OPEN_MS = 0x7fff_ffff;

interface ListenerEvents {
  connection: [socket: Socket];
  close: [];
}

/** Connections that the guest makes to a port of the host (CID 2): a `connection` event each, or an async iterable. */
export class ConnectionListener extends EventEmitter<ListenerEvents> {
  readonly port: number;
  readonly #onClose: () => void;
  readonly #waiting: Socket[] = [];
  #holder: NodeJS.Timeout | undefined;
  #wake: (() => void) | null = null;
  #closed = false;

  /** @internal Use `vm.listen()`. */
  constructor(port: number, onClose: () => void) {
    super();
    this.port = port;
    this.#onClose = onClose;
    this.ref();
  }

  /** @internal A guest has dialled. */
  accept(socket: Socket): void {
    if (this.#closed || this.#waiting.length >= BACKLOG) {
      socket.destroy();
      return;
    }
    if (this.emit('connection', socket)) return;
    this.#waiting.push(socket);
    this.#wake?.();
  }

  /** Stops listening; connections that nobody took are closed. Idempotent. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    clearInterval(this.#holder);
    for (const socket of this.#waiting.splice(0)) socket.destroy();
    this.#onClose();
    this.#wake?.();
    this.emit('close');
  }

  /** Keeps the process alive while listening (the default). */
  ref(): this {
    if (!this.#closed) this.#holder ??= setInterval(() => {}, HOLD_OPEN_MS);
    return this;
  }

  /** Lets the process end while listening. */
  unref(): this {
    clearInterval(this.#holder);
    this.#holder = undefined;
    return this;
  }

  [Symbol.dispose](): void {
    this.close();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Socket, void, void> {
    try {
      while (!this.#closed) {
        const socket = this.#waiting.shift();
        if (socket) yield socket;
        else
          await new Promise<void>((resolve) => {
            this.#wake = resolve;
          });
      }
    } finally {
      this.#wake = null;
      this.close();
    }
  }
}
