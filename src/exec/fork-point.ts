// Fork points: which processes of a guest wait to be forked, and the form of what they are given (docs/fork-points.md).

import { variable } from '../byte-string.js';
import { VmforkError } from '../errors.js';
import type { ForkPayload } from '../options.js';
import { Deferred, throwIfAborted, type WaitOptions, withLimits } from '../waiting.js';
import type { Frame } from './frames.js';
import { Tag, TlvList } from './tlv.js';

/** Most bytes of an encoded payload: with the identity it must fit what a clone is given before it runs. */
export const MAX_PAYLOAD_BYTES = 61_440;
/** Most processes that wait at once; the agent's table has as many. */
export const MAX_WAITING = 16;
const NAME = /^[A-Za-z0-9._-]{1,64}$/;
const LEFT = 1;
const NUL = Buffer.alloc(1);

/** Whether this may be the name of a fork point. */
export function isForkPointName(value: unknown): value is string {
  return typeof value === 'string' && NAME.test(value);
}

/** The processes that wait, as the agent tells of them. */
export class ForkPoints {
  readonly #names: string[];
  readonly #waiters = new Set<{ name: string | undefined; arrived: Deferred<string> }>();

  /** `names`: those that waited when the machine was frozen. */
  constructor(names: readonly string[] = []) {
    this.#names = [...names];
  }

  /** Names of those who wait, in the order of their coming; a name may be there more than once. */
  get names(): string[] {
    return [...this.#names];
  }

  /** A `FORK_POINT` frame has come. Returns the name of a process that arrived, null when one has left. */
  update(frame: Frame): string | null {
    const name = new TlvList(frame.payload).text(Tag.FORK_POINT);
    if (!isForkPointName(name)) throw new VmforkError('VMF_PROTOCOL', 'fork point without a name');
    if (frame.aux & LEFT) {
      if (!this.remove(name)) throw new VmforkError('VMF_PROTOCOL', `nobody waited at ${name}`);
      return null;
    }
    if (this.#names.length >= MAX_WAITING) {
      throw new VmforkError('VMF_PROTOCOL', `more than ${MAX_WAITING} processes wait`);
    }
    this.#names.push(name);
    for (const waiter of this.#waiters) {
      if (waiter.name === undefined || waiter.name === name) waiter.arrived.resolve(name);
    }
    return name;
  }

  /** One of this name waits no more. */
  remove(name: string): boolean {
    const index = this.#names.indexOf(name);
    if (index >= 0) this.#names.splice(index, 1);
    return index >= 0;
  }

  /** The name of the process that a payload is for; throws `VMF_FORK_POINT` when it is not there. */
  choose(wanted: string | undefined): string {
    const name = wanted === undefined ? this.#names[0] : wanted;
    if (name !== undefined && this.#names.includes(name)) return name;
    const there = this.#names.length > 0 ? `waiting: ${this.#names.join(', ')}` : 'nobody waits';
    throw new VmforkError('VMF_FORK_POINT', wanted === undefined ? there : `${wanted}; ${there}`);
  }

  /** Resolves with the name once a process waits (of this name, if given). */
  async wait(name: string | undefined, limits: WaitOptions): Promise<string> {
    throwIfAborted('waitForForkPoint', limits.signal);
    const there = this.#names.find((one) => name === undefined || one === name);
    if (there !== undefined) return there;
    const waiter = { name, arrived: new Deferred<string>() };
    this.#waiters.add(waiter);
    try {
      return await withLimits('waitForForkPoint', limits, waiter.arrived.promise);
    } finally {
      this.#waiters.delete(waiter);
    }
  }

  /** The machine is gone. */
  fail(error: VmforkError): void {
    for (const { arrived } of this.#waiters) arrived.reject(error);
  }
}

/** The bytes a process reads: u32 argc, u32 envc, so many strings that end with NUL, then the data. */
export function encodePayload({ argv = [], env = {}, data = '' }: ForkPayload): Buffer {
  const variables = Object.entries(env).map(([name, value]) => variable(name, value));
  const counts = Buffer.alloc(8);
  counts.writeUInt32LE(argv.length, 0);
  counts.writeUInt32LE(variables.length, 4);
  const strings = [...argv, ...variables].flatMap((bytes) => [Buffer.from(bytes), NUL]);
  const bytes = Buffer.concat([counts, ...strings, Buffer.from(data)]);
  if (bytes.length <= MAX_PAYLOAD_BYTES) return bytes;
  throw new VmforkError(
    'VMF_OPTIONS',
    `payload must encode to at most ${MAX_PAYLOAD_BYTES} bytes, it has ${bytes.length}; send more over the stream`,
  );
}
