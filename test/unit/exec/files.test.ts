// File transfers with the real agent, run as a process of the host.
import { randomBytes } from 'node:crypto';
import { readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { readGuestFile, writeGuestFile } from '#src/exec/files.js';
import { buildAgent, startAgent, type TestAgent, temporaryDirectory } from '../../helpers/agent.js';

const directory = temporaryDirectory();
let agent: TestAgent;

beforeAll(async () => {
  agent = await startAgent(buildAgent(directory));
}, 60_000);
afterAll(async () => {
  await agent.stop();
  rmSync(directory, { recursive: true });
});

const file = (name: string) => join(directory, name);
const write = (name: string, ...rest: [string | Uint8Array | Readable, object?]) =>
  writeGuestFile(agent.session, file(name), ...rest);
const read = (name: string, options = {}) => readGuestFile(agent.session, file(name), options);

test('what is written can be read back, small and large', async () => {
  await write('small', 'héllo');
  expect((await read('small')).toString()).toBe('héllo');
  const bytes = randomBytes(3_000_001);
  await write('large', bytes);
  expect((await read('large')).equals(bytes)).toBe(true);
  await write('empty', '');
  expect(await read('empty')).toHaveLength(0);
});

test('a stream can be written', async () => {
  await write('stream', Readable.from(['a', Buffer.from('b')]));
  expect(readFileSync(file('stream'), 'utf8')).toBe('ab');
});

test('append, makeParents, exclusive and mode do what they say', async () => {
  await write('log', 'one', { mode: 0o600 });
  await write('log', 'two', { append: true });
  expect(readFileSync(file('log'), 'utf8')).toBe('onetwo');
  expect(statSync(file('log')).mode & 0o777).toBe(0o600);
  await write('new/deep/file', 'x', { makeParents: true });
  await expect(write('log', '', { exclusive: true })).rejects.toMatchObject({
    code: 'VMF_GUEST_FILE',
    errno: 17,
  });
});

test('a range can be read', async () => {
  writeFileSync(file('range'), '0123456789');
  const part = await read('range', { offsetBytes: 3, limitBytes: 4 });
  expect(part.toString()).toBe('3456');
});

test('a missing file is VMF_GUEST_FILE with the guest’s errno', async () => {
  await expect(read('absent')).rejects.toMatchObject({ code: 'VMF_GUEST_FILE', errno: 2 });
  await expect(write('no/such/dir', 'x')).rejects.toMatchObject({
    code: 'VMF_GUEST_FILE',
    errno: 2,
  });
});

test('giving up closes the transfer and leaves the connection whole', async () => {
  writeFileSync(file('huge'), Buffer.alloc(32 * 1024 * 1024));
  const controller = new AbortController();
  const reading = read('huge', { signal: controller.signal });
  setImmediate(() => controller.abort());
  await expect(reading).rejects.toMatchObject({ code: 'VMF_ABORTED' });
  await agent.session.ping();
  const endless = Readable.from(
    (async function* () {
      for (;;) yield Buffer.alloc(1024);
    })(),
  );
  await expect(write('endless', endless, { timeoutMs: 50 })).rejects.toMatchObject({
    code: 'VMF_TIMEOUT',
  });
  await agent.session.ping();
  expect(agent.session.streamCount).toBe(0);
});

test('a source that fails gives the transfer up with its error', async () => {
  const source = Readable.from(
    (async function* () {
      yield 'x';
      throw new Error('broken source');
    })(),
  );
  await expect(write('broken', source)).rejects.toThrow('broken source');
  await agent.session.ping();
});

test.each(['relative', '', 'nul\0inside'])(
  'path %j is refused before the guest sees it',
  async (path) => {
    const reading = readGuestFile(agent.session, path);
    await expect(reading).rejects.toMatchObject({ code: 'VMF_OPTIONS' });
  },
);
