// What one member of a layer does to the tree below it: an object to place, or a whiteout. Names are checked here, once.
// OCI image specification, layer.md: "Changesets", "Whiteouts", "Opaque Whiteout".

import type { FileData } from './file-data.js';
import type { LayerPlace, RootfsLimits } from './limits.js';
import { beyondLimit, invalidLayer, MAX_NAME_BYTES, MAX_PATH_BYTES } from './limits.js';
import type { SparseMap } from './sparse.js';
import type { MemberType, TarMember } from './tar-entry.js';
import { keptXattrs, type Xattr } from './xattrs.js';

/** Attributes of a file of any type. */
export interface Attributes {
  mode: number;
  uid: number;
  gid: number;
  /** Modification time: seconds since 1970, may be negative. */
  seconds: number;
  nanoseconds: number;
  xattrs: readonly Xattr[];
}

/** One step of applying a layer. Paths are byte strings without `.`, `..` and empty parts; '' is the root. */
export interface LayerEntry extends Attributes {
  place: LayerPlace;
  /** `whiteout`: `path` vanishes. `opaque`: what lower layers have in the directory `path` vanishes. */
  type: MemberType | 'whiteout' | 'opaque';
  path: string;
  /** Of a symbolic link the text, of a hard link the path of the other name. */
  target: string;
  major: number;
  minor: number;
  sizeBytes: number;
  sparse: SparseMap | undefined;
  /** Where the content lies in the image, once it is there. */
  data: FileData | undefined;
}

const WHITEOUT = '.wh.';
const WHITEOUT_META = '.wh..wh.';
const OPAQUE = '.wh..wh..opq';

/** The entry that a member means; undefined for the private files that aufs left in old layers. */
export function layerEntry(member: TarMember, limits: RootfsLimits): LayerEntry | undefined {
  const { place } = member;
  const path = cleanPath(member.path, place, limits);
  const slash = path.lastIndexOf('/');
  const name = path.slice(slash + 1);
  const parent = slash < 0 ? '' : path.slice(0, slash);
  if (name === OPAQUE) return { ...entryOf(member, parent, ''), type: 'opaque' };
  if (name.startsWith(WHITEOUT_META)) return undefined;
  if (!name.startsWith(WHITEOUT)) {
    return entryOf(member, path, linkTarget(member, limits));
  }
  const hidden = name.slice(WHITEOUT.length);
  if (hidden === '' || hidden === '.' || hidden === '..') {
    throw invalidLayer(place, 'a whiteout of no name');
  }
  return {
    ...entryOf(member, parent === '' ? hidden : `${parent}/${hidden}`, ''),
    type: 'whiteout',
  };
}

function entryOf(member: TarMember, path: string, target: string): LayerEntry {
  return {
    place: member.place,
    type: member.type,
    path,
    target,
    mode: member.mode,
    uid: member.uid,
    gid: member.gid,
    seconds: member.time.seconds,
    nanoseconds: member.time.nanoseconds,
    xattrs: keptXattrs(member),
    major: member.major,
    minor: member.minor,
    sizeBytes: member.sizeBytes,
    sparse: member.sparse,
    data: undefined,
  };
}

/**
 * A path inside the tree. A leading slash is dropped, since some builders write their layers so and no path of the host is
 * ever made of it; `..` is refused.
 */
export function cleanPath(path: string, place: LayerPlace, limits: RootfsLimits): string {
  if (path.length > MAX_PATH_BYTES) throw invalidLayer(place, 'its name is too long');
  if (path.includes('\0')) throw invalidLayer(place, 'its name contains a zero byte');
  const parts = path.split('/').filter((part) => part !== '' && part !== '.');
  if (parts.length - 1 > limits.depth) throw beyondLimit(place, 'depth', limits.depth);
  for (const part of parts) {
    if (part === '..') throw invalidLayer(place, 'a name with ".."');
    if (part.length > MAX_NAME_BYTES) throw invalidLayer(place, 'a name of more than 255 bytes');
  }
  return parts.join('/');
}

export function linkTarget(member: TarMember, limits: RootfsLimits): string {
  const { type, linkPath, place } = member;
  if (type === 'hardlink') return cleanPath(linkPath, place, limits);
  if (type !== 'symlink') return '';
  if (linkPath === '') throw invalidLayer(place, 'a symbolic link to nothing');
  if (linkPath.includes('\0')) throw invalidLayer(place, 'a link target with a zero byte');
  if (linkPath.length > MAX_PATH_BYTES) throw invalidLayer(place, 'its link target is too long');
  return linkPath;
}
