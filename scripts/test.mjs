// `npm test [STAGE…]`: everything that must hold, from a fresh clone on. Stages: lint native fuzz unit
// kvm nested (all without a name). The last line sums up every runner: `N passed, N failed, N skipped`.

import { Outcome } from './lib/outcome.mjs';
import { prepare } from './lib/prepare.mjs';
import { Failure, main } from './lib/run.mjs';
import { fuzzCore, native } from './stages/native.mjs';
import { fuzzParsers, kvm, nested, unit } from './stages/vitest.mjs';

const lint = async () => (await import('./lint.mjs')).lint();
const fuzz = async () => (await fuzzCore()).add(await fuzzParsers());
const stages = { lint, native, fuzz, unit, kvm, nested };

// An emulated host has one processor, which leaves another to what does not need /dev/kvm. The guests of `kvm` have the
// machine to themselves: beside a compiler an interpreted one hardly gets on.
const besideNested = ['lint', 'native', 'fuzz', 'unit'];

async function runPlan(wanted) {
  const results = [];
  const runWanted = async (names, ...args) => {
    for (const name of names.filter((candidate) => wanted.includes(candidate))) {
      const startedMs = performance.now();
      const outcome = await runStage(name, args);
      results.push({ name, outcome, seconds: (performance.now() - startedMs) / 1000 });
    }
  };
  const others = runWanted(besideNested);
  await Promise.all([others, runWanted(['nested'], others)]);
  await runWanted(['kvm']);
  return results;
}

/** A stage that breaks down, e.g. because it does not compile, counts as one failed test. */
async function runStage(name, args) {
  try {
    return await stages[name](...args);
  } catch (error) {
    console.error(error instanceof Failure ? `error: ${error.message}` : error);
    return new Outcome().fail(name, error.output ?? String(error));
  }
}

function report(results) {
  const total = new Outcome();
  for (const { outcome } of results) total.add(outcome);
  if (total.failed > 0) console.log(`\nWhat failed, once more:\n${total.describeFailures()}\n`);
  for (const { name, outcome, seconds } of results)
    console.log(`${name.padEnd(8)} ${outcome}, ${seconds.toFixed(0)} s`);
  if (total.failed > 0 || total.passed === 0) process.exitCode = 1;
  console.log(String(total));
}

await main(async () => {
  const names = process.argv.slice(2);
  const unknown = names.filter((name) => !(name in stages));
  if (unknown.length > 0) throw new Failure(`no such stage: ${unknown.join(', ')}`);
  const wanted = names.length > 0 ? names : Object.keys(stages);
  const needsGuest = wanted.some((name) => name === 'kvm' || name === 'nested');
  await prepare(['build', 'test', 'bench', ...(needsGuest ? ['guest'] : [])]);
  report(await runPlan(wanted));
});
