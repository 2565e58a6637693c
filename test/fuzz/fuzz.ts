// Runs one fuzz target: random inputs for some seconds, from a seed that can be given back.

import { writeSync } from 'node:fs';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { VmforkError } from '#src/errors.js';

const seconds = Number(process.env.VMFORK_FUZZ_SECONDS || 5);
const seed = Number(process.env.VMFORK_FUZZ_SEED || Date.now() % 2 ** 31);
/** Longest that one input may take. Generous, as a busy machine counts as well. */
const INPUT_MS = 30_000;

/**
 * A target: `check` fails for an input that is treated wrongly. An input that does not come to an end fails, too: by
 * `INPUT_MS`, or when it never gives the thread back by the time limit of the whole stage; the last line names the target.
 */
export function fuzz<T>(
  name: string,
  inputs: fc.Arbitrary<T>,
  check: (input: T) => void | Promise<void>,
): void {
  test(name, { timeout: seconds * 1000 + 2 * INPUT_MS }, async () => {
    // Not through the console, which is handed on later.
    writeSync(2, `fuzz: ${name}: VMFORK_FUZZ_SEED=${seed}\n`);
    let runs = 0;
    let latest = Promise.resolve();
    const property = fc.asyncProperty(inputs, async (input) => {
      runs++;
      latest = (async () => check(input))();
      await latest;
    });
    const limits = { interruptAfterTimeLimit: seconds * 1000, timeout: INPUT_MS };
    const outcome = await fc.check(property, { seed, numRuns: Number.MAX_SAFE_INTEGER, ...limits });
    if (outcome.counterexample !== null) {
      const message = await fc.asyncDefaultReportMessage(outcome);
      throw new Error(message, { cause: outcome.errorInstance });
    }
    // When the time is over one is still under way, maybe the first: it counts as well, and the next target has no part in it.
    await latest;
    writeSync(2, `fuzz: ${name}: ${runs} inputs\n`);
    expect(runs).toBeGreaterThan(0);
  });
}

/** What a step gives, or its error when that has one of these codes. Any other error fails the target. */
export async function outcomeOf<T>(step: () => T | Promise<T>, codes: RegExp) {
  try {
    return { value: await step() };
  } catch (error) {
    if (VmforkError.is(error) && codes.test(error.code)) return { error };
    throw error;
  }
}
