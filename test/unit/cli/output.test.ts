// Text for terminals keeps its shape at the edges of its ranges.

import { expect, test } from 'vitest';
import { formatBar, formatBytes, formatMs, formatTable } from '#src/cli/output.js';

test.each([
  [0.5, '0.50 ms'],
  [9.999, '10.00 ms'],
  [45.6, '46 ms'],
  [12_345, '12.3 s'],
])('%d milliseconds are %s', (ms, text) => {
  expect(formatMs(ms)).toBe(text);
});

test.each([
  [0, '0 KiB'],
  [655_360, '640 KiB'],
  [2 ** 20, '1.0 MiB'],
  [2 ** 31, '2.0 GiB'],
])('%d bytes are %s', (bytes, text) => {
  expect(formatBytes(bytes)).toBe(text);
});

test('a bar is as long as its share, and never nothing', () => {
  expect(formatBar(10, 10, 4)).toBe('████');
  expect(formatBar(5, 10, 4)).toBe('██');
  expect(formatBar(0.001, 10, 4)).toBe('▏');
  expect(formatBar(20, 10, 4)).toBe('████');
  expect(formatBar(0, 0, 4)).toBe('');
});

test('columns line up, numbers flush right', () => {
  expect(
    formatTable(
      [
        ['a', '1'],
        ['long', '100'],
      ],
      [1],
    ),
  ).toEqual(['a       1', 'long  100']);
});
