// Runs the real guest agent as a process of the host and connects a Session to it.

import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { VmforkError } from '#src/errors.js';
import { Session } from '#src/exec/session.js';

const agentDir = fileURLToPath(new URL('../../guest/agent/', import.meta.url));
const mainFile = fileURLToPath(new URL('./agent-process.c', import.meta.url));

/** Compiles the agent for the host; returns the program. */
export function buildAgent(directory: string): string {
  const parts = readdirSync(agentDir)
    .filter((name) => name.endsWith('.c') && name !== 'main.c' && name !== 'boot.c')
    .map((name) => join(agentDir, name));
  const program = join(directory, 'agent');
  const flags = [
    '-std=c11',
    '-D_GNU_SOURCE',
    '-DVMFORK_AGENT_BUILD="test"',
    '-O1',
    `-I${agentDir}`,
  ];
  execFileSync('gcc', [...flags, '-o', program, mainFile, ...parts], { stdio: 'inherit' });
  return program;
}

/** A running agent and the session to it. */
export interface TestAgent {
  readonly session: Session;
  readonly process: ChildProcess;
  /** Directory that holds the identity files. */
  readonly root: string;
  /** Why the session closed, once it has. */
  readonly closed: Promise<VmforkError>;
  stop(): Promise<void>;
}

/** Starts an agent; resolves when it has said hello. */
export async function startAgent(program: string): Promise<TestAgent> {
  const root = mkdtempSync(join(tmpdir(), 'vmfork-agent-'));
  for (const name of ['etc', 'run']) mkdirSync(join(root, name));
  const child = spawn(program, [root], { stdio: ['ignore', 'inherit', 'inherit', 'pipe'] });
  const exited = new Promise((resolve) => child.once('exit', resolve));
  let onClosed: (error: VmforkError) => void = () => {};
  const closed = new Promise<VmforkError>((resolve) => {
    onClosed = resolve;
  });
  const session = new Session(child.stdio[3] as Socket, {
    onClosed: (error) => {
      session.fail(error);
      onClosed(error);
    },
  });
  await session.hello;
  const stop = async () => {
    child.kill('SIGKILL');
    await exited;
    rmSync(root, { recursive: true });
  };
  return { session, process: child, root, closed, stop };
}

/** A directory for one test file's build products. */
export function temporaryDirectory(): string {
  return mkdtempSync(join(tmpdir(), 'vmfork-test-'));
}
