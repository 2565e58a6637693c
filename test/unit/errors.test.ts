import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { ERROR_CODES, errnoName, fromNative, isErrorCode, VmforkError } from '#src/errors.js';

describe('docs/errors.md', () => {
  const rows = [
    ...readFileSync('docs/errors.md', 'utf8').matchAll(/^\| `(VMF_\w+)` \| (.*) \| (.*) \|$/gm),
  ];

  test('is the same table as the code', () => {
    const documented = rows.map(([, code, summary, hint]) => [code, { summary, hint }]);
    expect(Object.fromEntries(documented)).toEqual(ERROR_CODES);
    expect(documented).toHaveLength(Object.keys(ERROR_CODES).length);
  });

  test('lists every code of the native core', () => {
    const source = readFileSync('native/base/result.cc', 'utf8');
    const native = [...source.matchAll(/"(VMF_\w+)"/g)].map(([, code]) => code);
    expect(native.length).toBeGreaterThan(20);
    expect(native.filter((code) => !isErrorCode(code))).toEqual([]);
  });
});

describe('VmforkError', () => {
  test('carries code, hint and context', () => {
    const cause = new Error('why');
    const error = new VmforkError('VMF_GUEST_PANIC', 'oops', { cause, errno: 5, consoleTail: 'x' });
    expect(error).toMatchObject({
      name: 'VmforkError',
      code: 'VMF_GUEST_PANIC',
      message: 'the guest’s kernel panicked: oops',
      hint: ERROR_CODES.VMF_GUEST_PANIC.hint,
      errno: 5,
      consoleTail: 'x',
      cause,
    });
    expect(Object.keys(error)).not.toContain('operation');
  });

  test('is() recognises the errors of another copy of the library', () => {
    const foreign = Object.assign(new Error(), { [Symbol.for('vmfork.error')]: true });
    expect(VmforkError.is(foreign)).toBe(true);
    expect(VmforkError.is(new VmforkError('VMF_GONE'))).toBe(true);
    expect(VmforkError.is(new Error())).toBe(false);
    expect(VmforkError.is(null)).toBe(false);
  });
});

describe('fromNative', () => {
  test('keeps code, operation and errno', () => {
    const properties = { code: 'VMF_KVM_DENIED', operation: 'open', errno: 13, detail: '/dev/kvm' };
    const thrown = Object.assign(new Error('open: /dev/kvm'), properties);
    expect(fromNative(thrown)).toMatchObject({
      code: 'VMF_KVM_DENIED',
      operation: 'open',
      errno: 13,
      message: '/dev/kvm may not be opened: open: /dev/kvm: EACCES',
      cause: thrown,
    });
  });

  test('anything else is a defect', () => {
    expect(fromNative('text')).toMatchObject({ code: 'VMF_INTERNAL', cause: 'text' });
    expect(fromNative(new TypeError('x'))).toMatchObject({ code: 'VMF_INTERNAL' });
  });

  test('our own errors pass through', () => {
    const error = new VmforkError('VMF_GONE');
    expect(fromNative(error)).toBe(error);
  });
});

test('errnoName survives what a hostile guest may send', () => {
  expect(errnoName(2)).toBe('ENOENT');
  expect(errnoName(8)).toBe('ENOEXEC');
  expect(errnoName(95)).toBe('ENOTSUP');
  expect(errnoName(1_000)).toBe('errno 1000');
  expect(errnoName(0)).toBe('errno 0');
  expect(errnoName(4_294_967_295)).toBe('errno 4294967295');
});
