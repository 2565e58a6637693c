// Commands against the real agent, run as a process of the host.
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { Command } from '#src/exec/command.js';
import { execute } from '#src/exec/exec.js';
import type { ExecOptions, SpawnOptions } from '#src/options.js';
import { buildAgent, startAgent, type TestAgent, temporaryDirectory } from '../../helpers/agent.js';
import { bytesOf, untilLine } from '../../helpers/images.js';

const directory = temporaryDirectory();
const MIB = 1024 * 1024;
let program: string;
let agent: TestAgent;

beforeAll(() => {
  program = buildAgent(directory);
}, 60_000);
afterAll(() => rmSync(directory, { recursive: true }));
beforeEach(async () => {
  agent = await startAgent(program);
});
afterEach(() => agent.stop());

const starting = (argv: string[]) => (streams: SpawnOptions) =>
  new Command(agent.session, argv, streams);
const run = (script: string, options: ExecOptions = {}) =>
  execute(starting(['sh', '-c', script]), ['sh', '-c', script], options);

describe('a command that was detached from', () => {
  test('goes on, its output is dropped, and it can be attached to again', async () => {
    const fifo = join(agent.root, 'fifo');
    await run(`mkfifo ${fifo}`);
    // More than pipes, credit and buffers hold.
    const line = `echo up; head -c ${4 * MIB} /dev/zero; echo done >${fifo}; echo; exec cat`;
    const command = new Command(agent.session, ['sh', '-c', line]);
    const { stdin, stdout } = command;
    await once(stdout, 'readable');
    command.detach();
    await expect(run(`cat ${fifo}`)).resolves.toMatchObject({ stdout: 'done\n' });
    const before = await bytesOf(stdout);
    expect(before.subarray(0, 3).toString()).toBe('up\n');
    expect(before.length).toBeLessThan(MIB);
    expect(stdin?.destroyed).toBe(true);
    command.attach();
    expect(() => command.attach()).toThrow(expect.objectContaining({ code: 'VMF_STATE' }));
    command.stdin?.end('hello\n');
    await untilLine(command.stdout, 'hello');
    await expect(command.exited).resolves.toMatchObject({ exitCode: 0 });
    expect(() => command.attach()).toThrow(expect.objectContaining({ code: 'VMF_STATE' }));
    command.detach();
  });

  test('has ended streams again when they had ended before', async () => {
    const line = 'cat >&2; exec >&-; echo closed >&2; while read -r line; do :; done; sleep 1000';
    const command = new Command(agent.session, ['sh', '-c', line]);
    command.stdin?.end('input\n');
    command.stdout.resume();
    await Promise.all([
      once(command.stdout, 'end'),
      untilLine(command.stderr as Readable, 'closed'),
    ]);
    command.detach();
    command.attach();
    command.stdout.resume();
    await once(command.stdout, 'end');
    expect(command.stdin?.writable).toBe(false);
    command.detach();
    command.kill('SIGKILL');
    await expect(command.exited).resolves.toMatchObject({ signal: 'SIGKILL' });
  });
});

describe('execute', () => {
  test('gives output, exit code and time', async () => {
    const result = await run('echo out; echo err >&2; exit 3');
    expect(result).toMatchObject({
      exitCode: 3,
      signal: null,
      stdout: 'out\n',
      stderr: 'err\n',
      timedOut: false,
      aborted: false,
    });
    expect(result.durationMs).toBeGreaterThan(0);
    expect(result.maxRssKiB).toBeGreaterThan(0);
  });

  test('names the signal that ended a command', async () => {
    await expect(run('kill -9 $$')).resolves.toMatchObject({ exitCode: null, signal: 'SIGKILL' });
  });

  test('passes stdin given as string, bytes and stream', async () => {
    await expect(run('cat', { stdin: 'text' })).resolves.toMatchObject({ stdout: 'text' });
    const stdin = Readable.from([Buffer.from('a'), 'b']);
    await expect(run('cat', { stdin })).resolves.toMatchObject({ stdout: 'ab' });
    const bytes = randomBytes(MIB);
    const echoed = await execute(starting(['cat']), ['cat'], { stdin: bytes, encoding: 'buffer' });
    expect(echoed.stdout.equals(bytes)).toBe(true);
  });

  test('a command need not read its input', async () => {
    await expect(run('exit 0', { stdin: Buffer.alloc(4 * MIB) })).resolves.toMatchObject({
      exitCode: 0,
    });
  });

  test('a source of stdin that fails ends the command', async () => {
    const stdin = Readable.from(
      (async function* () {
        yield 'x';
        throw new Error('broken source');
      })(),
    );
    await expect(run('cat; sleep 60', { stdin })).rejects.toMatchObject({
      code: 'VMF_ABORTED',
      cause: { message: 'broken source' },
    });
  });

  test('gives env, cwd and nothing else', async () => {
    const { stdout } = await run('env; pwd', {
      env: { PATH: '/usr/bin:/bin', A: 'b=c' },
      cwd: '/usr',
    });
    expect(stdout).toContain('A=b=c\n');
    expect(stdout).toContain('\n/usr\n');
    expect(stdout).not.toContain('HOME=');
  });

  test('a command that is not there is VMF_COMMAND_NOT_FOUND', async () => {
    const missing = execute(starting(['no-such-program']), ['no-such-program']);
    await expect(missing).rejects.toMatchObject({ code: 'VMF_COMMAND_NOT_FOUND', errno: 2 });
  });

  test('a working directory that is not there is VMF_COMMAND_FAILED_TO_START', async () => {
    await expect(run('true', { cwd: '/no/such' })).rejects.toMatchObject({
      code: 'VMF_COMMAND_FAILED_TO_START',
      operation: 'chdir',
      errno: 2,
    });
  });

  test('a time limit kills the process group and keeps what came before', async () => {
    const late = run('echo before; sleep 60 & wait', { timeoutMs: 300 });
    await expect(late).rejects.toMatchObject({
      code: 'VMF_TIMEOUT',
      result: { stdout: 'before\n', timedOut: true, exitCode: null },
    });
    await expect(run('echo on')).resolves.toMatchObject({ stdout: 'on\n' });
  });

  test('an AbortSignal cuts a command off', async () => {
    const controller = new AbortController();
    const aborted = run('sleep 60', { signal: controller.signal });
    setTimeout(() => controller.abort(), 50);
    await expect(aborted).rejects.toMatchObject({ code: 'VMF_ABORTED', result: { aborted: true } });
    await expect(run('true', { signal: AbortSignal.abort() })).rejects.toMatchObject({
      code: 'VMF_ABORTED',
    });
  });

  test('output beyond maxBuffer is VMF_OUTPUT_LIMIT with what fitted', async () => {
    const loud = run('yes', { maxBuffer: 1000 });
    await expect(loud).rejects.toMatchObject({
      code: 'VMF_OUTPUT_LIMIT',
      result: { stdout: 'y\n'.repeat(500) },
    });
  });

  test('64 commands at once', async () => {
    const runs = Array.from({ length: 64 }, (_, index) =>
      run(`seq 1 5000 | tail -n 1; echo ${index}`),
    );
    const outputs = (await Promise.all(runs)).map(({ stdout }) => stdout);
    expect(outputs).toEqual(outputs.map((_, index) => `5000\n${index}\n`));
    expect(agent.session.streamCount).toBe(0);
  });

  test('the end of the agent is VMF_GONE', async () => {
    const waiting = run('echo partial; sleep 60');
    setTimeout(() => agent.process.kill('SIGKILL'), 100);
    await expect(waiting).rejects.toMatchObject({
      code: 'VMF_GONE',
      result: { stdout: 'partial\n' },
    });
  });
});

describe('Command', () => {
  test('looks like a ChildProcess', async () => {
    const command = new Command(agent.session, ['sh', '-c', 'read line; echo "got $line"']);
    await once(command, 'spawn');
    expect(await command.pid).toBeGreaterThan(1);
    command.stdin?.end('hi\n');
    let output = '';
    for await (const chunk of command.stdout) output += chunk;
    expect(output).toBe('got hi\n');
    await expect(command.exited).resolves.toMatchObject({ exitCode: 0, signal: null });
  });

  test('kill() sends the signal asked for', async () => {
    const command = new Command(agent.session, ['sleep', '60'], { stdin: 'ignore' });
    await command.pid;
    const exit = once(command, 'exit');
    command.kill('SIGINT');
    expect(await exit).toEqual([null, 'SIGINT']);
    command.kill();
  });

  test('wait() gives up without ending the command', async () => {
    const command = new Command(agent.session, ['cat']);
    await expect(command.wait({ timeoutMs: 30 })).rejects.toMatchObject({ code: 'VMF_TIMEOUT' });
    command.stdin?.end();
    await expect(command.wait()).resolves.toMatchObject({ exitCode: 0 });
  });

  test('16 MiB pass unharmed both ways at once', async () => {
    const command = new Command(agent.session, ['cat']);
    const sent = createHash('sha256');
    const received = createHash('sha256');
    const chunk = randomBytes(MIB);
    const source = async function* () {
      for (let i = 0; i < 16; i++) {
        chunk.writeUInt32LE(i);
        sent.update(chunk);
        yield Buffer.from(chunk);
      }
    };
    if (!command.stdin) throw new Error('no stdin');
    await Promise.all([pipeline(source, command.stdin), pipeline(command.stdout, received)]);
    expect(command.stdout.bytesRead).toBe(16 * MIB);
    expect(received.digest('hex')).toBe(sent.digest('hex'));
  });

  test('a reader that does not read stops the writer after one window', async () => {
    const command = new Command(agent.session, ['yes'], { stdin: 'ignore' });
    await command.pid;
    await new Promise((resolve) => setTimeout(resolve, 200));
    await agent.session.ping();
    expect(command.stdout.readableLength).toBe(262_144);
    command.stdout.destroy();
    command.kill('SIGKILL');
    await expect(command.exited).resolves.toMatchObject({ signal: 'SIGKILL' });
  });

  test('a program that does not read stops the writer', async () => {
    const command = new Command(agent.session, ['sleep', '60']);
    let accepted = 0;
    const source = async function* () {
      for (;;) {
        accepted += 65_536;
        yield Buffer.alloc(65_536);
      }
    };
    if (!command.stdin) throw new Error('no stdin');
    pipeline(source, command.stdin).catch(() => {});
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect(accepted).toBeLessThan(1.5 * MIB);
    command.kill('SIGKILL');
    await command.exited;
  });

  test('destroying stdout lets the program run on', async () => {
    const command = new Command(agent.session, ['sh', '-c', 'head -c 3000000 /dev/zero; exit 4']);
    command.stdout.destroy();
    await expect(command.exited).resolves.toMatchObject({ exitCode: 4 });
  });

  test('a terminal has the size asked for and follows resize()', async () => {
    const script = 'tty >/dev/null && stty size; read line; stty size';
    const command = new Command(agent.session, ['sh', '-c', script], {
      pty: { columns: 100, rows: 30 },
    });
    expect(command.stderr).toBeNull();
    let output = '';
    command.stdout.on('data', (chunk) => {
      if (!output.includes('30 100') && `${output}${chunk}`.includes('30 100')) {
        command.resize({ columns: 90, rows: 20 });
        command.stdin?.write('go\n');
      }
      output += chunk;
    });
    await command.exited;
    expect(output).toContain('30 100');
    expect(output).toContain('20 90');
  });

  test('stderr can be joined into stdout', async () => {
    const result = await run('echo a; echo b >&2', { stderr: 'stdout' });
    expect(result).toMatchObject({ stdout: 'a\nb\n', stderr: '' });
  });

  test('what is not read when the agent dies ends with an error, not as complete', async () => {
    const command = new Command(agent.session, ['sh', '-c', 'echo x; sleep 60']);
    const reading = (async () => {
      for await (const chunk of command.stdout) {
        expect(String(chunk)).toBe('x\n');
        agent.process.kill('SIGKILL');
      }
    })();
    await expect(reading).rejects.toMatchObject({ code: 'VMF_GONE' });
    await expect(command.exited).rejects.toMatchObject({ code: 'VMF_GONE' });
  });
});
