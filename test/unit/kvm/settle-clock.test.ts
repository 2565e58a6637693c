// A clone's clock against a peer that plays an agent whose guest always, or at first, runs late.
import { rmSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { encodeFrame, type Frame, FrameParser, FrameType } from '#src/exec/frames.js';
import type { Acknowledgement, AgentInfo } from '#src/exec/messages.js';
import { Session } from '#src/exec/session.js';
import { encodeTlvs, Tag } from '#src/exec/tlv.js';
import { createIdentity, settleClock } from '#src/kvm/identity.js';
import { temporaryDirectory } from '../../helpers/agent.js';

const AGENT: AgentInfo = {
  generation: 1,
  build: 'test',
  kernel: 'test',
  cpus: 1,
  bootNs: 0,
  bootNonce: '',
};
const directory = temporaryDirectory();
afterAll(() => rmSync(directory, { recursive: true }));

test('a clock that is right is left alone', async () => {
  expect(await roundsUntilSettled([0])).toBe(0);
});

test('a late clock is given the time again until it is right', async () => {
  expect(await roundsUntilSettled([60_000, 5000, 0])).toBe(2);
});

test('after a few rounds, what is promised will do', async () => {
  expect(await roundsUntilSettled([400, 400, 400, 400])).toBe(3);
});

test('a clock that stays wrong fails the fork', async () => {
  await expect(roundsUntilSettled([5000])).rejects.toMatchObject({
    code: 'VMF_IDENTITY',
    message: /clock is 5\d\d\d ms off/,
  });
});

/** Settles with a peer whose clock is so late in its first and following answers; the last value stays. */
async function roundsUntilSettled(lateMs: number[]): Promise<number> {
  let rounds = 0;
  const late = () => lateMs[Math.min(rounds, lateMs.length - 1)] ?? 0;
  const socket = await connectToPeer((frame, send) => {
    if (frame.type === FrameType.QUIESCE) send({ type: FrameType.QUIESCED, value: frame.value });
    if (frame.type !== FrameType.RESUME) return;
    rounds++;
    const realtimeNs = BigInt(Date.now() - late()) * 1_000_000n;
    const payload = encodeTlvs([[Tag.REALTIME_NS, realtimeNs]]);
    send({ type: FrameType.RESUMED, value: frame.value }, payload);
  });
  const session = new Session(socket, { onClosed: () => {} }, { agent: AGENT, forkPoints: [] });
  const realtimeNs = BigInt(Date.now() - late()) * 1_000_000n;
  const first: Acknowledgement = {
    generationId: undefined,
    cid: undefined,
    boottimeNs: undefined,
    realtimeNs,
  };
  try {
    await settleClock(session, createIdentity(3), first, { timeoutMs: 10_000 });
    return rounds;
  } finally {
    socket.destroy();
  }
}

type Send = (header: { type: number; value: number }, payload?: Buffer) => void;

function connectToPeer(onFrame: (frame: Frame, send: Send) => void): Promise<Socket> {
  return new Promise((resolve) => {
    const path = join(directory, `peer-${Math.random()}.sock`);
    const server = createServer((peer) => {
      server.close();
      const parser = new FrameParser();
      const send: Send = (header, payload) => peer.write(encodeFrame(header, payload));
      peer.on('error', () => {});
      peer.on('data', (chunk) => parser.push(chunk, (frame) => onFrame(frame, send)));
    });
    server.listen(path, () => {
      const socket = connect(path, () => resolve(socket));
    });
  });
}
