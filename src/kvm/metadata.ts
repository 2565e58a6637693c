// What a snapshot says about itself: kept as JSON beside its state, and hostile input when it is loaded.

import { type Containment, containmentToJson, parseContainment } from '../container/spec-json.js';
import { VmforkError } from '../errors.js';
import { isForkPointName, MAX_WAITING } from '../exec/fork-point.js';
import type { AgentInfo } from '../exec/messages.js';
import { VERSION } from '../version.js';

const FORMAT = 1;
const TEXT_FIELDS = ['vmforkVersion', 'createdAt', 'guest'] as const;
const NUMBER_FIELDS = ['cid', 'generation'] as const;
const AGENT_TEXTS = ['build', 'kernel', 'bootNonce'] as const;
const AGENT_NUMBERS = ['generation', 'cpus', 'bootNs'] as const;

/** About a snapshot. */
export interface SnapshotMetadata {
  format: number;
  /** Version of the library that took it. */
  vmforkVersion: string;
  /** ISO 8601. */
  createdAt: string;
  /** Identity of the guest's build, or the kernel's path for a guest brought along. */
  guest: string;
  /** vsock address of the frozen machine. */
  cid: number;
  agent: AgentInfo;
  /** How many forks lie between the boot and the frozen machine: 0 for a template's. */
  generation: number;
  /** Names of the fork points at which processes wait, in the order of their coming. */
  forkPoints: readonly string[];
  /** @internal The root filesystem and the container in it. */
  containment: Containment;
}

type Facts = Omit<SnapshotMetadata, 'format' | 'vmforkVersion' | 'createdAt'>;

export function createMetadata(facts: Facts): SnapshotMetadata {
  const createdAt = new Date().toISOString();
  return { format: FORMAT, vmforkVersion: VERSION, createdAt, ...facts };
}

/** As text, for {@link parseMetadata}. */
export function serializeMetadata(metadata: SnapshotMetadata): string {
  return JSON.stringify({ ...metadata, containment: containmentToJson(metadata.containment) });
}

/** Reads metadata back; throws `VMF_SNAPSHOT_INVALID` or `VMF_SNAPSHOT_INCOMPATIBLE`. */
export function parseMetadata(json: string): SnapshotMetadata {
  const value = asObject('metadata', parseJson(json));
  if (value.format !== FORMAT) {
    throw new VmforkError(
      'VMF_SNAPSHOT_INCOMPATIBLE',
      `metadata has format ${String(value.format)}, this library reads ${FORMAT}`,
    );
  }
  const agent = asObject('metadata.agent', value.agent);
  for (const field of TEXT_FIELDS) assertType(`metadata.${field}`, value[field], 'string');
  for (const field of AGENT_TEXTS) assertType(`metadata.agent.${field}`, agent[field], 'string');
  for (const field of AGENT_NUMBERS) assertType(`metadata.agent.${field}`, agent[field], 'number');
  for (const field of NUMBER_FIELDS) assertType(`metadata.${field}`, value[field], 'number');
  assertForkPoints(value.forkPoints);
  const containment = parseContainment(value.containment);
  return { ...(value as unknown as SnapshotMetadata), containment };
}

function assertForkPoints(names: unknown): void {
  if (Array.isArray(names) && names.length <= MAX_WAITING && names.every(isForkPointName)) return;
  throw new VmforkError('VMF_SNAPSHOT_INVALID', 'metadata.forkPoints is not a list of names');
}

function parseJson(json: string): unknown {
  try {
    return JSON.parse(json);
  } catch (cause) {
    throw new VmforkError('VMF_SNAPSHOT_INVALID', 'metadata is not JSON', { cause });
  }
}

function asObject(name: string, value: unknown): Record<string, unknown> {
  if (typeof value === 'object' && value !== null) return value as Record<string, unknown>;
  throw new VmforkError('VMF_SNAPSHOT_INVALID', `${name} is not an object`);
}

function assertType(name: string, value: unknown, type: 'string' | 'number'): void {
  if (typeof value === type) return;
  throw new VmforkError('VMF_SNAPSHOT_INVALID', `${name} is not a ${type}`);
}
