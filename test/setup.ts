// Runs before every test file: a process warning (leaked listener, deprecation, …) fails the test
// that was running when it came.
import { setImmediate as nextTurn } from 'node:timers/promises';
import { afterAll, afterEach } from 'vitest';

const warnings: Error[] = [];

const record = (warning: Error) => warnings.push(warning);
process.on('warning', record);
afterAll(() => process.off('warning', record)); // The process may go on with the next file.

afterEach(async () => {
  await nextTurn(); // Warnings are emitted on the next tick.
  const [first] = warnings.splice(0);
  if (first) throw new Error(`process warning: ${first.name}: ${first.message}`, { cause: first });
});
