// Every example runs, as a user would run it.
import { execFile } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';

const run = promisify(execFile);
const examples = readdirSync('examples')
  .filter((name) => name.endsWith('.ts'))
  .sort();

test('there is one for each step', () => {
  expect(examples.map((name) => name.slice(0, 2))).toEqual([
    '01',
    '02',
    '03',
    '04',
    '05',
    '06',
    '07',
    '08',
  ]);
});

test.each(examples)('%s', async (name) => {
  const { stdout, stderr } = await run(process.execPath, [
    `dist/examples/${name.replace('.ts', '.js')}`,
  ]);
  expect(stderr).toBe('');
  expect(stdout.trim().split('\n').length).toBeGreaterThan(0);
});
