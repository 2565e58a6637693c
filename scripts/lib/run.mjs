// Child processes and progress lines for the scripts. Built-ins only: the demo uses this before `npm ci`.
import { spawn } from 'node:child_process';
import { constants } from 'node:os';
import { root } from './project.mjs';

const children = new Set();

/** Runs a command to its end and never rejects: { code, output }. `echo` also streams the output. */
export function run(command, args, { cwd = root, env = {}, echo = false, timeoutMs = 0 } = {}) {
  return new Promise((resolve) => {
    const options = { cwd, env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'] };
    // A group of its own, so that a time-out or Ctrl-C ends what the command started as well.
    const child = spawn(command, args, { ...options, detached: true });
    children.add(child);
    const chunks = [];
    const collect = (chunk) => {
      chunks.push(chunk);
      if (echo) process.stderr.write(chunk);
    };
    child.stdout.on('data', collect);
    child.stderr.on('data', collect);
    const timer =
      timeoutMs > 0 ? setTimeout(() => timedOut(child, collect, timeoutMs), timeoutMs) : null;
    const done = (code) => {
      clearTimeout(timer);
      children.delete(child);
      resolve({ code, output: Buffer.concat(chunks).toString() });
    };
    child.on('error', (error) => {
      chunks.push(Buffer.from(`${command}: ${error.message}\n`));
      done(127);
    });
    child.on('close', (code, signal) => done(code ?? 128 + constants.signals[signal]));
  });
}

function timedOut(child, collect, timeoutMs) {
  collect(Buffer.from(`\ntimed out after ${timeoutMs / 1000} s\n`));
  killGroup(child);
}

function killGroup(child) {
  try {
    process.kill(-child.pid, 'SIGKILL');
  } catch {
    // It ended by itself in the meantime.
  }
}

/** Like run, but a failure prints the command's output and throws. */
export async function mustRun(command, args, options = {}) {
  const result = await run(command, args, options);
  if (result.code === 0) return result.output;
  if (!options.echo) process.stderr.write(result.output);
  const words = [command, ...args.slice(0, 3)].join(' ');
  throw new Failure(`${words} … exited with ${result.code}`, result.output);
}

/** A failure whose message is all the user needs; the top level prints it without a stack. */
export class Failure extends Error {
  /** `output`: what the command that failed said, when it was one. */
  constructor(message, output = message) {
    super(message);
    this.output = output;
  }
}

/** Runs one step and prints one line for it, with its time. `work` may return a note. */
export async function step(name, work) {
  const started = performance.now();
  const line = (mark, note) => {
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    console.error(`${mark} ${name.padEnd(28)} ${seconds.padStart(6)} s${note ? `  ${note}` : ''}`);
  };
  try {
    const note = await work();
    line('✓', typeof note === 'string' ? note : '');
  } catch (error) {
    line('✗', '');
    throw error;
  }
}

/** Runs a check that lists problems; any of them is a failure. */
export async function runCheck(check) {
  const problems = await check();
  for (const problem of problems) console.error(problem);
  if (problems.length > 0) throw new Failure(`${problems.length} problems`, problems.join('\n'));
}

/** Top level of a script: Failures are printed plainly, everything else with its stack; exit code 1. */
export async function main(work) {
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
    process.once(signal, () => {
      for (const child of children) killGroup(child);
      process.exit(128 + constants.signals[signal]);
    });
  }
  try {
    await work();
  } catch (error) {
    console.error(error instanceof Failure ? `error: ${error.message}` : error);
    process.exitCode = 1;
  }
}
