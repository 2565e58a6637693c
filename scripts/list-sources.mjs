// Prints groups of native/sources.json, one path a line: how binding.gyp reads the one source list.
import { readFileSync } from 'node:fs';

const sources = JSON.parse(
  readFileSync(new URL('../native/sources.json', import.meta.url), 'utf8'),
);
for (const group of process.argv.slice(2)) {
  for (const path of sources[group]) console.log(`native/${path}`);
}
