// The library's version, as package.json says.

import { createRequire } from 'node:module';

/** Version of this library, e.g. `0.1.0`. */
export const VERSION: string = (
  createRequire(import.meta.url)('../package.json') as { version: string }
).version;
