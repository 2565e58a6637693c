// Runs before every test file: a process warning (leaked listener, deprecation, …) fails the test
// that was running when it came.
import { setImmediate as nextTurn } from 'node:timers/promises';
import { afterEach } from 'vitest';

const warnings: Error[] = [];

process.on('warning', (warning) => warnings.push(warning));

afterEach(async () => {
  await nextTurn(); // Warnings are emitted on the next tick.
  const [first] = warnings.splice(0);
  if (first) throw new Error(`process warning: ${first.name}: ${first.message}`, { cause: first });
});
