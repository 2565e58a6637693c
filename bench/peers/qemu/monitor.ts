// QEMU's machine protocol (QMP) over the process's standard input and output: one JSON object a line.

import { type ChildProcess, type StdioOptions, spawn } from 'node:child_process';
import { EventEmitter, once } from 'node:events';
import { createInterface } from 'node:readline';
import type { Readable, Writable } from 'node:stream';
import { QEMU } from './machine.js';

interface Reply {
  return?: unknown;
  error?: { desc: string };
  event?: string;
}

interface Waiting {
  resolve(value: unknown): void;
  reject(error: Error): void;
}

/** One QEMU process and its monitor. Emits QMP events under their names. */
export class QemuProcess extends EventEmitter {
  readonly #child: ChildProcess;
  readonly #input: Writable;
  readonly #waiting: Waiting[] = [];
  readonly #exited: Promise<unknown>;
  #stderr = '';

  /** `extraFds` become descriptors 3, 4, … of the process. */
  constructor(args: string[], extraFds: number[] = []) {
    super();
    const stdio: StdioOptions = ['pipe', 'pipe', 'pipe', ...extraFds];
    this.#child = spawn(QEMU, args, { stdio });
    this.#exited = once(this.#child, 'close');
    this.#input = this.#child.stdin as Writable;
    this.#input.on('error', () => {}); // A process that died says why on standard error.
    const output = this.#child.stdout as Readable;
    createInterface({ input: output }).on('line', (line) => this.#onLine(line));
    this.#child.stderr?.on('data', (chunk: Buffer) => {
      this.#stderr += chunk;
    });
    this.#child.once('error', (error) => this.#fail(error.message));
    this.#child.once('close', () => this.#fail(this.#stderr.trim()));
  }

  /** Sends a command at once, also before earlier ones are answered; replies come in order. */
  execute(command: string, args: object = {}): Promise<unknown> {
    this.#input.write(`${JSON.stringify({ execute: command, arguments: args })}\n`);
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
  }

  /** Resolves with QMP's next event of this name; rejects when the process ends first. */
  async nextEvent(name: string): Promise<void> {
    const ended = new AbortController();
    this.#exited.finally(() => ended.abort()).catch(() => {});
    await once(this, name, { signal: ended.signal });
  }

  /** Ends the process and waits for it. */
  async kill(): Promise<void> {
    this.#child.kill('SIGKILL');
    await this.#exited.catch(() => {});
  }

  #onLine(line: string): void {
    const reply = JSON.parse(line) as Reply;
    if (reply.event) this.emit(reply.event);
    else if ('return' in reply) this.#waiting.shift()?.resolve(reply.return);
    else if (reply.error) this.#waiting.shift()?.reject(new Error(`QEMU: ${reply.error.desc}`));
  }

  #fail(reason: string): void {
    for (const { reject } of this.#waiting.splice(0)) reject(new Error(`QEMU ended: ${reason}`));
  }
}
