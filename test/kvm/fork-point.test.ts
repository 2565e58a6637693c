// Fork points and tunnels in real guests.
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Clone, Snapshot } from 'vmfork';
import { destroyAll, eventually, scale, startProgram, templateSnapshot } from '../helpers/kvm.js';

const PORT = 8080;
const ECHO_PORT = 7;
const ECHO_SOCKET = '/tmp/echo.sock';
const MIB = 1024 * 1024;

// Answers with its arguments, one variable, the data of the payload, and then with a line of the stream.
const WAITING = `
read -r data <&3
echo "$*:$COLOUR:$data"
read -r line
echo "read $line"
`;

let base: Snapshot;
/** A guest in which two processes wait, and two servers listen. */
let warm: Snapshot;

beforeAll(async () => {
  base = await templateSnapshot();
  await using clone = await base.fork();
  await clone.writeFile('/tmp/www/index.html', 'hello from the guest\n', { makeParents: true });
  const spawn = (...argv: string[]) => clone.spawn(argv, { stdin: 'ignore', stderr: 'stdout' });
  spawn('httpd', '-f', '-p', `127.0.0.1:${PORT}`, '-h', '/tmp/www').unref();
  await startProgram(clone, 'echo', [String(ECHO_PORT), ECHO_SOCKET]);
  spawn('vmfork-point', 'one', 'sh', '-c', WAITING, 'sh').unref();
  await clone.waitForForkPoint({ name: 'one' });
  spawn('vmfork-point', 'two', 'cat').unref();
  await clone.waitForForkPoint({ name: 'two' });
  expect(await listening(clone)).toBe(true);
  warm = await clone.snapshot();
});
afterAll(async () => {
  await warm?.destroy();
  await base?.destroy();
});

/** Resolves when the web server answers. */
function listening(clone: Clone): Promise<boolean> {
  const answers = () =>
    clone.connectTcp(PORT).then(
      (tunnel) => tunnel.destroy().destroyed,
      () => false,
    );
  return eventually(answers, 10_000);
}

/** All that comes; unlike an iterator it leaves the other direction of the stream alone. */
async function text(stream: Readable): Promise<string> {
  const chunks: Buffer[] = [];
  stream.on('data', (chunk: Buffer) => chunks.push(chunk));
  await once(stream, 'end');
  return Buffer.concat(chunks).toString();
}

describe('fork points', () => {
  test('the snapshot knows who waits', () => {
    expect(warm.metadata.forkPoints).toEqual(['one', 'two']);
    expect(base.metadata.forkPoints).toEqual([]);
  });

  test('each clone of many gets its own payload', async () => {
    const payload = (index: number) => ({
      name: 'one',
      argv: ['clone', String(index)],
      env: { COLOUR: `shade ${index}` },
      data: Buffer.from(`data ${index}`),
    });
    const count = scale({ full: 10, nested: 3, interpreted: 4 });
    const clones = await warm.fork({ count, payload });
    const answers = await Promise.all(
      clones.map(async ({ forkPoint }) => {
        forkPoint?.end('line\n');
        return forkPoint && text(forkPoint);
      }),
    );
    expect(answers).toEqual(
      clones.map((_, index) => `clone ${index}:shade ${index}:data ${index}\nread line\n`),
    );
    await destroyAll(clones);
  });

  test('a clone without payload keeps its processes waiting, and releases them later', async () => {
    await using clone = await warm.fork();
    expect(clone.forkPoint).toBeNull();
    const stream = await clone.releaseForkPoint({ name: 'two' });
    stream.end('late');
    await expect(text(stream)).resolves.toBe('late');
    await expect(clone.releaseForkPoint({ name: 'two' })).rejects.toMatchObject({
      code: 'VMF_FORK_POINT',
    });
    await expect(clone.waitForForkPoint()).resolves.toBe('one');
  });

  test('the largest payload arrives with the identity', async () => {
    const argv = Array.from({ length: 60 }, (_, index) => String(index).padEnd(1000, 'x'));
    await using clone = await warm.fork({ payload: { name: 'one', argv } });
    clone.forkPoint?.end('\n');
    await expect(text(clone.forkPoint as Readable)).resolves.toContain(argv.join(' '));
  });

  test('a fork of a fork waits, too', async () => {
    await using clone = await warm.fork();
    await using again = await clone.snapshot();
    await using grandchild = await again.fork({ payload: { name: 'two' } });
    grandchild.forkPoint?.end('third generation');
    await expect(text(grandchild.forkPoint as Readable)).resolves.toBe('third generation');
  });

  test('a saved snapshot remembers', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'vmfork-fork-point-'));
    await warm.save(join(folder, 'saved'));
    await using loaded = await Snapshot.load(join(folder, 'saved'));
    await using clone = await loaded.fork({ payload: { name: 'two' } });
    clone.forkPoint?.end('loaded');
    await expect(text(clone.forkPoint as Readable)).resolves.toBe('loaded');
    rmSync(folder, { recursive: true });
  });

  test('a payload for nobody is VMF_FORK_POINT', async () => {
    await expect(base.fork({ payload: {} })).rejects.toMatchObject({ code: 'VMF_FORK_POINT' });
    await expect(warm.fork({ payload: { name: 'three' } })).rejects.toMatchObject({
      code: 'VMF_FORK_POINT',
      message: expect.stringMatching(/three; waiting: one, two/),
    });
  });
});

describe('tunnels', () => {
  test('a web server of the guest answers', async () => {
    await using clone = await warm.fork();
    const tunnel = await clone.connectTcp(PORT);
    tunnel.write('GET /index.html HTTP/1.0\r\n\r\n');
    await expect(text(tunnel)).resolves.toMatch(
      /^HTTP\/1.[01] 200.*\r\n\r\nhello from the guest\n$/s,
    );
    tunnel.destroy();
  });

  test('a mebibyte comes back unharmed, after the own end', async () => {
    await using clone = await warm.fork();
    const tunnel = await clone.connectTcp(ECHO_PORT, { host: '127.0.0.1' });
    const sent = randomBytes(MIB);
    const hash = createHash('sha256');
    const received = pipeline(tunnel, hash);
    tunnel.end(sent);
    await received;
    expect(hash.digest('hex')).toBe(createHash('sha256').update(sent).digest('hex'));
  });

  test('a Unix socket is dialled by its path', async () => {
    await using clone = await warm.fork();
    const tunnel = await clone.connectUnix(ECHO_SOCKET);
    tunnel.end('by path');
    await expect(text(tunnel)).resolves.toBe('by path');
  });

  test('twenty at once do not mix', async () => {
    await using clone = await warm.fork();
    const answers = await Promise.all(
      Array.from({ length: 20 }, async (_, index) => {
        const tunnel = await clone.connectTcp(ECHO_PORT);
        tunnel.end(`tunnel ${index}`);
        return text(tunnel);
      }),
    );
    expect(answers).toEqual(Array.from({ length: 20 }, (_, index) => `tunnel ${index}`));
  });

  test('nobody there is VMF_CONNECTION_REFUSED', async () => {
    await using clone = await warm.fork();
    await expect(clone.connectTcp(9)).rejects.toMatchObject({
      code: 'VMF_CONNECTION_REFUSED',
      errno: 111,
    });
    await expect(clone.connectUnix('/run/nobody.sock')).rejects.toMatchObject({
      code: 'VMF_CONNECTION_REFUSED',
      errno: 2,
    });
  });

  test('a tunnel of the template ends in the clone, and goes on in the template', async () => {
    await using source = await warm.fork();
    const tunnel = await source.connectTcp(ECHO_PORT);
    await using snapshot = await source.snapshot();
    await using clone = await snapshot.fork();
    await clone.ping();
    tunnel.end('still here');
    await expect(text(tunnel)).resolves.toBe('still here');
  });
});
