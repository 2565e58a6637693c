// The container's part of the control protocol (docs/protocol.md, "Containers"): payloads of MOUNT_ROOTFS and the
// container tags of EXEC.

import { encodeTlvs, Tag, type Tlv } from '../exec/tlv.js';
import type { ProcessSpec, Rlimit, TmpfsMount } from './spec.js';

/** Bits of the CONTAINER tag. */
export const ContainerFlag = {
  MAIN: 1,
  TOOL: 2,
  INIT: 4,
  PRIVILEGED: 8,
  NO_NEW_PRIVS: 16,
  READ_ONLY: 32,
} as const;

/** Where what the container writes goes. */
export type Writable = 'memory' | 'disk' | false;

/** What MOUNT_ROOTFS says. */
export interface MountRequest {
  /** The guest's name of the disk that holds the image, e.g. `vdb`. */
  device: string;
  /** Its file system. Default: the agent tries erofs, squashfs and ext4. */
  fsType?: 'erofs' | 'squashfs' | 'ext4' | undefined;
  writable: Writable;
  /** With `'disk'`: the guest's name of the disk that holds an empty ext4. */
  scratchDevice?: string | undefined;
  /** With `'memory'`: most bytes that can be written. Default: half of the guest's memory. */
  upperBytes?: number | undefined;
  /** Lines added to /etc/hosts. */
  extraHosts?: string | undefined;
  /** The whole of /etc/resolv.conf. */
  resolvConf?: string | undefined;
}

const WRITABLE_NUMBERS = { none: 0, memory: 1, disk: 2 } as const;

/** Encodes the payload of MOUNT_ROOTFS. */
export function encodeMount(request: MountRequest): Buffer {
  const items: Tlv[] = [
    [Tag.DEVICE, request.device],
    [Tag.WRITABLE, WRITABLE_NUMBERS[request.writable || 'none']],
  ];
  if (request.fsType !== undefined) items.push([Tag.FS_TYPE, request.fsType]);
  if (request.scratchDevice !== undefined) items.push([Tag.SCRATCH, request.scratchDevice]);
  if (request.upperBytes !== undefined) items.push([Tag.UPPER_BYTES, BigInt(request.upperBytes)]);
  if (request.extraHosts !== undefined) items.push([Tag.HOSTS_EXTRA, request.extraHosts]);
  if (request.resolvConf !== undefined) items.push([Tag.RESOLV_CONF, request.resolvConf]);
  return encodeTlvs(items);
}

/** The container tags for a main process. */
export function mainItems(spec: ProcessSpec): Tlv[] {
  const items = insideItems(spec, ContainerFlag.MAIN);
  for (const mount of spec.tmpfs) items.push([Tag.TMPFS, encodeTmpfs(mount)]);
  for (const path of spec.volumes) items.push([Tag.VOLUME, path]);
  if (spec.memoryMaxBytes !== undefined) {
    items.push([Tag.MEMORY_MAX, BigInt(spec.memoryMaxBytes)]);
  }
  if (spec.pidsMax !== undefined) items.push([Tag.PIDS_MAX, BigInt(spec.pidsMax)]);
  if (spec.cpuWeight !== undefined) items.push([Tag.CPU_WEIGHT, spec.cpuWeight]);
  return items;
}

/** The container tags for a further process, with the privileges of the specification. */
export function insideItems(spec: ProcessSpec, kind = 0): Tlv[] {
  const main = kind === ContainerFlag.MAIN;
  const flags =
    kind |
    (main && spec.init ? ContainerFlag.INIT : 0) |
    (main && spec.readOnly ? ContainerFlag.READ_ONLY : 0) |
    (spec.privileged ? ContainerFlag.PRIVILEGED : 0) |
    (spec.noNewPrivileges ? ContainerFlag.NO_NEW_PRIVS : 0);
  const items: Tlv[] = [
    [Tag.CONTAINER, flags],
    [Tag.USER, spec.user],
    [Tag.CAPABILITIES, spec.capabilities],
  ];
  for (const rlimit of spec.rlimits) items.push([Tag.RLIMIT, encodeRlimit(rlimit)]);
  if (spec.umask !== undefined) items.push([Tag.UMASK, spec.umask]);
  if (spec.oomScoreAdj !== undefined) items.push([Tag.OOM_SCORE_ADJ, spec.oomScoreAdj >>> 0]);
  return items;
}

/** The container tag for a program of the agent's side that runs in the container's root. */
export function toolItems(): Tlv[] {
  return [[Tag.CONTAINER, ContainerFlag.TOOL]];
}

function encodeTmpfs({ path, flags, options }: TmpfsMount): Buffer {
  const head = Buffer.alloc(4);
  head.writeUInt32LE(flags);
  return Buffer.concat([head, Buffer.from(`${path}\0${options}`)]);
}

function encodeRlimit({ resource, soft, hard }: Rlimit): Buffer {
  const bytes = Buffer.alloc(20);
  bytes.writeUInt32LE(resource, 0);
  bytes.writeBigUInt64LE(soft, 4);
  bytes.writeBigUInt64LE(hard, 12);
  return bytes;
}
