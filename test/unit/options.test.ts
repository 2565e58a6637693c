import { describe, expect, test } from 'vitest';
import {
  BOOT_OPTIONS,
  checkArgv,
  checkGuestPath,
  checkOptions,
  checkValue,
  EXEC_OPTIONS,
  FORK_OPTIONS,
  PORT,
  type Rules,
  SPAWN_OPTIONS,
  WRITE_FILE_OPTIONS,
} from '#src/options.js';

const refused = (message: RegExp) =>
  expect.objectContaining({ code: 'VMF_OPTIONS', message: expect.stringMatching(message) });

describe('checkOptions', () => {
  test.each<[string, Rules, object]>([
    [
      'boot',
      BOOT_OPTIONS,
      { memoryMiB: 32, vcpus: 8, cmdline: 'a b', hostname: 'a.b-1', diskPaths: [] },
    ],
    ['fork', FORK_OPTIONS, { count: 1, identityTimeoutMs: 1, signal: AbortSignal.timeout(1) }],
    ['spawn', SPAWN_OPTIONS, { pty: { columns: 1, rows: 65_535 }, env: { A: '' }, uid: 0 }],
    ['spawn', SPAWN_OPTIONS, { cwd: Buffer.of(0xff), env: { A: Uint8Array.of(0xff) } }],
    ['exec', EXEC_OPTIONS, { stdin: '', maxBuffer: 1, encoding: 'buffer', cwd: undefined }],
    ['writeFile', WRITE_FILE_OPTIONS, { mode: 0o7777, append: false }],
  ])('%s() takes what is documented', (call, rules, options) => {
    expect(() => checkOptions(call, rules, options)).not.toThrow();
  });

  test.each<[Rules, object, RegExp]>([
    [BOOT_OPTIONS, { memoryMiB: 16 }, /memoryMiB must be an integer from 32 to 65536, got 16/],
    [BOOT_OPTIONS, { memoryMiB: 128.5 }, /memoryMiB/],
    [BOOT_OPTIONS, { vcpus: '1' }, /vcpus must be an integer from 1 to 8, got '1'/],
    [
      BOOT_OPTIONS,
      { diskPaths: ['a', 'b', 'c', 'd', 'e'] },
      /diskPaths must be an array of at most 4/,
    ],
    [BOOT_OPTIONS, { cmdline: 'a\nb' }, /cmdline/],
    [BOOT_OPTIONS, { hostname: 'a b' }, /hostname/],
    [BOOT_OPTIONS, { signal: {} }, /signal must be an AbortSignal/],
    [FORK_OPTIONS, { count: 0 }, /count/],
    [FORK_OPTIONS, { identityTimeoutMs: Number.POSITIVE_INFINITY }, /identityTimeoutMs/],
    [SPAWN_OPTIONS, { env: { 'A=': 'x' } }, /env/],
    [SPAWN_OPTIONS, { env: { A: 'nul\0' } }, /env/],
    [SPAWN_OPTIONS, { env: { A: Buffer.from('nul\0') } }, /env/],
    [SPAWN_OPTIONS, { env: { A: [1] } }, /env/],
    [SPAWN_OPTIONS, { cwd: Buffer.from('/nul\0') }, /cwd/],
    [SPAWN_OPTIONS, { cwd: Buffer.alloc(0) }, /cwd/],
    [SPAWN_OPTIONS, { pty: { columns: 0, rows: 1 } }, /pty/],
    [SPAWN_OPTIONS, { stdin: 'inherit' }, /stdin must be 'pipe' or 'ignore', got 'inherit'/],
    [EXEC_OPTIONS, { stdin: 5 }, /stdin/],
    [EXEC_OPTIONS, { encoding: 'latin1' }, /encoding/],
  ])('refuses %#: names the option, what it accepts and what it got', (rules, options, message) => {
    expect(() => checkOptions('call', rules, options)).toThrow(refused(message));
  });

  test('recognises a misspelt option', () => {
    expect(() => checkOptions('boot', BOOT_OPTIONS, { memoryMib: 128 })).toThrow(
      refused(/boot\(\) has no option memoryMib; did you mean memoryMiB\?/),
    );
    expect(() => checkOptions('exec', EXEC_OPTIONS, { timeoutMS: 1 })).toThrow(
      refused(/timeoutMs\?/),
    );
  });

  test('names what is known when nothing is near', () => {
    expect(() => checkOptions('fork', FORK_OPTIONS, { banana: 1 })).toThrow(
      refused(/known: hostname/),
    );
    expect(() => checkOptions('fork', FORK_OPTIONS, { toString: 1 })).toThrow(
      refused(/no option toString/),
    );
  });

  test.each([null, 5, 'text', []])('refuses %j as options', (options) => {
    expect(() => checkOptions('fork', FORK_OPTIONS, options as object)).toThrow(
      refused(/an object/),
    );
  });
});

test.each<[unknown]>([[[]], [['']], ['sh'], [['a', 1]], [['a', 'b\0']], [null]])(
  'checkArgv refuses %j',
  (argv) => {
    expect(() => checkArgv(argv as string[])).toThrow(refused(/argv/));
  },
);

test('checkArgv takes an empty argument that is not the first', () => {
  expect(() => checkArgv(['sh', ''])).not.toThrow();
});

test.each(['a', '', '/a\0'])('checkGuestPath refuses %j', (path) => {
  expect(() => checkGuestPath('readFile', path)).toThrow(refused(/absolute path/));
});

test.each([0, -1, 1.5, 4_294_967_295, '80'])('%j is no port', (port) => {
  expect(() => checkValue('port', PORT, port)).toThrow(refused(/port must be/));
});
