import { describe, expect, test } from 'vitest';
import { parseRollup, processMemory } from '#src/memshare/accounting.js';
import { clonesThatFit, processLimits, softLimit } from '#src/memshare/limits.js';

describe('processMemory', () => {
  test('reads the kernel’s numbers', () => {
    const text =
      'x [rollup]\nRss:  100 kB\nPss:  50 kB\nPss_Anon: 9 kB\nPrivate_Clean: 3 kB\nPrivate_Dirty: 4 kB\nAnonymous: 5 kB\n';
    expect(parseRollup(text)).toEqual({
      rssBytes: 102_400,
      pssBytes: 51_200,
      privateBytes: 7168,
      anonymousBytes: 5120,
    });
  });

  test('says something true about this process', async () => {
    const memory = await processMemory();
    expect(memory.rssBytes).toBeGreaterThan(10_000_000);
    expect(memory.pssBytes).toBeLessThanOrEqual(memory.rssBytes);
  });
});

describe('processLimits', () => {
  test('the scarcer limit decides', () => {
    expect(clonesThatFit({ used: 0, most: 100 }, { used: 0, most: 1e6 })).toBe(10);
    expect(clonesThatFit({ used: 90, most: 80 }, { used: 0, most: 1e6 })).toBe(0);
  });

  test('soft limits are read', () => {
    const text =
      'Limit   Soft  Hard Units\nMax open files            1024    20000   files\nMax x   unlimited unlimited\n';
    expect(softLimit(text, 'Max open files')).toBe(1024);
    expect(softLimit(text, 'Max x')).toBe(Number.POSITIVE_INFINITY);
  });

  test('says something true about this process', async () => {
    const limits = await processLimits();
    expect(limits.files.used).toBeGreaterThan(2);
    expect(limits.files.most).toBeGreaterThan(limits.files.used);
    expect(limits.maps.most).toBeGreaterThan(limits.maps.used);
  });
});
