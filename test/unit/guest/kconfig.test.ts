// The kernel's configuration fragments, and the proof that a request held.
import { readdirSync, readFileSync } from 'node:fs';
import { expect, test } from 'vitest';

interface Kconfig {
  readFragments(): Map<string, string>;
  parse(text: string): [string, string][];
  render(requests: Map<string, string>): string;
  unmet(requests: Map<string, string>, configText: string): string[];
}
const script = new URL('../../../guest/kernel/kconfig.mjs', import.meta.url).href;
const { readFragments, parse, render, unmet } = (await import(script)) as Kconfig;
const folder = new URL('../../../guest/kernel/config/', import.meta.url);

test('every fragment opens with a comment and no symbol is requested twice', () => {
  for (const name of readdirSync(folder)) {
    expect(readFileSync(new URL(name, folder), 'utf8'), name).toMatch(/^# \w/);
  }
  expect(readFragments().size).toBeGreaterThan(200);
});

test('what containers need is requested', () => {
  const requests = readFragments();
  const needed = ['USER_NS', 'OVERLAY_FS', 'SECCOMP_FILTER', 'MEMCG', 'CGROUP_PIDS', 'NF_TABLES'];
  for (const symbol of needed) expect(requests.get(`CONFIG_${symbol}`), symbol).toBe('y');
});

test('parse reads values and "is not set", and nothing else', () => {
  const text = '# a comment\nCONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C="x y"\n';
  expect(parse(text)).toEqual([
    ['CONFIG_A', 'y'],
    ['CONFIG_B', 'n'],
    ['CONFIG_C', '"x y"'],
  ]);
});

test('unmet names each request that the configuration dropped or changed', () => {
  const requests = new Map([
    ['CONFIG_A', 'y'],
    ['CONFIG_B', 'n'],
    ['CONFIG_C', '8'],
    ['CONFIG_D', 'y'],
  ]);
  expect(unmet(requests, 'CONFIG_A=y\nCONFIG_C=64\n')).toEqual([
    'CONFIG_C: asked 8, got 64',
    'CONFIG_D: asked y, got n',
  ]);
  expect(unmet(requests, render(requests))).toEqual([]);
});
