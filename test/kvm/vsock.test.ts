// vsock connections as Node sockets, in both directions.
import { once } from 'node:events';
import type { Socket } from 'node:net';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Clone, Snapshot } from 'vmfork';
import { scale, startProgram, templateSnapshot } from '../helpers/kvm.js';
import { expectEcho } from '../helpers/large-stream.js';

const ECHO_PORT = 7100;
let base: Snapshot;
let snapshot: Snapshot;
let clone: Clone;

beforeAll(async () => {
  base = await templateSnapshot();
  await using parent = await base.fork();
  await startProgram(parent, 'vsock', ['echo', String(ECHO_PORT)]);
  snapshot = await parent.snapshot();
  clone = await snapshot.fork();
});
afterAll(async () => {
  await clone?.destroy();
  await snapshot?.destroy();
  await base?.destroy();
});

/** All that comes until the other side ends; unlike an iteration it leaves the writing side open. */
async function text(socket: Socket): Promise<string> {
  let received = '';
  socket.on('data', (chunk) => {
    received += chunk;
  });
  await once(socket, 'end');
  return received;
}

async function echo(socket: Socket, message: string): Promise<string> {
  socket.end(message);
  return text(socket);
}

describe('connect', () => {
  test('reaches a listener of the guest, half-closes and ends', async () => {
    expect(await echo(await clone.connect(ECHO_PORT), 'hello')).toBe('hello');
  });

  test('eight connections at once do not mix', async () => {
    const sockets = await Promise.all(Array.from({ length: 8 }, () => clone.connect(ECHO_PORT)));
    const messages = sockets.map((_, index) => `${index} `.repeat(1000));
    const echoed = await Promise.all(
      sockets.map((socket, index) => echo(socket, messages[index] ?? '')),
    );
    expect(echoed).toEqual(messages);
  });

  test('is VMF_CONNECTION_REFUSED when nobody listens', async () => {
    await expect(clone.connect(9999)).rejects.toMatchObject({ code: 'VMF_CONNECTION_REFUSED' });
  });

  test('is VMF_OPTIONS for what is no port, and VMF_ABORTED when given up', async () => {
    await expect(clone.connect(0)).rejects.toMatchObject({ code: 'VMF_OPTIONS' });
    const signal = AbortSignal.abort();
    await expect(clone.connect(ECHO_PORT, { signal })).rejects.toMatchObject({
      code: 'VMF_ABORTED',
    });
  });

  test('of a clone ends when the machine is frozen into a snapshot’s clone, not in the source', async () => {
    const socket = await clone.connect(ECHO_PORT);
    await using frozen = await clone.snapshot();
    expect(await echo(socket, 'still here')).toBe('still here');
    await using child = await frozen.fork();
    expect(await echo(await child.connect(ECHO_PORT), 'new')).toBe('new');
  });

  const total = scale({ full: 256, nested: 32, interpreted: 2 });
  test(`${total} MiB pass unharmed both ways, little of it at a time`, async () => {
    const socket = await clone.connect(ECHO_PORT);
    await expectEcho(socket, socket, total);
  });
});

describe('listen', () => {
  test('accepts what the guest dials, as events', async () => {
    using listener = clone.listen(7200);
    const dialling = clone.exec(['/tmp/vsock', 'dial', '7200', 'question']);
    const [socket] = (await once(listener, 'connection')) as [Socket];
    expect(await text(socket)).toBe('question');
    socket.end('answer');
    await expect(dialling).resolves.toMatchObject({ exitCode: 0, stdout: 'answer' });
  });

  test('accepts what the guest dials, as an iterable, until aborted', async () => {
    const controller = new AbortController();
    const listener = clone.listen(7201, { signal: controller.signal });
    const dials = ['a', 'b'].map((word) => clone.exec(['/tmp/vsock', 'dial', '7201', word]));
    const heard: string[] = [];
    for await (const socket of listener) {
      heard.push(await text(socket));
      socket.end('ok');
      if (heard.length === 2) controller.abort();
    }
    expect(heard.sort()).toEqual(['a', 'b']);
    for (const dial of dials) await expect(dial).resolves.toMatchObject({ stdout: 'ok' });
  });

  test('after close() the guest is refused', async () => {
    clone.listen(7202).close();
    const { exitCode, stdout } = await clone.exec(['/tmp/vsock', 'dial', '7202', 'x']);
    expect({ exitCode, stdout }).toEqual({ exitCode: 1, stdout: 'Connection reset by peer\n' });
  });

  test('refuses a port in use and the control port', () => {
    using listener = clone.listen(7203);
    expect(() => clone.listen(listener.port)).toThrow(/port 7203 is already in use/);
    expect(() => clone.listen(1024)).toThrow(/already in use/);
  });
});
