// The tests' companion program in a clone: memory that is written to when it is told so.

import { readFileSync } from 'node:fs';
import type { Socket } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath, pathToFileURL } from 'node:url';
import type { Clone, Snapshot } from '#src/index.js';

// This file runs from dist/bench/harness.
const BUILD = fileURLToPath(new URL('../../../test/kvm/programs/build.mjs', import.meta.url));
const PORT = 7000;
const PATH = '/tmp/companion';

/** A snapshot in which the program lives with so many pages of memory, all of them written. */
export async function companionSnapshot(base: Snapshot, pages: number): Promise<Snapshot> {
  const { buildTestPrograms } = (await import(pathToFileURL(BUILD).href)) as {
    buildTestPrograms(): string;
  };
  await using clone = await base.fork();
  const program = readFileSync(join(buildTestPrograms(), 'companion'));
  await clone.writeFile(PATH, program, { mode: 0o755 });
  const command = clone.spawn([PATH, String(PORT), String(pages)], { stdin: 'ignore' });
  await command.stdout.iterator({ destroyOnReturn: false }).next(); // It says when it listens.
  command.unref();
  using companion = await Companion.in(clone);
  await companion.dirty(0);
  return await clone.snapshot();
}

/** A conversation with the program in one clone. */
export class Companion {
  readonly #socket: Socket;
  readonly #lines: AsyncIterator<string>;

  private constructor(socket: Socket) {
    this.#socket = socket;
    this.#lines = createInterface(socket)[Symbol.asyncIterator]();
  }

  static async in(clone: Clone): Promise<Companion> {
    return new Companion(await clone.connect(PORT));
  }

  /** Writes to all of its pages; another number gives them another content. */
  async dirty(seed: number): Promise<void> {
    this.#socket.write(`fill ${seed}\n`);
    const { value } = await this.#lines.next();
    if (value !== 'filled') throw new Error(`the companion says ${value}`);
  }

  [Symbol.dispose](): void {
    this.#socket.destroy();
  }
}
