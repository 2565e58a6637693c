// Runs a command to its end and collects its output: one result shape for success, failure and cut-off runs.

import { finished, type Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { ByteString } from '../byte-string.js';
import { VmforkError } from '../errors.js';
import { checkOptions, EXEC_OPTIONS, type ExecOptions, type SpawnOptions } from '../options.js';
import { throwIfAborted, watchLimits } from '../waiting.js';
import type { Command } from './command.js';

const DEFAULT_MAX_BUFFER_BYTES = 16 * 1024 * 1024;

/** What a command did. A non-zero exit code is a result, not an error. */
export interface ExecResult<T extends string | Buffer = string> {
  argv: readonly ByteString[];
  /** Null when a signal ended the command, or when it was cut off. */
  exitCode: number | null;
  /** The signal that ended the command. */
  signal: NodeJS.Signals | null;
  stdout: T;
  /** Empty with a pty. */
  stderr: T;
  /** From the call to the result, milliseconds. */
  durationMs: number;
  /** Peak memory of the command, KiB. */
  maxRssKiB: number;
  /** True only in `error.result` of `VMF_TIMEOUT`. */
  timedOut: boolean;
  /** True only in `error.result` of `VMF_ABORTED`. */
  aborted: boolean;
}

/** Starts a command with the streams that it is to have. */
export type StartCommand = (options: SpawnOptions) => Command;

/** Runs what `start` starts to its end; see `vm.exec()`. */
export function execute(
  start: StartCommand,
  argv: readonly ByteString[],
  options: ExecOptions & { encoding: 'buffer' },
): Promise<ExecResult<Buffer>>;
export function execute(
  start: StartCommand,
  argv: readonly ByteString[],
  options?: ExecOptions,
): Promise<ExecResult<string>>;
export async function execute(
  start: StartCommand,
  argv: readonly ByteString[],
  options: ExecOptions = {},
): Promise<ExecResult<string> | ExecResult<Buffer>> {
  checkOptions('exec', EXEC_OPTIONS, options);
  throwIfAborted('exec', options.signal);
  const startedAt = performance.now();
  const { stdin, timeoutMs, signal, maxBuffer, encoding, ...rest } = options;
  const command = start({ ...rest, stdin: stdin === undefined ? 'ignore' : 'pipe' });
  const stop = watchLimits('exec', { timeoutMs, signal }, (error) => command.abandon(error));
  const most = maxBuffer ?? DEFAULT_MAX_BUFFER_BYTES;
  const output = new Output(command, most);
  if (stdin !== undefined) feed(command, stdin);
  const snapshotOf = (
    status: Partial<ExecResult>,
    error?: VmforkError,
  ): ExecResult<string> | ExecResult<Buffer> => {
    const common = {
      argv,
      exitCode: status.exitCode ?? null,
      signal: status.signal ?? null,
      durationMs: performance.now() - startedAt,
      maxRssKiB: status.maxRssKiB ?? 0,
      timedOut: error?.code === 'VMF_TIMEOUT',
      aborted: error?.code === 'VMF_ABORTED',
    };
    const [stdoutBytes, stderrBytes] = output.take();
    return encoding === 'buffer'
      ? { ...common, stdout: stdoutBytes, stderr: stderrBytes }
      : { ...common, stdout: stdoutBytes.toString(), stderr: stderrBytes.toString() };
  };
  try {
    const status = await command.exited;
    await output.complete;
    return snapshotOf(status);
  } catch (error) {
    throw withResult(error, snapshotOf({}, VmforkError.is(error) ? error : undefined));
  } finally {
    stop();
  }
}

/** Collects stdout and stderr up to a limit they share. */
class Output {
  readonly #stdout: Buffer[] = [];
  readonly #stderr: Buffer[] = [];
  readonly complete: Promise<unknown>;
  #bytes = 0;

  constructor(command: Command, mostBytes: number) {
    const collect = (stream: Readable | null, chunks: Buffer[]): Promise<void> => {
      if (!stream) return Promise.resolve();
      stream.on('data', (chunk: Buffer) => {
        const room = mostBytes - this.#bytes;
        this.#bytes += Math.min(room, chunk.length);
        chunks.push(chunk.length > room ? chunk.subarray(0, room) : chunk);
        if (chunk.length > room)
          command.abandon(new VmforkError('VMF_OUTPUT_LIMIT', `${mostBytes} bytes`));
      });
      // An error of the stream is the command's error, which is reported by `exited`.
      return new Promise((resolve) => finished(stream, () => resolve()));
    };
    this.complete = Promise.all([
      collect(command.stdout, this.#stdout),
      collect(command.stderr, this.#stderr),
    ]);
  }

  take(): [stdout: Buffer, stderr: Buffer] {
    return [Buffer.concat(this.#stdout), Buffer.concat(this.#stderr)];
  }
}

function feed(command: Command, stdin: NonNullable<ExecOptions['stdin']>): void {
  const target = command.stdin;
  if (!target) return;
  if (typeof stdin === 'string' || stdin instanceof Uint8Array) {
    target.on('error', () => {}); // A command need not read all of its input.
    target.end(stdin);
    return;
  }
  pipeline(stdin, target).catch((error: NodeJS.ErrnoException) => {
    // Ending before all input was read is the command's right; a source that fails is not.
    const stopped =
      error.code === 'ERR_STREAM_PREMATURE_CLOSE' || error.code === 'ERR_STREAM_DESTROYED';
    if (!stopped && !VmforkError.is(error)) {
      command.abandon(
        new VmforkError('VMF_ABORTED', 'the source of stdin failed', { cause: error }),
      );
    }
  });
}

// The error of a cut-off command belongs to this call alone, except when the whole machine ended: that one is copied.
function withResult(error: unknown, result: unknown): unknown {
  if (!VmforkError.is(error)) return error;
  const { code, message, ...context } = error;
  const copy = new VmforkError(code, '', { ...context, cause: error.cause, result });
  copy.message = message;
  return copy;
}
