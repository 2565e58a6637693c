// Who a machine is. Every boot and every fork draws all of it anew, because a clone that shares ids or random state with
// its siblings is a security hole, not a copy.

import { randomFillSync } from 'node:crypto';
import { VmforkError } from '../errors.js';
import {
  type Acknowledgement,
  encodeResume,
  type IdentityBytes,
  ResumeKind,
  resumeTime,
  stampTime,
} from '../exec/messages.js';
import type { Session } from '../exec/session.js';
import type { WaitOptions } from '../waiting.js';

const ID_BYTES = 16;
// Twice what the kernel's generator needs for a full reseed (random.c: 256 bits).
const ENTROPY_BYTES = 64;
// Random bytes are drawn for many machines at once: one call to the generator costs more than what it yields.
const POOL_BYTES = 4096;
const pool = Buffer.alloc(POOL_BYTES);
let poolUsed = POOL_BYTES;

/** The number of the RESUME that lies in a clone's channel; the session counts its own from 1. */
export const FORK_RESUME = 0;

// What is promised (SPECIFICATION.md), and the quarter of it that is aimed at first.
const MOST_SKEW_MS = 1000;
const GOOD_SKEW_MS = 250;
const GOOD_CLOCK_ATTEMPTS = 3;
const CLOCK_ATTEMPTS = 10;

/** What tells a machine from its siblings. */
export interface Identity {
  /** New for every boot and fork, hex. */
  readonly generationId: string;
  /** vsock address of the guest, unique in its engine. */
  readonly cid: number;
  readonly hostname: string;
  /** As in /etc/machine-id. */
  readonly machineId: string;
  /** As in /proc/sys/kernel/random/boot_id. */
  readonly bootId: string;
}

/** Draws an identity. */
export function createIdentity(cid: number, hostname?: string): Identity {
  const random = drawRandom(3 * ID_BYTES);
  const generationId = random.toString('hex', 0, ID_BYTES);
  return {
    generationId,
    cid,
    hostname: hostname ?? `vmfork-${generationId.slice(0, 8)}`,
    machineId: uuidVersion4(random.subarray(ID_BYTES, 2 * ID_BYTES)).toString('hex'),
    bootId: uuidText(uuidVersion4(random.subarray(2 * ID_BYTES))),
  };
}

/** The `RESUME` frame for an identity, with fresh entropy and the wall clock of this moment. */
export function encodeIdentity(
  value: number,
  identity: Identity,
  kind: number = ResumeKind.NEW_MACHINE,
): Buffer {
  const bytes: IdentityBytes = {
    generationId: Buffer.from(identity.generationId, 'hex'),
    entropy: drawRandom(ENTROPY_BYTES),
    realtimeNs: realtimeNs(),
    hostname: identity.hostname,
    machineId: identity.machineId,
    cid: identity.cid,
    bootId: identity.bootId,
  };
  return encodeResume(value, bytes, kind);
}

/** An identity and the `RESUME` that lies in the clone's channel. */
export interface ForkIdentity {
  identity: Identity;
  resume: Buffer;
  /** The time in it. */
  time: DataView;
}

/** Identities for forks. One is drawn ahead, while nobody waits for it; each is given out once. */
export class IdentityStock {
  readonly #newCid: () => number;
  #ready: ForkIdentity | undefined;

  constructor(newCid: () => number) {
    this.#newCid = newCid;
  }

  /** With the wall clock of this moment. */
  take(hostname?: string): ForkIdentity {
    const taken = hostname === undefined && this.#ready ? this.#ready : this.#draw(hostname);
    if (taken === this.#ready) this.#ready = undefined;
    stampTime(taken.time, Date.now());
    return taken;
  }

  refill(): void {
    this.#ready ??= this.#draw();
  }

  #draw(hostname?: string): ForkIdentity {
    const identity = createIdentity(this.#newCid(), hostname);
    const resume = encodeIdentity(FORK_RESUME, identity);
    return { identity, resume, time: resumeTime(resume) };
  }
}

// Our own kernels say so in their release (CONFIG_LOCALVERSION).
const OWN_KERNEL = /-vmfork$/;

/** What was frozen: its CID, and the release of its kernel. */
export interface FrozenGuest {
  readonly cid: number;
  readonly kernel: string;
}

/**
 * Throws `VMF_IDENTITY` when the agent did not apply what it was given. Our kernel's vsock driver takes its new CID from
 * the interrupt that comes with the identity, before any program runs. Other kernels keep the CID that they booted with,
 * or have none.
 */
export function checkAcknowledged(
  identity: Identity,
  acknowledged: Acknowledgement,
  parent: FrozenGuest,
): void {
  const generationId = acknowledged.generationId?.toString('hex');
  if (generationId !== identity.generationId) {
    throw new VmforkError('VMF_IDENTITY', `generation id is ${generationId ?? 'missing'}`);
  }
  const cid = acknowledged.cid ?? 0;
  const keepsCid = !OWN_KERNEL.test(parent.kernel) && (cid === parent.cid || cid === 0);
  if (cid !== identity.cid && !keepsCid) {
    throw new VmforkError('VMF_IDENTITY', `CID is ${cid}, must be ${identity.cid}`);
  }
}

/**
 * A busy host may run the guest late, and then the time it was given is old when it is applied. As long as the guest says a
 * time that differs from ours it is given its identity again, with the time of that moment. Throws `VMF_IDENTITY` when it
 * never says one that will do.
 */
export async function settleClock(
  session: Session,
  identity: Identity,
  first: Acknowledgement,
  limits: WaitOptions,
): Promise<void> {
  let answer = first;
  for (let attempt = 0; ; attempt++) {
    const skew = skewMs(answer);
    if (skew <= (attempt < GOOD_CLOCK_ATTEMPTS ? GOOD_SKEW_MS : MOST_SKEW_MS)) return;
    if (attempt === CLOCK_ATTEMPTS) {
      throw new VmforkError('VMF_IDENTITY', `its clock is ${skew} ms off`);
    }
    await session.quiesce(limits);
    const value = attempt + 1;
    const frame = encodeIdentity(value, identity, ResumeKind.SAME_MACHINE);
    answer = await session.resume(value, frame, limits);
  }
}

function realtimeNs(): bigint {
  return BigInt(Date.now()) * 1_000_000n;
}

/** How far the guest's clock is from ours, counting in the way of the answer. */
function skewMs({ realtimeNs }: Acknowledgement): number {
  return realtimeNs === undefined ? 0 : Math.abs(Date.now() - Number(realtimeNs / 1_000_000n));
}

/** Bytes that nobody else gets, and that the pool forgets. */
function drawRandom(count: number): Buffer {
  if (poolUsed + count > POOL_BYTES) {
    randomFillSync(pool);
    poolUsed = 0;
  }
  const start = poolUsed;
  poolUsed += count;
  const bytes = Buffer.from(pool.subarray(start, poolUsed));
  pool.fill(0, start, poolUsed);
  return bytes;
}

/** Sets the version and variant bits of RFC 9562, section 5.4; machine-id(5) asks for them too. */
function uuidVersion4(bytes: Buffer): Buffer {
  bytes.writeUInt8((bytes.readUInt8(6) & 0x0f) | 0x40, 6);
  bytes.writeUInt8((bytes.readUInt8(8) & 0x3f) | 0x80, 8);
  return bytes;
}

function uuidText(bytes: Buffer): string {
  return bytes.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
}
