// `vmfork exec --tty` and `vmfork run --tty` on a real terminal: keys, sizes, and the state in which the user's terminal is left.

import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { buildTestPrograms } from '../programs/build.mjs';

const program = fileURLToPath(new URL('../../../dist/cli/main.js', import.meta.url));

/** A user at a terminal: types, and reads what appears. */
class User {
  readonly #child: ChildProcessWithoutNullStreams;
  readonly #saysAtEnd: Promise<string>;
  readonly #ended: Promise<unknown[]>;
  #screen = '';

  constructor(...args: string[]) {
    const command = [process.execPath, program, ...args];
    this.#child = spawn(join(buildTestPrograms(), 'terminal'), command);
    this.#child.stdout.on('data', (chunk) => {
      this.#screen += chunk;
    });
    this.#saysAtEnd = text(this.#child.stderr);
    this.#ended = once(this.#child, 'exit');
  }

  type(keys: string): void {
    this.#child.stdin.write(keys);
  }

  enlargeWindow(): void {
    this.#child.kill('SIGUSR1');
  }

  /** Somebody else sends the command a SIGTERM. */
  terminates(): void {
    this.#child.kill('SIGTERM');
  }

  /** Resolves once the text has appeared. */
  async sees(wanted: string): Promise<void> {
    while (!this.#screen.includes(wanted)) {
      const [chunk] = await Promise.race([
        once(this.#child.stdout, 'data'),
        this.#ended.then(() => [undefined]),
      ]);
      if (chunk === undefined) throw new Error(`never saw ${wanted} in: ${this.#screen}`);
    }
  }

  async leaves(): Promise<{ code: unknown; terminal: string }> {
    const [code] = await this.#ended;
    return { code, terminal: (await this.#saysAtEnd).trim() };
  }
}

test('a shell has the size of the terminal, follows it, gets Ctrl-C, and ends with its own exit code', async () => {
  const user = new User('exec', '--tty', '--', 'sh');
  user.type('stty size\n');
  await user.sees('25 90');
  user.enlargeWindow();
  user.type('until stty size | grep 40; do sleep 0.1; done\n');
  await user.sees('40 100');
  user.type('echo be""fore; sleep 1000\n');
  await user.sees('before');
  user.type('\x03echo aft""er\n');
  await user.sees('after');
  user.type('exit 5\n');
  expect(await user.leaves()).toEqual({ code: 5, terminal: 'as it was' });
});

test.each([
  ['a command that takes too long', 124, ['--timeout-ms', '2000', '--', 'sleep', '1000']],
  ['a command that is not there', 127, ['--', '/no/such/command']],
])('%s leaves the terminal as it was', async (_, code, args) => {
  const user = new User('exec', '--tty', ...args);
  const left = await user.leaves();
  expect(left).toMatchObject({ code, terminal: 'as it was' });
});

test('a container has the terminal, too', async () => {
  const user = new User('run', '-i', '-t', 'busybox', 'sh');
  user.type('tty; stty size; echo $TERM be""fore\n');
  await user.sees('xterm before');
  await user.sees('/dev/pts/0');
  await user.sees('25 90');
  user.enlargeWindow();
  user.type('until stty size | grep 40; do sleep 0.1; done\n');
  await user.sees('40 100');
  user.type('exit 6\n');
  expect(await user.leaves()).toEqual({ code: 6, terminal: 'as it was' });
});

// Counts what it gets and goes on.
const stubborn = (signal: string) =>
  `n=0; trap 'n=$((n+1)); echo caught $n' ${signal}; echo ready; while :; do sleep 0.1; done`;

test('Ctrl-C is a signal for a container with a terminal that reads no keys; the third one ends it', async () => {
  const user = new User('run', '-t', 'busybox', 'sh', '-c', stubborn('INT'));
  await user.sees('ready');
  user.type('\x03');
  await user.sees('caught 1');
  user.type('\x03');
  await user.sees('caught 2');
  user.type('\x03');
  expect(await user.leaves()).toEqual({ code: 130, terminal: 'as it was' });
});

test('a terminal whose keys a container read is as it was when a signal has ended vmfork', async () => {
  const user = new User('run', '-i', '-t', 'busybox', 'sh', '-c', stubborn('TERM'));
  await user.sees('ready');
  user.terminates();
  await user.sees('caught 1');
  user.terminates();
  await user.sees('caught 2');
  user.terminates();
  expect(await user.leaves()).toEqual({ code: 143, terminal: 'as it was' });
});

test('a terminal is as it was when a signal has ended the container', async () => {
  const user = new User('run', '-i', '-t', '--init', 'busybox', 'sh', '-c', 'kill -9 $$');
  expect(await user.leaves()).toEqual({ code: 137, terminal: 'as it was' });
});
