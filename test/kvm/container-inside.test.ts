// What is done with a running container: further processes in it, connections to it, and forks of a machine in which one runs.
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Snapshot } from 'vmfork';
import { busyboxRootfs, bytesOf, untilLine, warmedSnapshot } from '../helpers/images.js';
import { destroyAll } from '../helpers/kvm.js';
import { archive } from '../unit/oci/rootfs/tar-maker.js';
import { buildTestPrograms } from './programs/build.mjs';

const WEB_PORT = 8080;
const ECHO_PORT = 9000;
const NO_SUCH_FILE = 2;
const REFUSED = 111;
// One main process for all tests. The socket lies behind an absolute link, which means the container's root.
const SERVICE = `echo secret >/tmp/secret
mkdir /tmp/www /run/real; echo page >/tmp/www/index.html; ln -s /run/real /run/linked
httpd -h /tmp/www -p ${WEB_PORT}
/srv/echo ${ECHO_PORT} /run/real/echo.sock &
while :; do read -r line || exit 0; echo "got $line"; done`;
let running: Snapshot;

beforeAll(async () => {
  await using warmed = await warmedSnapshot(await busyboxRootfs());
  await using template = await warmed.fork();
  const content = readFileSync(join(buildTestPrograms(), 'echo'));
  const program = archive(
    { name: 'srv/', type: '5', mode: 0o755 },
    { name: 'srv/echo', mode: 0o755, content },
  );
  await template.copyIn('/', Readable.from([program]));
  const container = template.start({ argv: ['sh', '-c', SERVICE], env: { NAME: 'value' } });
  await untilLine(container.main.stdout, 'ready'); // The echo program says it.
  running = await template.snapshot();
});
afterAll(() => running?.destroy());

/** All that comes; unlike an iterator it leaves the other direction of the stream alone. */
async function textOf(stream: Readable): Promise<string> {
  let text = '';
  stream.on('data', (chunk: Buffer) => {
    text += chunk.toString();
  });
  await once(stream, 'end');
  return text;
}

test('the container that runs in a template goes on in each clone, apart', async () => {
  const clones = await running.fork({ count: 2 });
  const containers = clones.map((clone) => clone.adopt());
  await Promise.all(
    containers.map(async ({ main }, index) => {
      main.stdin?.write(`number ${index}\n`);
      await untilLine(main.stdout, `got number ${index}`);
    }),
  );
  const [first, second] = containers;
  first?.main.kill('SIGKILL');
  await expect(first?.exited).resolves.toMatchObject({ exitCode: 137, signal: 'SIGKILL' });
  expect(clones.map(({ state }) => state)).toEqual(['destroyed', 'running']);
  second?.main.stdin?.end();
  await expect(second?.exited).resolves.toMatchObject({ exitCode: 0, signal: null });
  await destroyAll(clones);
});

test('it goes on while nobody is attached to it, and answers who attaches again', async () => {
  await using clone = await running.fork();
  const container = clone.adopt();
  const { main } = container;
  main.stdin?.write('first\n');
  await untilLine(main.stdout, 'got first');
  const before = main.stdout.resume();
  container.detach();
  await once(before, 'end');
  // It is written to by somebody else meanwhile.
  await clone.exec(['sh', '-c', 'echo late >/proc/1/fd/1']);
  expect(container.attach()).toBe(main);
  main.stdin?.end('second\n');
  await untilLine(main.stdout, 'got second');
  await expect(container.exited).resolves.toMatchObject({ exitCode: 0 });
  expect(clone.state).toBe('destroyed');
  expect(() => container.attach()).toThrow(expect.objectContaining({ code: 'VMF_STATE' }));
});

test('commands enter it: its processes, files, environment and user', async () => {
  await using clone = await running.fork({ hostname: 'renamed' });
  const line = 'cat /tmp/secret /proc/1/comm; echo $NAME $HOSTNAME; hostname; id -u';
  const inside = await clone.exec(['sh', '-c', line]);
  const stdout = 'secret\nsh\nvalue renamed\nrenamed\n0\n';
  expect(inside).toMatchObject({ exitCode: 0, stdout });
  const other = await clone.exec(['sh', '-c', 'id -u; echo $NAME; pwd'], {
    user: 'nobody',
    env: { NAME: 'changed' },
    cwd: '/var',
  });
  expect(other.stdout).toBe('65534\nchanged\n/var\n');
  const outside = await clone.exec(['sh', '-c', 'ls /tmp/secret 2>&1; cat /proc/1/comm'], {
    in: 'guest',
  });
  expect(outside.stdout).toMatch(/No such file or directory\ninit\n$/);
  await expect(clone.exec(['true'], { in: 'guest', user: 'nobody' })).rejects.toMatchObject({
    code: 'VMF_OPTIONS',
  });
  await expect(clone.run({ argv: ['true'] })).rejects.toMatchObject({ code: 'VMF_STATE' });
});

test('what is no text goes in and comes out byte by byte', async () => {
  await using clone = await running.fork();
  const odd = Buffer.from('a\xff\xc3b', 'latin1');
  const at = (directory: string) => Buffer.concat([Buffer.from(`${directory}/`), odd]);
  const line = 'printf %s "$1$VALUE"; cd "$2" && pwd';
  const options = { env: { VALUE: odd }, cwd: at('/var/tmp'), encoding: 'buffer' } as const;
  const { stdout } = await clone.exec(['sh', '-c', line, 'sh', odd, '.'], options);
  expect(stdout).toEqual(Buffer.concat([odd, odd, at('/var/tmp'), Buffer.from('\n')]));
  const server = clone.spawn(['/srv/echo', '9001', at('/run')], { stdin: 'ignore' });
  await untilLine(server.stdout, 'ready');
  const socket = await clone.connectUnix(at('/run'));
  socket.end('there and back');
  expect(await textOf(socket)).toBe('there and back');
  await clone.copyIn(at('/var/tmp'), Readable.from([archive({ name: 'file', content: 'x' })]));
  const tar = await bytesOf(clone.copyOut(at('/var/tmp')));
  expect(tar.includes(Buffer.concat([odd, Buffer.from('/file\0')]))).toBe(true);
});

test('commands in it end with it', async () => {
  await using clone = await running.fork();
  const container = clone.adopt({ keep: true });
  const command = clone.spawn(['sleep', '1000'], { stdin: 'ignore' });
  await command.pid;
  container.main.kill('SIGKILL');
  await container.exited;
  await expect(command.exited).resolves.toMatchObject({ signal: 'SIGKILL' });
});

test('its TCP ports and Unix sockets are dialled from here', async () => {
  await using clone = await running.fork();
  const web = await clone.connectTcp(WEB_PORT);
  web.write('GET / HTTP/1.0\r\n\r\n');
  expect(await textOf(web)).toMatch(/^HTTP\/1\.[01] 200 OK\r\n.*\r\n\r\npage\n$/s);
  web.destroy();
  for (const path of ['/run/real/echo.sock', '/run/linked/echo.sock']) {
    const socket = await clone.connectUnix(path);
    socket.end('there and back');
    expect(await textOf(socket)).toBe('there and back');
  }
  await expect(clone.connectTcp(1)).rejects.toMatchObject({
    code: 'VMF_CONNECTION_REFUSED',
    errno: REFUSED,
  });
  await expect(clone.connectUnix('/run/none.sock')).rejects.toMatchObject({
    code: 'VMF_CONNECTION_REFUSED',
    errno: NO_SUCH_FILE,
  });
});
