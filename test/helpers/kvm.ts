// What the tests on a real /dev/kvm share: the host's speed class, the cached template, and clones with a helper inside.

import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs';
import type { Socket } from 'node:net';
import { join } from 'node:path';
import { createInterface, type Interface } from 'node:readline';
import { type Clone, type Command, type Engine, Snapshot, type Vm } from 'vmfork';
import { mapLimited } from '#src/concurrency.js';
import { buildTestPrograms } from '../kvm/programs/build.mjs';

/** Inside the emulated host: everything but the guest's kernel is slow. */
export const isNested = process.env.VMFORK_HOST === 'nested';
/** The guest's kernel is interpreted: system calls and new processes of the guest are slow. */
export const isInterpreted = existsSync('/sys/module/kvm_pvm');

/** How much of something: in full on hardware, less where it would only take long. */
export function scale(amount: { full: number; nested: number; interpreted: number }): number {
  if (isNested) return amount.nested;
  return isInterpreted ? amount.interpreted : amount.full;
}

const STAT_BLOCK_BYTES = 512; // stat(2)

// A busy machine boots an interpreted kernel ten times slower than an idle one.
export const BOOT_TIMEOUT_MS = 180_000;

/** The default template, booted once per host. */
export function templateSnapshot(vcpus = 1, engine?: Engine): Promise<Snapshot> {
  return Snapshot.cached({ vcpus, engine, bootTimeoutMs: BOOT_TIMEOUT_MS });
}

/** Puts a test program (test/kvm/programs) into a guest and starts it; resolves when it says that it is ready. */
export async function startProgram(vm: Vm, name: string, args: string[]): Promise<Command> {
  const path = `/tmp/${name}`;
  const program = readFileSync(join(buildTestPrograms(), name));
  await vm.writeFile(path, program, { mode: 0o755 });
  const command = vm.spawn([path, ...args], { stdin: 'ignore', stderr: 'stdout' });
  const [line] = (await once(command.stdout, 'data')) as [Buffer];
  if (!line.toString().startsWith('ready')) throw new Error(`${name}: ${line.toString()}`);
  command.unref();
  return command;
}

/** Port of the companion program. */
export const COMPANION_PORT = 7000;

/** A snapshot in which the companion program lives, with so many pages of memory. */
export async function companionSnapshot(base: Snapshot, pages: number): Promise<Snapshot> {
  await using clone = await base.fork();
  await startProgram(clone, 'companion', [String(COMPANION_PORT), String(pages)]);
  return await clone.snapshot();
}

/** A conversation with the companion of one clone. */
export class Companion {
  readonly #socket: Socket;
  readonly #lines: AsyncIterator<string>;
  readonly #reader: Interface;

  private constructor(socket: Socket) {
    this.#socket = socket;
    this.#reader = createInterface(socket);
    this.#lines = this.#reader[Symbol.asyncIterator]();
  }

  static async in(vm: Vm): Promise<Companion> {
    return new Companion(await vm.connect(COMPANION_PORT));
  }

  /** Sends one request, resolves with its answer. */
  async ask(request: string): Promise<string> {
    this.#socket.write(`${request}\n`);
    const { value, done } = await this.#lines.next();
    if (done) throw new Error(`no answer to ${request}`);
    return value;
  }

  close(): void {
    this.#reader.close();
    this.#socket.destroy();
  }
}

/** Asks the companion of a clone one thing. */
export async function askOnce(vm: Vm, request: string): Promise<string> {
  const companion = await Companion.in(vm);
  try {
    return await companion.ask(request);
  } finally {
    companion.close();
  }
}

// Many busy guests on few processors only delay each other.
const AT_WORK = 4;

/**
 * Many clones of which few are at work: the others stand still, because even an idle guest ticks. Disposing destroys all,
 * also when a test failed, so that the next one has the processors to itself.
 */
export class Herd {
  readonly clones: readonly Clone[];

  private constructor(clones: readonly Clone[]) {
    this.clones = clones;
  }

  static async of(snapshot: Snapshot, count: number): Promise<Herd> {
    const clones: Clone[] = [];
    const batch = Math.min(count, 10);
    while (clones.length < count) {
      const forked = await snapshot.fork({ count: Math.min(batch, count - clones.length) });
      clones.push(...forked);
      await Promise.all(forked.map((clone) => clone.pause()));
    }
    return new Herd(clones);
  }

  /** Asks the companion of each clone. */
  ask(request: (index: number) => string): Promise<string[]> {
    return this.each((clone, index) => askOnce(clone, request(index)));
  }

  /** Works on each clone, a few at a time. */
  each<R>(work: (clone: Clone, index: number) => Promise<R>): Promise<R[]> {
    return mapLimited(this.clones, AT_WORK, async (clone, index) => {
      await clone.resume();
      const result = await work(clone, index);
      await clone.pause();
      return result;
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.clones.map((clone) => clone.destroy()));
  }
}

/** Destroys all. */
export async function destroyAll(clones: readonly Clone[]): Promise<void> {
  await Promise.all(clones.map((clone) => clone.destroy()));
}

/** What this process holds, by the kernel's count. */
export interface Footprint {
  files: number;
  threads: number;
  maps: number;
  residentBytes: number;
}

export function footprint(): Footprint {
  return {
    files: readdirSync('/proc/self/fd').length,
    threads: readdirSync('/proc/self/task').length,
    maps: readFileSync('/proc/self/maps', 'utf8').split('\n').length,
    residentBytes: process.memoryUsage.rss(),
  };
}

/** Bytes that this process's scratch disks take, one number for each; they have no names. */
export function scratchBytes(): number[] {
  return readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      const path = `/proc/self/fd/${fd}`;
      const isScratch = /\/scratch\/.*\(deleted\)$/.test(readlinkSync(path));
      return isScratch ? [statSync(path).blocks * STAT_BLOCK_BYTES] : [];
    } catch {
      return []; // the descriptor that listed them
    }
  });
}

/** Files of frozen memory that this process has open or mapped. */
export function layersHeld(): number {
  const isLayer = (name: string) => name.includes('memfd:vmfork');
  const open = readdirSync('/proc/self/fd').filter((fd) => {
    try {
      return isLayer(readlinkSync(`/proc/self/fd/${fd}`));
    } catch {
      return false; // The descriptor of the listing itself.
    }
  });
  const inodes = readFileSync('/proc/self/maps', 'utf8')
    .split('\n')
    .filter(isLayer)
    .map((line) => line.trim().split(/\s+/)[4]);
  return open.length + new Set(inodes).size;
}

/** Polls a fact of the outside world until it holds; the only honest way to wait for what nobody announces. */
export async function eventually(fact: () => Promise<boolean>, withinMs: number): Promise<boolean> {
  const deadline = performance.now() + withinMs;
  while (performance.now() < deadline) {
    if (await fact()) return true;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  return fact();
}

const BUSY_SLICE_MS = 10;

/**
 * Calls `work` in a program that is always busy with something else for longer than a millisecond: a limit of one is over
 * before an answer is looked at, however soon a guest gives it.
 */
export async function inABusyProgram<T>(work: () => Promise<T>): Promise<T> {
  let busy = true;
  const spin = () => {
    const until = performance.now() + BUSY_SLICE_MS;
    while (performance.now() < until);
    if (busy) setImmediate(spin);
  };
  // Both in one turn of the event loop, in which timers come next and sockets after them: a clone that runs at once has its
  // limit set before the first slice, one that comes from a thread before the second.
  const working = new Promise<T>((resolve, reject) => {
    setImmediate(() => Promise.resolve().then(work).then(resolve, reject));
  });
  setImmediate(spin);
  try {
    return await working;
  } finally {
    busy = false;
  }
}
