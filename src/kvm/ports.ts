// The vsock ports of a machine: connections dialled into its guest, and those that the guest makes to listeners here.

import type { Socket } from 'node:net';
import { fromNative, VmforkError } from '../errors.js';
import { failStream } from '../exec/byte-streams.js';
import { ConnectionListener, dropFd, socketFromFd } from '../exec/sockets.js';
import type { NativeVm } from '../native.js';
import { type WaitOptions, withLimits } from '../waiting.js';

export class MachinePorts {
  readonly #native: NativeVm;
  readonly #gone: () => VmforkError | undefined;
  readonly #listeners = new Map<number, ConnectionListener>();
  readonly #sockets = new Set<Socket>();

  /** `gone` says what ended the machine. */
  constructor(native: NativeVm, gone: () => VmforkError | undefined) {
    this.#native = native;
    this.#gone = gone;
  }

  async connect(port: number, limits: WaitOptions): Promise<Socket> {
    let wanted = true;
    const dialled = this.#native.connect(port).then(
      (fd) => {
        if (!wanted) dropFd(fd);
        else return this.#adopt(socketFromFd(fd));
        throw new VmforkError('VMF_ABORTED', 'connect');
      },
      (error) => {
        throw this.#gone() ?? fromNative(error);
      },
    );
    return withLimits('connect', limits, dialled, () => {
      wanted = false;
    });
  }

  listen(port: number): ConnectionListener {
    if (this.#listeners.has(port)) {
      throw new VmforkError('VMF_OPTIONS', `port ${port} is already in use`);
    }
    try {
      this.#native.listen(port);
    } catch (error) {
      throw fromNative(error);
    }
    const listener = new ConnectionListener(port, () => {
      this.#listeners.delete(port);
      if (!this.#gone()) this.#native.unlisten(port);
    });
    this.#listeners.set(port, listener);
    return listener;
  }

  /** The guest has dialled: the connection goes to the listener, or nowhere. */
  accept(port: number, fd: number): void {
    const listener = this.#listeners.get(port);
    if (listener) listener.accept(this.#adopt(socketFromFd(fd)));
    else dropFd(fd);
  }

  /** Ends every listener and connection. */
  end(error: VmforkError): void {
    for (const listener of [...this.#listeners.values()]) listener.close();
    for (const socket of this.#sockets) failStream(socket, error);
  }

  #adopt(socket: Socket): Socket {
    this.#sockets.add(socket);
    socket.once('close', () => this.#sockets.delete(socket));
    return socket;
  }
}
