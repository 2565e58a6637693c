// What a hostile layer may cost: limits on everything that it can make grow, and the errors that name the place.

import { VmforkError } from '../../errors.js';

const GiB = 2 ** 30;
const MiB = 2 ** 20;

/** Limits on what the layers of one root filesystem may contain. Exceeding one is `VMF_LAYER_LIMIT`. */
export interface RootfsLimits {
  /** Decompressed bytes of all layers together. Default 128 GiB. */
  layerBytes: number;
  /** Size of the image, bytes. Default 128 GiB. */
  imageBytes: number;
  /** Entries of all layers together, and files and directories of the result. Default 1,000,000. */
  entries: number;
  /** Names, link targets, extended attributes and maps of sparse files, all layers together, bytes. Default 256 MiB. */
  metadataBytes: number;
  /** Extended headers of one entry (PAX, GNU long name, map of a sparse file), and PAX ones for all, bytes. Default 1 MiB. */
  headerBytes: number;
  /** Extended attributes of one entry, names and values, bytes. At most and by default 131,072. */
  xattrBytes: number;
  /** Directories above an entry. Default 1024. */
  depth: number;
}

export const DEFAULT_LIMITS: Readonly<RootfsLimits> = {
  layerBytes: 128 * GiB,
  imageBytes: 128 * GiB,
  entries: 1_000_000,
  metadataBytes: 256 * MiB,
  headerBytes: MiB,
  xattrBytes: 131_072,
  depth: 1024,
};

/** Longest name in a directory, bytes: NAME_MAX of Linux, EROFS_NAME_LEN of EROFS. */
export const MAX_NAME_BYTES = 255;

/** Longest path or link target, bytes: PATH_MAX of Linux without the terminating zero. */
export const MAX_PATH_BYTES = 4095;

/** EROFS counts blocks in 32 bits. */
const MOST_IMAGE_BYTES = 4096 * (2 ** 32 - 1);

/** Merges given limits into the defaults; `VMF_OPTIONS` for a wrong one. */
export function resolveLimits(given: Partial<RootfsLimits> = {}): RootfsLimits {
  const limits = { ...DEFAULT_LIMITS };
  for (const [name, value] of Object.entries(given)) {
    if (!Object.hasOwn(DEFAULT_LIMITS, name)) {
      throw new VmforkError('VMF_OPTIONS', `limits.${name} is not a limit`);
    }
    if (value === undefined) continue;
    if (!Number.isSafeInteger(value) || value < 1) {
      throw new VmforkError('VMF_OPTIONS', `limits.${name} must be a positive integer`);
    }
    limits[name as keyof RootfsLimits] = value;
  }
  limits.imageBytes = Math.min(limits.imageBytes, MOST_IMAGE_BYTES);
  limits.xattrBytes = Math.min(limits.xattrBytes, DEFAULT_LIMITS.xattrBytes);
  return limits;
}

/** Stands for a layer's index in an archive that is none. */
export const NO_LAYER = -1;

/** Where in which layer something was found. */
export interface LayerPlace {
  /** Index of the layer, 0 is the bottom, or `NO_LAYER`. */
  layer: number;
  /** Offset of the entry's header in the decompressed archive, bytes. */
  offset: number;
  /** The entry's name, one character a byte; empty when it is not known yet. */
  name: string;
}

export const invalidLayer = (place: LayerPlace, what: string): VmforkError =>
  new VmforkError('VMF_LAYER_INVALID', `${describe(place)}: ${what}`);

export const beyondLimit = (place: LayerPlace, limit: keyof RootfsLimits, value: number) =>
  new VmforkError('VMF_LAYER_LIMIT', `${describe(place)}: more than limits.${limit} = ${value}`);

function describe({ layer, offset, name }: LayerPlace): string {
  const place = `${layer === NO_LAYER ? '' : `layer ${layer}, `}offset ${offset}`;
  return name === '' ? place : `${place}, entry ${printable(name)}`;
}

const SHOWN_CHARACTERS = 120;

/** A byte string for a message: as UTF-8, quoted, without control characters, shortened. */
export function printable(bytes: string): string {
  const text = Buffer.from(bytes.slice(0, SHOWN_CHARACTERS), 'latin1').toString('utf8');
  return JSON.stringify(bytes.length > SHOWN_CHARACTERS ? `${text}…` : text);
}
