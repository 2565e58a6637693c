// Tunnels and fork points against the real agent, run as a process of the host.
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { setTimeout } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { Command } from '#src/exec/command.js';
import { dialTcp, dialUnix } from '#src/exec/dial.js';
import { releaseForkPoint } from '#src/exec/release.js';
import { buildAgent, startAgent, type TestAgent, temporaryDirectory } from '../../helpers/agent.js';

const directory = temporaryDirectory();
const MIB = 1024 * 1024;
let program: string;
let agent: TestAgent;
let server: Server;
let port: number;

beforeAll(() => {
  program = buildAgent(directory);
}, 60_000);
afterAll(() => rmSync(directory, { recursive: true }));
beforeEach(async () => {
  agent = await startAgent(program);
});
afterEach(async () => {
  await agent.stop();
  server?.close();
});

/** All that comes; unlike an iterator it leaves the other direction of the stream alone. */
async function text(stream: Readable): Promise<string> {
  const chunks: Buffer[] = [];
  stream.on('data', (chunk: Buffer) => chunks.push(chunk));
  await once(stream, 'end');
  return Buffer.concat(chunks).toString();
}

/** A server of the machine that the agent runs on; resolves when it listens. */
async function serve(onConnection: (socket: Socket) => void, path?: string): Promise<void> {
  server = createServer({ allowHalfOpen: true }, (socket) => {
    socket.on('error', () => {}); // Resets are what some tests are about.
    onConnection(socket);
  });
  server.listen(path === undefined ? { port: 0, host: '127.0.0.1' } : { path });
  await once(server, 'listening');
  port = (server.address() as AddressInfo).port;
}

describe('tunnels', () => {
  test('megabytes pass both ways unharmed', async () => {
    await serve((socket) => socket.pipe(socket));
    const tunnel = await dialTcp(agent.session, port, {});
    const sent = randomBytes(8 * MIB);
    const hash = createHash('sha256');
    const received = pipeline(tunnel, hash);
    tunnel.end(sent);
    await received;
    expect(hash.digest('hex')).toBe(createHash('sha256').update(sent).digest('hex'));
  });

  test('what is said after the own end is heard', async () => {
    await serve((socket) => {
      void text(socket).then((heard) => socket.end(`heard ${heard}`));
    });
    const tunnel = await dialTcp(agent.session, port, { host: '127.0.0.1' });
    tunnel.end('all');
    await expect(text(tunnel)).resolves.toBe('heard all');
    await expect.poll(() => agent.session.streamCount).toBe(0);
  });

  test('the guest may end first', async () => {
    const heard = new Promise<string>((resolve) => {
      void serve((socket) => {
        socket.end('bye');
        resolve(text(socket));
      });
    });
    await expect.poll(() => server?.listening).toBe(true);
    const tunnel = await dialTcp(agent.session, port, {});
    await expect(text(tunnel)).resolves.toBe('bye');
    tunnel.end('late words');
    await expect(heard).resolves.toBe('late words');
  });

  test('a reader that stops stops the sender', async () => {
    let sent = 0;
    await serve((socket) => {
      const piece = Buffer.alloc(64 * 1024);
      const more = () => {
        while (socket.write(piece)) sent += piece.length;
        sent += piece.length;
        socket.once('drain', more);
      };
      more();
    });
    const tunnel = await dialTcp(agent.session, port, {});
    await expect.poll(() => tunnel.readableLength).toBe(256 * 1024);
    let before: number;
    do {
      before = sent;
      await setTimeout(200);
    } while (before !== sent);
    expect(tunnel.readableLength).toBe(256 * 1024);
    tunnel.destroy();
  });

  test('a reset of the server is VMF_CONNECTION_LOST', async () => {
    await serve((socket) => socket.once('data', () => socket.resetAndDestroy()));
    const tunnel = await dialTcp(agent.session, port, {});
    tunnel.write('x');
    const [error] = await once(tunnel, 'error');
    expect(error).toMatchObject({ code: 'VMF_CONNECTION_LOST', errno: 104 });
  });

  test('destroy resets the connection', async () => {
    const failed = new Promise((resolve) => {
      void serve((socket) => socket.resume().once('error', resolve));
    });
    await expect.poll(() => server?.listening).toBe(true);
    const tunnel = await dialTcp(agent.session, port, {});
    tunnel.destroy();
    await expect(failed).resolves.toMatchObject({ code: 'ECONNRESET' });
    await expect.poll(() => agent.session.streamCount).toBe(0);
  });

  test('nobody there is VMF_CONNECTION_REFUSED', async () => {
    await expect(dialTcp(agent.session, 1, {})).rejects.toMatchObject({
      code: 'VMF_CONNECTION_REFUSED',
      errno: 111,
    });
    await expect(dialUnix(agent.session, '/no/such.sock', {})).rejects.toMatchObject({
      code: 'VMF_CONNECTION_REFUSED',
      errno: 2,
    });
    expect(agent.session.streamCount).toBe(0);
  });

  test('a Unix socket is dialled by its path', async () => {
    const path = join(mkdtempSync(join(directory, 'socket-')), 'server');
    await serve((socket) => socket.end('from a file'), path);
    const tunnel = await dialUnix(agent.session, path, {});
    await expect(text(tunnel.end())).resolves.toBe('from a file');
  });

  test('a signal that has fired dials nothing', async () => {
    await expect(dialTcp(agent.session, 1, { signal: AbortSignal.abort() })).rejects.toMatchObject({
      code: 'VMF_ABORTED',
    });
  });

  test('the end of the machine ends them', async () => {
    await serve((socket) => socket.pipe(socket));
    const tunnel = await dialTcp(agent.session, port, {});
    const failed = once(tunnel, 'error');
    agent.process.kill('SIGKILL');
    const [error] = await failed;
    expect(error).toMatchObject({ code: 'VMF_GONE' });
  });
});

// The clients of examples/ wait; then they say what they were given and echo a line.
const PYTHON = `
import json, runpy, sys
fork_point = runpy.run_path('examples/fork-point.py')['fork_point']
argv, env, data, stream = fork_point(sys.argv[2], sys.argv[1])
stream.write(json.dumps([argv, env, list(data)]).encode() + b'\\n')
stream.flush()
stream.write(b'echo ' + stream.readline())
stream.flush()
`;
const NODE = `
import { forkPoint } from '${pathToFileURL('examples/fork-point.mjs')}';
const [path, name] = process.argv.slice(1);
const { argv, env, data, stream } = await forkPoint(name, path);
stream.write(JSON.stringify([argv, env, [...data]]) + '\\n');
stream.once('data', (line) => stream.end('echo ' + line));
`;
const CLIENTS: Record<string, string[]> = {
  python: ['python3', '-c', PYTHON],
  node: [process.execPath, '--input-type=module', '-e', NODE],
};

function wait(name: string, client = 'python'): Command {
  const socket = join(agent.root, 'run/vmfork/fork-point.sock');
  const argv = [...(CLIENTS[client] as string[]), socket, name];
  const env = { PATH: process.env.PATH ?? '', HOME: process.env.HOME ?? '' };
  return new Command(agent.session, argv, {
    stdin: 'ignore',
    stderr: 'stdout',
    env,
    cwd: process.cwd(),
  });
}

describe('fork points', () => {
  test.each(Object.keys(CLIENTS))(
    'a process gets its payload and goes on over the stream: %s',
    async (client) => {
      const command = wait('warm', client);
      await expect(agent.session.forkPoints.wait(undefined, {})).resolves.toBe('warm');
      const payload = { argv: ['a', 'ü b'], env: { K: 'v=w' }, data: Buffer.from([0, 255]) };
      const stream = await releaseForkPoint(agent.session, payload, {});
      stream.end('hello\n');
      const [given, echoed] = (await text(stream)).split('\n');
      expect(JSON.parse(given as string)).toEqual([['a', 'ü b'], { K: 'v=w' }, [0, 255]]);
      expect(echoed).toBe('echo hello');
      await expect(command.exited).resolves.toMatchObject({ exitCode: 0 });
      expect(agent.session.forkPoints.names).toEqual([]);
    },
  );

  test('one that dies is no longer there', async () => {
    const command = wait('warm');
    await agent.session.forkPoints.wait('warm', {});
    command.kill('SIGKILL');
    await expect.poll(() => agent.session.forkPoints.names).toEqual([]);
    await expect(releaseForkPoint(agent.session, {}, {})).rejects.toMatchObject({
      code: 'VMF_FORK_POINT',
      message: expect.stringMatching(/nobody waits/),
    });
    await command.exited;
  });

  test('a name chooses among several, and the largest payload passes', async () => {
    const commands = [wait('one'), wait('two')];
    await agent.session.forkPoints.wait('one', {});
    await agent.session.forkPoints.wait('two', {});
    await expect(releaseForkPoint(agent.session, { name: 'three' }, {})).rejects.toMatchObject({
      message: expect.stringMatching(/three; waiting: (one, two|two, one)/),
    });
    const argv = ['x'.repeat(61_440 - 9)];
    const stream = await releaseForkPoint(agent.session, { name: 'two', argv }, {});
    expect(agent.session.forkPoints.names).toEqual(['one']);
    stream.end('\n');
    await expect(text(stream)).resolves.toContain(argv[0]);
    await expect(
      releaseForkPoint(agent.session, { argv: [`${argv[0]}x`] }, {}),
    ).rejects.toMatchObject({ code: 'VMF_OPTIONS' });
    for (const command of commands) command.kill('SIGKILL');
    await Promise.all(commands.map((command) => command.exited));
  });

  test('waiting has limits', async () => {
    const { forkPoints } = agent.session;
    await expect(forkPoints.wait('never', { timeoutMs: 20 })).rejects.toMatchObject({
      code: 'VMF_TIMEOUT',
    });
    const waiting = forkPoints.wait('never', {});
    agent.process.kill('SIGKILL');
    await expect(waiting).rejects.toMatchObject({ code: 'VMF_GONE' });
  });
});
