// The session layer against the real agent, run as a process of the host.
import { readFileSync, rmSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { VmforkError } from '#src/errors.js';
import { encodeFrame, type FrameHeader, FrameType } from '#src/exec/frames.js';
import { encodeResume } from '#src/exec/messages.js';
import { Session } from '#src/exec/session.js';
import { encodeTlvs, Tag } from '#src/exec/tlv.js';
import { buildAgent, startAgent, type TestAgent, temporaryDirectory } from '../../helpers/agent.js';

const directory = temporaryDirectory();
let program: string;
let agent: TestAgent;

beforeAll(() => {
  program = buildAgent(directory);
}, 60_000);
afterAll(() => rmSync(directory, { recursive: true }));
beforeEach(async () => {
  agent = await startAgent(program);
});
afterEach(() => agent.stop());

test('the agent says who it is', async () => {
  await expect(agent.session.hello).resolves.toMatchObject({ generation: 1, build: 'test' });
});

test('pings are answered, with bytes and many at once', async () => {
  await agent.session.ping();
  await agent.session.ping(Buffer.alloc(65_536, 7));
  await Promise.all(Array.from({ length: 100 }, () => agent.session.ping()));
});

test('a ping gives up when its limits are hit, and the connection goes on', async () => {
  agent.process.kill('SIGSTOP');
  const late = agent.session.ping(Buffer.alloc(0), { timeoutMs: 20 });
  await expect(late).rejects.toMatchObject({ code: 'VMF_TIMEOUT', operation: 'ping' });
  const controller = new AbortController();
  const aborted = agent.session.ping(Buffer.alloc(0), { signal: controller.signal });
  controller.abort(new Error('enough'));
  await expect(aborted).rejects.toMatchObject({
    code: 'VMF_ABORTED',
    cause: { message: 'enough' },
  });
  agent.process.kill('SIGCONT');
  await agent.session.ping();
});

test('what is sent while the agent rests is kept back until it goes on', async () => {
  await agent.session.quiesce();
  let answered = false;
  const ping = agent.session.ping().then(() => {
    answered = true;
  });
  await new Promise((resolve) => setTimeout(resolve, 30));
  expect(answered).toBe(false);
  await agent.session.thaw();
  await ping;
});

test('an identity is applied and acknowledged', async () => {
  await agent.session.quiesce();
  const generationId = Buffer.alloc(16, 0xab);
  const machineId = '00112233445566778899aabbccddeeff';
  const frame = encodeResume(77, {
    generationId,
    entropy: Buffer.alloc(64, 1),
    realtimeNs: 1_700_000_000_000_000_000n,
    hostname: 'vmfork-test',
    machineId,
    cid: 9,
    bootId: '3f2504e0-4f89-41d3-9a0c-0305e82c3301',
  });
  const acknowledged = await agent.session.resume(77, frame);
  expect(acknowledged.generationId).toEqual(generationId);
  await agent.session.ping();
  await agent.session.quiesce();
  await agent.session.thaw();
  expect(readFileSync(join(agent.root, 'etc/machine-id'), 'utf8')).toBe(`${machineId}\n`);
});

test('the end of the agent rejects everything that waits', async () => {
  agent.process.kill('SIGSTOP');
  const waiting = [agent.session.ping(), agent.session.quiesce()];
  agent.process.kill('SIGKILL');
  for (const one of waiting) await expect(one).rejects.toMatchObject({ code: 'VMF_GONE' });
  await expect(agent.closed).resolves.toMatchObject({ code: 'VMF_GONE' });
  await expect(agent.session.ping()).rejects.toMatchObject({ code: 'VMF_GONE' });
});

describe('a hostile agent', () => {
  const hello = encodeFrame(
    { type: FrameType.HELLO, value: 1 },
    encodeTlvs([[Tag.GENERATION_MIN, 1]]),
  );
  const cases: [string, FrameHeader, Buffer?][] = [
    ['a second HELLO', { type: FrameType.HELLO, value: 1 }],
    ['an unasked PONG', { type: FrameType.PONG, value: 9 }],
    ['an unasked QUIESCED', { type: FrameType.QUIESCED }],
    ['an unasked RESUMED', { type: FrameType.RESUMED }],
    ['DATA for a stream that is not open', { type: FrameType.DATA, stream: 3, aux: 1 }],
    ['a frame that only hosts send', { type: FrameType.EXEC, aux: 2 }],
    ['an oversized frame', { type: FrameType.LOG }, Buffer.alloc(1_048_577)],
  ];

  test.each(cases)('is cut off when it sends %s', async (_, header, payload) => {
    const socket = await socketThatSends(Buffer.concat([hello, encodeFrame(header, payload)]));
    const error = await new Promise<VmforkError>((onClosed) => new Session(socket, { onClosed }));
    expect(error.code).toBe('VMF_PROTOCOL');
    expect(socket.destroyed).toBe(true);
  });

  test('is cut off when it speaks before HELLO', async () => {
    const socket = await socketThatSends(encodeFrame({ type: FrameType.PONG }));
    const error = await new Promise<VmforkError>((onClosed) => new Session(socket, { onClosed }));
    expect(error).toMatchObject({ code: 'VMF_PROTOCOL', message: /before HELLO/ });
  });
});

/** One end of a connection whose other end has sent these bytes. */
function socketThatSends(bytes: Buffer): Promise<Socket> {
  return new Promise((resolve) => {
    const path = join(directory, `peer-${Math.random()}.sock`);
    const server = createServer((peer) => {
      server.close();
      peer.on('error', () => {});
      peer.write(bytes);
    });
    server.listen(path, async () => {
      const { connect } = await import('node:net');
      const socket = connect(path, () => resolve(socket));
    });
  });
}
