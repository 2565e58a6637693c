// One member of a tar archive: its header block and extended headers made one, checked, with nothing decided about layers.

import { beyondLimit, invalidLayer, type LayerPlace, type RootfsLimits } from './limits.js';
import type { PaxRecords } from './pax.js';
import { parseSparseList, readOldSparseBlock, type SparseMap } from './sparse.js';
import { decimal, numberField, paxTime, type Time, textField } from './tar-numbers.js';

export type MemberType = 'file' | 'hardlink' | 'symlink' | 'char' | 'block' | 'directory' | 'fifo';

/** A member of an archive. Texts are byte strings: one character a byte. */
export interface TarMember {
  place: LayerPlace;
  type: MemberType;
  path: string;
  /** Target of a link, else empty. */
  linkPath: string;
  /** Permission bits, 0 to 0o7777. */
  mode: number;
  uid: number;
  gid: number;
  time: Time;
  /** Size of the file, bytes; 0 for all other types. */
  sizeBytes: number;
  /** Bytes of it in the archive, fewer than `sizeBytes` in a sparse file. */
  storedBytes: number;
  major: number;
  minor: number;
  xattrs: Map<string, Buffer> | undefined;
  /** Where the stored bytes belong in a sparse file. */
  sparse: SparseMap | undefined;
  /** The map lies before the data (PAX 1.0), or in further header blocks (old GNU). */
  mapFollows: 'data' | 'header' | undefined;
}

/** What GNU's long-name headers said about the next member. */
export interface LongNames {
  path?: string;
  linkPath?: string;
}

// Offsets and lengths of the fields, POSIX.1-2017 pax, "ustar Header Block".
const NAME = [0, 100] as const;
const MODE = [100, 8] as const;
const UID = [108, 8] as const;
const GID = [116, 8] as const;
const SIZE = [124, 12] as const;
const MTIME = [136, 12] as const;
const LINK = [157, 100] as const;
const MAGIC = [257, 8] as const;
const MAJOR = [329, 8] as const;
const MINOR = [337, 8] as const;
const PREFIX = [345, 155] as const;
const GNU_REAL_SIZE = [483, 12] as const;
const TYPE_OFFSET = 156;

const USTAR = 'ustar\0' + '00';
const MAX_ID = 0xfffffffe;
const MAX_MAJOR = 0xfff;
const MAX_MINOR = 0xfffff;
const PERMISSION_BITS = 0o7777;

const TYPES: Readonly<Record<string, MemberType>> = {
  '\0': 'file',
  '0': 'file',
  '1': 'hardlink',
  '2': 'symlink',
  '3': 'char',
  '4': 'block',
  '5': 'directory',
  '6': 'fifo',
  '7': 'file',
  S: 'file',
};

export const typeFlag = (block: Buffer): string =>
  block.toString('latin1', TYPE_OFFSET, TYPE_OFFSET + 1);

/** The type of a member; undefined when it is none that is known. Old archives mark directories by their names. */
function memberType(flag: string, path: string): MemberType | undefined {
  const type = TYPES[flag];
  return type === 'file' && path.endsWith('/') ? 'directory' : type;
}

/**
 * Name and target of a member: GNU's long names win over PAX records, as in Go's archive/tar, which made most images and
 * reads them, and both over the header block.
 */
const namePath = (block: Buffer, pax: PaxRecords, long: LongNames): string =>
  long.path ?? pax.text('path') ?? blockPath(block);
const nameLink = (block: Buffer, pax: PaxRecords, long: LongNames): string =>
  long.linkPath ?? pax.text('linkpath') ?? textField(block, ...LINK);

/** The size that a header block itself records, for extended headers. */
export function recordedSize(block: Buffer, place: LayerPlace): number {
  return required(numberField(block, ...SIZE), 'size', place);
}

/** Makes a member of a header block and what extended headers said before it. */
export function readMember(
  block: Buffer,
  pax: PaxRecords,
  long: LongNames,
  where: LayerPlace,
  limits: RootfsLimits,
): TarMember {
  const flag = typeFlag(block);
  const path = pax.text('GNU.sparse.name') ?? namePath(block, pax, long);
  const place = { ...where, name: path };
  const type = memberType(flag, path);
  if (!type) throw invalidLayer(place, `type ${JSON.stringify(flag)} is not supported`);
  const storedBytes = type === 'file' ? paxOr(pax, 'size', block, SIZE, place) : 0;
  // Others take it for a file, and what we take for the next header for its content.
  if (TYPES[flag] !== type && paxOr(pax, 'size', block, SIZE, place) > 0) {
    throw invalidLayer(place, 'a directory with content');
  }
  const isDevice = type === 'char' || type === 'block';
  const isLink = type === 'hardlink' || type === 'symlink';
  const member: TarMember = {
    place,
    type,
    path,
    linkPath: isLink ? nameLink(block, pax, long) : '',
    mode: required(numberField(block, ...MODE), 'mode', place) & PERMISSION_BITS,
    uid: within(paxOr(pax, 'uid', block, UID, place), MAX_ID, 'uid', place),
    gid: within(paxOr(pax, 'gid', block, GID, place), MAX_ID, 'gid', place),
    time: memberTime(block, pax, place),
    sizeBytes: storedBytes,
    storedBytes,
    major: isDevice ? deviceNumber(block, MAJOR, MAX_MAJOR, place) : 0,
    minor: isDevice ? deviceNumber(block, MINOR, MAX_MINOR, place) : 0,
    xattrs: memberXattrs(pax, place, limits),
    sparse: undefined,
    mapFollows: undefined,
  };
  if (type === 'file') addSparseMap(member, block, pax, flag);
  return member;
}

/** POSIX splits long names in two; GNU, whose magic ends in a space, has other fields in place of the prefix. */
function blockPath(block: Buffer): string {
  const name = textField(block, ...NAME);
  const magic = block.toString('latin1', MAGIC[0], MAGIC[0] + MAGIC[1]);
  const prefix = magic === USTAR ? textField(block, ...PREFIX) : '';
  return prefix === '' ? name : `${prefix}/${name}`;
}

function memberTime(block: Buffer, pax: PaxRecords, place: LayerPlace): Time {
  const text = pax.text('mtime');
  if (text !== undefined) {
    const time = paxTime(text);
    if (!time) throw invalidLayer(place, 'its time is malformed');
    return time;
  }
  const seconds = numberField(block, ...MTIME);
  if (seconds === undefined) throw invalidLayer(place, 'its time is malformed');
  return { seconds, nanoseconds: 0 };
}

function memberXattrs(pax: PaxRecords, place: LayerPlace, limits: RootfsLimits) {
  const xattrs = pax.xattrs();
  let total = 0;
  for (const [name, value] of xattrs ?? []) total += name.length + value.length;
  if (total > limits.xattrBytes) throw beyondLimit(place, 'xattrBytes', limits.xattrBytes);
  return xattrs;
}

/** GNU's sparse formats: old (type S), PAX 0.0 and 0.1 (the map in the records), 1.0 (the map before the data). */
function addSparseMap(member: TarMember, block: Buffer, pax: PaxRecords, flag: string): void {
  const { place } = member;
  if (flag === 'S') {
    const map: SparseMap = [];
    const more = readOldSparseBlock(block, false, map);
    if (more === undefined) throw invalidLayer(place, 'its sparse map is malformed');
    member.sizeBytes = natural(numberField(block, ...GNU_REAL_SIZE), 'size', place);
    member.sparse = map;
    if (more) member.mapFollows = 'header';
    return;
  }
  const real = pax.text('GNU.sparse.realsize') ?? pax.text('GNU.sparse.size');
  const isOne = pax.text('GNU.sparse.major') === '1';
  if (real === undefined) {
    // Others take some of these for sparse: what two readers understand in two ways is no content for either.
    if (isOne || pax.describesSparse) throw invalidLayer(place, 'a sparse file without a size');
    return;
  }
  member.sizeBytes = required(decimal(real), 'size', place);
  if (isOne) {
    member.sparse = [];
    member.mapFollows = 'data';
    return;
  }
  const list = pax.text('GNU.sparse.map')?.split(',') ?? pax.sparsePairs;
  const map = parseSparseList(list);
  if (!map) throw invalidLayer(place, 'its sparse map is malformed');
  member.sparse = map;
}

type Field = readonly [offset: number, length: number];

/** A number of a PAX record, or of the header block when there is no record. */
function paxOr(pax: PaxRecords, key: string, block: Buffer, field: Field, place: LayerPlace) {
  const text = pax.text(key);
  return natural(text === undefined ? numberField(block, ...field) : decimal(text), key, place);
}

function deviceNumber(block: Buffer, field: Field, most: number, place: LayerPlace): number {
  return within(natural(numberField(block, ...field), 'device', place), most, 'device', place);
}

function required(value: number | undefined, what: string, place: LayerPlace): number {
  if (value === undefined) throw invalidLayer(place, `its ${what} is malformed`);
  return value;
}

function natural(value: number | undefined, what: string, place: LayerPlace): number {
  if (value === undefined || value < 0) throw invalidLayer(place, `its ${what} is malformed`);
  return value;
}

function within(value: number, most: number, what: string, place: LayerPlace): number {
  if (value > most) throw invalidLayer(place, `its ${what} is out of range`);
  return value;
}
