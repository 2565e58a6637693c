// What a command does with signals while its engine is open.

import { once } from 'node:events';
import { expect, test } from 'vitest';
import { withEngine } from '#src/cli/engine.js';

test('a signal that comes before there is anybody for it waits, once, and does not end the command', async () => {
  const taken: string[] = [];
  await withEngine(
    async (_, intercept) => {
      for (const signal of ['SIGUSR2', 'SIGUSR2', 'SIGALRM'] as const) {
        const came = once(process, signal);
        process.kill(process.pid, signal);
        await came;
      }
      intercept((signal) => taken.push(signal) > 0);
      intercept((signal) => taken.push(`${signal} again`) > 0);
    },
    ['SIGUSR2', 'SIGALRM'],
  );
  expect(taken).toEqual(['SIGUSR2', 'SIGALRM']);
});
