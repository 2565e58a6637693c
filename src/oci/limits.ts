// The most that images, registries and archives may make us hold or do. All of it is hostile input.

/** Largest manifest, index or image config. Registries are told to accept 4 MiB (distribution spec, "Pushing Manifests"). */
export const MAX_DOCUMENT_BYTES = 4 * 1024 * 1024;
/** Most layers of one image. */
export const MAX_LAYERS = 1024;
/** Most entries of one index. */
export const MAX_INDEX_ENTRIES = 4096;
/** How deep indexes may refer to indexes. */
export const MAX_INDEX_DEPTH = 3;
/** Largest compressed layer. */
export const MAX_BLOB_BYTES = 64 * 1024 ** 3;
/** Largest layer once decompressed. */
export const MAX_LAYER_BYTES = 256 * 1024 ** 3;
/** Most entries of an archive that is imported; an image has a few for each layer. */
export const MAX_ARCHIVE_ENTRIES = 100_000;
/** Most bytes of their names and of targets of links, all of which are held; an image needs some 100 bytes an entry. */
export const MAX_ARCHIVE_NAME_BYTES = 16 * 1024 * 1024;
