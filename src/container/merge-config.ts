// What an image's config and the caller's options mean together, by the rules of `docker run`.

import { isAbsolute, posix } from 'node:path';
import { type ByteString, variable } from '../byte-string.js';
import { VmforkError } from '../errors.js';
import { signalNumber } from '../exec/signals.js';
import { checkOptions } from '../options.js';
import { ALL_CAPABILITIES, capabilitySet } from './capabilities.js';
import { rlimitsOf } from './rlimits.js';
import { CONTAINER_OPTIONS, type ContainerOptions, MAX_MOUNTS, type ProcessSpec } from './spec.js';
import { tmpfsMount } from './tmpfs.js';

/** The members of an image's config that say how to run it (OCI image specification, config.md). */
export interface RunConfig {
  User?: string | undefined;
  Env?: readonly string[] | undefined;
  Entrypoint?: readonly string[] | undefined;
  Cmd?: readonly string[] | undefined;
  Volumes?: readonly string[] | undefined;
  WorkingDir?: string | undefined;
  StopSignal?: string | undefined;
}

/** What the machine adds. */
export interface RunContext {
  /** A terminal gives a TERM. */
  pty?: boolean | undefined;
}

const DEFAULT_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/**
 * Says exactly what to run. Throws `VMF_OPTIONS` when an option is wrong or there is nothing to run, `VMF_IMAGE_INVALID`
 * when the config cannot be used.
 */
export function mergeConfig(
  config: RunConfig = {},
  options: ContainerOptions = {},
  context: RunContext = {},
): ProcessSpec {
  checkOptions('run', CONTAINER_OPTIONS, options);
  const privileged = options.privileged ?? false;
  const { capAdd = [], capDrop = [] } = options;
  return {
    argv: mergeArgv(config, options),
    env: mergeEnv(config.Env ?? [], options.env ?? {}, context),
    cwd: options.cwd ?? workingDirectory(config.WorkingDir),
    user: options.user ?? config.User ?? '',
    stopSignal: stopSignalOf(options.stopSignal, config.StopSignal),
    init: options.init ?? false,
    privileged,
    noNewPrivileges: options.noNewPrivileges ?? false,
    readOnly: options.readOnly ?? false,
    capabilities: privileged ? ALL_CAPABILITIES : capabilitySet(capAdd, capDrop),
    tmpfs: Object.entries(options.tmpfs ?? {}).map(([path, text]) => tmpfsMount(path, text)),
    volumes: mergeVolumes(config.Volumes ?? [], options.volumes ?? []),
    rlimits: rlimitsOf(options.rlimits ?? {}),
    umask: options.umask,
    oomScoreAdj: options.oomScoreAdj,
    memoryMaxBytes: options.memoryMaxBytes,
    pidsMax: options.pidsMax,
    cpuWeight: options.cpuWeight,
  };
}

/** A given entrypoint replaces the image's and its Cmd; given arguments replace the Cmd alone. */
function mergeArgv(config: RunConfig, options: ContainerOptions): ByteString[] {
  const entrypoint = options.entrypoint ?? config.Entrypoint ?? [];
  const own = options.argv && options.argv.length > 0 ? options.argv : undefined;
  const rest = own ?? (options.entrypoint ? [] : (config.Cmd ?? []));
  const argv = [...entrypoint, ...rest];
  if (!argv[0]?.length) {
    throw new VmforkError('VMF_OPTIONS', 'argv must be given: the image names no command');
  }
  return argv;
}

/** Later ones win; what the machine adds comes first, so that image and caller can replace it. */
function mergeEnv(
  image: readonly string[],
  own: Readonly<Record<string, ByteString | undefined>>,
  { pty }: RunContext,
): ByteString[] {
  const merged = new Map<string, ByteString>([['PATH', DEFAULT_PATH]]);
  if (pty) merged.set('TERM', 'xterm');
  for (const line of image) {
    const sign = line.indexOf('=');
    // Old images have names without a value: Docker unsets those.
    if (sign > 0) merged.set(line.slice(0, sign), line.slice(sign + 1));
  }
  for (const [name, value] of Object.entries(own)) {
    if (value === undefined) merged.delete(name);
    else merged.set(name, value);
  }
  return [...merged].map(([name, value]) => variable(name, value));
}

function workingDirectory(path: string | undefined): string {
  // A relative one is meant from the root.
  return path ? posix.resolve('/', path) : '/';
}

function mergeVolumes(image: readonly string[], own: readonly string[]): string[] {
  for (const path of image) {
    if (!isAbsolute(path)) throw new VmforkError('VMF_IMAGE_INVALID', `volume ${path}`);
  }
  const volumes = [...new Set([...image, ...own].map((path) => posix.resolve(path)))];
  if (volumes.length > MAX_MOUNTS) {
    throw new VmforkError('VMF_IMAGE_INVALID', `${volumes.length} volumes, at most ${MAX_MOUNTS}`);
  }
  return volumes;
}

function stopSignalOf(own: string | number | undefined, image: string | undefined): number {
  if (own !== undefined) return parseSignal(own);
  try {
    return image ? parseSignal(image) : parseSignal('SIGTERM');
  } catch (error) {
    throw new VmforkError('VMF_IMAGE_INVALID', `StopSignal ${image}`, { cause: error });
  }
}

/** `SIGTERM`, `TERM`, `15`, 15 and real-time signals like `SIGRTMIN+3`. */
function parseSignal(given: string | number): number {
  const text = String(given).toUpperCase();
  if (/^\d+$/.test(text)) return signalNumber(Number(text));
  const realTime = /^(?:SIG)?RTM(IN|AX)(?:([+-])(\d+))?$/.exec(text);
  if (!realTime)
    return signalNumber((text.startsWith('SIG') ? text : `SIG${text}`) as NodeJS.Signals);
  const [, end, sign, digits = '0'] = realTime;
  const base = end === 'IN' ? RTMIN : RTMAX;
  return signalNumber(base + (sign === '-' ? -1 : 1) * Number(digits));
}

const RTMIN = 34;
const RTMAX = 64;
