import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { mergeConfig } from '#src/container/merge-config.js';
import { encodeMount, mainItems } from '#src/container/wire.js';
import { encodeFrame, FrameType } from '#src/exec/frames.js';
import { encodeExec } from '#src/exec/messages.js';

function golden(name: string): Buffer {
  const lines = readFileSync('test/golden/frames.txt', 'utf8').split('\n');
  const line = lines.find((one) => one.startsWith(`${name} `));
  return Buffer.from(line?.split(' ')[1] ?? '', 'hex');
}

test('a mount is encoded', () => {
  const payload = encodeMount({
    device: 'vdb',
    fsType: 'erofs',
    writable: 'memory',
    upperBytes: 16 * 1024 * 1024,
    extraHosts: '10.0.0.1 db\n',
    resolvConf: 'nameserver 10.0.0.2\n',
  });
  const frame = encodeFrame({ type: FrameType.MOUNT_ROOTFS, stream: 12 }, payload);
  expect(frame).toEqual(golden('mount_rootfs'));
});

test('a mount with a scratch disk is encoded', () => {
  const payload = encodeMount({ device: 'vdb', writable: 'disk', scratchDevice: 'vdc' });
  const frame = encodeFrame({ type: FrameType.MOUNT_ROOTFS, stream: 13 }, payload);
  expect(frame).toEqual(golden('mount_rootfs_disk'));
});

test('a main process is encoded', () => {
  const spec = mergeConfig(
    { Cmd: ['sh', '-c', 'id'], Volumes: ['/data'], WorkingDir: '/srv' },
    {
      user: '1000:100',
      init: true,
      noNewPrivileges: true,
      readOnly: true,
      rlimits: { nofile: { soft: 1024, hard: 4096 } },
      umask: 0o77,
      oomScoreAdj: -500,
      tmpfs: { '/tmp': 'size=1m' },
      memoryMaxBytes: 64 * 1024 * 1024,
      pidsMax: 100,
      cpuWeight: 50,
    },
  );
  const request = { argv: spec.argv, env: { TERM: 'xterm' }, cwd: spec.cwd };
  const payload = encodeExec(request, mainItems(spec));
  const frame = encodeFrame({ type: FrameType.EXEC, stream: 15 }, payload);
  expect(frame).toEqual(golden('exec_main'));
});
