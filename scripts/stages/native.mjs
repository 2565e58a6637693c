// Test stages in C and C++: the core's tests plain and under sanitizers, the agent's tests, the fuzzers.
import { existsSync, mkdirSync, readdirSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { basename, join } from 'node:path';
import { buildPreset } from '../cmake.mjs';
import { listFiles } from '../lib/files.mjs';
import { Outcome } from '../lib/outcome.mjs';
import { root } from '../lib/project.mjs';
import { Failure, mustRun, run, step } from '../lib/run.mjs';

const fuzzSeconds = 5;

// Leaks of the core are bugs; the suppressions file would be the place for exceptions.
const sanitizerEnv = {
  ASAN_OPTIONS: 'detect_leaks=1:abort_on_error=0',
  UBSAN_OPTIONS: 'print_stacktrace=1',
  TSAN_OPTIONS: 'second_deadlock_stack=1',
};

// Tests that start threads; the others would only be the same run again.
const threaded = /std::thread|std::atomic|base\/thread\.h|EventLoop|WorkerPool|Vcpu|vm\//;

const isTest = (path) => path.endsWith('_test.cc');
const isFuzzer = (path) => path.endsWith('_fuzz.cc');

/** The Outcome of all native test executables in all builds. */
export async function native() {
  const total = new Outcome();
  const presets = ['plain', 'asan', 'tsan'];
  for (const preset of presets) await step(`native: build ${preset}`, () => buildPreset(preset));
  await step('native: tests', async () => {
    const tests = (await Promise.all(presets.map(testsOf))).flat();
    // The agent's tests mostly wait.
    await Promise.all([inLanes(tests, (test) => runTest(test, total)), runAgentTests(total)]);
    return `${total.passed} passed, ${total.failed} failed`;
  });
  return total;
}

/** The tests to run in one build, as { preset, name }. */
async function testsOf(preset) {
  const tests = [];
  for (const path of listFiles('native/tests', isTest)) {
    if (preset === 'tsan' && !(await usesThreads(path))) continue;
    tests.push({ preset, name: basename(path, '.cc') });
  }
  return tests;
}

/** Works on all items, on as many at a time as there are processors. */
async function inLanes(items, work) {
  const queue = [...items];
  const lane = async () => {
    for (let next = queue.shift(); next; next = queue.shift()) await work(next);
  };
  await Promise.all(Array.from({ length: availableParallelism() }, lane));
}

async function runTest({ preset, name }, total) {
  const executable = join(root, 'build', preset, name);
  const result = await run(executable, [], { env: sanitizerEnv, timeoutMs: 120_000 });
  count(`${preset}/${name}`, result, total);
}

const usesThreads = async (path) => (await run('grep', ['-Eq', threaded.source, path])).code === 0;

async function runAgentTests(total) {
  const agent = join(root, 'guest/agent');
  if (!existsSync(join(agent, 'Makefile'))) throw new Failure('guest/agent/Makefile is missing');
  count('agent', await run('make', ['-s', '-C', agent, 'test'], { timeoutMs: 120_000 }), total);
}

/** Adds up the closing line of one executable; one that dies without it is a failed test. */
function count(name, { code, output }, total) {
  const closing = /^(\d+) passed, (\d+) failed$/m.exec(output);
  const passed = Number(closing?.[1] ?? 0);
  const failed = Number(closing?.[2] ?? 0);
  total.passed += passed;
  if (code === 0 && failed === 0) return;
  total.fail(`native: ${name}`, output, Math.max(1, failed));
  console.error(`${name} exited with ${code}:\n${output}`);
}

/** Each fuzz target runs on its corpus for some seconds; one target is one test. */
export async function fuzzCore() {
  const total = new Outcome();
  await step('fuzz: build', () => buildPreset('fuzz'));
  await inLanes(listFiles('native/fuzz', isFuzzer), async (path) => {
    const name = basename(path, '.cc');
    await step(`fuzz: ${name}`, () => fuzzOne(name)).then(
      () => total.passed++,
      (error) => total.fail(`fuzz: ${name}`, error.output ?? error.message),
    );
  });
  return total;
}

async function fuzzOne(name) {
  const found = join(root, 'build/fuzz/found', name);
  mkdirSync(found, { recursive: true });
  const corpus = join(root, 'native/fuzz/corpus', name.replace(/_fuzz$/, ''));
  const seeds = existsSync(corpus) && readdirSync(corpus).length > 0 ? [corpus] : [];
  const limits = [`-max_total_time=${fuzzSeconds}`, '-timeout=5', '-rss_limit_mb=1024'];
  const artefacts = `-artifact_prefix=${found}/`;
  // What it finds on the way goes into the build folder; the corpus itself is only read.
  const args = [...limits, artefacts, '-print_final_stats=1', found, ...seeds];
  const output = await mustRun(join(root, 'build/fuzz', name), args, { timeoutMs: 60_000 });
  const runs = /number_of_executed_units:\s*(\d+)/.exec(output)?.[1];
  return runs ? `${runs} runs` : '';
}
