// The JSON documents of images, checked where they enter: descriptors, manifests, indexes, configs.
// Shapes: OCI image specification 1.1 (descriptor.md, manifest.md, image-index.md, config.md). Go writes null for empty
// lists, so null is taken for absent everywhere. Unknown members are dropped.

import * as v from 'valibot';
import { VmforkError } from '../errors.js';
import { isDigest } from './digest.js';
import { MAX_BLOB_BYTES, MAX_DOCUMENT_BYTES, MAX_INDEX_ENTRIES, MAX_LAYERS } from './limits.js';

/** Absent when it is missing or null. */
const maybe = <T extends v.GenericSchema>(schema: T) =>
  v.pipe(
    v.nullish(schema),
    v.transform((value) => value ?? undefined),
  );

const digest = v.custom<string>(isDigest, 'no sha256 or sha512 digest');
/** Text that ends up in the guest as a C string. */
const text = v.pipe(
  v.string(),
  v.check((value) => !value.includes('\0'), 'holds a NUL'),
);
/** Old images write one word where a list belongs. */
const words = v.pipe(
  v.union([v.array(text), text]),
  v.transform((value) => (typeof value === 'string' ? [value] : value)),
);
const keys = v.pipe(v.record(text, v.unknown()), v.transform(Object.keys));
const texts = v.record(v.string(), v.string());

const platform = v.object({
  os: v.string(),
  architecture: v.string(),
  variant: maybe(v.string()),
});

const descriptor = v.object({
  mediaType: v.string(),
  digest,
  size: v.pipe(v.number(), v.safeInteger(), v.minValue(0), v.maxValue(MAX_BLOB_BYTES)),
  urls: maybe(v.array(v.string())),
  annotations: maybe(texts),
  data: maybe(v.string()),
  platform: maybe(platform),
  artifactType: maybe(v.string()),
});

const manifest = v.object({
  schemaVersion: v.literal(2),
  mediaType: maybe(v.string()),
  artifactType: maybe(v.string()),
  config: descriptor,
  layers: v.pipe(v.array(descriptor), v.maxLength(MAX_LAYERS)),
});

const index = v.object({
  schemaVersion: v.literal(2),
  mediaType: maybe(v.string()),
  manifests: v.pipe(v.array(descriptor), v.maxLength(MAX_INDEX_ENTRIES)),
});

const containerConfig = v.object({
  User: maybe(text),
  ExposedPorts: maybe(keys),
  Env: maybe(v.array(text)),
  Entrypoint: maybe(words),
  Cmd: maybe(words),
  Volumes: maybe(keys),
  WorkingDir: maybe(text),
  Labels: maybe(texts),
  StopSignal: maybe(text),
});

const history = v.object({
  created: maybe(v.string()),
  created_by: maybe(v.string()),
  comment: maybe(v.string()),
  empty_layer: maybe(v.boolean()),
});

const imageConfig = v.object({
  architecture: v.string(),
  os: v.string(),
  variant: maybe(v.string()),
  created: maybe(v.string()),
  author: maybe(v.string()),
  config: maybe(containerConfig),
  rootfs: v.object({
    type: v.literal('layers'),
    diff_ids: v.nullish(v.pipe(v.array(digest), v.maxLength(MAX_LAYERS)), []),
  }),
  history: maybe(v.array(history)),
});

/** Says what a blob is: its kind, digest and size in bytes. */
export type Descriptor = v.InferOutput<typeof descriptor>;
/** The manifest of one image. */
export type Manifest = v.InferOutput<typeof manifest>;
/** A list of manifests, one a platform. */
export type Index = v.InferOutput<typeof index>;
/**
 * The config of an image, as config.md of the image specification names its members. `config` says how to run it;
 * `ExposedPorts` and `Volumes`, which are sets there, are lists here. Times are RFC 3339 texts.
 */
export type ImageConfig = v.InferOutput<typeof imageConfig>;
/** How to run an image: Entrypoint, Cmd, Env, WorkingDir, User and so on. */
export type ContainerConfig = v.InferOutput<typeof containerConfig>;

/** What `docker save` writes into manifest.json: paths inside the archive. */
export const DOCKER_ARCHIVE = v.array(
  v.object({
    Config: v.string(),
    RepoTags: maybe(v.array(v.string())),
    Layers: v.pipe(v.array(v.string()), v.maxLength(MAX_LAYERS)),
  }),
);

/** Parses a manifest. Throws `VMF_IMAGE_INVALID`. */
export function parseManifest(bytes: Uint8Array): Manifest {
  const json = parseJson('manifest', bytes);
  refuseAmbiguous(json);
  return check('manifest', manifest, json);
}

/** Parses an index or a Docker manifest list. Throws `VMF_IMAGE_INVALID`. */
export function parseIndex(bytes: Uint8Array): Index {
  const json = parseJson('index', bytes);
  refuseAmbiguous(json);
  return check('index', index, json);
}

/** Parses the config of an image. Throws `VMF_IMAGE_INVALID`. */
export function parseImageConfig(bytes: Uint8Array): ImageConfig {
  return check('config', imageConfig, parseJson('config', bytes));
}

/** One document must not be an index for one reader and a manifest for another (GHSA-77vh-xpmg-72qh). */
function refuseAmbiguous(json: unknown): void {
  if (typeof json === 'object' && json !== null && 'layers' in json && 'manifests' in json) {
    throw new VmforkError('VMF_IMAGE_INVALID', 'it is both a manifest and an index');
  }
}

/** Parses JSON of unknown origin. `what` names it in the error. Throws `VMF_IMAGE_INVALID`. */
export function parseJson(what: string, bytes: Uint8Array): unknown {
  if (bytes.length > MAX_DOCUMENT_BYTES) {
    throw new VmforkError(
      'VMF_IMAGE_INVALID',
      `${what} is larger than ${MAX_DOCUMENT_BYTES} bytes`,
    );
  }
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (cause) {
    throw new VmforkError('VMF_IMAGE_INVALID', `${what} is no JSON`, { cause });
  }
}

/** Checks a document against its shape. Throws `VMF_IMAGE_INVALID`, which names the member that does not fit. */
export function check<T extends v.GenericSchema>(
  what: string,
  schema: T,
  json: unknown,
): v.InferOutput<T> {
  const result = v.safeParse(schema, json, { abortEarly: true });
  if (result.success) return result.output;
  const [issue] = result.issues;
  const path = v.getDotPath(issue) ?? '(the whole)';
  const detail = `${what}: ${path.slice(0, 100)}: ${issue.message.slice(0, 200)}`;
  throw new VmforkError('VMF_IMAGE_INVALID', detail);
}
