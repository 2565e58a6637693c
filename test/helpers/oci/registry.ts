// Debian's docker-registry on a free port of the loopback, with the authorization that a test asks for.

import { type ChildProcess, spawn } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Scratch } from './images.js';

const START_MS = 20_000;

/** A port that was free a moment ago. */
export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const address = server.address();
      const port = typeof address === 'object' && address ? address.port : 0;
      server.close(() => resolve(port));
    });
  });
}

/** A running registry. */
export class Registry {
  readonly host: string;
  readonly #child: ChildProcess;

  private constructor(host: string, child: ChildProcess) {
    this.host = host;
    this.#child = child;
  }

  /** Starts a registry whose data and settings lie in `scratch`. `auth` is the section of its configuration. */
  static async start(scratch: Scratch, name: string, auth?: object): Promise<Registry> {
    const port = await freePort();
    const config = scratch.file(`${name}.json`);
    // YAML reads JSON.
    const settings = {
      version: 0.1,
      log: { level: 'error', accesslog: { disabled: true } },
      storage: { filesystem: { rootdirectory: scratch.file(name) }, delete: { enabled: true } },
      http: { addr: `127.0.0.1:${port}` },
      ...(auth && { auth }),
    };
    writeFileSync(config, JSON.stringify(settings));
    const child = spawn('docker-registry', ['serve', config], { stdio: 'ignore' });
    const broken = new Promise<never>((_, reject) => {
      child.once('error', reject);
      child.once('exit', (code) => reject(new Error(`docker-registry ended with ${code}`)));
    });
    broken.catch(() => {});
    await Promise.race([broken, untilAnswers(`http://127.0.0.1:${port}/v2/`)]);
    return new Registry(`127.0.0.1:${port}`, child);
  }

  async stop(): Promise<void> {
    if (this.#child.exitCode !== null) return;
    const ended = new Promise((resolve) => this.#child.once('exit', resolve));
    this.#child.kill('SIGKILL');
    await ended;
  }
}

async function untilAnswers(url: string): Promise<void> {
  const endMs = Date.now() + START_MS;
  for (;;) {
    try {
      await (await fetch(url)).arrayBuffer();
      return;
    } catch (error) {
      if (Date.now() > endMs) throw error;
      await sleep(20);
    }
  }
}
