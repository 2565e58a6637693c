import { describe, expect, test } from 'vitest';
import { capabilitySet, DEFAULT_CAPABILITIES } from '#src/container/capabilities.js';
import { mergeConfig, type RunConfig } from '#src/container/merge-config.js';
import type { ContainerOptions } from '#src/container/spec.js';

const PATH = 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

describe('argv', () => {
  const image: RunConfig = { Entrypoint: ['/entry', '-x'], Cmd: ['serve'] };

  // The table of docs.docker.com/reference/dockerfile, "Understand how CMD and ENTRYPOINT interact", and docker run's.
  test.each<[string, RunConfig, ContainerOptions, string[]]>([
    ['entrypoint and command of the image', image, {}, ['/entry', '-x', 'serve']],
    ['arguments replace the command', image, { argv: ['a', 'b'] }, ['/entry', '-x', 'a', 'b']],
    ['an entrypoint clears the command', image, { entrypoint: ['sh'] }, ['sh']],
    [
      'an entrypoint keeps the arguments',
      image,
      { entrypoint: ['sh'], argv: ['-c'] },
      ['sh', '-c'],
    ],
    ['an empty entrypoint is none', image, { entrypoint: [], argv: ['ls'] }, ['ls']],
    ['an empty argv is none', image, { argv: [] }, ['/entry', '-x', 'serve']],
    ['a command alone', { Cmd: ['sh'] }, {}, ['sh']],
    ['an entrypoint alone', { Entrypoint: ['sh'] }, {}, ['sh']],
  ])('%s', (_name, config, options, argv) => {
    expect(mergeConfig(config, options).argv).toEqual(argv);
  });

  test.each<[string, RunConfig, ContainerOptions]>([
    ['an image without a command', {}, {}],
    ['an entrypoint taken away without arguments', image, { entrypoint: [] }],
    ['an empty program', {}, { argv: [''] }],
  ])('%s is refused', (_name, config, options) => {
    expect(() => mergeConfig(config, options)).toThrow(
      expect.objectContaining({ code: 'VMF_OPTIONS' }),
    );
  });
});

describe('environment', () => {
  test('later ones win, names stay in place, names without a value are dropped', () => {
    const { env } = mergeConfig(
      { Cmd: ['x'], Env: ['A=1', 'B=2=3', 'PATH=/bin', 'C', '=D'] },
      { env: { B: '', E: 'x y' } },
      { pty: true },
    );
    expect(env).toEqual(['PATH=/bin', 'TERM=xterm', 'A=1', 'B=', 'E=x y']);
  });

  test('what is undefined is taken away', () => {
    const config = { Cmd: ['x'], Env: ['A=1', 'B=2'] };
    const { env } = mergeConfig(config, { env: { A: undefined, C: undefined } });
    expect(env).toEqual([PATH, 'B=2']);
  });

  test('there is always a PATH, and HOME is the agent’s to find', () => {
    expect(mergeConfig({ Cmd: ['x'] }).env).toEqual([PATH]);
  });
});

describe('the rest', () => {
  test('comes from the image unless it is given', () => {
    const config: RunConfig = {
      Cmd: ['x'],
      User: 'app:www',
      WorkingDir: 'srv/app',
      StopSignal: 'quit',
      Volumes: ['/data/', '/data'],
    };
    expect(mergeConfig(config)).toMatchObject({
      user: 'app:www',
      cwd: '/srv/app',
      stopSignal: 3,
      volumes: ['/data'],
    });
    const options = { user: '0', cwd: '/tmp', stopSignal: 'SIGRTMIN+3', volumes: ['/v'] };
    expect(mergeConfig(config, options)).toMatchObject({
      user: '0',
      cwd: '/tmp',
      stopSignal: 37,
      volumes: ['/data', '/v'],
    });
  });

  test.each([
    ['TERM', 15],
    ['sigint', 2],
    ['9', 9],
    [12, 12],
    ['RTMAX-1', 63],
    ['SIGRTMIN', 34],
  ])('stop signal %s is %i', (stopSignal, number) => {
    expect(mergeConfig({ Cmd: ['x'] }, { stopSignal }).stopSignal).toBe(number);
  });

  test('tmpfs options are split into flags and what the kernel takes', () => {
    const tmpfs = {
      '/a': '',
      '/b': 'exec,size=64m,mode=1777,ro',
      '/c': 'rw,suid,dev',
      '/d': 'defaults,sync,dirsync,noatime,nodiratime,mpol=interleave:0-3',
      '/e': 'sync,async,noatime,atime,nodiratime,diratime,strictatime',
      '/f': 'noatime,strictatime,relatime,norelatime,nostrictatime,nomand',
    };
    expect(mergeConfig({ Cmd: ['x'] }, { tmpfs }).tmpfs).toEqual([
      { path: '/a', flags: 7, options: '' },
      { path: '/b', flags: 14, options: 'size=64m,mode=1777' },
      { path: '/c', flags: 1, options: '' },
      { path: '/d', flags: 7 | 16 | 32 | 64 | 128, options: 'mpol=interleave:0-3' },
      { path: '/e', flags: 7 | 256, options: '' },
      { path: '/f', flags: 7, options: '' },
    ]);
  });

  test('limits have both ends', () => {
    const rlimits = { nofile: 5, core: { soft: 0, hard: Number.POSITIVE_INFINITY } };
    expect(mergeConfig({ Cmd: ['x'] }, { rlimits }).rlimits).toEqual([
      { resource: 7, soft: 5n, hard: 5n },
      { resource: 4, soft: 0n, hard: 0xffff_ffff_ffff_ffffn },
    ]);
  });
});

describe('capabilities', () => {
  test('the default is what docker run gives', () => {
    expect(DEFAULT_CAPABILITIES).toBe(0xa80425fbn);
  });

  test.each<[string[], string[], bigint]>([
    [[], [], DEFAULT_CAPABILITIES],
    [['NET_ADMIN'], [], DEFAULT_CAPABILITIES | (1n << 12n)],
    [[], ['cap_chown'], DEFAULT_CAPABILITIES & ~1n],
    [['CHOWN'], ['ALL'], 1n],
    [[], ['ALL'], 0n],
    [['ALL'], [], 0x1ff_ffff_ffffn],
    [['ALL'], ['CAP_SYS_ADMIN'], 0x1ff_ffff_ffffn & ~(1n << 21n)],
  ])('with %j without %j', (add, drop, set) => {
    expect(capabilitySet(add, drop)).toBe(set);
  });
});

describe('what is wrong is named', () => {
  const wrong: [ContainerOptions, RegExp][] = [
    [{ capAdd: ['FLY'] }, /capAdd has no capability FLY/],
    [{ tmpfs: { '/t': 'huge=always' } }, /tmpfs of \/t has no option huge=always/],
    [{ tmpfs: { t: '' } }, /tmpfs must be/],
    [{ cwd: 'relative' }, /cwd must be/],
    [{ stopSignal: 'SIGNOTHING' }, /signal must be/],
    [{ stopSignal: 65 }, /signal must be/],
    [{ env: { 'A=B': '' } }, /env must be/],
    [{ env: { A: '\0' } }, /env must be/],
    [{ rlimits: { nofile: { soft: 2, hard: 1 } } }, /rlimits must be/],
    [{ rlimits: { files: 1 } }, /rlimits must be/],
    [{ umask: 0o1000 }, /umask must be/],
    [{ oomScoreAdj: -1001 }, /oomScoreAdj must be/],
    [{ memoryMaxBytes: 1 }, /memoryMaxBytes must be/],
    [{ pidsMax: 0 }, /pidsMax must be/],
    [{ argv: ['a\0b'] }, /argv must be/],
  ];
  test.each(wrong)('%j', (options, message) => {
    const merge = () => mergeConfig({ Cmd: ['x'] }, options);
    expect(merge).toThrow(expect.objectContaining({ code: 'VMF_OPTIONS' }));
    expect(merge).toThrow(message);
  });

  test.each<[string, RunConfig]>([
    ['a stop signal', { Cmd: ['x'], StopSignal: 'SIGNOTHING' }],
    ['a relative volume', { Cmd: ['x'], Volumes: ['data'] }],
    ['too many volumes', { Cmd: ['x'], Volumes: Array.from({ length: 33 }, (_, i) => `/v${i}`) }],
  ])('%s of the image', (_name, config) => {
    expect(() => mergeConfig(config)).toThrow(
      expect.objectContaining({ code: 'VMF_IMAGE_INVALID' }),
    );
  });
});
