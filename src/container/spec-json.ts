// What a snapshot remembers of containers: as JSON beside its state, and hostile input when it is loaded.

import * as v from 'valibot';
import type { ByteString } from '../byte-string.js';
import { VmforkError } from '../errors.js';
import type { Attached } from './attach.js';
import type { ProcessSpec } from './spec.js';

const MAX_WORDS = 65_536;
const U64_MAX = (1n << 64n) - 1n;

const text = v.pipe(
  v.string(),
  v.check((value) => !value.includes('\0'), 'has a NUL'),
);
const words = v.pipe(v.array(text), v.maxLength(MAX_WORDS));
// What is no text is written in base64.
const bytes = v.union([
  text,
  v.pipe(
    v.object({ base64: v.pipe(v.string(), v.base64()) }),
    v.transform(({ base64 }) => Buffer.from(base64, 'base64')),
    v.check((value) => !value.includes(0), 'has a NUL'),
  ),
]);
const byteWords = v.pipe(v.array(bytes), v.maxLength(MAX_WORDS));
const u64 = v.pipe(
  v.string(),
  v.regex(/^\d{1,20}$/),
  v.transform((digits) => BigInt(digits)),
  v.check((value) => value <= U64_MAX, 'is above 64 bits'),
);
const count = v.pipe(v.number(), v.safeInteger());

const config = v.object({
  User: v.optional(text),
  Env: v.optional(words),
  Entrypoint: v.optional(words),
  Cmd: v.optional(words),
  Volumes: v.optional(words),
  WorkingDir: v.optional(text),
  StopSignal: v.optional(text),
});

const main = v.object({
  argv: v.pipe(byteWords, v.minLength(1)),
  env: byteWords,
  cwd: bytes,
  user: text,
  stopSignal: v.pipe(count, v.minValue(1), v.maxValue(64)),
  init: v.boolean(),
  privileged: v.boolean(),
  noNewPrivileges: v.boolean(),
  readOnly: v.boolean(),
  capabilities: u64,
  rlimits: v.array(v.object({ resource: count, soft: u64, hard: u64 })),
  umask: v.optional(count),
  oomScoreAdj: v.optional(count),
});

const containment = v.object({
  fixedDisks: v.pipe(count, v.minValue(0), v.maxValue(4)),
  rootfs: v.nullable(v.object({ path: text, config, scratch: v.boolean() })),
  main: v.nullable(main),
});

/** What of containers a machine hands on to its clones. */
export interface Containment {
  /** Disks that the guest was booted with; the drives come behind them. */
  readonly fixedDisks: number;
  /** The root filesystem that is mounted. */
  readonly rootfs: Attached | null;
  /** The main process that runs. */
  readonly main: ProcessSpec | null;
}

const bytesToJson = (value: ByteString) =>
  typeof value === 'string' ? value : { base64: Buffer.from(value).toString('base64') };

/** As JSON can hold it: 64-bit numbers as decimal digits, bytes that are no string in base64. */
export function containmentToJson({ fixedDisks, rootfs, main: spec }: Containment): unknown {
  if (!spec) return { fixedDisks, rootfs, main: null };
  const { tmpfs: _tmpfs, volumes: _volumes, ...rest } = spec;
  const rlimits = spec.rlimits.map(({ resource, soft, hard }) => ({
    resource,
    soft: String(soft),
    hard: String(hard),
  }));
  return {
    fixedDisks,
    rootfs,
    main: {
      ...rest,
      argv: spec.argv.map(bytesToJson),
      env: spec.env.map(bytesToJson),
      cwd: bytesToJson(spec.cwd),
      capabilities: String(spec.capabilities),
      rlimits,
    },
  };
}

/** Reads it back; throws `VMF_SNAPSHOT_INVALID`. */
export function parseContainment(value: unknown): Containment {
  const result = v.safeParse(containment, value);
  if (!result.success) {
    const [issue] = result.issues;
    const at = v.getDotPath(issue) ?? '';
    throw new VmforkError('VMF_SNAPSHOT_INVALID', `metadata.containment.${at}: ${issue.message}`);
  }
  const { main: spec, ...rest } = result.output;
  // Its mounts are in the machine; only their making needed the lists.
  return { ...rest, main: spec && { ...spec, tmpfs: [], volumes: [] } };
}
