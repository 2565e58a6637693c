// References: Docker's rules, its defaults, and what it refuses. Cases in the words of distribution/reference.

import { describe, expect, test } from 'vitest';
import { isDigest } from '#src/oci/digest.js';
import { choosePlatform, isCompatible, parsePlatform } from '#src/oci/platform.js';
import { parseReference } from '#src/oci/reference.js';

const sha256 = `sha256:${'0123456789abcdef'.repeat(4)}`;
const sha512 = `sha512:${'0123456789abcdef'.repeat(8)}`;

test.each([
  ['alpine', 'docker.io/library/alpine:latest', 'alpine:latest'],
  ['alpine:3.19', 'docker.io/library/alpine:3.19', 'alpine:3.19'],
  ['user/app', 'docker.io/user/app:latest', 'user/app:latest'],
  ['docker.io/alpine', 'docker.io/library/alpine:latest', 'alpine:latest'],
  ['index.docker.io/user/app', 'docker.io/user/app:latest', 'user/app:latest'],
  ['docker.io/library/a/b', 'docker.io/library/a/b:latest', 'library/a/b:latest'],
  ['localhost/app', 'localhost/app:latest', 'localhost/app:latest'],
  ['docker.io/localhost/app', 'docker.io/localhost/app:latest', 'docker.io/localhost/app:latest'],
  ['localhost:5000/a/b/c:t', 'localhost:5000/a/b/c:t', 'localhost:5000/a/b/c:t'],
  ['host:5000', 'docker.io/library/host:5000', 'host:5000'],
  ['Uppercase.example/app', 'Uppercase.example/app:latest', 'Uppercase.example/app:latest'],
  ['HOST/app', 'HOST/app:latest', 'HOST/app:latest'],
  ['[2001:db8::1]:5000/app', '[2001:db8::1]:5000/app:latest', '[2001:db8::1]:5000/app:latest'],
  ['a__b/c--d/e.f:T_.-', 'docker.io/a__b/c--d/e.f:T_.-', 'a__b/c--d/e.f:T_.-'],
  [`alpine@${sha256}`, `docker.io/library/alpine@${sha256}`, `alpine@${sha256}`],
  [`h.io/a:t@${sha512}`, `h.io/a:t@${sha512}`, `h.io/a:t@${sha512}`],
])('%s means %s', (text, whole, familiar) => {
  const reference = parseReference(text);
  expect(reference.toString()).toBe(whole);
  expect(reference.familiar()).toBe(familiar);
});

test.each([
  '',
  ' alpine',
  'Alpine',
  'user/App',
  'a//b',
  '/a',
  'a/',
  'a..b',
  'a___b',
  '-a',
  'a-',
  'a:',
  'a:.t',
  `a:${'t'.repeat(129)}`,
  'a@sha256:abc',
  `a@${sha256.toUpperCase()}`,
  `a@md5:${'0'.repeat(32)}`,
  `a@${sha256}@${sha256}`,
  'host:99999/a',
  'host:0/a',
  '-host.io/a',
  'https://host/a',
  'host.io/../a',
  'a\0b',
  'ａ',
  '0123456789abcdef'.repeat(4),
  `h.io/${'a'.repeat(256)}`,
  'a'.repeat(2000),
])('%j is refused', (text) => {
  expect(() => parseReference(text)).toThrow(
    expect.objectContaining({ code: 'VMF_IMAGE_REFERENCE' }),
  );
});

test.each([
  '',
  'sha256',
  'sha256:',
  'x',
  'sha1:00',
  sha256.slice(1),
  `${sha256}0`,
  `${sha256}\n`,
  7,
])('%j is no digest', (text) => expect(isDigest(text)).toBe(false));

describe('platforms', () => {
  const offer = (...names: string[]) =>
    names.map((name) => ({ name, platform: parsePlatform(name) }));

  test.each([
    ['linux/amd64', ['linux/arm64', 'linux/amd64'], 'linux/amd64'],
    ['linux/amd64', ['linux/amd64/v3', 'linux/amd64'], 'linux/amd64'],
    ['linux/amd64', ['linux/amd64/v3'], undefined],
    ['linux/amd64/v3', ['linux/amd64', 'linux/amd64/v2', 'linux/amd64/v4'], 'linux/amd64/v2'],
    ['linux/x86_64', ['linux/amd64'], 'linux/amd64'],
    ['linux/arm64', ['linux/arm64/v8'], 'linux/arm64/v8'],
    ['linux/arm/v6', ['linux/arm/v7', 'linux/arm/v5', 'linux/arm/v6'], 'linux/arm/v6'],
    ['linux/s390x', ['windows/s390x'], undefined],
  ])('%s of %j is %s', (wanted, offered, expected) => {
    expect(choosePlatform(parsePlatform(wanted), offer(...offered))?.name).toBe(expected);
  });

  test('an entry that names none is the last resort', () => {
    const unnamed = { name: 'unnamed', platform: undefined };
    const entries = [unnamed, ...offer('linux/arm64')];
    expect(choosePlatform(parsePlatform('linux/amd64'), entries)).toBe(unnamed);
  });

  test('what is malformed is refused', () => {
    for (const text of ['', 'linux', 'linux/', 'a/b/c/d', 'Linux/amd64', 'linux/amd64 ']) {
      expect(() => parsePlatform(text)).toThrow(expect.objectContaining({ code: 'VMF_OPTIONS' }));
    }
    expect(isCompatible(parsePlatform('linux/amd64'), { os: 'linux', architecture: 'arm64' })).toBe(
      false,
    );
  });
});
